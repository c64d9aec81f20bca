"""write_report: from a run folder to its page. The scores are made up; patches, model and pictures are real."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from bs4 import BeautifulSoup
from discs import LABELS as DISC_LABELS
from discs import disc_table
from fakes import BLUE, RED, FakeEntry, square, write_png
from PIL import Image
from reportfacts import METRICS
from torch import nn
from tracing import check_page

from qp2train import LabelMap, Model, PatchTable, Segmentation, evaluate, load_model, sample_patches
from qp2train.errors import ModelError, ProjectError, Qp2trainError
from qp2train.learn.classification import Classification
from qp2train.reporting import write_report
from qp2train.reporting.datacard import annotated_mm2, data_card
from qp2train.reporting.shots import choose, patch_shots, slide_shots

LABELS = LabelMap(["Tumor"], colors={"Tumor": (255, 0, 0)})
SPLIT = {"P0": "train", "P1": "train", "P2": "test"}


class RedIsTumour(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        red = pixels[:, 0].float() - pixels[:, 2].float()
        return torch.stack([-red, red], dim=1)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PatchTable:
    """Three patients' slides, 1 µm per pixel: blue, with a red square at the upper left that is annotated as tumour."""
    folder = tmp_path_factory.mktemp("slides")
    entries = []
    for i in range(3):
        array = np.full((200, 200, 3), BLUE, np.uint8)
        array[20:60, 20:60] = RED
        drawn = [square(0, 0, 200, "Region*", id=f"r{i}"), square(20, 20, 40, id=f"t{i}")]
        path = write_png(folder / f"{i}.png", array)
        entries.append(FakeEntry(f"e{i}", drawn, array, 1.0, {"patient": f"P{i}"}, str(path)))
    sampled = sample_patches(entries, LABELS, size=64, per_class=6)
    parts = sampled.split(by="patient", assign=SPLIT)
    joined = np.concatenate([p.rows.to_numpy() for p in parts])
    rows = sampled.rows.iloc[:0].reindex(range(len(joined)))
    rows[:] = joined
    return replace(parts[0], rows=rows.astype(sampled.rows.dtypes), rejected={"blur": 2})


def metrics_of(table: PatchTable, split: str = "test") -> dict:
    """Dice and uncertainty rise from patch to patch."""
    part = table.select(split)
    patches = [
        {"row": i, "entry": r.entry, "slide": table.slides[r.entry].name, "patient": r.group, "x": r.x, "y": r.y,
         "dice": i / 100, "uncertainty": i / 10}
        for i, r in enumerate(part.rows.itertuples())
    ]  # fmt: skip
    confusion = {"pixels": [[9, 1], [2, 8]], "mm2": [[0.9, 0.1], [0.2, 0.8]]}
    return METRICS | {
        "model": "tumor-1",
        "patches": patches,
        "split": split,
        "classes": ["Background", "Tumor"],
        "confusion": confusion,
    }


@pytest.fixture
def run(tmp_path: Path, table: PatchTable) -> Path:
    folder = tmp_path / "runs" / "tumor"
    spec = Segmentation(
        LABELS, encoder="resnet18", encoder_weights=None, options={"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    )
    about = {"history": [{"epoch": 1, "train/loss": 9.0}], "versions": {"qp2train": "0.1.0"}}
    Model("tumor-1", spec, spec.build(), 64, 1.0, about).save(folder / "model")
    table.save(folder / "patches.parquet")
    (folder / "recipe.yaml").write_text("project: liver.qpproj\n", encoding="utf-8")
    (folder / "logs").mkdir()
    csv = "epoch,step,train/loss,val/loss,val/dice\n0,1,,1.5,0.25\n0,1,2.0,,\n1,3,,1.0,0.5\n1,3,1.25,,\n"
    (folder / "logs" / "metrics.csv").write_text(csv, encoding="utf-8")
    save_metrics(folder, metrics_of(table))
    return folder


def save_metrics(folder: Path, metrics: dict) -> None:
    file = folder / "evaluation" / metrics["split"] / "metrics.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(metrics), encoding="utf-8")


def soup_of(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_a_run_becomes_one_file_with_pictures_and_data_beside_the_metrics(run: Path, table: PatchTable) -> None:
    path = write_report(run, slides=1)
    assert path == run / "report.html"
    soup = soup_of(path)
    # 4 test patches: the worst, the middle and the best one, all 4 by uncertainty, and a slide.
    assert len(soup.find_all("img")) == 8
    assert len({tag["src"] for tag in soup.find_all("img")}) > 2
    assert soup.h1.get_text() == "tumor-1"
    assert "liver.qpproj" in soup.pre.get_text()
    data = json.loads((run / "evaluation" / "test" / "data.json").read_text(encoding="utf-8"))
    assert data["history"] == [
        {"epoch": 1, "train/loss": 2.0, "val/loss": 1.5, "val/dice": 0.25},
        {"epoch": 2, "train/loss": 1.25, "val/loss": 1.0, "val/dice": 0.5},
    ]
    assert {k: data[k] for k in ("size_px", "mpp", "grouped_by", "rejected")} == {
        "size_px": 64, "mpp": 1.0, "grouped_by": ["patient"], "rejected": {"blur": 2},
    }  # fmt: skip
    assert not [p for p in run.iterdir() if p.name.startswith(".") or p.name.endswith("~")]


def test_patients_slides_patches_and_areas_of_each_part(table: PatchTable) -> None:
    card = data_card(table)
    assert card["parts"] == {
        "train": {"patients": 2, "slides": 2, "patches": (table.rows["split"] == "train").sum()},
        "test": {"patients": 1, "slides": 1, "patches": (table.rows["split"] == "test").sum()},
    }
    # 40 × 40 µm of tumour on each slide, 0.0016 mm²; background is the rest of 200 × 200 µm, as the region says.
    assert card["classes"]["Tumor"]["train"]["mm2"] == pytest.approx(0.0032)
    assert card["classes"]["Tumor"]["test"]["mm2"] == pytest.approx(0.0016)
    assert card["classes"]["Background"]["test"]["mm2"] == pytest.approx(0.0384)
    assert sum(c["test"]["patches"] for c in card["classes"].values()) == card["parts"]["test"]["patches"]
    assert card["area_mpp"] == 1.0
    assert card["shared_patients"] == 0


def test_a_patient_in_two_parts_is_counted(table: PatchTable) -> None:
    metadata = {e: {"patient": "P0"} for e in table.slides}
    slides = {e: replace(ref, metadata=metadata[e]) for e, ref in table.slides.items()}
    assert data_card(replace(table, slides=slides))["shared_patients"] == 1


def test_annotated_area_counts_overlaps_once_and_for_what_lies_on_top(table: PatchTable) -> None:
    # Two tumours of 100 × 100 with half in common, 15,000 px; a small one of another class lies on them, 100 px.
    labels = LabelMap(["Tumor", "Vessel"])
    drawn = [square(0, 0, 100), square(50, 0, 100), square(60, 60, 10, "Vessel"), square(500, 500, 9, "Vessel")]
    ref = replace(table.slides["e0"], mpp=10.0, annotations=drawn)
    areas, mpp = annotated_mm2(replace(table, slides={"e0": ref}, labels=labels), "e0")
    assert areas == pytest.approx({"Tumor": 14_900 * 1e-4, "Vessel": 100 * 1e-4}), (
        "what is off the slide does not count"
    )
    assert mpp == 10.0


def test_areas_of_a_large_slide_are_counted_in_coarse_pixels_and_stay_right(table: PatchTable) -> None:
    # A disc of 1 cm in diameter on 100,000 × 100,000 px of 0.25 µm: π/4 cm².
    disc = shapely.Point(50_000, 50_000).buffer(20_000, quad_segs=64)
    ref = replace(table.slides["e0"], mpp=0.25, size=(100_000, 100_000), annotations=[square(0, 0, 1, "Region*")])
    ref = replace(ref, annotations=[replace(square(0, 0, 1), geometry=disc)])
    areas, mpp = annotated_mm2(replace(table, slides={"e0": ref}), "e0")
    assert areas["Tumor"] == pytest.approx(np.pi / 4 * 100, rel=1e-3)
    assert mpp == pytest.approx(2.5, rel=0.01), "40,000 px of 0.25 µm on a side of 4,000 px"


def test_a_slide_where_nothing_was_drawn_has_no_area(table: PatchTable) -> None:
    ref = replace(table.slides["e0"], annotations=[])
    assert annotated_mm2(replace(table, slides={"e0": ref}), "e0")[0] == {}


def test_the_worst_the_middle_the_best_and_the_most_uncertain() -> None:
    patches = [{"dice": d, "uncertainty": u} for d, u in [(0.5, 0.1), (None, 0.9), (0.1, None), (0.9, 0.3), (0.6, 0.2)]]
    patches += [{"dice": 0.7, "uncertainty": 0.0}]
    # By Dice: 2, 0, 4, 5, 3. Two of each would need six patches.
    assert choose(patches, 1) == {"worst": [2], "median": [4], "best": [3], "uncertain": [1]}
    assert choose(patches, 2) == {"worst": [2], "median": [4], "best": [3], "uncertain": [1, 3]}
    # A sixth, 6, between 0 and 4.
    six = [*patches, {"dice": 0.55}]
    assert choose(six, 2) == {"worst": [2, 0], "median": [6, 4], "best": [3, 5], "uncertain": [1, 3]}
    assert choose(patches[:1] + patches[2:3], 2) == {"worst": [1], "median": [], "best": [0], "uncertain": [0]}
    assert choose([], 4) == {"worst": [], "median": [], "best": [], "uncertain": []}
    assert choose([{"score": 0.2}], 4)["worst"] == [0]


def test_a_gallery_does_not_show_the_same_place_twice() -> None:
    places = [("e", 0, 0), ("e", 9, 9), ("e", 9, 10), ("f", 0, 0), ("e", 50, 50), ("e", 60, 60)]
    patches = [{"entry": e, "x": x, "y": y, "dice": 0.1 * i} for i, (e, x, y) in enumerate(places)]
    # The second lies within 10 px of the first both ways, the third does not, and the fourth is another slide's.
    assert choose(patches * 2, 4, apart_px=10)["worst"] == [0, 2, 3, 4]


class RedAlone(nn.Module):
    """As of classes that may overlap: one channel per class, none for the background."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, :1].float() - pixels[:, 2:].float()


@pytest.mark.parametrize(("net", "multilabel"), [(RedIsTumour(), False), (RedAlone(), True)])
def test_a_picture_shows_annotation_and_prediction_where_they_are(
    table: PatchTable, net: nn.Module, multilabel: bool
) -> None:
    # Only the test slide's patch at the origin: the square lies at 20–60 of 64 px, in both halves.
    metrics = {"patches": [{"entry": "e2", "x": 0.0, "y": 0.0, "dice": 0.5}]}
    ref = replace(table.slides["e2"], annotations=[square(0, 0, 200, "Region*")])
    blank = replace(table, slides={"e2": ref})
    spec = Segmentation(LABELS, encoder_weights=None, multilabel=multilabel)
    model = Model("red-0", spec, net, 64, 1.0, {})  # type: ignore[arg-type]
    (picture,) = patch_shots(metrics, blank, model, count=1).pictures
    shown = np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB")).astype(int)
    side = shown.shape[0]
    left, right = shown[:, :side], shown[:, -side:]
    scale = side / 64
    pure = [(np.abs(half - (255, 0, 0)).max(axis=-1) < 40) for half in (left, right)]
    assert not pure[0].any(), "no tumour was annotated"
    rows, columns = np.nonzero(pure[1])
    edges = np.array([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]) / scale
    assert np.abs(edges - (20, 60, 20, 60)).max() < 1, "the prediction is outlined in the class's colour"
    assert "worst" in picture.alt
    assert "prediction" in picture.alt


def test_without_a_model_only_the_annotation_is_shown(table: PatchTable) -> None:
    shots = patch_shots(metrics_of(table), table, None, count=1)
    assert {p.width for p in shots.pictures} == {p.height for p in shots.pictures}
    assert not any("prediction" in p.alt for p in shots.pictures)


def test_whole_slides_are_shown_once_each(table: PatchTable) -> None:
    model = Model("red-0", Segmentation(LABELS, encoder_weights=None), RedIsTumour(), 64, 1.0, {})  # type: ignore[arg-type]
    shots = slide_shots(metrics_of(table, "train"), table, model, count=5)
    assert sorted(p.slide for p in shots.pictures) == ["slide e0", "slide e1"]
    assert slide_shots(metrics_of(table), table, model, count=0).pictures == []


def test_slides_that_have_moved_leave_their_pictures_out_and_the_report_says_so(run: Path, table: PatchTable) -> None:
    gone = {e: replace(ref, path=f"/nowhere/{e}.png") for e, ref in table.slides.items()}
    replace(table, slides=gone).save(run / "patches.parquet")
    soup = soup_of(write_report(run, slides=1))
    assert not soup.find_all("img")
    text = soup.find(id="pictures").get_text()
    assert "pictures of slide e2, as the slide cannot be read" in text
    assert "there is no slide at /nowhere/e2.png" in text
    assert "the whole of slide e2, as" in text


def test_images_that_the_table_does_not_know_are_named(run: Path) -> None:
    metrics = json.loads((run / "evaluation/test/metrics.json").read_text(encoding="utf-8"))
    metrics["patches"] = [{"entry": "other", "x": 0, "y": 0, "dice": 0.5}]
    save_metrics(run, metrics)
    assert "1 picture of other, an image that" in soup_of(write_report(run)).find(id="pictures").get_text()


def test_scores_of_an_older_model_are_not_shown(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = json.loads((run / "evaluation/test/metrics.json").read_text(encoding="utf-8"))
    save_metrics(run, metrics | {"model": "tumor-0"})
    soup = soup_of(write_report(run))
    assert "There is no evaluation" in soup.find(class_="warnings").get_text()
    assert "is of another model" in caplog.text


def test_a_run_without_weights_or_annotations_is_reported_without_pictures(run: Path) -> None:
    (run / "model" / "weights.safetensors").unlink()
    assert "weights.safetensors is missing" in soup_of(write_report(run)).find(id="pictures").get_text()
    (run / "patches.annotations.parquet").unlink()
    assert "patches.parquet is missing" in soup_of(write_report(run)).find(id="pictures").get_text()


def test_a_cross_validation_beside_an_older_training_is_shown_as_itself(run: Path) -> None:
    shutil.copytree(run, run / "fold-1")
    metrics = json.loads((run / "evaluation/test/metrics.json").read_text(encoding="utf-8"))
    save_metrics(run, metrics | {"split": "cross-validation"})
    soup = soup_of(write_report(run, split="cross-validation"))
    assert soup.h1.get_text() == "tumor, cross-validated"
    assert not soup.find_all("img")


def test_without_a_test_part_validation_is_shown_and_called_so(run: Path, table: PatchTable) -> None:
    os.remove(run / "evaluation" / "test" / "metrics.json")
    save_metrics(run, metrics_of(table, "train") | {"split": "val"})
    parts = table.rows["split"].replace("test", "val")
    replace(table, rows=table.rows.assign(split=parts)).save(run / "patches.parquet")
    soup = soup_of(write_report(run, patches=0))
    assert "There is no test part" in soup.find(class_="warnings").get_text()
    assert (run / "evaluation" / "val" / "data.json").is_file()


def test_a_cross_validation_has_its_scores_and_points_to_its_folds(run: Path) -> None:
    metrics = json.loads((run / "evaluation/test/metrics.json").read_text(encoding="utf-8"))
    folds = run.parent / "tumor-folds"
    folds.mkdir()
    run.rename(folds / "fold-1")
    save_metrics(folds, metrics | {"split": "cross-validation"})
    soup = soup_of(write_report(folds))
    assert soup.h1.get_text() == "tumor-folds, cross-validated"
    assert "Dice, mean of the classes 0.812" in re.sub(r"\s+", " ", soup.find(id="short").get_text(" "))
    assert "in the folds’ own reports" in soup.find(id="pictures").get_text()


def test_a_run_with_nothing_but_a_model_still_has_a_report(run: Path) -> None:
    for file in ("evaluation/test/metrics.json", "patches.parquet", "recipe.yaml", "logs/metrics.csv"):
        (run / file).unlink()
    soup = soup_of(write_report(run))
    assert "There is no evaluation" in soup.find(class_="warnings").get_text()
    assert "data.json#/history" in str(soup.find("polyline")["data-source"]), "what the model remembers"


def test_a_folder_without_a_model_and_damaged_files_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no run folder.*model\.json"):
        write_report(tmp_path)
    (run / "evaluation/test/metrics.json").write_text("{", encoding="utf-8")
    with pytest.raises(Qp2trainError, match=r"metrics\.json is damaged"):
        write_report(run)
    (run / "evaluation/test/metrics.json").write_text("[]", encoding="utf-8")
    with pytest.raises(Qp2trainError, match=r"metrics\.json is damaged"):
        write_report(run)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_the_older_report_as_it_was(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(run, patches=0)
    before = path.read_bytes()
    (run / "report.html.tmp~").symlink_to("/dev/full")
    with pytest.raises((ProjectError, OSError)):
        write_report(run, patches=1)
    assert path.read_bytes() == before


def test_every_number_of_a_real_evaluation_is_traced(run: Path, table: PatchTable) -> None:
    evaluate(load_model(run), table.select("test")).save(run / "evaluation" / "test")
    page = soup_of(write_report(run))
    folder = run / "evaluation" / "test"
    files = {name: json.loads((folder / name).read_text(encoding="utf-8")) for name in ("metrics.json", "data.json")}
    numbers, lines = check_page(files, page)
    assert numbers > 60
    assert lines >= 7
    assert "There are no confidence intervals" in page.find(class_="warnings").get_text(), "there is one patient"


def test_a_classification_shows_what_was_said_of_each_patch_and_where_it_is_seen(tmp_path: Path) -> None:
    """Untrained, so that it may say anything; whatever it says is on the page."""
    discs = disc_table(tmp_path, ["Stroma", "Tumor", "Background"] * 4)
    table = replace(discs, rows=discs.rows.assign(split="test"))
    spec = Classification(DISC_LABELS, encoder="resnet10t", encoder_weights=None)
    model = Model("discs-0", spec, spec.build(), table.size_px, table.mpp, {})
    model.save(tmp_path / "run" / "model")
    table.save(tmp_path / "run" / "patches.parquet")
    folder = evaluate(model, table).save(tmp_path / "run" / "evaluation" / "test")
    page = soup_of(write_report(tmp_path / "run", patches=2))
    files = {name: json.loads((folder / name).read_text(encoding="utf-8")) for name in ("metrics.json", "data.json")}
    check_page(files, page)
    captions = [tag.get_text(" ", strip=True) for tag in page.select(".pictures figcaption")]
    assert len(captions) == 8
    best = max(files["metrics.json"]["patches"], key=lambda p: p["score"])
    truth = table.rows["label"].iloc[best["row"]]
    assert any(f"{truth}, " in c and f"{best['score']:.3f}" in c for c in captions)
    assert all("rightly so called" in c or "taken for" in c for c in captions)
    assert all("where the model sees" in tag["alt"] for tag in page.find_all("img"))

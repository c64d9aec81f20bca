"""From a project to a model and back, by the command line, on a small sample project."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import qp2train as qp
from qp2train.cli import app
from qp2train.qupath.javanodes import JString
from qp2train.qupath.pathobject import walk
from qp2train.qupath.qpdata import load
from qp2train.sample.project import make_project, slide_file, truth_file

pytestmark = pytest.mark.slow

RECIPE = """
project: sample/project
out: runs/glands
labels: {classes: [Gland, Tumor, Stroma]}
sample: {size: 64, mpp: 4.0, per_class: 12}
split: {by: patient, assign: {P02: test}}
model: {arch: unet, encoder: resnet18, encoder_weights: null,
        options: {encoder_depth: 3, decoder_channels: [32, 16, 16]}}
fit: {epochs: 2, batch_size: 6, augment: flips}
vectorise: {min_area_um2: 50}
"""


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sample project and a trained run."""
    home = tmp_path_factory.mktemp("home")
    make_project(home / "sample", seed=3, size_px=(1024, 768))
    (home / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    said = run("train", home / "recipe.yaml").output
    assert "Dice, test" in said
    return home


@pytest.fixture
def project(home: Path, tmp_path: Path) -> Path:
    """A copy of the project, elsewhere: its slides have moved relative to it."""
    shutil.copytree(home / "sample" / "project", tmp_path / "project")
    shutil.copytree(home / "sample" / "slides", tmp_path / "slides")
    return tmp_path / "project"


def data_of(project: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in sorted(project.glob("data/*/data.qpdata"))}


def test_the_run_folder_holds_all_that_made_the_model(home: Path) -> None:
    run_folder = home / "runs" / "glands"
    card = json.loads((run_folder / "model" / "model.json").read_text(encoding="utf-8"))
    table = qp.PatchTable.load(run_folder / "patches.parquet")
    assert (card["mpp"], card["size_px"]) == (4.0, 64)
    assert card["about"]["versions"]["qp2train"] == qp.__version__
    assert set(table.rows["split"]) == {"train", "test"}
    assert sum(len(s.annotations) for s in table.slides.values()) > 0
    assert (run_folder / "logs" / "metrics.csv").is_file()
    assert "per_class: 12" in (run_folder / "recipe.yaml").read_text(encoding="utf-8")


def test_writing_twice_replaces_and_clearing_restores_every_byte(home: Path, project: Path) -> None:
    before = data_of(project)
    model = qp.load_model(home / "runs" / "glands")
    counts = []
    for _ in range(2):
        run("predict", home / "runs" / "glands", project, "--write")
        opened = qp.Project(project)
        counts.append([sum(a.source == model.id for a in e.annotations()) for e in opened])
    assert counts[0] == counts[1]
    assert sum(counts[0]) > 0
    assert data_of(project).keys() >= before.keys()
    assert data_of(project) != before
    run("clear", project, "--source", model.id)
    assert data_of(project) == before


def test_predictions_are_annotations_with_class_colour_and_measurements(home: Path, project: Path) -> None:
    run("predict", home / "runs" / "glands", project, "--write", "--image", "P03-A")
    opened = qp.Project(project)
    predicted = opened["P03-A"].annotations()
    assert {a.class_name for a in predicted} <= {"Gland", "Tumor", "Stroma"}
    assert all(a.geometry.is_valid and a.kind == "annotation" and not a.locked for a in predicted)
    assert all(0 <= a.measurements["Mean probability"] <= 1 and a.measurements["Area µm²"] >= 50 for a in predicted)
    assert all(a.source is None for a in opened["P01-A"].annotations()), "only the named image was to be predicted"


def test_a_corrected_prediction_is_the_humans_and_is_learnt_from(project: Path) -> None:
    opened = qp.Project(project)
    entry = opened["P03-A"]
    right, wrong = (qp.Annotation(qp.Box(x, 100, 50, 50).polygon, "Gland") for x in (100, 300))
    opened.write(entry, [right, wrong], source="m-1")
    data = load(entry.data_path.read_bytes())
    (drawn,) = (o for o in walk(data.root) if o.id == wrong.id)
    drawn.node.contents[0] = JString("seen by Dr Ü")  # the object's name, as QuPath stores it
    entry.data_path.write_bytes(data.to_bytes())

    assert {a.id: a.source for a in entry.annotations()} == {right.id: "m-1", wrong.id: None}
    assert opened.select("annotated")[-1].id == entry.id
    table = qp.sample_patches([entry], qp.LabelMap(["Gland"]), size=32, mpp=2.0, per_class=3)
    assert set(table.rows["annotation"]) == {wrong.id}
    (report,) = opened.clear(source="m-1")
    assert (report.removed, report.kept_edited) == (1, 1)


def test_detections_and_heatmap_tiles_go_where_they_belong(home: Path, project: Path) -> None:
    run("predict", home / "runs" / "glands", project, "--write", "--as", "detection", "--image", "P01-A")
    found = qp.Project(project)["P01-A"].annotations("detection")
    assert {a.kind for a in found} == {"detection"}
    said = run(
        "predict", home / "runs" / "glands", project, "--write", "--as", "tile", "--tile-um", "128",
        "--image", "P01-A", "--under", "enclosing",
    ).output  # fmt: skip
    assert f"{len(found)} removed" in said
    entry = qp.Project(project)["P01-A"]
    tiles = entry.annotations("detection")
    assert {a.kind for a in tiles} == {"tile"}
    fields = {a.id: a.geometry for a in entry.annotations()}
    under = [a for a in tiles if a.parent is not None]
    assert under
    assert all(fields[str(a.parent)].covers(a.geometry.centroid) for a in under)
    assert all(abs(sum(a.measurements.values()) - 1) < 0.02 for a in tiles)


def test_a_dry_run_shows_the_difference_by_class_and_writes_nothing(home: Path, project: Path) -> None:
    model = qp.load_model(home / "runs" / "glands")
    run("predict", home / "runs" / "glands", project, "--write", "--image", "P03-A")
    before = data_of(project)
    said = run("predict", home / "runs" / "glands", project, "--mode", "dry-run", "--image", "P03-A").output
    count = sum(a.source == model.id for a in qp.Project(project)["P03-A"].annotations())
    assert f"dry run, nothing written: {count} added, {count} removed" in said
    assert "+0 new" in said
    assert "as before" in said
    assert "dry run" in run("clear", project, "--source", model.id, "--dry-run").output
    assert data_of(project) == before


def test_geojson_out_is_the_prediction(home: Path, project: Path, tmp_path: Path) -> None:
    before = data_of(project)
    run("predict", home / "runs" / "glands", project, "--image", "P03-A", "--geojson", tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.geojson")
    model = qp.load_model(home / "runs" / "glands")
    assert {a.source for a in qp.read_geojson(file)} == {model.id}, "so that QuPath's import can tell them from yours"
    assert data_of(project) == before, "without --write the project stays as it is"


def test_one_missing_slide_does_not_stop_the_others(home: Path, project: Path) -> None:
    (project.parent / "slides" / "P01-B.tiff").unlink()
    shutil.rmtree(home / "sample" / "slides-away", ignore_errors=True)
    (home / "sample" / "slides").rename(home / "sample" / "slides-away")
    try:
        result = CliRunner().invoke(app, ["predict", str(home / "runs" / "glands"), str(project), "--write"])
    finally:
        (home / "sample" / "slides-away").rename(home / "sample" / "slides")
    assert result.exit_code == 1
    assert "1 of 4 images failed" in result.output
    assert "image_roots" in result.output
    opened = qp.Project(project)
    assert any(a.source is not None for a in opened["P03-A"].annotations()), "the image after it was predicted"


def test_info_lists_images_classes_and_whereabouts(project: Path) -> None:
    said = run("info", project).output
    for expected in ("P01-A", "P03-A", "Region*", "Gland", "0.5"):
        assert expected in said


def test_sample_prints_counts_and_writes_table_and_preview(home: Path, tmp_path: Path) -> None:
    said = run(
        "sample", home / "recipe.yaml", "--out", tmp_path / "t.parquet", "--preview", tmp_path / "sheet.png",
        "--set", "sample.per_class=3",
    ).output  # fmt: skip
    table = qp.PatchTable.load(tmp_path / "t.parquet")
    assert table.rows["label"].value_counts()[["Gland", "Tumor", "Stroma"]].tolist() == [3, 3, 3]
    assert all(word in said for word in ("Gland", "Tumor", "Stroma", "train", "test"))
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


def test_a_folder_of_slides_with_geojson_does_the_same(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    opened = qp.Project(home / "sample" / "project")
    for name in ("P01-A", "P02-A"):
        shutil.copy(slide_file(home / "sample", name), folder)
        qp.write_geojson(folder / f"{name}.geojson", opened[name].annotations(), colors=opened.classes)
    (folder / "metadata.csv").write_text("slide,patient\nP01-A,P01\nP02-A,P02\n", encoding="utf-8")
    labels = qp.LabelMap(["Gland", "Tumor", "Stroma"])
    arguments = {"size": 64, "mpp": 4.0, "per_class": 4, "seed": 1}
    of_folder = qp.sample_patches(qp.SlideFolder(folder), labels, **arguments)
    of_project = qp.sample_patches([opened["P01-A"], opened["P02-A"]], labels, **arguments)
    assert of_folder.rows[["x", "y", "label"]].round(1).equals(of_project.rows[["x", "y", "label"]].round(1))
    run("predict", home / "runs" / "glands", folder, "--write")
    assert len(list(folder.glob("P01-A.glands-*.geojson"))) == 1


def test_the_models_own_predictions_are_not_learnt_from(home: Path, project: Path) -> None:
    opened = qp.Project(project)
    labels = qp.LabelMap(["Gland", "Tumor", "Stroma"])
    before = qp.sample_patches(opened, labels, size=64, mpp=4.0, per_class=4)
    truth = qp.read_geojson(truth_file(home / "sample", "P03-A"))
    opened.write(opened["P03-A"], [a for a in truth if a.class_name == "Gland"], source="other-model")
    after = qp.sample_patches(qp.Project(project), labels, size=64, mpp=4.0, per_class=4)
    assert after.digest() == before.digest()

"""PNG pairs: exact pixels, the manifest, names, a folder that is whole or not there; and back again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes import speckle, write_png
from PIL import Image
from small import LABELS, SIDE, picture, small_table

from qp2train import LabelMap, PatchTable, export_patches, import_png
from qp2train.errors import LabelError, NoAnnotationError, Qp2trainError, SlideError, SlideNotFoundError
from qp2train.sampling.mask import Painter

_ = 255
A0, B0 = "images/train/Case_A_x0_y0_Tumor_core", "images/val/Case_B_x0_y0_Stroma_fibres"


@pytest.fixture
def table(tmp_path: Path) -> PatchTable:
    return small_table(tmp_path)


@pytest.fixture
def exported(table: PatchTable, tmp_path: Path) -> Path:
    return export_patches(table, tmp_path / "out")


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def values(path: Path) -> list[list[int]]:
    with Image.open(path) as image:
        return np.asarray(image).tolist()


def test_pictures_and_masks_lie_in_a_folder_per_split_under_equal_names(exported):
    stems = [
        "train/Case_A_x0_y0_Tumor_core.png",
        "train/Case_A_x12_y12_Background.png",
        "train/Case_A_x8_y0_Stroma_edge.png",
        "val/Case_B_x0_y0_Stroma_fibres.png",
    ]
    tops = [f"{top}/{stem}" for top in ("images", "masks") for stem in stems]
    assert files(exported) == sorted([*tops, "manifest.csv", "manifest.json"])


def test_without_splits_there_are_no_folders_for_them(table, tmp_path):
    out = export_patches(replace(table, rows=table.rows.assign(split="")), tmp_path / "out")
    assert "images/Case_A_x8_y0_Stroma_edge.png" in files(out)
    assert "masks/Case_A_x8_y0_Stroma_edge.png" in files(out)


def test_a_picture_is_the_slide_pixel_for_pixel(exported):
    assert np.array_equal(Image.open(exported / f"{A0}.png"), picture(ord("a"))[:8, :8])
    background = Image.open(exported / "images/train/Case_A_x12_y12_Background.png")
    assert np.array_equal(background, picture(ord("a"))[12:20, 12:20])


def test_a_mask_holds_label_values_and_255_where_ignored(exported):
    assert values(exported / "masks/train/Case_A_x0_y0_Tumor_core.png") == [
        [2, 2, 2, 2, 2, 2, 2, 2],
        [2, 2, 2, 2, 2, 2, 2, 2],
        [2, 2, 0, 0, 0, 0, 2, 2],
        [2, 2, 0, 0, 0, 0, 2, 2],
        [2, 2, 0, 0, 0, 0, 2, 2],
        [2, 2, 0, 0, 0, 0, 2, 2],
        [2, 2, 2, 2, 2, 2, 2, 2],
        [2, 2, 2, 2, 2, 2, 2, 2],
    ]
    assert values(exported / "masks/val/Case_B_x0_y0_Stroma_fibres.png") == [[1] * 8] * 4 + [[1] * 4 + [_] * 4] * 4


def test_a_masks_palette_shows_the_classes_colours(exported):
    image = Image.open(exported / "masks/train/Case_A_x8_y0_Stroma_edge.png")
    assert image.mode == "P"
    shown = np.asarray(image.convert("RGB"))
    assert shown[0, 0].tolist() == [200, 0, 0]  # Tumor
    assert shown[1, 1].tolist() == [0, 200, 0]  # Stroma
    ignored = Image.open(exported / "masks/val/Case_B_x0_y0_Stroma_fibres.png").convert("RGB")
    assert ignored.getpixel((7, 7)) == (224, 224, 192)


def test_the_manifest_says_where_each_patch_comes_from(exported):
    rows = pd.read_csv(exported / "manifest.csv", keep_default_na=False)
    assert rows.iloc[0].to_dict() == {
        "name": "Case_A_x0_y0_Tumor_core",
        "slide": "Case A.svs",
        "entry": "a",
        "x": 0.0,
        "y": 0.0,
        "size": 8.0,
        "size_px": 8,
        "mpp": 0.5,
        "label": "Tumor",
        "annotated": 1.0,
        "annotation": "ring",
        "roi": "core",
        "split": "train",
        "group": "Pa",
        "patient": "Pa",
        "weight": 0.25,
        "image": f"{A0}.png",
        "mask": "masks/train/Case_A_x0_y0_Tumor_core.png",
    }
    assert rows["annotation"].tolist() == ["ring", "fibres", "under", ""]
    about = json.loads((exported / "manifest.json").read_text())
    assert about["values"] == {"0": "Background", "1": "Stroma", "2": "Tumor", "255": "ignored"}
    assert about["slides"]["a"] == {
        "name": "Case A.svs",
        "size": [32, 24],
        "mpp": 0.5,
        "metadata": {"patient": "Pa"},
    }


def test_a_roi_name_comes_from_the_annotation_from_above_it_or_from_what_lies_round_the_centre(tmp_path):
    rows = [
        ("a", 0, 0, "Tumor", "ring", ""),  # its own name
        ("a", 8, 0, "Stroma", "under", ""),  # of its parent
        ("a", 6, 0, "Tumor", "", ""),  # centre (10, 4) in "edge"
        ("a", 16, 16, "Background", "region", ""),  # nobody named it
    ]
    out = export_patches(small_table(tmp_path, rows), tmp_path / "out")
    assert pd.read_csv(out / "manifest.csv", keep_default_na=False)["roi"].tolist() == ["core", "edge", "edge", ""]


def test_patches_at_another_scale_are_averaged_and_painted_at_that_scale(tmp_path):
    table = small_table(tmp_path, [("a", 0, 0, "Tumor", "ring", "")], mpp=1.0)
    out = export_patches(table, tmp_path / "out")
    whole = picture(ord("a"))[:16, :16].astype(float).reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(Image.open(out / "images/Case_A_x0_y0_Tumor_core.png")) - whole).max() <= 1
    mask = values(out / "masks/Case_A_x0_y0_Tumor_core.png")
    assert [row[:4] for row in mask[:4]] == [[2, 2, 2, 2], [2, 0, 0, 2], [2, 0, 0, 2], [2, 2, 2, 2]]


def test_jpeg_is_for_pictures_only(table, tmp_path):
    out = export_patches(table, tmp_path / "out", jpeg_quality=90)
    with Image.open(out / f"{A0}.jpg") as image:
        assert image.format == "JPEG"
        assert image.size == (8, 8)
    assert (out / "masks/train/Case_A_x0_y0_Tumor_core.png").is_file()


# A folder that appears whole or not at all


def test_a_folder_with_something_in_it_is_refused_and_left_as_it_is(table, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(Qp2trainError, match="no empty folder"):
        export_patches(table, tmp_path / "out")
    assert files(tmp_path / "out") == ["mine.txt"]


def test_an_empty_folder_is_taken(table, tmp_path):
    (tmp_path / "out").mkdir()
    assert files(export_patches(table, tmp_path / "out"))


def test_an_export_that_fails_leaves_nothing(table, tmp_path):
    Path(table.slides["b"].path).unlink()
    with pytest.raises(SlideNotFoundError, match=r"b\.png"):
        export_patches(table, tmp_path / "out")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("out")]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_an_export_that_is_killed_leaves_nothing_under_its_name_and_the_next_says_what_to_delete(table, tmp_path):
    table.save(tmp_path / "t.parquet")
    code = (
        "import os, signal, sys\nimport qp2train as qp\n"
        "def stop(name, done, total):\n    if done == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"table = qp.PatchTable.load({str(tmp_path / 't.parquet')!r})\n"
        f"qp.export_patches(table, {str(tmp_path / 'out')!r}, progress=stop)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial").is_dir()
    with pytest.raises(Qp2trainError, match=r"out\.partial .* delete it"):
        export_patches(table, tmp_path / "out")


def test_an_empty_table_and_an_unknown_format_are_refused(table, tmp_path):
    with pytest.raises(NoAnnotationError, match="no patch"):
        export_patches(table.take([]), tmp_path / "out")
    with pytest.raises(Qp2trainError, match="png, coco, yolo"):
        export_patches(table, tmp_path / "out", format="jpeg")
    with pytest.raises(Qp2trainError, match="jpeg_quality"):
        export_patches(table, tmp_path / "out", format="zarr", jpeg_quality=90)


def test_a_package_that_is_missing_is_named_with_the_extra_that_has_it(table, tmp_path, monkeypatch):
    monkeypatch.setattr("qp2train.sampling.export.export.find_spec", lambda name: None)
    for format in ("zarr", "clam"):
        with pytest.raises(Qp2trainError, match=r'pip install "qp2train\[export\]"'):
            export_patches(table, tmp_path / "out", format=format)


def test_slides_are_opened_one_after_the_other_and_once(table, tmp_path, monkeypatch):
    from qp2train.sampling.export import reading

    opened, now = [], []
    real = reading.open_slide

    def counted(path, **more):
        slide = real(path, **more)
        opened.append(Path(path).stem)
        now.append(path)
        assert len(now) == 1
        close = slide.close
        monkeypatch.setattr(slide, "close", lambda: (now.pop(), close()))
        return slide

    monkeypatch.setattr(reading, "open_slide", counted)
    export_patches(table, tmp_path / "out")
    assert opened == ["a", "b"]


def test_progress_counts_patches(table, tmp_path):
    said = []
    export_patches(table, tmp_path / "out", progress=lambda *a: said.append(a))
    assert said == [
        ("Case A.svs", 1, 4),
        ("Case A.svs", 2, 4),
        ("Case A.svs", 3, 4),
        ("Case B.svs", 4, 4),
    ]


# Back in


def repainted(table: PatchTable) -> dict[str, np.ndarray]:
    return {
        ref.entry: Painter(ref.annotations, table.labels, slide_size=ref.size).paint(box, (table.size_px,) * 2)
        for ref, box in table
    }


def test_what_comes_back_paints_the_masks_and_shows_the_pictures_exactly(table, exported):
    from qp2train import open_slide

    back = import_png(exported)
    assert (back.size_px, back.mpp, back.labels.classes) == (SIDE, 0.5, ("Stroma", "Tumor"))
    for row, (ref, box) in enumerate(table):
        name = back.rows["entry"][row]
        mask = Painter(ref.annotations, LABELS, slide_size=ref.size).paint(box, (8, 8))
        assert np.array_equal(repainted(back)[name], mask)
        with open_slide(back.slides[name].path, mpp=0.5) as slide:
            x, y = int(box.x), int(box.y)
            assert np.array_equal(slide.read(back.box(row), (8, 8)), picture(ord(ref.entry))[y : y + 8, x : x + 8])


def test_class_split_group_and_weight_come_back(table, exported):
    back = import_png(exported)
    for column in ("label", "split", "group", "weight", "annotated"):
        assert back.rows[column].tolist() == table.rows[column].tolist(), column
    assert back.slides["Case_A_x0_y0_Tumor_core"].metadata == {"patient": "Pa", "slide": "Case A.svs", "roi": "core"}


def test_a_new_split_of_what_came_back_keeps_the_patches_of_a_slide_together(table, tmp_path):
    without = {e: replace(ref, metadata={}) for e, ref in table.slides.items()}
    back = import_png(export_patches(replace(table, slides=without), tmp_path / "out"))
    one, other = back.split(fractions=(0.75, 0.25))
    assert [len(one), len(other)] == [3, 1]


@pytest.mark.parametrize("seed", range(5))
def test_speckle_holes_and_diagonals_come_back_value_for_value(tmp_path, seed):
    mask = speckle(np.random.default_rng(seed), 37, 53, 3)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    write_png(tmp_path / "images" / "x.png", np.zeros((37, 53, 3), np.uint8))
    write_png(tmp_path / "masks" / "x.png", mask)
    labels = LabelMap(["A", "Region*", "C"])  # a class may have any name
    table = import_png(tmp_path, labels=labels, mpp=0.5, size=64)
    whole = Painter(table.slides["x"].annotations, table.labels).paint(table.box(0), (64, 64))
    assert np.array_equal(whole[:37, :53], mask)
    assert (whole[37:] == 255).all()
    assert (whole[:, 53:] == 255).all()


def foreign(folder: Path, shape: tuple[int, int], mask: np.ndarray, *, at: str = "x.png") -> Path:
    for top, array in (("images", np.zeros((*shape, 3), np.uint8)), ("masks", mask)):
        (folder / top / at).parent.mkdir(parents=True, exist_ok=True)
        write_png(folder / top / at, array)
    return folder


def test_a_foreign_picture_becomes_a_grid_of_patches_that_have_something_annotated(tmp_path):
    mask = np.full((20, 16), 255, np.uint8)
    mask[:8, :8] = 2
    mask[:8, 8:] = 0
    mask[17, 15] = 1
    folder = foreign(tmp_path, (20, 16), mask, at="val/x.png")
    table = import_png(folder, labels=LABELS, mpp=0.25, size=8)
    rows = table.rows[["entry", "x", "y", "label", "annotated", "split"]].to_numpy().tolist()
    assert rows == [
        ["val/x", 0.0, 0.0, "Tumor", 1.0, "val"],
        ["val/x", 8.0, 0.0, "Background", 1.0, "val"],
        ["val/x", 8.0, 16.0, "Stroma", 1 / 64, "val"],
    ]


@pytest.mark.parametrize(
    ("mask", "arguments", "error", "said"),
    [
        (np.zeros((8, 8), np.uint8), {"mpp": 0.5}, LabelError, "say what the masks' values mean"),
        (np.zeros((8, 8), np.uint8), {"labels": LABELS}, Qp2trainError, "give mpp"),
        (np.full((8, 8), 3, np.uint8), {"labels": LABELS, "mpp": 0.5}, LabelError, "value 3"),
        (np.zeros((8, 9), np.uint8), {"labels": LABELS, "mpp": 0.5}, SlideError, "must be equal"),
        (np.zeros((8, 8, 3), np.uint8), {"labels": LABELS, "mpp": 0.5}, SlideError, "colour picture"),
        (np.full((8, 8), 300, np.uint16), {"labels": LABELS, "mpp": 0.5}, LabelError, "value 300"),
        (np.full((8, 8), 255, np.uint8), {"labels": LABELS, "mpp": 0.5}, NoAnnotationError, "not ignored"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused(tmp_path, mask, arguments, error, said):
    with pytest.raises(error, match=said):
        import_png(foreign(tmp_path, (8, 8), mask), **arguments)


def test_sizes_that_differ_need_a_size(tmp_path):
    foreign(tmp_path, (8, 8), np.zeros((8, 8), np.uint8), at="x.png")
    foreign(tmp_path, (9, 9), np.zeros((9, 9), np.uint8), at="y.png")
    with pytest.raises(Qp2trainError, match=r"y\.png has 9×9 px.*give size"):
        import_png(tmp_path, labels=LABELS, mpp=0.5)


def test_a_picture_without_a_mask_and_a_folder_without_pictures_are_named(tmp_path):
    with pytest.raises(Qp2trainError, match="no picture in"):
        import_png(tmp_path, labels=LABELS, mpp=0.5)
    foreign(tmp_path, (8, 8), np.zeros((8, 8), np.uint8))
    (tmp_path / "masks" / "x.png").unlink()
    with pytest.raises(SlideNotFoundError, match=r"x\.png has no mask"):
        import_png(tmp_path, labels=LABELS, mpp=0.5)


def replaced(path: Path, old: bytes, new: bytes) -> None:
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("manifest.json", b"{", b""),
        ("manifest.json", b'"qp2train patches"', b"3"),
        ("manifest.json", b'"classes"', b'"clases"'),
        ("manifest.json", b'"mpp": 0.5', b'"mpp": "x"'),
        ("manifest.json", b'"metadata"', b'"meta"'),
        ("manifest.csv", b"weight", b"wait"),
        ("manifest.csv", b"0.25", b"x"),
        ("manifest.csv", b"images/train/", b"../../etc/"),
        ("manifest.csv", b"images/train/", b"images/nowhere/"),
        ("manifest.csv", b"images/train/", b"x" * 300),
        ("manifest.csv", b"images/train/", b"\x00"),
        ("manifest.csv", b"Case_A_x12_y12_Background,", b"Case_A_x0_y0_Tumor_core,"),
        ("manifest.csv", b"0.25", b"nan"),
        ("manifest.json", b"200,", b"1e999,"),
        ("images/train/Case_A_x0_y0_Tumor_core.png", b"IHDR", b"IHDX"),
        ("masks/train/Case_A_x0_y0_Tumor_core.png", b"IDAT", b"IDAX"),
    ],
)
def test_a_damaged_export_is_refused_by_name(exported, file, old, new):
    replaced(exported / file, old, new)
    with pytest.raises(Qp2trainError):
        import_png(exported)


def test_a_model_learns_from_what_came_back(exported):
    from qp2train.learn.data import PatchDataset

    back = import_png(exported)
    image, mask = PatchDataset(back).raw(2)
    assert np.array_equal(image, picture(ord("a"))[:8, 8:16])
    assert mask[:, 0].tolist() == [2] * 8
    assert mask[1:5, 1:4].tolist() == [[1, 1, 1]] * 4
    assert len(os.listdir(exported / "masks" / "train")) == 3

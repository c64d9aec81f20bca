"""The preview of a patch table: which patches and slides are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes import square, write_png

from qp2train import LabelMap, PatchTable, preview
from qp2train.core.patches import COLUMNS, SlideRef
from qp2train.preview import contact_sheet_of, save_preview, slide_map_of


def table(folder: Path, rows: list[tuple[str, float, float, str, str]]) -> PatchTable:
    """Rows of (slide, x, y, label, split); each slide is 64 × 48 with one tumour."""
    names = sorted({r[0] for r in rows})
    for name in names:
        write_png(folder / f"{name}.png", np.full((48, 64, 3), 230, np.uint8))
    slides = {
        n: SlideRef(
            n, f"{n}.png", str(folder / f"{n}.png"), 1.0, (64, 48), {}, [square(8, 8, 16), square(0, 0, 9, "X")]
        )
        for n in names
    }
    frame = pd.DataFrame(
        [(e, x, y, label, "", 1.0, e, split, 1.0) for e, x, y, label, split in rows], columns=list(COLUMNS)
    ).astype(COLUMNS)
    return PatchTable(frame, slides, LabelMap(["Tumor"], colors={"Tumor": (255, 0, 0)}), 16, 1.0)


def titles(figure) -> list[str]:
    return [a.get_title() for a in figure.axes]


def test_a_row_of_each_class_with_every_split_even_where_one_has_few(tmp_path):
    rows = [("a", i, 0, "Tumor", "train") for i in range(20)] + [("b", 0, 0, "Tumor", "test")]
    rows += [("a", 3, 3, "Background", "train")]
    sheet = contact_sheet_of(table(tmp_path, rows), count=8, columns=4)
    assert titles(sheet) == ["Background · train", "", "", "", *["Tumor · train"] * 3, "Tumor · test"]


def test_the_sheet_shows_the_patch_with_its_mask_in_its_place(tmp_path):
    sheet = contact_sheet_of(table(tmp_path, [("a", 0, 0, "Tumor", "")]), columns=1)
    (image,) = sheet.axes[0].images
    shown = np.asarray(image.get_array())
    assert titles(sheet) == ["Tumor"]
    assert shown[12, 12, 0] > shown[12, 12, 1] + 40, "tumour from (8, 8) on is red"
    assert len(set(shown[4, 4].tolist())) == 1, "what nobody annotated is grey"


def test_many_classes_are_bounded(tmp_path):
    several = table(tmp_path, [("a", 0, 0, f"c{i:02}", "") for i in range(40)])
    assert len(titles(contact_sheet_of(several, count=8, columns=2))) == 2 * preview.CLASSES_SHOWN


def test_the_map_has_a_panel_per_slide_with_its_splits_and_number_of_patches(tmp_path):
    rows = [("b", 0, 0, "Tumor", "train"), ("a", 0, 0, "Tumor", "test"), ("b", 9, 5, "Background", "train")]
    figure = slide_map_of(table(tmp_path, rows))
    assert titles(figure) == ["b.png · train · 2", "a.png · test · 1"], "training first"
    assert figure.get_suptitle() == "3 patches of 16 px at 1 µm/px on 2 slides"
    outlines = figure.axes[0].collections[0].get_segments()
    assert len(outlines) == 1, "what the labels do not know is not outlined"
    assert sorted(outlines[0][:, 0].tolist())[0] == 8
    squares = figure.axes[0].collections[1]
    assert squares.get_paths()[1].vertices[0].tolist() == [9, 5]
    assert squares.get_edgecolors()[0, :3].tolist() == [1, 0, 0]


def test_the_map_by_split(tmp_path):
    rows = [("a", 0, 0, "Tumor", "val"), ("a", 20, 0, "Tumor", "train"), ("a", 40, 0, "", "")]
    figure = slide_map_of(table(tmp_path, rows), by="split")
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["train", "val", "none", "annotation"]


def test_of_many_slides_some_of_every_split_are_shown_one_open_at_a_time(tmp_path, monkeypatch):
    rows = [(f"s{i:02}", 0, 0, "Tumor", "test" if i >= 36 else "train") for i in range(40)]
    open_now, opened, most = 0, 0, 0
    real = preview.open_slide

    def counted(*arguments, **keywords):
        nonlocal open_now, opened, most
        slide = real(*arguments, **keywords)
        open_now, opened = open_now + 1, opened + 1
        most = max(most, open_now)
        close = slide.close

        def closed():
            nonlocal open_now
            open_now -= 1
            close()

        slide.close = closed
        return slide

    monkeypatch.setattr(preview, "open_slide", counted)
    figure = slide_map_of(table(tmp_path, rows), count=6)
    assert len(titles(figure)) == 6
    assert "s00.png · train · 1" in titles(figure)
    assert titles(figure)[-1] == "s39.png · test · 1"
    assert figure.get_suptitle().endswith("on 40 slides; 6 of them shown")
    assert (opened, most, open_now) == (6, 1, 0)


@pytest.mark.parametrize("rows", [[], [("a", -8, -8, "Tumor", "train"), ("a", 60, 44, "Tumor", "train")]])
def test_an_empty_table_and_patches_over_the_border(tmp_path, rows):
    some = table(tmp_path, rows)
    assert contact_sheet_of(some).axes
    assert slide_map_of(some).axes


def test_both_pictures_are_written_beside_each_other(tmp_path):
    written = save_preview(table(tmp_path, [("a", 0, 0, "Tumor", "train")]), tmp_path / "new" / "sheet.jpg")
    assert written == (tmp_path / "new" / "sheet.jpg", tmp_path / "new" / "sheet_map.jpg")
    assert all(p.stat().st_size > 3000 for p in written)

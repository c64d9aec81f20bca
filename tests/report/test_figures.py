"""Pictures: what is drawn where."""

from __future__ import annotations

import io

import numpy as np
import shapely
from matplotlib.figure import Figure
from PIL import Image

import qp2train as qp
from qp2train.report.figures import contact_sheet, learning_curves, overlay, prediction_over_truth, tinted

LABELS = qp.LabelMap(["Tumor"], colors={"Tumor": (255, 0, 0)})
WHITE = np.full((40, 60, 3), 255, np.uint8)
BOX = qp.Box(1000, 2000, 600, 400)


def pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=60)
    return np.asarray(Image.open(buffer).convert("RGB")).astype(int)


def test_tinting_leaves_background_colours_classes_and_greys_what_nobody_annotated() -> None:
    picture = np.full((1, 3, 3), 100, np.uint8)
    out = tinted(picture, np.array([[0, 1, 255]], np.uint8), LABELS, alpha=0.5)
    assert out.tolist() == [[[100, 100, 100], [178, 50, 50], [168, 168, 168]]]


def test_an_annotation_is_drawn_in_its_colour_and_its_hole_is_not_filled() -> None:
    ring = shapely.box(1100, 2100, 1500, 2300).difference(shapely.box(1200, 2150, 1400, 2250))
    shown = pixels(overlay(WHITE, [qp.Annotation(ring, "Tumor")], box=BOX, colors=LABELS.colors, fill=1.0))
    red = (shown[..., 0] > 200) & (shown[..., 1] < 90)
    ys, xs = np.nonzero(red[:-40])
    hole = shown[(ys.min() + ys.max()) // 2, (xs.min() + xs.max()) // 2]
    assert hole.min() > 240
    assert red.sum() > 500


def test_annotations_outside_the_box_are_left_out_and_lines_and_points_are_drawn() -> None:
    far = qp.Annotation(shapely.box(0, 0, 10, 10), "Tumor")
    near = [qp.Annotation(shapely.LineString([(1000, 2000), (1600, 2400)])), qp.Annotation(shapely.Point(1300, 2200))]
    (axes,) = overlay(WHITE, [far], box=BOX, colors={}).axes
    assert not axes.patches
    (axes,) = overlay(WHITE, near, box=BOX, colors={}).axes
    assert len(axes.lines) == 2
    apart = qp.Annotation(shapely.MultiPoint([(1000, 2000), (1300, 2200), (1500, 2300)]))
    (axes,) = overlay(WHITE, [apart], box=BOX, colors={}).axes
    assert [len(line.get_xdata()) for line in axes.lines] == [1, 1, 1], "points are not joined up"


def test_three_pictures_side_by_side() -> None:
    drawn = [qp.Annotation(shapely.box(1100, 2100, 1500, 2300), "Tumor")]
    figure = prediction_over_truth(WHITE, drawn, [], box=BOX, colors=LABELS.colors, title="p01")
    assert [a.get_title() for a in figure.axes] == ["p01", "truth", "prediction"]
    assert [len(a.patches) for a in figure.axes] == [0, 0, 1]


def test_a_contact_sheet_has_a_cell_per_patch_and_room_for_an_incomplete_row() -> None:
    patch = (np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8), "Tumor · train")
    figure = contact_sheet([patch] * 5, LABELS, columns=4)
    assert len(figure.axes) == 8
    assert sum(bool(a.images) for a in figure.axes) == 5
    assert contact_sheet([], LABELS).axes


def test_learning_curves_with_and_without_validation() -> None:
    with_val = [{"epoch": i, "train/loss": 1 / i, "val/loss": 2 / i, "val/dice": 0.5} for i in (1, 2)]
    left, right = learning_curves(with_val).axes
    assert [len(left.lines), len(right.lines)] == [2, 1]
    (alone,) = learning_curves([{"epoch": 1, "train/loss": 1.0}]).axes
    assert len(alone.lines) == 1

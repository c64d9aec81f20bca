"""rule="qupath": the pixels of QuPath's own LabeledImageServer. The literal masks are what Java2D draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from fakes import square
from PIL import Image

import qp2train as qp
from qp2train import Annotation, Box, LabelMap, paint
from qp2train.errors import Qp2trainError
from qp2train.sampling.mask import TILE, Painter

TUMOR = LabelMap(["Tumor"], unannotated="background")
SIX = Box(0, 0, 6, 6)
SMALL = ["Tumor", "Stroma", "Region*", "Tumor: Positive", "Tumor: Negative"]


def painted(geometry, *, box=SIX, size=(6, 6)):
    return paint([Annotation(geometry, "Tumor")], TUMOR, box=box, size=size, rule="qupath").tolist()


def test_a_pixel_counts_when_its_top_left_corner_is_inside():
    # x from 0.6 to 3.4: the corners 1, 2 and 3 (the centres would be 1.5 and 2.5). y from 0.4 to 2.6: 1 and 2.
    five_corners = shapely.Polygon([(0.6, 0.4), (3.4, 0.4), (3.4, 2.6), (2, 2.6), (0.6, 2.6)])
    assert painted(five_corners) == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_a_rectangle_has_its_sides_rounded():
    # 0.6 + ¼ → 0, 3.4 + ¼ → 3; 0.8 + ¼ → 1, 2.6 + ¼ → 2.
    assert painted(shapely.box(0.6, 0.8, 3.4, 2.6)) == [[0] * 6, [1, 1, 1, 0, 0, 0], *[[0] * 6] * 4]


def test_a_shape_over_the_border_is_clipped_without_a_seam():
    over = shapely.Polygon([(-3, 1.5), (9, 1.5), (9, 3.5), (2.2, 4), (-3, 3.5)])
    assert painted(over) == [[0] * 6, [0] * 6, [1] * 6, [1] * 6, [0] * 6, [0] * 6]


def test_the_slope_of_an_edge_is_cut_so_that_a_long_one_drifts():
    # x = 203.0028 at row 338: exact arithmetic fills 204 pixels, Java2D 203. All other rows agree.
    triangle = shapely.Polygon([(0, 0), (300.3, 500), (0, 500)])
    mask = paint([Annotation(triangle, "Tumor")], TUMOR, box=Box(0, 0, 400, 512), size=(400, 512), rule="qupath")
    exact = np.where(np.arange(512) < 500, np.ceil(300.3 * np.arange(512) / 500), 0)
    rows = mask.sum(axis=1)
    assert np.flatnonzero(rows != exact).tolist() == [338]
    assert rows[338] == 203


def test_holes_stay_open_and_crossing_lobes_are_both_filled():
    ring = shapely.box(0, 0, 5, 5).difference(shapely.box(1, 1, 4, 4))
    assert painted(ring)[2] == [1, 0, 0, 0, 1, 0]
    bow_tie = shapely.MultiPolygon(
        [shapely.Polygon([(0, 0), (3, 3), (0, 6)]), shapely.Polygon([(6, 0), (6, 6), (3, 3)])]
    )
    assert painted(bow_tie)[1] == [1, 0, 0, 0, 0, 1]


def test_lines_and_points():
    assert painted(shapely.LineString([(0.5, 0.5), (3.5, 1.2), (3.5, 4.5)])) == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0],
    ]
    assert painted(shapely.LineString([(0.9, 0.9), (4.1, 2.9)]))[:3] == [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 0],
    ]
    assert painted(shapely.MultiPoint([(0.9, 0.2), (5.99, 5.99), (6, 3), (-0.2, 2)])) == [
        [1, 0, 0, 0, 0, 0],
        *[[0] * 6] * 4,
        [0, 0, 0, 0, 0, 1],
    ]


def test_at_downsample_2_every_second_corner_is_asked():
    # Corners 0, 2 and 4: of 0.5 to 4.5 the second and the third column, of 0.5 to 3.5 the second row.
    house = shapely.Polygon([(0.5, 0.5), (3.5, 0.5), (4.5, 2), (3.5, 3.5), (0.5, 3.5)])
    assert painted(house, size=(3, 3)) == [[0, 0, 0], [0, 1, 1], [0, 0, 0]]


class TestWhoPaints:
    def row(self, drawn, labels):
        return paint(drawn, labels, box=SIX, size=(6, 6), rule="qupath")[0].tolist()

    def test_the_later_class_of_the_map_wins_whatever_is_small_or_a_child(self):
        small, large = square(0, 0, 2, "Stroma", parent="t"), square(0, 0, 4, "Tumor", id="t")
        assert self.row([small, large], LabelMap(["Stroma", "Tumor"])) == [2, 2, 2, 2, 255, 255]
        assert self.row([small, large], LabelMap(["Tumor", "Stroma"])) == [2, 2, 1, 1, 255, 255]
        ordered = LabelMap(["Tumor", "Stroma"], paint_order=["Stroma", "Tumor"])
        assert self.row([small, large], ordered) == [1, 1, 1, 1, 255, 255]

    def test_only_exact_classes_count(self):
        drawn = [square(0, 0, 6, "Region*"), square(0, 0, 2, "Tumor: Positive"), square(4, 0, 2, "Ignore*")]
        assert self.row(drawn, TUMOR) == [0] * 6
        named = LabelMap({"Tumor": ["Tumor: Positive"]}, background=["Region*"], ignore=["Ignore*"])
        assert self.row(drawn, named) == [0, 0, 0, 0, 255, 255], "in the order classes, background, ignore"

    def test_beyond_the_slide_is_ignored(self):
        painter = Painter([square(0, 0, 6)], TUMOR, slide_size=(4, 4), rule="qupath")
        assert painter.paint(SIX, (6, 6))[0].tolist() == [1, 1, 1, 1, 255, 255]

    def test_another_rule_is_refused(self):
        with pytest.raises(Qp2trainError, match="'centre' or 'qupath', not 'corner'"):
            Painter([], TUMOR, rule="corner")


def test_a_pixel_is_the_same_from_every_box_on_the_lattice():
    rng = np.random.default_rng(0)
    blobs = [shapely.Point(*rng.uniform(0, 1200, 2)).buffer(rng.uniform(20, 300), 5) for _ in range(12)]
    painter = Painter([Annotation(b, "Tumor") for b in blobs], TUMOR, rule="qupath")
    whole = painter.paint(Box(0, 0, 1200, 1100), (1200, 1100))
    for x, y, w, h in [(500, 505, 40, 30), (0, 0, TILE, TILE), (700, 300, 450, 700), (511, 511, 2, 2)]:
        part = painter.paint(Box(x, y, w, h), (w, h))
        assert np.array_equal(part, whole[y : y + h, x : x + w])


def test_a_box_off_the_lattice_and_one_beyond_the_corner_of_the_slide():
    # From 0.5 to 2.5 within the box: a rectangle's sides go to 0 and 2, other corners are asked for at 1 and 2.
    box, five_corners = Box(1.5, 1.5, 4, 4), shapely.Polygon([(2, 2), (4, 2), (4, 4), (3, 4), (2, 4)])
    assert painted(shapely.box(2, 2, 4, 4), box=box, size=(4, 4))[1] == [1, 1, 0, 0]
    assert painted(five_corners, box=box, size=(4, 4))[1] == [0, 1, 1, 0]
    assert painted(square(0, 0, 2).geometry, box=Box(-2, -2, 4, 4), size=(4, 4)) == [[0] * 4] * 2 + [[0, 0, 1, 1]] * 2


@pytest.mark.parametrize("far", [1e6, 1e12, 1e300])
def test_coordinates_far_away_take_no_memory_and_no_time(far):
    assert painted(shapely.LineString([(-far, 2.5), (far, 2.5)]))[2] == [1] * 6
    assert painted(shapely.Polygon([(-far, 1.5), (far, 1.5), (far, 3.5), (0, 3.5), (-far, 3.5)]))[2] == [1] * 6
    assert sum(map(sum, painted(shapely.LineString([(far, far), (2 * far, 3 * far), (far, 2 * far)])))) == 0


def test_empty_shapes_paint_nothing():
    for empty in (shapely.Polygon(), shapely.LineString(), shapely.Point(), shapely.GeometryCollection()):
        assert painted(empty) == [[0] * 6] * 6


def truth(shared_data: Path, name: str) -> np.ndarray:
    return np.array(Image.open(shared_data / "qupath_written" / "masks" / f"tiles_{name}.png"))


def as_qupath(shared_data: Path, image: str, classes: list[str], downsample: float, shape: tuple[int, ...]):
    project = qp.Project(shared_data / "qupath_written" / "0.6.0" / "project")
    (entry,) = [e for e in project if e.name == image]
    height, width = shape
    painter = Painter(entry.annotations(), LabelMap(classes, unannotated="background"), rule="qupath")
    return painter.paint(Box(0, 0, width * downsample, height * downsample), (width, height))


@pytest.mark.parametrize(
    ("name", "image", "classes", "downsample"),
    [
        ("small_ds1", "small.svs", SMALL, 1),
        ("small_ds2", "small.svs", SMALL, 2),
        ("small_ds4", "small.svs", SMALL, 4),
        ("png_ds1", "plain.png", ["Tumor", "Stroma", "Tumor: Positive"], 1),
    ],
)
def test_no_pixel_differs_from_qupaths_own_masks(shared_data, name, image, classes, downsample):
    """Areas with holes, rectangles, an outline from an ellipse, lines, points and 3,000 polygons over one another."""
    expected = truth(shared_data, name)
    assert len(np.unique(expected)) == len(classes) + 1
    assert int((as_qupath(shared_data, image, classes, downsample, expected.shape) != expected).sum()) == 0


def test_at_another_downsample_lines_differ_and_hardly_anything_else(shared_data):
    """3.7 is larger in single precision, so Java2D's pen counts as wide: lines become thicker polygons there."""
    expected = truth(shared_data, "small_ds3.7")
    mask = as_qupath(shared_data, "small.svs", SMALL, 3.7, expected.shape)
    wrong = mask != expected
    areas = wrong & ~np.isin(mask, (2,)) & ~np.isin(expected, (2,))
    assert int(wrong.sum()) <= 82, "of 13,841 painted"
    assert int(areas.sum()) <= 5

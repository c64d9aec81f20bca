import time

import numpy as np
import pytest
import shapely

from qp2train import Box
from qp2train.core.geometry import areal, clean


def test_a_box_is_half_open_with_its_corners_at_whole_numbers():
    box = Box(2, 3, 4, 5)
    assert (box.right, box.bottom) == (6, 8)
    assert box.polygon.equals(shapely.box(2, 3, 6, 8))


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        (Box(-2, -3, 10, 10), Box(0, 0, 8, 7)),
        (Box(95, 75, 10, 10), Box(95, 75, 5, 5)),
        (Box(1.5, 2.5, 3, 3), Box(1.5, 2.5, 3, 3)),
    ],
)
def test_clipping_keeps_what_lies_on_the_slide(box, inside):
    assert box.clipped_to(100, 80) == inside


@pytest.mark.parametrize("box", [Box(-20, 0, 10, 10), Box(100, 0, 10, 10), Box(0, 200, 10, 10)])
def test_clipping_a_box_beside_the_slide_leaves_nothing(box):
    clipped = box.clipped_to(100, 80)
    assert clipped.width * clipped.height == 0


def test_areal_keeps_the_polygons_of_a_collection():
    a, b = shapely.box(0, 0, 1, 1), shapely.box(2, 2, 3, 3)
    line = shapely.LineString([(0, 0), (5, 5)])
    assert areal(a) is a
    assert areal(shapely.GeometryCollection([a, line])).equals(a)
    assert areal(shapely.GeometryCollection([shapely.MultiPolygon([a, b]), line])).equals(shapely.MultiPolygon([a, b]))
    assert areal(line).is_empty
    assert areal(line).geom_type == "Polygon"


def test_a_bow_tie_becomes_two_triangles():
    bow = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    repaired = clean(bow)
    assert repaired.is_valid
    assert shapely.get_num_geometries(repaired) == 2
    assert repaired.area == pytest.approx(8)


def test_what_is_valid_or_no_area_stays_as_it_is():
    for geometry in (
        shapely.box(0, 0, 1, 1),
        shapely.LineString([(0, 0), (1, 1), (0, 1), (1, 0)]),
        shapely.Point(1, 2),
    ):
        assert clean(geometry) is geometry


def test_a_scribble_is_repaired_and_a_tangle_given_up_in_time():
    rng = np.random.default_rng(0)
    scribble = shapely.Polygon(np.cumsum(rng.normal(0, 5, (3000, 2)), axis=0))
    assert clean(scribble).area > 1000
    start = time.process_time()
    tangle = shapely.Polygon(rng.random((10_000, 2)) * 1000)
    assert clean(tangle).is_empty
    assert time.process_time() - start < 2


def test_a_long_outline_with_one_crossing_is_no_tangle():
    angle = np.linspace(0, 2 * np.pi, 200_000, endpoint=False)
    xy = np.column_stack([np.cos(angle), np.sin(angle)]) * 5000
    xy[[100, 101]] = xy[[101, 100]]
    crossed = shapely.Polygon(xy)
    assert not crossed.is_valid
    assert clean(crossed).area == pytest.approx(np.pi * 5000**2, rel=1e-6)


@pytest.mark.parametrize("far", [1e154, 1e300, 1.7e308])
def test_coordinates_near_the_limits_of_a_number_neither_warn_nor_fail(far):
    bow = shapely.Polygon([(0, 0), (far, far), (far, 0), (0, far)])
    assert clean(bow).is_valid

import numpy as np
import pytest
import shapely

from qp2train.sampling.points import middles, points_along, points_within

RING = shapely.Point(50, 50).buffer(40).difference(shapely.Point(50, 50).buffer(30))
SLIVER = shapely.LineString([(0, 0), (90, 70)]).buffer(1e-4)
BOW_TIE = shapely.Polygon([(0, 0), (40, 40), (40, 0), (0, 40)])


@pytest.mark.parametrize("shape", [RING, SLIVER, BOW_TIE], ids=["ring", "sliver", "bow-tie"])
def test_points_lie_inside_and_everywhere(shape):
    points = points_within(np.full(300, shape), np.random.default_rng(0))
    assert shapely.dwithin(shape, shapely.points(points), 1e-9).all()
    x0, y0, x1, y1 = shape.bounds
    assert np.median(points[:, 0]) == pytest.approx((x0 + x1) / 2, abs=(x1 - x0) / 8)
    assert np.ptp(points[:, 1]) > 0.9 * (y1 - y0)


def test_uniformly():
    two = shapely.MultiPolygon([shapely.box(0, 0, 3, 3), shapely.box(10, 0, 11, 1)])
    points = points_within(np.full(4000, two), np.random.default_rng(1))
    assert (points[:, 0] > 5).mean() == pytest.approx(0.1, abs=0.02)
    line = shapely.MultiLineString([[(0, 0), (9, 0)], [(20, 0), (21, 0)]])
    assert (points_along(np.full(4000, line), np.random.default_rng(1))[:, 0] > 15).mean() == pytest.approx(
        0.1, abs=0.02
    )


def test_lines_and_points_have_points_too():
    shapes = np.array([shapely.LineString([(0, 0), (9, 0)]), shapely.Point(3, 4), shapely.MultiPoint([(1, 1), (2, 2)])])
    points = points_within(shapes, np.random.default_rng(0))
    assert shapely.distance(shapes, shapely.points(points)).tolist() == [0, 0, 0]


def test_an_area_too_small_for_any_arithmetic_has_a_corner_at_least():
    speck = shapely.Polygon([(0, 0), (1e-170, 0), (0, 1e-170)])
    assert points_within(np.array([speck]), np.random.default_rng(0)).max() <= 1e-170


def test_middles():
    bent = shapely.box(0, 0, 10, 10).difference(shapely.box(2, 2, 10, 10))
    shapes = np.array([shapely.box(0, 0, 4, 2), bent, shapely.Point(3, 4)])
    found = middles(shapes)
    assert found[[0, 2]].tolist() == [[2, 1], [3, 4]]
    assert bent.contains(shapely.Point(found[1]))

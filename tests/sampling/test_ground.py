import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from sketch import LABELS, REGION, sketch

from qp2train import Annotation, Box, LabelMap
from qp2train.core.snapshot import Snapshot
from qp2train.sampling.ground import CORNERS, Ground
from qp2train.sampling.mask import Painter

FIELD = """
TTTT..
T..T..
T..TSS
TTTTSS
..IISS
..II..
"""
_ = 255
PAINTED = [
    [1, 1, 1, 1, _, _],
    [1, _, _, 1, _, _],
    [1, _, _, 1, 2, 2],
    [1, 1, 1, 1, 2, 2],
    [_, _, _, _, 2, 2],
    [_, _, _, _, _, _],
]


def ground_of(drawn, labels=LABELS, size=(6, 6)) -> Ground:
    snapshot = Snapshot(drawn)
    return Ground(snapshot, snapshot.geometries(), labels, slide_size=size)


def test_windows_points_and_counts_of_a_drawn_field():
    ground = ground_of(sketch(FIELD).drawn)
    (whole,) = ground.masks(np.array([[0.0, 0.0]]), step=(1, 1), px=6)
    assert whole.tolist() == PAINTED
    centres = np.array([[x + 0.5, y + 0.5] for y in range(6) for x in range(6)])
    assert ground.values_at(centres).tolist() == np.ravel(PAINTED).tolist()
    counts = ground.counts(np.array([[0.0, 0.0], [3.0, 2.0], [4.0, 0.0]]), side=2, px=2)
    assert [dict(enumerate(c))[1] for c in counts] == [3, 2, 0]
    assert counts[:, 255].tolist() == [1, 0, 4]
    assert counts.sum(axis=1).tolist() == [4, 4, 4]


def test_beyond_the_slide_all_is_ignored_whatever_is_drawn():
    ground = ground_of([Annotation(shapely.box(-9, -9, 99, 99), "Tumor")], size=(4, 3))
    (mask,) = ground.masks(np.array([[-1.0, -1.0]]), step=(1, 1), px=6)
    assert (mask == 1).sum() == 12
    assert mask[1:4, 1:5].tolist() == [[1] * 4] * 3
    assert ground.values_at(np.array([[-0.1, 1], [4, 1], [3.9, 2.9]])).tolist() == [255, 255, 1]


def test_where_nobody_annotated_background_may_be_meant():
    ground = ground_of([], LabelMap(["Tumor", "Stroma"], unannotated="background"))
    assert ground.counts(np.array([[0.0, 0.0], [5.0, 5.0]]), side=2, px=2)[:, [0, 255]].tolist() == [[4, 0], [1, 3]]


def test_lines_and_points_are_a_pixel_wide():
    drawn = [
        Annotation(shapely.LineString([(0, 2.5), (6, 2.5)]), "Tumor"),
        Annotation(shapely.Point(1.5, 4.5), "Stroma"),
    ]
    ground = ground_of(drawn)
    (mask,) = ground.masks(np.array([[0.0, 0.0]]), step=(1, 1), px=6)
    assert np.argwhere(mask == 1).tolist() == [[2, x] for x in range(6)]
    assert np.argwhere(mask == 2).tolist() == [[4, 1]]
    assert ground.values_at(np.array([[3.0, 2.7], [1.2, 4.4], [1.5, 3.5]])).tolist() == [1, 2, 255]


def test_outlines_of_many_corners_are_cut_up_without_a_seam():
    ring = shapely.Point(50, 50).buffer(40, quad_segs=10 * CORNERS).difference(shapely.Point(55, 45).buffer(20.3, 2000))
    ground = ground_of([Annotation(ring, "Tumor"), REGION], size=(100, 100))
    (mask,) = ground.masks(np.array([[0.0, 0.0]]), step=(0.5, 0.5), px=200)
    y, x = (np.mgrid[:200, :200] + 0.5) / 2
    assert np.array_equal(mask == 1, shapely.contains_xy(ring, x, y))


def test_coordinates_without_an_end_are_left_out():
    with np.errstate(invalid="ignore"):
        endless = shapely.from_wkt(["POLYGON ((0 0, inf 0, 5 5, 0 0))", "POLYGON ((0 0, nan 3, 5 5, 0 0))"])
    ground = ground_of([*(Annotation(g, "Tumor") for g in endless), Annotation(shapely.box(0, 0, 1, 1), "Stroma")])
    assert ground.counts(np.array([[0.0, 0.0]]), side=6, px=6)[0, [1, 2]].tolist() == [0, 1]


@st.composite
def outlines(draw):
    """Areas with coordinates that are no pixel centre: a centre on an outline may be counted either way."""
    number = st.integers(-40, 140).map(lambda i: i + 0.3)
    xy = draw(st.lists(st.tuples(number, number), min_size=3, max_size=9))
    return shapely.Polygon(xy).buffer(0) if draw(st.booleans()) else shapely.convex_hull(shapely.MultiPoint(xy))


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(outlines(), st.sampled_from(["Tumor", "Stroma", "Region*", "Ignore*", None])), max_size=6
    ),
    corner=st.tuples(st.integers(-30, 90), st.integers(-30, 90)),
    side=st.sampled_from([16, 32, 64]),
)
def test_it_paints_as_the_painter_of_masks_does(shapes, corner, side):
    drawn = [Annotation(g, name) for g, name in shapes if g.area > 0]
    ground, painter = ground_of(drawn, size=(100, 90)), Painter(drawn, LABELS, slide_size=(100, 90))
    (mask,) = ground.masks(np.array([corner], dtype=float), step=(side / 16, side / 16), px=16)
    assert np.array_equal(mask, painter.paint(Box(*corner, side, side), (16, 16)))


@pytest.mark.parametrize("child", [0, 1])
def test_children_lie_over_parents_and_small_over_large(child):
    large, small = shapely.box(0, 0, 6, 6), shapely.box(0, 0, 3, 3)
    drawn = [Annotation(large, "Tumor", id="large"), Annotation(small, "Stroma", id="small")]
    assert ground_of(drawn).values_at(np.array([[1.0, 1.0]])).tolist() == [2]
    drawn[0] = Annotation(large, "Tumor", id="large", parent="small" if child else "nobody here")
    assert ground_of(drawn).values_at(np.array([[1.0, 1.0]])).tolist() == [1]


def test_a_circle_of_parents_ends():
    drawn = [Annotation(shapely.box(0, 0, 6, 6), "Tumor", id=a, parent=b) for a, b in ("ab", "bc", "ca")]
    assert ground_of(drawn).values_at(np.array([[1.0, 1.0]])).tolist() == [1]

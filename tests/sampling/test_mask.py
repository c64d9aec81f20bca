"""Painting: a pixel belongs to a shape when its centre lies inside."""

import numpy as np
import pytest
import shapely
import shapely.affinity
from fakes import square
from hypothesis import given, settings
from hypothesis import strategies as st

from qp2train import Annotation, Box, LabelMap, paint
from qp2train.sampling.mask import Painter

TUMOR = LabelMap(["Tumor"])
BOTH = LabelMap(["Stroma", "Tumor"])
SIX = Box(0, 0, 6, 6)
_ = 255


def polygon(*corners, class_name="Tumor", **more):
    return Annotation(shapely.Polygon(corners), class_name, **more)


def painted(annotations, labels=TUMOR, box=SIX, size=(6, 6)):
    return paint(annotations, labels, box=box, size=size).tolist()


def test_a_rectangle_on_pixel_corners_fills_exactly_its_pixels():
    assert painted([square(1, 2, 3)]) == [
        [_, _, _, _, _, _],
        [_, _, _, _, _, _],
        [_, 1, 1, 1, _, _],
        [_, 1, 1, 1, _, _],
        [_, 1, 1, 1, _, _],
        [_, _, _, _, _, _],
    ]


def test_a_pixel_counts_when_its_centre_is_inside():
    # x from 0.6 to 3.4: the centres 1.5 and 2.5. y from 0.4 to 2.6: the centres 0.5, 1.5 and 2.5.
    assert painted([polygon((0.6, 0.4), (3.4, 0.4), (3.4, 2.6), (0.6, 2.6))]) == [
        [_, 1, 1, _, _, _],
        [_, 1, 1, _, _, _],
        [_, 1, 1, _, _, _],
        [_, _, _, _, _, _],
        [_, _, _, _, _, _],
        [_, _, _, _, _, _],
    ]


def test_a_triangle():
    # Below y = x: the centre (x + ½, y + ½) is inside when y > x … and just inside the 0.1 wider edge when y = x.
    assert painted([polygon((-0.1, 0), (5.9, 6), (-0.1, 6))]) == [
        [_, _, _, _, _, _],
        [1, _, _, _, _, _],
        [1, 1, _, _, _, _],
        [1, 1, 1, _, _, _],
        [1, 1, 1, 1, _, _],
        [1, 1, 1, 1, 1, _],
    ]


def test_a_hole_stays_open_and_parts_are_all_painted():
    ring = shapely.box(0, 0, 3, 3).difference(shapely.box(1, 1, 2, 2))
    assert painted([Annotation(shapely.MultiPolygon([ring, shapely.box(5, 5, 6, 6)]), "Tumor")]) == [
        [1, 1, 1, _, _, _],
        [1, _, 1, _, _, _],
        [1, 1, 1, _, _, _],
        [_, _, _, _, _, _],
        [_, _, _, _, _, _],
        [_, _, _, _, _, 1],
    ]


def test_a_bow_tie_is_painted_by_the_even_odd_rule():
    # Crossing at (2.8, 3), so that no centre lies on an edge.
    bow = painted([polygon((-0.2, 0), (5.8, 6), (5.8, 0), (-0.2, 6))])
    assert bow[2] == [1, 1, _, 1, 1, 1]
    assert bow[4] == [1, _, _, _, 1, 1]
    assert bow[5] == [_, _, _, _, _, 1]


def test_a_shape_without_any_centre_paints_nothing():
    assert set(np.ravel(painted([polygon((0.6, 0), (1.4, 0), (1.4, 6), (0.6, 6))]))) == {255}


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(1, 1, 4, 4), [[_, _, _, _], [_, 1, 1, _], [_, 1, 1, _], [_, _, _, _]]),
        # Half a pixel on: centres at 2, 3, 4, 5 → the shape from 2 to 4 covers 2 (or 4) and 3, never neither.
        (Box(1.4, 1.4, 4, 4), [[_, _, _, _], [_, 1, 1, _], [_, 1, 1, _], [_, _, _, _]]),
        (Box(1.6, 1.6, 4, 4), [[1, 1, _, _], [1, 1, _, _], [_, _, _, _], [_, _, _, _]]),
        (Box(-1, -1, 4, 4), [[_, _, _, _], [_, _, _, _], [_, _, _, _], [_, _, _, 1]]),
        (Box(3, 3, 4, 4), [[1, _, _, _], [_, _, _, _], [_, _, _, _], [_, _, _, _]]),
    ],
)
def test_a_box_anywhere_also_at_fractions(box, expected):
    assert painted([square(2, 2, 2)], box=box, size=(4, 4)) == expected


def test_at_a_downsample_the_coarse_pixels_centre_decides():
    # Pixels of 2: centres at 1, 3, 5.
    assert painted([square(0.5, 0.5, 3)], size=(3, 3)) == [[1, 1, _], [1, 1, _], [_, _, _]]
    assert painted([square(1.5, 1.5, 3)], size=(3, 3)) == [[_, _, _], [_, 1, _], [_, _, _]]


def test_width_and_height_are_not_swapped():
    mask = paint([square(4, 0, 2)], TUMOR, box=Box(0, 0, 6, 3), size=(6, 3))
    assert mask.tolist() == [[_, _, _, _, 1, 1], [_, _, _, _, 1, 1], [_, _, _, _, _, _]]
    assert mask.dtype == np.uint8


def test_no_annotation_is_all_ignored():
    assert set(np.ravel(painted([]))) == {255}
    assert set(np.ravel(painted([square(100, 100, 5)]))) == {255}
    assert set(np.ravel(painted([Annotation(shapely.Polygon(), "Tumor")]))) == {255}


def test_points_and_lines_are_one_mask_pixel():
    drawn = [
        Annotation(shapely.MultiPoint([(0.2, 0.7), (5.9, 5.1)]), "Tumor"),
        Annotation(shapely.LineString([(1.5, 3.5), (4.5, 3.5)]), "Tumor"),
    ]
    assert painted(drawn) == [
        [1, _, _, _, _, _],
        [_, _, _, _, _, _],
        [_, _, _, _, _, _],
        [_, 1, 1, 1, 1, _],
        [_, _, _, _, _, _],
        [_, _, _, _, _, 1],
    ]


def test_a_point_beside_the_box_paints_nothing_in_it():
    beside = Annotation(shapely.MultiPoint([(-0.5, 2), (6.5, 2), (2, -0.5), (2, 6.5), (3, 3)]), "Tumor")
    assert int((np.array(painted([beside])) == 1).sum()) == 1


class TestOrder:
    def test_region_is_background_and_under_everything(self):
        drawn = [square(1, 1, 2), square(0, 0, 4, "Region*")]
        for some in (drawn, drawn[::-1]):
            assert painted(some) == [
                [0, 0, 0, 0, _, _],
                [0, 1, 1, 0, _, _],
                [0, 1, 1, 0, _, _],
                [0, 0, 0, 0, _, _],
                [_, _, _, _, _, _],
                [_, _, _, _, _, _],
            ]

    def test_a_region_inside_an_object_does_not_erase_it(self):
        assert painted([square(0, 0, 6), square(2, 2, 2, "Region*")]) == [[1] * 6] * 6

    def test_what_is_ignored_covers_everything(self):
        drawn = [square(0, 0, 2, "Ignore*"), square(0, 0, 4), square(0, 0, 6, "Region*")]
        assert painted(drawn)[0] == [_, _, 1, 1, 0, 0]

    def test_small_over_large(self):
        small, large = square(1, 1, 2, "Stroma"), square(0, 0, 4, "Tumor")
        for some in ([small, large], [large, small]):
            assert painted(some, BOTH)[1] == [2, 1, 1, 2, _, _]

    def test_children_over_parents_even_if_larger(self):
        parent = square(1, 1, 2, "Tumor", id="p")
        child = square(0, 0, 4, "Stroma", parent="p")
        assert painted([child, parent], BOTH)[1] == [1, 1, 1, 1, _, _]

    def test_parents_that_are_not_mapped_count_as_a_level(self):
        outer = square(0, 0, 5, "Other", id="o")
        child = square(0, 0, 4, "Stroma", parent="o")
        assert painted([child, outer, square(1, 1, 2, "Tumor")], BOTH)[1] == [1, 1, 1, 1, _, _]

    def test_parents_in_a_circle_end(self):
        a, b = square(0, 0, 4, "Tumor", id="a", parent="b"), square(0, 0, 2, "Stroma", id="b", parent="a")
        assert painted([a, b], BOTH)[0] == [1, 1, 2, 2, _, _]

    def test_an_explicit_order_from_bottom_to_top_wins(self):
        labels = LabelMap(["Stroma", "Tumor"], paint_order=["Stroma", "Tumor"])
        drawn = [square(0, 0, 4, "Tumor", id="p"), square(1, 1, 2, "Stroma", parent="p")]
        assert painted(drawn, labels)[1] == [2, 2, 2, 2, _, _]

    def test_equal_shapes_in_one_order_whatever_else_is_near(self):
        a, b = square(0, 0, 4, "Stroma"), square(0, 0, 4, "Tumor")
        far = [square(50 + i, 50, 1) for i in range(40)]
        assert painted([a, b], BOTH) == painted([a, *far, b], BOTH)

    def test_derived_and_merged_classes(self):
        labels = LabelMap({"Tumor": ["Tumour"], "Positive": ["Tumour: Positive"]})
        drawn = [square(0, 0, 6, "Tumour: Negative"), square(0, 0, 3, "Tumour: Positive"), square(0, 0, 1, "Other")]
        assert painted(drawn, labels)[0] == [2, 2, 2, 1, 1, 1]

    def test_background_classes_paint_zero_in_their_own_place(self):
        labels = LabelMap(["Tumor"], background=["Lumen"])
        assert painted([square(0, 0, 4), square(1, 0, 2, "Lumen")], labels)[0] == [1, 0, 0, 1, _, _]


def test_unannotated_background_fills_the_rest_but_not_what_is_ignored():
    labels = LabelMap(["Tumor"], unannotated="background")
    assert painted([square(0, 0, 2), square(4, 0, 2, "Ignore*")], labels)[0] == [1, 1, 0, 0, _, _]


def test_neighbouring_boxes_join_without_seam_or_gap():
    rng = np.random.default_rng(0)
    drawn = [
        Annotation(shapely.Point(*rng.uniform(0, 60, 2)).buffer(rng.uniform(1, 15)), n)
        for n in ["Stroma", "Tumor"] * 15
    ]
    painter = Painter(drawn, BOTH)
    whole = painter.paint(Box(0, 0, 60, 60), (60, 60))
    tiles = [
        np.hstack([painter.paint(Box(x, y, 15, 20), (15, 20)) for x in range(0, 60, 15)]) for y in range(0, 60, 20)
    ]
    assert np.array_equal(np.vstack(tiles), whole)


def test_254_classes_are_told_apart():
    labels = LabelMap([f"c{i}" for i in range(254)])
    mask = paint([square(i, 0, 1, f"c{i}") for i in range(254)], labels, box=Box(0, 0, 254, 1), size=(254, 1))
    assert mask[0].tolist() == list(range(1, 255))


@pytest.mark.parametrize("downsample", [1, 3.7])
def test_an_outline_with_many_corners_is_painted_as_exactly(downsample):
    """It is clipped to the box first; here every centre is asked for by itself."""
    angle = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    radius = 90 * (1 + 0.15 * np.sin(37 * angle)) + np.random.default_rng(0).uniform(0, 3, angle.size)
    outline = shapely.Polygon(np.c_[100 + radius * np.cos(angle), 100 + radius * np.sin(angle)]).buffer(0)
    blob = outline.difference(shapely.Point(90, 90).buffer(30, 200))
    painter = Painter([Annotation(blob, "Tumor")], TUMOR)
    for x, y in [(0, 0), (33.5, 20.25), (150, 90), (-40, 190), (80, 80), (400, 400)]:
        mask = painter.paint(Box(x, y, 50 * downsample, 40 * downsample), (50, 40))
        middle_x, middle_y = np.meshgrid(x + (np.arange(50) + 0.5) * downsample, y + (np.arange(40) + 0.5) * downsample)
        assert np.array_equal(mask == 1, shapely.contains_xy(blob, middle_x, middle_y))


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(*[st.floats(-20, 80, width=32)] * 2, *[st.floats(0.5, 40, width=32)] * 2, st.integers(3, 9)),
        min_size=1,
        max_size=4,
    ),
    hole=st.booleans(),
    corner=st.tuples(*[st.floats(-10, 40, width=32)] * 2),
    downsample=st.sampled_from([0.5, 1.0, 1.3, 2.0, 3.7]),
)
def test_every_pixel_says_whether_its_centre_lies_inside(shapes, hole, corner, downsample):
    """Over all shapes, boxes and scales, with the later class above: asked of shapely, centre by centre."""
    angles = [np.linspace(0, 2 * np.pi, n, endpoint=False) + i for i, (*_, n) in enumerate(shapes)]
    outlines = [
        shapely.Polygon(np.c_[x + w * np.cos(a), y + h * np.sin(a)])
        for (x, y, w, h, _n), a in zip(shapes, angles, strict=True)
    ]
    if hole:
        outlines = [o.difference(shapely.affinity.scale(o, 0.5, 0.4)) for o in outlines]
    names = [f"c{i}" for i in range(len(outlines))]
    labels = LabelMap(names, unannotated="background", paint_order=names)
    drawn = [Annotation(o, n) for o, n in zip(outlines, names, strict=True)]
    mask = paint(drawn, labels, box=Box(*corner, 30 * downsample, 20 * downsample), size=(30, 20))
    x, y = np.meshgrid(corner[0] + (np.arange(30) + 0.5) * downsample, corner[1] + (np.arange(20) + 0.5) * downsample)
    expected, doubtful = np.zeros((20, 30), int), np.zeros((20, 30), bool)
    for value, outline in enumerate(outlines, start=1):
        expected[shapely.contains_xy(outline, x, y)] = value
        doubtful |= shapely.distance(outline.boundary, shapely.points(x, y)) < 1e-6
    assert np.array_equal(mask[~doubtful], expected[~doubtful])

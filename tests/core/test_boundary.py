import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qp2train.core.boundary import boundary_distance, outline


def image(left, right, *, top=0, bottom=20, width=40):
    out = np.zeros((20, width), np.uint8)
    out[top:bottom, left:right] = 1
    return out


def test_the_outline_is_inside_and_not_at_the_border():
    inside = np.zeros((5, 5), bool)
    inside[:3, :3] = True
    assert outline(inside, np.ones((5, 5), bool)).astype(int).tolist() == [
        [0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_ignored_pixels_make_no_outline():
    inside = np.zeros((3, 3), bool)
    inside[:, 0] = True
    valid = np.ones((3, 3), bool)
    valid[:, 1] = False
    assert not outline(inside, valid).any()


def test_a_shifted_edge_by_hand():
    # A straight edge 4 px to the right, at 0.5 µm: 2 µm everywhere, in both directions.
    assert boundary_distance(image(0, 10), image(0, 14), 1, mpp=0.5) == pytest.approx((2.0, 2.0))


def test_two_edges_by_hand():
    # The left edge is the same, the right one 6 px off: half of the pixels lie 0 away, half 6.
    assert boundary_distance(image(5, 15), image(5, 21), 1, mpp=1.0) == pytest.approx((6.0, 3.0))


def test_hd95_forgives_a_speck_and_the_mean_counts_it():
    # 20 px of outline at distance 0, and one predicted pixel alone 20 px off: 1 of 21 is below 5 %.
    said = image(0, 10)
    said[10, 29] = 1
    found = boundary_distance(image(0, 10), said, 1, mpp=1.0)
    assert found.hd95_um == pytest.approx(0.0)
    assert found.assd_um == pytest.approx(20 / 41)


def test_a_class_on_one_side_only_has_no_distance():
    for truth, said in ((image(0, 10), image(0, 0)), (image(0, 0), image(0, 10)), (image(0, 0), image(0, 0))):
        assert all(math.isnan(v) for v in boundary_distance(truth, said, 1, mpp=1.0))


def test_what_is_predicted_on_ignored_pixels_does_not_count():
    truth = image(0, 10)
    truth[:, 25:] = 255
    said = image(0, 10)
    said[5:15, 28:38] = 1
    assert boundary_distance(truth, said, 1, mpp=1.0) == (0.0, 0.0)


def test_other_classes_are_something_else():
    truth, said = image(0, 10), image(0, 10)
    truth[:, 10:] = 2
    said[:, 13:] = 2
    assert boundary_distance(truth, said, 1, mpp=1.0) == (0.0, 0.0)
    assert boundary_distance(truth, said, 2, mpp=1.0) == (3.0, 3.0)


labels = arrays(np.uint8, (9, 9), elements=st.sampled_from([0, 1]))


@given(labels, labels)
def test_both_ways_round_it_is_the_same(a, b):
    there, back = (boundary_distance(*pair, 1, mpp=0.7) for pair in ((a, b), (b, a)))
    assert np.array(there) == pytest.approx(np.array(back), nan_ok=True)


@given(labels)
def test_of_itself_it_is_zero(a):
    assert all(v == 0 or math.isnan(v) for v in boundary_distance(a, a, 1, mpp=1.0))


@given(labels, labels)
def test_where_the_image_lies_on_the_canvas_does_not_matter(a, b):
    wide = [np.pad(x, ((3, 5), (0, 7)), constant_values=255) for x in (a, b)]
    there, padded = boundary_distance(a, b, 1, mpp=1.0), boundary_distance(*wide, 1, mpp=1.0)
    assert np.array(there) == pytest.approx(np.array(padded), nan_ok=True)

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import directed_hausdorff

from qp2train.infer.objects import (
    ObjectCounts,
    components,
    object_dice,
    object_f1,
    object_hausdorff,
    panoptic_quality,
)

NOTHING = np.zeros((20, 40), int)


def bars(*spans, height=10):
    """Objects 1, 2, … of 10 rows, from one column up to another."""
    out = NOTHING.copy()
    for i, (left, right) in enumerate(spans, start=1):
        out[:height, left:right] = i
    return out


class TestByHand:
    # Truth: A 10 wide, B 20 wide. Predicted: a lies on A and 2 more columns; b covers 8 of B's 20; c is alone.
    TRUTH = bars((0, 10), (15, 35))
    SAID = bars((0, 12), (15, 23), (37, 40))

    def test_object_dice(self):
        a, b = 2 * 10 / (10 + 12), 2 * 8 / (20 + 8)
        of_true = (10 * a + 20 * b) / 30
        of_said = (12 * a + 8 * b + 3 * 0) / 23
        assert object_dice(self.SAID, self.TRUTH) == pytest.approx((of_true + of_said) / 2)

    def test_object_f1(self):
        # Only a covers more than half of its object: TP 1 of 3 predicted and 2 true.
        assert object_f1(self.SAID, self.TRUTH) == pytest.approx(2 * 1 / (3 + 2))

    def test_panoptic_quality(self):
        # IoU of a and A: 10/12; of b and B: 8/20.
        pq, sq, rq = panoptic_quality(self.SAID, self.TRUTH)
        assert sq == pytest.approx(10 / 12)
        assert rq == pytest.approx(1 / (1 + 2 / 2 + 1 / 2))
        assert pq == pytest.approx(sq * rq)

    def test_object_hausdorff(self):
        # a–A: 2 columns; b–B: 12 (column 34 from 22). c overlaps nothing: from B's nearest column to c 5, but from
        # B's column 15 to c 22; from A's column 0 to c 37. So the nearest is B, at 22.
        of_true = (10 * 2 + 20 * 12) / 30
        of_said = (12 * 2 + 8 * 12 + 3 * 22) / 23
        assert object_hausdorff(self.SAID, self.TRUTH) == pytest.approx((of_true + of_said) / 2)


def test_exactly_half_is_not_enough():
    assert object_f1(bars((0, 5)), bars((0, 10))) == 0
    assert object_f1(bars((0, 6)), bars((0, 10))) == 1


def test_one_prediction_over_two_objects_finds_one_of_them_and_matches_none():
    said, truth = bars((0, 20)), bars((0, 9), (10, 20))
    assert object_f1(said, truth) == pytest.approx(2 * 1 / 3)
    # IoU with the larger one: 10 of 20, not above a half.
    assert panoptic_quality(said, truth) == (0, 0, 0)


def test_no_object_anywhere_is_perfect_agreement():
    assert object_dice(NOTHING, NOTHING) == object_f1(NOTHING, NOTHING) == 1
    assert panoptic_quality(NOTHING, NOTHING) == (1, 1, 1)
    assert object_hausdorff(NOTHING, NOTHING) == 0


@pytest.mark.parametrize(("said", "truth"), [(NOTHING, bars((0, 5))), (bars((0, 5)), NOTHING)])
def test_objects_on_one_side_only(said, truth):
    assert object_dice(said, truth) == object_f1(said, truth) == 0
    assert panoptic_quality(said, truth) == (0, 0, 0)
    assert math.isnan(object_hausdorff(said, truth))


def test_images_without_objects_have_no_scores_of_their_own():
    assert all(math.isnan(v) for v in ObjectCounts.of(NOTHING, NOTHING).scores().values())


def test_the_middle_of_a_hole_is_far_from_its_ring():
    ring, disk = np.zeros((11, 11), int), np.zeros((11, 11), int)
    ring[:], ring[1:-1, 1:-1] = 1, 0
    disk[:] = 1
    assert object_hausdorff(disk, ring) == pytest.approx(5)


def test_pixels_that_touch_by_a_corner_are_two_objects():
    assert components(np.eye(2, dtype=bool)).max() == 2


def test_counts_of_images_add_up_as_if_they_were_side_by_side():
    one, other = (TestByHand.SAID, TestByHand.TRUTH), (bars((0, 9)), bars((1, 12)))
    summed = ObjectCounts.of(*one) + ObjectCounts.of(*other)
    # Far enough apart that the nearest object is never the other image's.
    side_by_side = [
        np.hstack([a, np.zeros((20, 200), int), np.where(b, b + 100, 0)]) for a, b in zip(one, other, strict=True)
    ]
    assert summed.scores() == pytest.approx(ObjectCounts.of(*side_by_side).scores())


labels = arrays(np.int16, (8, 8), elements=st.sampled_from([0, 0, 1, 2, 7]))


@given(labels, labels)
def test_which_is_the_truth_does_not_matter(a, b):
    # Not so for the challenge's F1, which asks how much of the truth is covered.
    assert panoptic_quality(a, b) == pytest.approx(panoptic_quality(b, a))
    assert object_dice(a, b) == pytest.approx(object_dice(b, a))
    assert object_hausdorff(a, b) == pytest.approx(object_hausdorff(b, a), nan_ok=True)


@given(labels)
def test_of_itself_it_is_perfect(a):
    assert object_dice(a, a) == object_f1(a, a) == 1
    assert panoptic_quality(a, a) == pytest.approx((1, 1, 1))
    assert object_hausdorff(a, a) == 0


@given(labels, labels)
def test_the_numbers_of_the_objects_do_not_matter(a, b):
    other = np.array([0, 40, 9, 0, 0, 0, 0, 22])[a]  # the order of the first two is turned round as well
    tied = any((np.bincount(b[a == i])[1:] == np.bincount(b[a == i])[1:].max(initial=0)).sum() > 1 for i in (1, 2, 7))
    if not tied:
        assert panoptic_quality(a, b) == pytest.approx(panoptic_quality(other, b))
        assert object_f1(a, b) == pytest.approx(object_f1(other, b))


@given(labels, labels)
def test_one_object_each_is_the_plain_hausdorff_distance(a, b):
    a, b = a > 0, b > 0
    if a.any() and b.any():
        expected = max(directed_hausdorff(np.argwhere(p), np.argwhere(q))[0] for p, q in ((a, b), (b, a)))
        assert object_hausdorff(a.astype(int), b.astype(int)) == pytest.approx(expected)


def by_definition(a, b):
    """The challenge's object-level Hausdorff distance, written down as it is defined, with every pair measured."""
    sums = []
    for own, other in ((a, b), (b, a)):
        total = 0.0
        for i in np.unique(own[own > 0]):
            shared = np.bincount(other[own == i])[1:]
            js = [shared.argmax() + 1] if shared.any() else np.unique(other[other > 0])
            mine = np.argwhere(own == i)
            distances = []
            for j in js:
                theirs = np.argwhere(other == j)
                distances.append(max(directed_hausdorff(mine, theirs)[0], directed_hausdorff(theirs, mine)[0]))
            total += len(mine) * min(distances)
        sums.append(total / (own > 0).sum())
    return sum(sums) / 2


sparse = arrays(np.int16, (9, 12), elements=st.sampled_from([0] * 12 + [1, 2, 3, 4]))


@given(sparse, sparse)
def test_the_shortcut_to_the_nearest_object_finds_the_nearest(a, b):
    if a.any() and b.any():
        assert object_hausdorff(a, b) == pytest.approx(by_definition(b, a))


def test_an_image_with_too_many_objects_has_no_distance_and_all_other_scores():
    said, truth = bars((0, 9), (15, 20)), bars((0, 10))
    few, many = (ObjectCounts.of(said, truth, most=most).scores() for most in (1, 2))
    assert math.isnan(few.pop("hausdorff_px"))
    assert many.pop("hausdorff_px") > 0
    assert few == many

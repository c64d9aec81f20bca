import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from qp2train.core.curves import POINTS, ScoreHistogram

NAMES = ("Background", "A")


def histogram(truth, score_of_a, bins=1000):
    score_of_a = np.asarray(score_of_a, dtype=float)
    return ScoreHistogram.of(np.asarray(truth), np.stack([1 - score_of_a, score_of_a]), NAMES, bins=bins)


def test_scores_are_counted_by_class_truth_and_bin():
    found = histogram([1, 0, 1, 255], [0.95, 0.1, 1.0, 0.5], bins=10)
    assert found.counts[1, 1].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found.counts[1, 0].tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert found.counts[0, 1].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_roc_auc_by_hand():
    # Of the 2 × 2 pairs (a true pixel, a false one), 3 are in the right order.
    assert histogram([1, 0, 1, 0], [0.9, 0.7, 0.6, 0.2]).roc_auc()["A"] == pytest.approx(3 / 4)


def test_ties_count_half():
    assert histogram([1, 0], [0.5, 0.5]).roc_auc()["A"] == pytest.approx(0.5)


def test_average_precision_by_hand():
    # From the top: hit (precision 1), miss, hit (2/3), miss; each hit is half of the recall.
    assert histogram([1, 0, 1, 0], [0.9, 0.7, 0.6, 0.2]).average_precision()["A"] == pytest.approx((1 + 2 / 3) / 2)


def test_the_curves_by_hand():
    found = histogram([1, 0, 1, 0], [0.9, 0.7, 0.6, 0.2])
    fpr, tpr = found.roc("A")
    corners = list(dict.fromkeys(zip(fpr.tolist(), tpr.tolist(), strict=True)))
    assert corners == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    recall, precision = found.precision_recall("A")
    assert list(dict.fromkeys(zip(recall.tolist(), precision.round(6).tolist(), strict=True))) == [
        (0.5, 1.0),
        (0.5, 0.5),
        (1.0, 0.666667),
        (1.0, 0.5),
    ]


def test_without_both_kinds_of_pixels_there_is_no_curve():
    alone = histogram([0, 0], [0.3, 0.4])
    assert math.isnan(alone.roc_auc()["A"])
    assert math.isnan(alone.average_precision()["A"])
    assert alone.roc("A")[0].size == 0
    assert alone.precision_recall("A")[0].size == 0


def test_histograms_add_up():
    truth, scores = [1, 0, 1, 0], [0.9, 0.7, 0.6, 0.2]
    parts = histogram(truth[:1], scores[:1]) + histogram(truth[1:], scores[1:])
    assert np.array_equal(parts.counts, histogram(truth, scores).counts)


def test_flags_may_be_true_of_several_classes_at_once():
    found = ScoreHistogram.of_flags(np.array([[True], [True]]), np.array([[0.9], [0.2]]), ("A", "B"), bins=10)
    assert found.counts[0, 1, 9] == found.counts[1, 1, 2] == 1
    assert found.counts.sum() == 2


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=2, max_size=300))
def test_they_agree_with_scikit_learn_on_the_binned_scores(pixels):
    truth, scores = np.array(pixels).T
    truth = truth.astype(int)
    if truth.all() or not truth.any():
        return
    found = histogram(truth, scores)
    binned = np.minimum((scores * 1000).astype(int), 999)
    assert found.roc_auc()["A"] == pytest.approx(roc_auc_score(truth, binned))
    assert found.average_precision()["A"] == pytest.approx(average_precision_score(truth, binned))


def test_a_drawn_curve_has_few_points_and_they_lie_on_the_whole_one():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 20_000)
    scores = np.clip(rng.normal(0.4 + 0.2 * truth, 0.15), 0, 1)
    fpr, tpr = histogram(truth, scores).roc("A")
    assert 50 < fpr.size <= POINTS
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    whole_fpr, whole_tpr, _ = roc_curve(truth, np.minimum((scores * 1000).astype(int), 999), drop_intermediate=False)
    whole = set(zip(whole_fpr.round(9).tolist(), whole_tpr.round(9).tolist(), strict=True))
    assert set(zip(fpr.round(9).tolist(), tpr.round(9).tolist(), strict=True)) <= whole
    assert np.abs(np.trapezoid(tpr, fpr) - roc_auc_score(truth, scores)) < 0.001

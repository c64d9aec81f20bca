import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from qp2train.core.calibration import Reliability, fitted_temperature, negative_log_likelihood


def softmax(logits):
    e = np.exp(logits - logits.max(axis=0))
    return e / e.sum(axis=0)


def test_bins_by_hand():
    # Four say 0.8, of which three are right; one says 0.6 and is wrong; the last is ignored.
    of_a = np.array([0.8, 0.8, 0.8, 0.8, 0.4, 0.9])
    found = Reliability.of(np.array([1, 1, 1, 0, 1, 255]), np.stack([1 - of_a, of_a]), bins=5)
    # Bins end at 0.2, 0.4, 0.6, 0.8 and 1, and these ends belong to them.
    assert [b["share"] for b in found.bins()] == pytest.approx([0, 0, 0.2, 0.8, 0])
    assert found.bins()[2] == pytest.approx({"confidence": 0.6, "accuracy": 0.0, "share": 0.2})
    assert found.bins()[3] == pytest.approx({"confidence": 0.8, "accuracy": 0.75, "share": 0.8})
    assert math.isnan(found.bins()[0]["accuracy"])
    assert found.ece() == pytest.approx(0.2 * 0.6 + 0.8 * 0.05)


def test_a_model_that_is_right_as_often_as_it_says_has_no_error():
    truth = np.array([1, 1, 1, 0])
    assert Reliability.of(truth, np.stack([np.full(4, 0.25), np.full(4, 0.75)])).ece() == pytest.approx(0)


def test_no_prediction_is_no_error():
    assert math.isnan(Reliability.empty().ece())
    assert [b["share"] for b in Reliability.empty().bins()] == [0] * 15


def test_parts_add_up_and_agree_with_torchmetrics():
    rng = np.random.default_rng(0)
    scores = softmax(rng.normal(size=(3, 500)) * 2)
    truth = rng.integers(0, 3, 500)
    parts = Reliability.of(truth[:200], scores[:, :200]) + Reliability.of(truth[200:], scores[:, 200:])
    theirs = multiclass_calibration_error(torch.from_numpy(scores.T), torch.from_numpy(truth), 3, n_bins=15)
    assert parts.ece() == pytest.approx(float(theirs), abs=1e-6)


class TestTemperature:
    def test_by_hand(self):
        # Logits (0, 2) everywhere, and 3 of 4 are of class 1: the best is e^(2/T) = 3, T = 2 / ln 3.
        logits, truth = np.tile([0.0, 2.0], (4, 1)), np.array([1, 1, 1, 0])
        assert fitted_temperature(logits, truth) == pytest.approx(2 / math.log(3), rel=1e-4)

    def test_of_a_sigmoid_it_is_the_same(self):
        assert fitted_temperature(np.full(4, 2.0), np.array([1, 1, 1, 0])) == pytest.approx(2 / math.log(3), rel=1e-4)

    @pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
    def test_an_overconfident_model_is_found_out(self, times):
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(20_000, 3)) * 2
        truth = (softmax(logits.T).cumsum(axis=0) < rng.random(20_000)).sum(axis=0)
        assert fitted_temperature(logits * times, truth) == pytest.approx(times, rel=0.03)

    def test_no_other_temperature_is_likelier(self):
        rng = np.random.default_rng(1)
        truth = rng.integers(0, 3, 200)
        logits = rng.normal(size=(200, 3)) * 4 + 3 * np.eye(3)[truth]
        best = fitted_temperature(logits, truth)
        least = negative_log_likelihood(logits, truth, best)
        assert all(negative_log_likelihood(logits, truth, best * f) > least for f in (0.5, 0.9, 1.1, 2.0))

    def test_what_has_no_best_temperature_stays_within_bounds(self):
        always_right, always_wrong = np.array([1]), np.array([0])
        assert 0.05 <= fitted_temperature(np.array([[0.0, 5.0]]), always_right) < 1
        assert fitted_temperature(np.array([[0.0, 5.0]]), always_wrong) == pytest.approx(20, rel=0.01)

    def test_nothing_to_fit_is_an_error(self):
        with pytest.raises(ValueError, match="no logits"):
            fitted_temperature(np.empty((0, 2)), np.empty(0, int))

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qp2train.core.intervals import bootstrap, draws, paired_difference, paired_p_value, percentiles


def share(sums):
    """A score of counts (hits, misses)."""
    total = sums.sum(axis=-1)
    return np.divide(sums[..., 0], total, out=np.full(total.shape, np.nan), where=total > 0)


class TestBootstrap:
    def test_whole_patients_are_drawn_with_replacement(self):
        found = draws(4, resamples=1000)
        assert found.shape == (1000, 4)
        assert (found.sum(axis=1) == 4).all()
        assert found.max() > 1
        assert found.mean(axis=0) == pytest.approx([1, 1, 1, 1], abs=0.1)

    def test_two_patients_by_hand(self):
        # Drawn are: the good one twice (a quarter), the bad one twice (a quarter), or both (a half).
        value, low, high = bootstrap(np.array([[10, 0], [0, 10]]), share)
        assert (value, low, high) == (0.5, 0.0, 1.0)

    def test_a_large_patient_weighs_as_its_counts(self):
        assert bootstrap(np.array([[90, 0], [0, 10]]), share)[0] == pytest.approx(0.9)

    def test_equal_patients_leave_no_doubt(self):
        assert bootstrap(np.array([[8, 2]] * 5), share).tolist() == [0.8, 0.8, 0.8]

    def test_more_pixels_of_the_same_patients_tell_nothing_more(self):
        counts = np.random.default_rng(0).integers(0, 9, (6, 2))
        assert bootstrap(counts * 100, share) == pytest.approx(bootstrap(counts, share))

    def test_one_patient_has_a_value_and_no_interval(self):
        value, low, high = bootstrap(np.array([[3, 1]]), share)
        assert value == 0.75
        assert math.isnan(low)
        assert math.isnan(high)

    def test_the_seed_decides(self):
        counts = np.random.default_rng(0).integers(0, 9, (6, 2))
        one, same, other = (bootstrap(counts, share, resamples=100, seed=s) for s in (0, 0, 1))
        assert one.tolist() == same.tolist() != other.tolist()

    def test_it_covers_the_truth_about_as_often_as_it_says(self):
        # 30 patients of 20 pixels, hit rate 0.7 ± 0.1 between patients; percentile intervals are a little narrow.
        rng = np.random.default_rng(0)
        covered = 0
        for _ in range(200):
            hits = rng.binomial(20, np.clip(rng.normal(0.7, 0.1, 30), 0, 1))
            _, low, high = bootstrap(np.stack([hits, 20 - hits], axis=1), share, resamples=300)
            covered += low <= 0.7 <= high
        assert 0.88 <= covered / 200 <= 0.99

    def test_draws_without_the_class_are_left_out(self):
        # Of three patients only the first has the class: 8/27 of the draws lack it, the others all score 1/2.
        assert bootstrap(np.array([[1, 1], [0, 0], [0, 0]]), share).tolist() == [0.5, 0.5, 0.5]

    def test_a_class_that_no_patient_has_is_not_computed(self):
        assert np.isnan(bootstrap(np.zeros((3, 2)), share)).all()

    def test_percentiles_by_hand(self):
        low, high = percentiles(np.arange(101.0)[:, None])
        assert (low[0], high[0]) == pytest.approx((2.5, 97.5))


class TestPaired:
    GOOD, BAD = np.array([[9, 1]]), np.array([[5, 5]])

    def test_a_difference_that_is_the_same_in_each_patient_is_certain(self):
        found = paired_difference(np.repeat(self.BAD, 5, 0), np.repeat(self.GOOD, 5, 0), share)
        assert found == pytest.approx((0.4, 0.4, 0.4))

    def test_patients_are_drawn_in_pairs(self):
        # Patients differ much, the models little: +0.1 in each. Unpaired, the interval would span zero.
        first = np.array([[9, 91], [30, 70], [50, 50], [80, 20]])
        found = paired_difference(first, first + np.array([10, -10]), share)
        assert found == pytest.approx((0.1, 0.1, 0.1))

    def test_one_patient_has_a_difference_without_interval(self):
        found = paired_difference(self.BAD, self.GOOD, share)
        assert found.value == pytest.approx(0.4)
        assert math.isnan(found.low)

    @pytest.mark.parametrize("patients", [2, 3, 5, 8])
    def test_the_smallest_p_by_hand(self, patients):
        # Better in every patient: of 2^P exchanges only none and all are as extreme.
        p = paired_p_value(np.repeat(self.BAD, patients, 0), np.repeat(self.GOOD, patients, 0), share)
        assert p == pytest.approx(2 / 2**patients)

    def test_the_sign_flip_test_by_hand(self):
        # Patients of 10 pixels: the score is the mean over patients. Differences +3, +2, −1 (in tenths), sum 4.
        # |±3 ± 2 ± 1| ≥ 4 for +++ (6), ++− (4) and their opposites: 4 of 8.
        first, second = np.array([[5, 5], [5, 5], [5, 5]]), np.array([[8, 2], [7, 3], [4, 6]])
        assert paired_p_value(first, second, share) == pytest.approx(0.5)

    def test_equal_models_are_not_told_apart(self):
        same = np.random.default_rng(0).integers(0, 9, (6, 2))
        assert paired_p_value(same, same, share) == 1

    def test_many_patients_are_sampled_and_p_is_never_zero(self):
        p = paired_p_value(np.repeat(self.BAD, 40, 0), np.repeat(self.GOOD, 40, 0), share)
        assert p == pytest.approx(1 / 10_001)

    def test_sampled_and_exact_agree(self):
        rng = np.random.default_rng(3)
        first = rng.binomial(100, 0.60, 12)
        second = first + rng.integers(-6, 10, 12)
        counts = [np.stack([h, 100 - h], axis=1) for h in (first, second)]
        exact = paired_p_value(*counts, share)
        # A 13th patient without any difference changes nothing, but all exchanges are no longer tried.
        more = [np.concatenate([c, [[60, 40]]]) for c in counts]
        assert 0.01 < exact < 0.9
        assert paired_p_value(*more, share) == pytest.approx(exact, abs=0.02)

    def test_fewer_than_two_patients_have_no_p(self):
        assert math.isnan(paired_p_value(self.BAD, self.GOOD, share))

    @given(st.lists(st.tuples(*[st.integers(0, 20)] * 4), min_size=2, max_size=6))
    def test_the_other_way_round_it_is_the_opposite(self, rows):
        counts = np.array(rows)
        first, second = counts[:, :2] + 1, counts[:, 2:] + 1
        there, back = (paired_difference(*pair, share, resamples=50) for pair in ((first, second), (second, first)))
        assert there == pytest.approx((-back.value, -back.high, -back.low))
        assert paired_p_value(first, second, share) == pytest.approx(paired_p_value(second, first, share))

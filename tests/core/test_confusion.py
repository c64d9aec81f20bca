import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from qp2train import Confusion
from qp2train.core.agreement import class_scores, overall_scores

NAMES = ("Background", "A", "B")
#                  truth      predicted
TRUTH = np.array([[0, 0, 1], [1, 1, 255]])
GUESS = np.array([[0, 1, 1], [1, 0, 1]])


def test_pixels_are_counted_by_true_row_and_predicted_column():
    assert Confusion.of(TRUTH, GUESS, NAMES).matrix.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_scores_by_hand():
    counts = Confusion.of(TRUTH, GUESS, NAMES)
    dice, iou = counts.dice(), counts.iou()
    assert dice["Background"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert dice["A"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert iou["Background"] == pytest.approx(1 / 3)
    assert iou["A"] == pytest.approx(2 / 4)


def test_a_class_that_is_nowhere_has_no_score_and_does_not_enter_the_mean():
    counts = Confusion.of(TRUTH, GUESS, NAMES)
    assert math.isnan(counts.dice()["B"])
    assert math.isnan(counts.iou()["B"])
    assert counts.mean_dice() == pytest.approx(4 / 6)


def test_a_class_that_is_predicted_wrongly_scores_zero():
    counts = Confusion.of(np.array([0, 0]), np.array([2, 0]), NAMES)
    assert counts.dice()["B"] == 0
    assert counts.mean_dice() == 0


def test_background_alone_has_no_mean():
    assert math.isnan(Confusion.of(np.zeros(4, int), np.zeros(4, int), NAMES).mean_dice())
    assert math.isnan(Confusion.empty(NAMES).mean_dice())


def test_ignored_pixels_do_not_count_on_either_side():
    assert Confusion.of(np.array([255, 1]), np.array([1, 255]), NAMES).matrix.sum() == 0


def test_small_integer_types_do_not_overflow():
    names = [f"c{i}" for i in range(100)]
    same = np.arange(100, dtype=np.uint8)
    assert np.array_equal(Confusion.of(same, same, names).matrix, np.eye(100))


def test_counts_add_up():
    one = Confusion.of(TRUTH[:1], GUESS[:1], NAMES) + Confusion.of(TRUTH[1:], GUESS[1:], NAMES)
    assert np.array_equal(one.matrix, Confusion.of(TRUTH, GUESS, NAMES).matrix)


def test_the_table_has_a_row_per_class():
    table = Confusion.of(TRUTH, GUESS, NAMES).table()
    assert table.index.tolist() == list(NAMES)
    assert table["pixels"].tolist() == [2, 3, 0]
    assert table.loc["A", "IoU"] == pytest.approx(0.5)


class TestMoreScores:
    #            said:  background  A   B
    COUNTS = Confusion(
        np.array([[50, 10, 0], [5, 20, 5], [0, 2, 8]]),  # truth: background, A, B
        NAMES,
    )

    def test_precision_recall_and_f1_by_hand(self):
        # A: TP 20, FP 10 + 2, FN 5 + 5. B: TP 8, FP 5, FN 2.
        assert self.COUNTS.precision()["A"] == pytest.approx(20 / 32)
        assert self.COUNTS.recall()["A"] == pytest.approx(20 / 30)
        assert self.COUNTS.f1()["B"] == pytest.approx(2 * 8 / (16 + 5 + 2))

    def test_specificity_by_hand(self):
        # Not A: 70 pixels, of which 12 were called A. Not B: 90, of which 5 were called B.
        assert self.COUNTS.specificity()["A"] == pytest.approx(58 / 70)
        assert self.COUNTS.specificity()["B"] == pytest.approx(85 / 90)

    def test_of_pixels_f1_is_dice(self):
        assert self.COUNTS.f1() == self.COUNTS.dice()

    def test_accuracies_by_hand(self):
        assert self.COUNTS.accuracy() == pytest.approx(78 / 100)
        assert self.COUNTS.balanced_accuracy() == pytest.approx((50 / 60 + 20 / 30 + 8 / 10) / 3)

    def test_kappa_by_hand(self):
        # Chance: 0.60·0.55 + 0.30·0.32 + 0.10·0.13 = 0.439.
        assert self.COUNTS.kappa() == pytest.approx((0.78 - 0.439) / (1 - 0.439))

    def test_kappa_is_that_of_scikit_learn(self):
        truth, guess = np.repeat(np.indices((3, 3)).reshape(2, 9), self.COUNTS.matrix.ravel(), axis=1)
        assert self.COUNTS.kappa() == pytest.approx(cohen_kappa_score(truth, guess))

    def test_the_mean_leaves_background_out(self):
        assert self.COUNTS.mean(self.COUNTS.recall()) == pytest.approx((20 / 30 + 8 / 10) / 2)

    def test_the_mean_of_classes_without_a_background_is_over_all_of_them(self):
        counts = Confusion(np.array([[3, 1], [0, 4]]), ("Benign", "Malignant"))
        assert counts.mean(counts.recall()) == pytest.approx((3 / 4 + 1) / 2)

    def test_a_class_that_is_never_predicted_has_no_precision(self):
        counts = Confusion(np.array([[5, 0], [5, 0]]), ("Background", "A"))
        assert math.isnan(counts.precision()["A"])
        assert counts.recall()["A"] == 0

    def test_nothing_counted_is_no_score(self):
        nothing = Confusion.empty(NAMES)
        for score in (nothing.accuracy(), nothing.balanced_accuracy(), nothing.kappa()):
            assert math.isnan(score)

    def test_one_class_alone_agrees_by_chance(self):
        assert math.isnan(Confusion(np.array([[7, 0], [0, 0]]), ("Background", "A")).kappa())

    def test_area_by_hand(self):
        # 0.5 µm wide pixels: 4 million are a square millimetre.
        counts = Confusion(np.array([[4_000_000, 0], [1_000_000, 2_000_000]]), ("Background", "A"))
        assert counts.mm2(0.5) == pytest.approx(np.array([[1.0, 0.0], [0.25, 0.5]]))


class TestStacks:
    def test_a_stack_of_matrices_scores_as_each_alone(self):
        stack = np.random.default_rng(0).integers(0, 9, (4, 5, 3, 3))
        for score, values in {**class_scores(stack), **overall_scores(stack)}.items():
            alone = Confusion(stack[2, 3], NAMES)
            expected = getattr(alone, score)()
            assert values[2, 3].tolist() == (list(expected.values()) if isinstance(expected, dict) else expected)

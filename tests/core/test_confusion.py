import math

import numpy as np
import pytest

from qp2train import Confusion

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

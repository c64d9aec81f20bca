"""Simulated clicks, on masks that one can count."""

from __future__ import annotations

import numpy as np
import pytest

from qp2train.core.clicks import ClickScores, iou, next_click
from qp2train.errors import PromptError
from qp2train.refine.clicks import click_through
from qp2train.refine.prompts import Candidate, Prompt


def bits(text: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in text.split()])


NOTHING = np.zeros((5, 5), bool)


def test_a_missed_object_is_clicked_in_its_middle() -> None:
    truth = bits("..... .###. .###. .###. .....")
    assert next_click(NOTHING, truth) == (2.5, 2.5, 1)


def test_too_much_is_clicked_away() -> None:
    predicted = bits("..... .###. .###. .###. .....")
    assert next_click(predicted, NOTHING) == (2.5, 2.5, 0)


def test_the_largest_error_comes_first() -> None:
    predicted, truth = bits("#.... ..... ..... ..... ....."), bits("..... ..### ..### ..### .....")
    assert next_click(predicted, truth) == (3.5, 2.5, 1)


def test_missed_and_superfluous_pixels_that_touch_are_two_errors() -> None:
    predicted, truth = bits("..... ###.. ###.. ###.. ....."), bits("..... ...#. ...#. ...#. .....")
    assert next_click(predicted, truth) == (1.5, 2.5, 0)


def test_the_views_edge_is_a_border() -> None:
    assert next_click(NOTHING, ~NOTHING) == (2.5, 2.5, 1)


def test_nothing_is_wrong_where_the_truth_is_not_known() -> None:
    truth = bits("##... ##... ..... ..... .....")
    assert next_click(NOTHING, truth, valid=~truth) is None
    assert next_click(truth, truth) is None


def test_jittered_clicks_stay_in_the_inner_half() -> None:
    truth = np.zeros((11, 11), bool)
    truth[1:10, 1:10] = True  # 5 deep in the middle: the inner half is 3 deep or more
    rng = np.random.default_rng(0)
    clicks = {next_click(np.zeros_like(truth), truth, rng=rng) for _ in range(300)}
    assert clicks == {(x + 0.5, y + 0.5, 1) for x in range(3, 8) for y in range(3, 8)}


class Squares:
    """Answers each positive click with one pixel more, and never forgets the mask."""

    def predict(self, prompt: Prompt) -> list[Candidate]:
        mask = NOTHING.copy() if prompt.mask is None else prompt.mask.copy()
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
            mask[int(y), int(x)] = label == 1
        return [Candidate(mask, 1.0)]


def test_clicking_goes_on_until_all_is_right() -> None:
    truth = bits("..... .#.#. ..... ..... .....")
    assert click_through(Squares(), truth) == [0, 0.5, 1]
    assert click_through(Squares(), truth, most=1) == [0, 0.5]
    assert click_through(Squares(), truth, start=bits("..... .#... ..... ..... .....")) == [0.5, 1]


def test_an_object_that_is_not_there_cannot_be_found() -> None:
    with pytest.raises(PromptError, match="empty"):
        click_through(Squares(), NOTHING)


def test_iou_is_of_what_is_known() -> None:
    assert iou(bits("##.."), bits(".##.")) == pytest.approx(1 / 3)
    assert iou(bits("##.."), bits(".##."), valid=bits(".#..")) == 1
    assert iou(bits("...."), bits("....")) == 1


def test_scores_over_objects() -> None:
    scores = ClickScores.of([[0, 0.7, 0.9], [0, 0.5], [0.95]], most=3)
    assert scores.iou_at(1) == pytest.approx((0.7 + 0.5 + 0.95) / 3)
    assert scores.iou_at(3) == pytest.approx((0.9 + 0.5 + 0.95) / 3)
    assert scores.clicks_to(0.85) == pytest.approx((2 + 3 + 0) / 3)  # the second never gets there: 3, the most
    assert scores.never(0.85) == pytest.approx(1 / 3)


def test_scores_of_nothing_are_refused() -> None:
    with pytest.raises(PromptError, match="at least one object"):
        ClickScores.of([])
    with pytest.raises(PromptError, match="at most 1"):
        ClickScores.of([[0, 1, 1]], most=1)

"""Prompts answered by colour alone: a purple disc on a pink ground."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from qp2train.errors import PromptError
from qp2train.refine.clicks import ClickScores, click_through, iou
from qp2train.refine.fallback import ColourModel
from qp2train.refine.prompts import Prompt

PINK, PURPLE = (230, 180, 210), (110, 60, 140)


def disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width] + 0.5
    return np.hypot(columns - x, rows - y) <= radius


def picture(*discs: np.ndarray) -> np.ndarray:
    image = np.full((*discs[0].shape, 3), PINK, np.int16)
    for one in discs:
        image[one] = PURPLE
    return (image + np.random.default_rng(0).integers(-15, 16, image.shape)).clip(0, 255).astype(np.uint8)


LEFT, RIGHT = disc(120, 200, 60, 60, 30), disc(120, 200, 145, 60, 30)
VIEW = ColourModel().encode(picture(LEFT, RIGHT))


def best(**prompt: object) -> np.ndarray:
    return VIEW.predict(Prompt(**prompt))[0].mask  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "prompt",
    [
        {"points": [(60, 60)], "labels": [1]},
        {"points": [(60, 60), (145, 60)], "labels": [1, 0]},
        {"box": (25, 25, 95, 95)},
        {"mask": disc(120, 200, 64, 63, 30)},
        {"mask": LEFT | RIGHT, "points": [(145, 60)], "labels": [0]},
        {"box": (-40, -40, 95, 300), "points": [(50, 60)], "labels": [1]},
    ],
    ids=["click", "two clicks", "box", "shifted mask", "mask of two and a click against one", "box and click"],
)
def test_a_prompt_finds_the_disc_that_is_meant(prompt: dict) -> None:
    assert iou(best(**prompt), LEFT) > 0.85


def test_it_is_less_sure_of_what_it_cannot_tell_apart() -> None:
    (clear,) = VIEW.predict(Prompt([(60, 60)], [1]))
    (vague,) = VIEW.predict(Prompt([(5, 5), (8, 5)], [1, 0]))
    assert 0 <= vague.iou < clear.iou <= 1


def test_clicks_against_everything_find_nothing() -> None:
    (found,) = VIEW.predict(Prompt([(60, 60)], [0]))
    assert not found.mask.any()
    assert found.iou == 0


def test_clicks_outside_the_view_do_nothing() -> None:
    assert not best(points=[(-50, 60)], labels=[1]).any()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 400, 3), (700, 3, 3)])
def test_a_view_of_any_shape_is_answered(shape: tuple[int, int, int]) -> None:
    (found,) = ColourModel().encode(np.full(shape, 200, np.uint8)).predict(Prompt([(0.5, 0.5)], [1]))
    assert found.mask.shape == shape[:2]


def test_clicking_finds_the_disc_without_a_start_and_faster_with_one() -> None:
    nothing = ClickScores.of([click_through(VIEW, LEFT)])
    begun = ClickScores.of([click_through(VIEW, LEFT, start=disc(120, 200, 68, 60, 30))])
    assert nothing.clicks_to(0.85) <= 3
    assert begun.clicks_to(0.85) <= nothing.clicks_to(0.85)


def test_it_says_that_it_is_the_fallback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ColourModel().encode(picture(LEFT))
    assert "by colour alone" in caplog.text


def test_a_mask_of_another_view_is_refused() -> None:
    with pytest.raises(PromptError, match="the view 200×120"):
        VIEW.predict(Prompt(mask=np.zeros((10, 10), bool)))

"""Prompts answered by colour alone: a purple disc on a pink ground."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest

from qp2train.core.clicks import ClickScores, iou
from qp2train.errors import PromptError
from qp2train.refine.clicks import click_through
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
        model = ColourModel()
        for _ in range(3):
            model.encode(picture(LEFT))
    assert caplog.text.count("by colour alone") == 1


def test_a_mask_of_another_view_is_refused() -> None:
    with pytest.raises(PromptError, match="the view 200×120"):
        VIEW.predict(Prompt(mask=np.zeros((10, 10), bool)))


@pytest.mark.parametrize("length", [24, 160, 500])
def test_thin_and_scattered_masks_do_not_vanish(length: int) -> None:
    bar = np.zeros((512, 512), bool)
    bar[250:262, 6 : 6 + length] = True
    dots = np.zeros_like(bar)
    for x in range(30, 500, 60):
        dots |= disc(512, 512, x, 100, 14)
    for mask in (bar, dots):
        (found,) = ColourModel().encode(picture(mask)).predict(Prompt(mask=mask))
        assert iou(found.mask, mask) > 0.7


def test_thin_boxes_find_something() -> None:
    bar = np.zeros((40, 2000), bool)
    bar[15:25, 100:1900] = True
    (found,) = ColourModel().encode(picture(bar)).predict(Prompt(box=(100, 15, 1900, 25)))
    assert found.mask.any()


def test_a_click_beyond_the_view_and_an_empty_mask_take_nothing_from_a_box() -> None:
    box = (25, 25, 95, 95)
    plain = best(box=box)
    assert np.array_equal(best(box=box, points=[(-500, 0)], labels=[1]), plain)
    assert np.array_equal(best(box=box, mask=np.zeros((120, 200), bool)), plain)


def test_of_two_clicks_on_one_spot_the_later_counts() -> None:
    assert best(points=[(60, 60), (60, 60)], labels=[0, 1])[60, 60]
    assert not best(points=[(60, 60), (60, 60)], labels=[1, 0])[60, 60]


def test_noise_is_answered_as_fast_as_tissue() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3)).astype(np.uint8)
    began = time.process_time()
    ColourModel().encode(noise).predict(Prompt([(80, 80), (0, 0)], [1, 0]))
    assert time.process_time() - began < 5  # an iterating solver took 27 s

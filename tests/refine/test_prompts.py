"""What a prompt may be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qp2train.errors import PromptError
from qp2train.refine.prompts import Prompt, check_image


def test_a_click_a_box_or_a_mask_will_do() -> None:
    assert Prompt([(1.5, 2.5)], [1]).box is None
    assert Prompt(box=(-3, 0, 4, 5)).points == ()
    assert Prompt(mask=np.zeros((2, 3), bool)).mask is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "nothing is prompted"),
        ({"points": [(1, 2)]}, "1 points, 0 labels"),
        ({"points": [(1, 2)], "labels": [2]}, "not 2"),
        ({"points": [(1, math.nan)], "labels": [1]}, "finite"),
        ({"points": [(1, 2, 3)], "labels": [1]}, "two finite numbers"),
        ({"box": (5, 0, 5, 9)}, "is empty"),
        ({"box": (0, 0, math.inf, 9)}, "finite"),
        ({"mask": np.zeros((2, 3))}, "float64"),
    ],
)
def test_what_is_none_is_refused_with_the_reason(given: dict, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        Prompt(**given)


def test_a_mask_must_be_of_the_view() -> None:
    Prompt(mask=np.zeros((2, 3), bool)).within(2, 3)
    with pytest.raises(PromptError, match="the mask is 3×2, the view 2×3"):
        Prompt(mask=np.zeros((2, 3), bool)).within(3, 2)


def test_clicks_beyond_the_view_do_not_count() -> None:
    prompt = Prompt([(-0.1, 1), (0, 0), (3, 1), (2.9, 1.9)], [1, 1, 0, 0], box=(-9, -9, 9, 9)).within(2, 3)
    assert (prompt.points, prompt.labels, prompt.box) == (((0, 0), (2.9, 1.9)), (1, 0), (-9, -9, 9, 9))
    assert Prompt(box=(3, 0, 9, 2)).within(2, 3).box is None


def test_numbers_of_numpy_are_numbers() -> None:
    prompt = Prompt(np.array([[1, 2], [3, 4]]), np.array([1, 0]))  # type: ignore[arg-type]
    assert (prompt.points, prompt.labels) == (((1, 2), (3, 4)), (1, 0))
    with pytest.raises(PromptError, match="two finite numbers"):
        Prompt([(None, 2)], [1])  # type: ignore[list-item]


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 3), (4, 4, 4)])
def test_a_view_is_rgb(shape: tuple[int, ...]) -> None:
    with pytest.raises(PromptError, match="a view is"):
        check_image(np.zeros(shape, np.uint8))

"""A trained network as something that answers prompts."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from fakes import BLUE, RED

from qp2train import Model
from qp2train.core.clicks import iou
from qp2train.errors import PromptError
from qp2train.refine.clicknet import ClickModel, ClickView, _cut, _round
from qp2train.refine.fallback import ColourModel
from qp2train.refine.prompts import Prompt


@pytest.fixture(scope="module")
def answering(click_model) -> ClickModel:
    return ClickModel(click_model)


def picture(height: int, width: int, *squares: tuple[int, int, int]) -> np.ndarray:
    array = np.full((height, width, 3), BLUE, np.uint8)
    for x, y, side in squares:
        array[y : y + side, x : x + side] = RED
    return array


def truth(array: np.ndarray, square: tuple[int, int, int]) -> np.ndarray:
    mask, (x, y, side) = np.zeros(array.shape[:2], np.bool_), square
    mask[y : y + side, x : x + side] = True
    return mask


def test_a_window_is_cut_out_pixel_by_pixel() -> None:
    array = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    np.testing.assert_array_equal(_cut(array, (7, 5, 16), 16, 0), array[5:21, 7:23])
    half = array[4:36, 6:38].reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    assert np.abs(_cut(array, (6, 4, 32), 16, 0) - half).max() <= 1


def test_a_window_holds_the_object_with_its_surroundings_and_every_click() -> None:
    assert _round((10, 20, 30, 30), [], 1.4) == (6, 11, 28)
    left, top, side = _round((10, 20, 30, 30), [(100, 25)], 1.4)
    assert left <= 10
    assert left + side >= 100
    assert top <= 20


def test_a_click_outlines_the_square_under_it_and_not_the_other_one(answering) -> None:
    array = picture(128, 128, (20, 30, 40), (80, 70, 30))
    found = answering.encode(array).predict(Prompt([(40, 50)], [1]))
    assert iou(found[0].mask, truth(array, (20, 30, 40))) > 0.75
    assert [c.iou for c in found] == sorted((c.iou for c in found), reverse=True)
    assert all(0 <= c.iou <= 1 for c in found)


def test_a_click_in_a_wide_view_is_looked_at_closely(answering) -> None:
    array = picture(300, 640, (400, 100, 40), (50, 50, 60))
    found = answering.encode(array).predict(Prompt([(420, 120)], [1]))
    assert len(found) == 4  # 640, 320, 160 and 80 px wide
    assert max(iou(c.mask, truth(array, (400, 100, 40))) for c in found) > 0.75


def test_every_window_holds_all_clicks_that_belong(answering) -> None:
    view = answering.encode(picture(512, 512))
    prompt = Prompt([(200, 250), (400, 250), (10, 10)], [1, 1, 0]).within(512, 512)
    windows = view._windows(prompt)
    assert len(windows) == 2
    for left, top, side in windows:
        assert all(left < x < left + side and top < y < top + side for x, y in prompt.points[:2])


def test_a_box_and_a_rough_outline_do_too(answering) -> None:
    array = picture(200, 260, (120, 60, 50))
    view, meant = answering.encode(array), truth(array, (120, 60, 50))
    assert iou(view.predict(Prompt(box=(115, 57, 172, 112)))[0].mask, meant) > 0.75
    rough = truth(array, (112, 66, 50))
    assert iou(rough, meant) < 0.65
    assert iou(view.predict(Prompt([(168, 64)], [1], mask=rough))[0].mask, meant) > 0.75


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt([(-5, 3)], [1]),
        Prompt(mask=np.zeros((64, 64), np.bool_)),
        Prompt([(10, 10)], [0]),
        Prompt(box=(-1e6, -1e6, 1e6, 1e6)),
        Prompt([(0, 0), (63, 63)], [1, 0], box=(5, 5, 6, 6), mask=np.ones((64, 64), np.bool_)),
    ],
)
def test_odd_prompts_are_answered_with_masks_of_the_views_size(answering, prompt) -> None:
    found = answering.encode(picture(64, 64, (10, 10, 20))).predict(prompt)
    assert found
    assert all(c.mask.shape == (64, 64) and c.mask.dtype == np.bool_ for c in found)


@pytest.mark.parametrize("prompt", [Prompt(box=(900, 900, 950, 950)), Prompt([(-5, 3)], [1]), Prompt([(3, 64)], [0])])
def test_a_prompt_beyond_the_view_finds_nothing(answering, prompt) -> None:
    for model in (answering, ColourModel()):
        assert not any(c.mask.any() for c in model.encode(picture(64, 64, (10, 10, 20))).predict(prompt))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 3), (64, 64), (65, 129)])
def test_views_of_any_shape(answering, size) -> None:
    for candidate in answering.encode(np.zeros((*size, 3), np.uint8)).predict(Prompt([(0.5, 0.5)], [1])):
        assert candidate.mask.shape == size


def test_thousands_of_clicks_that_contradict_each_other_take_no_minutes(answering) -> None:
    rng = np.random.default_rng(0)
    view = answering.encode(np.full((1500, 1500, 3), 200, np.uint8))
    began = time.process_time()
    view.predict(Prompt(rng.uniform(0, 1500, (5000, 2)).tolist(), [0, 1] * 2500))
    assert time.process_time() - began < 5


def test_the_same_prompt_has_the_same_answer(answering) -> None:
    view = answering.encode(picture(64, 64, (10, 10, 20)))
    assert isinstance(view, ClickView)
    a, b = (view.predict(Prompt([(20, 20)], [1]))[0] for _ in range(2))
    assert np.array_equal(a.mask, b.mask)
    assert a.iou == b.iou


def test_a_model_of_another_task_is_refused(click_model) -> None:
    other = Model("other-1", click_model.spec, torch.nn.Identity(), 64, 1.0, {})
    with pytest.raises(PromptError, match="prompts need one of the task 'prompted'"):
        ClickModel(other)

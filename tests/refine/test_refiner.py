"""Prompts on a region of a slide, in the slide's coordinates."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import shapely

from qp2train import ArraySlide, Box, Refiner
from qp2train.errors import PromptError
from qp2train.refine.prompts import Candidate, Prompt
from qp2train.refine.refiner import PREDICTED_IOU, PROMPT_KEY


class Stamps:
    """A model that stamps 10 × 10 px squares on clicks, on the mask that it is given, and counts its looks."""

    id = "stamps"

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.asked: list[Prompt] = []

    def encode(self, image: np.ndarray) -> Stamps:
        self.seen.append(image)
        return self

    def predict(self, prompt: Prompt) -> list[Candidate]:
        self.asked.append(prompt)
        mask = np.zeros(self.seen[-1].shape[:2], bool) if prompt.mask is None else prompt.mask.copy()
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
            mask[int(y) - 5 : int(y) + 5, int(x) - 5 : int(x) + 5] = label == 1
        return [Candidate(mask, 0.9), Candidate(np.zeros_like(mask), 0.1)]


SLIDE = ArraySlide(np.zeros((400, 400, 3), np.uint8), mpp=0.5)


@pytest.fixture
def stamps() -> Stamps:
    return Stamps()


@pytest.fixture
def refiner(stamps: Stamps) -> Refiner:
    refiner = Refiner(stamps)
    refiner.set_region(SLIDE, Box(100, 200, 100, 80))
    return refiner


def test_a_click_is_answered_in_slide_coordinates(refiner: Refiner, stamps: Stamps) -> None:
    (found,) = refiner.predict(points=[(130, 240)], class_name="Gland")
    assert stamps.asked[0].points == ((30, 40),)
    assert found.geometry.equals(shapely.box(125, 235, 135, 245))
    assert found.class_name == "Gland"
    assert found.measurements == {PREDICTED_IOU: 0.9}


def test_the_region_is_looked_at_once(refiner: Refiner, stamps: Stamps) -> None:
    for x in (120, 130, 140):
        refiner.predict(points=[(x, 240)])
    assert [image.shape for image in stamps.seen] == [(80, 100, 3)]


def test_a_large_region_is_seen_in_less_detail(stamps: Stamps) -> None:
    refiner = Refiner(stamps, view_px=100)
    refiner.set_region(SLIDE, Box(0, 0, 400, 200))
    (found,) = refiner.predict(points=[(200, 100)])
    assert stamps.seen[0].shape == (50, 100, 3)
    assert found.geometry.equals(shapely.box(180, 80, 220, 120))


def test_boxes_and_masks_go_along(refiner: Refiner, stamps: Stamps) -> None:
    (found,) = refiner.predict(box=Box(110, 210, 20, 30), mask=shapely.box(110, 210, 120, 220))
    assert stamps.asked[0].box == (10, 10, 30, 40)
    assert found.geometry.equals(shapely.box(110, 210, 120, 220))


def test_of_an_outline_that_goes_on_beyond_the_region_that_part_stays(refiner: Refiner) -> None:
    bow_tie = shapely.Polygon([(90, 190), (150, 240), (150, 190), (90, 240)])
    for mask in (shapely.box(60, 180, 150, 240), shapely.box(-50, 380, 150, 500), bow_tie):
        (found,) = refiner.predict(points=[(180, 260)], mask=mask)
        expected = shapely.make_valid(mask).intersection(shapely.box(0, 0, 400, 400))
        region = shapely.box(100, 200, 200, 280)
        beyond = expected.difference(region)
        assert found.geometry.difference(region).symmetric_difference(beyond).area < 1e-3
        assert found.geometry.contains(shapely.Point(180, 260))
        assert found.geometry.is_valid


def test_what_lies_beyond_is_kept_though_nothing_is_left_in_the_region(refiner: Refiner) -> None:
    (found,) = refiner.predict(points=[(105, 240)], labels=[0], mask=shapely.box(20, 235, 108, 245))
    assert found.geometry.equals(shapely.box(20, 235, 100, 245))


def test_an_outline_is_one_piece_wherever_the_region_ends(stamps: Stamps) -> None:
    refiner, rng = Refiner(stamps), np.random.default_rng(0)
    for x, y, side in rng.uniform([80, 80, 60], [130, 130, 90], (200, 3)):
        refiner.set_region(SLIDE, Box(x, y, side, side))
        (found,) = refiner.predict(mask=shapely.box(50, 50, 300, 300))
        assert found.geometry.geom_type == "Polygon"


def test_a_mask_that_is_not_finite_is_refused(refiner: Refiner) -> None:
    with np.errstate(invalid="ignore"):
        odd = shapely.from_wkt("LINESTRING (0 0, nan 1)")
    with pytest.raises(PromptError, match="finite"):
        refiner.predict(mask=odd)


def test_clicks_add_up_and_can_be_undone(refiner: Refiner, stamps: Stamps) -> None:
    first = refiner.click(120, 220)
    (second,) = refiner.click(150, 250)
    assert second.geometry.equals(
        shapely.MultiPolygon([shapely.box(115, 215, 125, 225), shapely.box(145, 245, 155, 255)])
    )
    (third,) = refiner.click(120, 220, belongs=False)
    assert stamps.asked[-1].labels == (1, 1, 0)
    assert third.geometry.equals(shapely.box(145, 245, 155, 255))
    assert refiner.undo() == [second]
    assert refiner.undo() == first
    assert refiner.undo() == []
    assert refiner.undo() == []


def test_the_prompt_is_kept_for_replay(refiner: Refiner) -> None:
    (found,) = refiner.predict(points=[(130, 240), (150, 250)], labels=[1, 0])
    kept = json.loads(found.metadata[PROMPT_KEY])
    assert kept["model"] == "stamps"
    assert kept["region"] == [100, 200, 200, 280]
    (again,) = refiner.predict(points=[tuple(p) for p in kept["points"]], labels=kept["labels"])
    assert again.geometry.equals(found.geometry)


def test_nothing_found_is_no_object(refiner: Refiner) -> None:
    assert refiner.predict(points=[(130, 240)], labels=[0]) == []


def test_a_new_region_forgets_the_steps(refiner: Refiner) -> None:
    refiner.click(120, 220)
    refiner.set_region(SLIDE, Box(0, 0, 50, 50))
    assert refiner.undo() == []


def test_what_cannot_be_is_refused(stamps: Stamps, refiner: Refiner) -> None:
    with pytest.raises(PromptError, match="set_region"):
        Refiner(stamps).click(1, 1)
    with pytest.raises(PromptError, match="beyond the slide of 400×400"):
        refiner.set_region(SLIDE, Box(400, 0, 10, 10))
    with pytest.raises(PromptError, match="finite"):
        refiner.click(math.nan, 1)
    for wrong in (Box(math.nan, 0, 10, 10), Box(0, 0, math.inf, 10)):
        with pytest.raises(PromptError, match="not finite"):
            refiner.set_region(SLIDE, wrong)
    with pytest.raises(PromptError, match="view_px"):
        Refiner(stamps, view_px=0)
    with pytest.raises(PromptError, match="nothing is prompted"):
        refiner.predict()


def test_without_a_model_colours_answer() -> None:
    picture = np.full((400, 400, 3), (230, 180, 210), np.uint8)
    picture[150:250, 150:250] = (110, 60, 140)
    refiner = Refiner()
    refiner.set_region(ArraySlide(picture), Box(100, 100, 200, 200))
    (found,) = refiner.click(200, 200)
    truth = shapely.box(150, 150, 250, 250)
    assert found.geometry.intersection(truth).area / found.geometry.union(truth).area > 0.9


def test_a_region_ends_where_the_slide_ends(stamps: Stamps) -> None:
    refiner = Refiner(stamps)
    refiner.set_region(SLIDE, Box(-1e9, 300, 1e9 + 50, 1e9))
    assert stamps.seen[0].shape == (100, 50, 3)
    (found,) = refiner.predict(points=[(20, 310)])
    assert found.geometry.equals(shapely.box(15, 305, 25, 315))


def test_numbers_of_numpy_are_numbers(refiner: Refiner) -> None:
    (found,) = refiner.predict(
        points=np.array([[130, 240]]), labels=np.array([1]), box=Box(*np.array([110, 210, 50, 60]))
    )  # type: ignore[arg-type]
    assert json.loads(found.metadata[PROMPT_KEY])["box"] == [110, 210, 160, 270]


@pytest.mark.parametrize("points", [[(1,)], [("a", "b")], [1, 2], [(float("nan"), 2)]])
def test_points_that_are_none_are_named(points) -> None:
    refiner = Refiner()
    refiner.set_region(ArraySlide(np.zeros((20, 30, 3), np.uint8), mpp=1.0), Box(0, 0, 30, 20))
    with pytest.raises(PromptError, match="two finite numbers"):
        refiner.predict(points=points)

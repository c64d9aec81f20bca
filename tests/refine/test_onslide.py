"""Prompts drawn on a slide, answered by colour: dark discs on light ground."""

from __future__ import annotations

import logging
import math
import time

import numpy as np
import pytest
import shapely

from qp2train import Annotation, ArraySlide, refine_slide
from qp2train.errors import PromptError
from qp2train.refine.fallback import ColourModel, ColourView
from qp2train.refine.wishes import wishes


def slide(mpp: float | None = 0.5) -> ArraySlide:
    rows, columns = np.mgrid[:600, :3000]
    picture = np.full((600, 3000, 3), (230, 180, 210), np.uint8)
    picture[np.hypot(columns - 300, rows - 300) <= 50] = (110, 60, 140)
    picture[180:200, 500:2900] = (110, 60, 140)
    return ArraySlide(picture, mpp=mpp)


def points(class_name: str, *xy: tuple[float, float]) -> Annotation:
    return Annotation(shapely.MultiPoint(xy), class_name)


DISC = shapely.Point(300, 300).buffer(50)
BOX = Annotation(shapely.box(240, 240, 360, 360), "Prompt box")


def test_a_click_far_away_changes_nothing() -> None:
    (alone,) = refine_slide(slide(), [BOX])
    for far in (2000, 1e6, 1e12):
        (found,) = refine_slide(slide(), [BOX, points("Prompt-", (300 + far, 300))])
        assert found.geometry.equals(alone.geometry)


def test_a_long_thin_outline_is_found() -> None:
    (found,) = refine_slide(slide(), [Annotation(shapely.box(500, 180, 2900, 200), "Vessel")], outlines=["Vessel"])
    bar = shapely.box(500, 180, 2900, 200)
    assert found.geometry.intersection(bar).area > 0.7 * bar.area


def test_a_long_object_is_shown_with_what_is_beside_it() -> None:
    seen = []

    class Watching(ColourModel):
        def encode(self, image: np.ndarray) -> ColourView:
            seen.append(image.shape)
            return super().encode(image)

    refine_slide(
        slide(), [Annotation(shapely.box(700, 290, 1000, 310), "Vessel")], outlines=["Vessel"], model=Watching()
    )
    assert seen == [(420, 420, 3)]


def test_nothing_is_found_beyond_the_slide(caplog: pytest.LogCaptureFixture) -> None:
    edges = Annotation(shapely.box(-1000, -1000, 5000, 5000), "Gland")
    for found in refine_slide(slide(), [edges], outlines=["Gland"]):
        assert shapely.box(0, 0, 3000, 600).covers(found.geometry)
    assert refine_slide(slide(), [points("Prompt+", (-50, 300))]) == []
    assert "nothing was found for the prompt at -50, 300" in caplog.text


def test_without_scale_points_alone_are_named_and_the_others_answered(caplog: pytest.LogCaptureFixture) -> None:
    (found,) = refine_slide(slide(mpp=None), [BOX, points("Prompt+", (900, 190))])
    assert found.geometry.intersection(DISC).area > 0.8 * DISC.area
    assert "points alone need µm per pixel" in caplog.text


def test_what_cannot_count_is_said(caplog: pytest.LogCaptureFixture) -> None:
    bow_tie = Annotation(shapely.Polygon([(0, 0), (9, 9), (9, 0), (0, 9)]), "Gland")
    with caplog.at_level(logging.WARNING):
        assert refine_slide(slide(), [points("Prompt-", (5, 5)), bow_tie], outlines=["Gland"]) == []
    assert "belongs to no object" in caplog.text
    assert "covers nothing" in caplog.text


def test_thousands_of_points_are_sorted_at_once() -> None:
    rng = np.random.default_rng(0)
    drawn = [points(name, *map(tuple, rng.uniform(0, 1e5, (5000, 2)))) for name in ("Prompt+", "Prompt-")]
    began = time.process_time()
    (found,) = wishes(drawn)
    assert len(found.points) == 10_000
    assert time.process_time() - began < 5  # 25 s for 2,000 when each pair was looked at


@pytest.mark.parametrize("view_um", [0, -1, math.inf, math.nan])
def test_the_view_must_have_a_size(view_um: float) -> None:
    with pytest.raises(PromptError, match="view_um"):
        refine_slide(slide(), [BOX], view_um=view_um)

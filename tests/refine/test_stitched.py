"""Objects larger than a view: their outline is gone along in closer views."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely

from qp2train import Annotation, ArraySlide, Box, Refiner, refine_slide
from qp2train.errors import MissingCalibrationError, PromptError
from qp2train.refine.outline import outline_of
from qp2train.refine.prompts import Candidate, Prompt
from qp2train.refine.stitched import stitched

DARK, LIGHT = (60, 60, 60), (220, 220, 220)


class Dark:
    """Answers with all that is dark, whatever the prompt; it counts its views."""

    id = "dark"

    def __init__(self) -> None:
        self.views: list[tuple[int, int]] = []

    def encode(self, image):
        self.views.append(image.shape[:2])

        class View:
            def predict(self, prompt: Prompt) -> list[Candidate]:
                return [Candidate(image[..., 0] < 140, 1.0)]

        return View()


def slide(shape: shapely.Polygon, size: tuple[int, int] = (2000, 1500), mpp: float | None = 0.5) -> ArraySlide:
    columns, rows = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    inside = shapely.contains_xy(shape, columns, rows)
    return ArraySlide(np.where(inside[..., None], DARK, LIGHT).astype(np.uint8), mpp=mpp)


RING = shapely.Point(1000, 750).buffer(600).difference(shapely.Point(900, 700).buffer(150))


def iou(a: shapely.Geometry, b: shapely.Geometry) -> float:
    return float(a.intersection(b).area / a.union(b).area)


def test_a_rough_outline_becomes_exact_at_full_resolution_hole_included() -> None:
    model = Dark()
    drawn = slide(RING)
    found = stitched(model, drawn, RING.buffer(8).simplify(12), view_px=256)
    everything = Box(0, 0, *drawn.size)
    assert found.equals(outline_of(drawn.read(everything, drawn.size)[..., 0] < 140, everything))
    assert len(shapely.get_parts(found)[0].interiors) == 1
    assert all(shape == (256, 256) for shape in model.views)
    # Not its inside, and not the corners: a grid over all of it would be of 11 × 11 views.
    assert len(model.views) < 0.7 * 11**2


def test_what_no_view_sees_stays_as_it_was() -> None:
    hidden = shapely.box(1200, 900, 1210, 910)  # light, inside of the dark, and not on any outline
    found = stitched(Dark(), slide(RING.difference(hidden)), RING, view_px=128)
    assert found.intersection(hidden).area == pytest.approx(hidden.area)


def test_an_object_at_the_slides_border_ends_there() -> None:
    left = shapely.box(-300, 200, 700, 1300)
    found = stitched(Dark(), slide(shapely.box(0, 200, 700, 1300)), left.buffer(10), view_px=256)
    assert found.equals(shapely.box(0, 200, 700, 1300))


def test_closer_is_a_step_that_can_be_undone() -> None:
    refiner = Refiner(Dark(), view_px=200)
    refiner.set_region(slide(RING), Box(300, 50, 1400, 1400))
    with pytest.raises(PromptError, match="click on an object first"):
        refiner.closer()
    (coarse,) = refiner.click(1000, 400)
    (close,) = refiner.closer()
    assert iou(coarse.geometry, RING) < iou(close.geometry, RING)
    assert iou(close.geometry, RING) > 0.995
    before, after = (json.loads(a.metadata["qp2train prompt"]) for a in (coarse, close))
    assert after == {**before, "closer": 1.0}
    assert not close.measurements  # the predicted IoU was of the coarse one
    assert close.id != coarse.id
    assert refiner.undo() == [coarse]
    for scale in (0, -1, float("nan"), float("inf")):
        with pytest.raises(PromptError, match="scale must be"):
            refiner.closer(scale=scale)


def test_refine_slide_goes_along_what_a_view_shows_in_less_detail_than_asked_for() -> None:
    rough = [Annotation(RING.buffer(10), "Tumor"), Annotation(shapely.box(980, 200, 1010, 230), "Tumor")]
    plain, model = Dark(), Dark()
    (once, _) = refine_slide(slide(RING), rough, model=plain, outlines=["Tumor"], view_px=256)
    (close, _) = refine_slide(slide(RING), rough, model=model, outlines=["Tumor"], view_px=256, mpp=0.5)
    assert len(plain.views) == 2
    assert iou(close.geometry, RING) > iou(once.geometry, RING)
    assert iou(close.geometry, RING) > 0.995
    with pytest.raises(MissingCalibrationError):
        refine_slide(slide(RING, mpp=None), rough, model=model, outlines=["Tumor"], mpp=0.5)
    with pytest.raises(PromptError, match="mpp must be"):
        refine_slide(slide(RING), rough, model=model, outlines=["Tumor"], mpp=0)

"""refine_slide: the prompts that were drawn on a slide → outlined objects."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import shapely

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box
from qp2train.errors import MissingCalibrationError, PromptError
from qp2train.learn.objects import ROUND
from qp2train.refine.prompts import PromptModel
from qp2train.refine.refiner import Refiner
from qp2train.refine.wishes import Wish, wishes
from qp2train.slides import Slide

log = logging.getLogger(__name__)

# The id of what asked for an answer: an outline, a box, a point annotation, or a predicted object; in its metadata.
ORIGIN_KEY = "qp2train asked by"
# The id of the predicted object that an answer takes the place of, in the answer's metadata.
CORRECTS_KEY = "qp2train corrects"


def refine_slide(
    slide: Slide,
    annotations: Iterable[Annotation],
    *,
    model: PromptModel | None = None,
    outlines: Sequence[str] = (),
    prompted_only: bool = False,
    predicted: Sequence[Annotation] = (),
    class_name: str | None = None,
    view_um: float = 200.0,
    view_px: int = 512,
    mpp: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Annotation]:
    """Outline what is prompted on a slide: points "Prompt+" and "Prompt-", boxes "Prompt box", rough outlines.

    Args:
        slide: The slide.
        annotations: All that is drawn on it; see `wishes` for which prompts belong together.
        model: What answers; None = the training-free fallback.
        outlines: Classes whose areas are rough outlines to be made better.
        prompted_only: Leave out rough outlines without any point.
        predicted: What models have outlined, to be corrected where a point says so, see `wishes`; the answer's
            metadata say which of them it corrects ("qp2train corrects").
        class_name: Of objects whose prompt does not say its class.
        view_um: Side of what is shown round points alone.
        view_px: Longest side of what the model looks at.
        mpp: µm per pixel at which outlines are wanted: objects of which a view shows less are gone along in closer
            views, see `stitched`. None = each object in one view.
        progress: Called with (objects done, objects in all).

    Returns:
        For each prompted object that was found the best answer. An object that was not found is logged; so are points
        alone on a slide without µm per pixel.

    Raises:
        PromptError: `view_um`, `view_px` or `mpp` is not above 0.
        MissingCalibrationError: `mpp` is given, and the slide has no pixel size.
    """
    if not 0 < view_um < math.inf:
        raise PromptError(f"view_um must be a number above 0, not {view_um}")
    if mpp is not None and not 0 < mpp < math.inf:
        raise PromptError(f"mpp must be a number above 0, not {mpp}")
    finest = None if mpp is None else max(1.0, mpp / slide.mpp)
    refiner, found = Refiner(model, view_px=view_px), list[Annotation]()
    names = {a.id: a.name for a in predicted}
    asked = wishes(annotations, outlines=outlines, prompted_only=prompted_only, predicted=predicted)
    for done, wish in enumerate(asked, start=1):
        best = _answered(refiner, slide, wish, view_um, finest)
        if best is None:
            at = wish.extent.representative_point()
            log.warning("%s: nothing was found for the prompt at %.0f, %.0f", slide.name, at.x, at.y)
        else:
            known = {ORIGIN_KEY: wish.origin, **({CORRECTS_KEY: wish.origin} if wish.corrects else {})}
            found.append(
                replace(
                    best,
                    class_name=wish.class_name or class_name,
                    name=names.get(wish.origin),
                    plane=wish.plane,
                    metadata={**best.metadata, **known},
                )
            )
        if progress is not None:
            progress(done, len(asked))
    return found


def _answered(refiner: Refiner, slide: Slide, wish: Wish, view_um: float, finest: float | None) -> Annotation | None:
    try:
        view = _view(slide, wish, view_um)
    except MissingCalibrationError as error:
        log.warning("points alone need µm per pixel, to know how much to show round them: %s", error)
        return None
    if shapely.intersection(wish.extent, Box(0, 0, *slide.size).polygon).is_empty:
        return None
    refiner.set_region(slide, view)
    found = refiner.predict(points=wish.points, labels=wish.labels, box=wish.box, mask=wish.outline)
    if found and finest is not None and max(view.width, view.height) > refiner.view_px * finest * 1.01:
        found = refiner.closer(scale=finest) or found
    return found[0] if found else None


def _view(slide: Slide, wish: Wish, view_um: float) -> Box:
    """What is shown of the slide: a square with the object and its surroundings, as networks for prompts have learnt.

    A click far from it says nothing of it.
    """
    left, top, right, bottom = wish.extent.bounds
    least = view_um / slide.mpp if wish.outline is None and wish.box is None else 1.0
    side = max((right - left) * ROUND, (bottom - top) * ROUND, least)
    return Box((left + right - side) / 2, (top + bottom - side) / 2, side, side)

"""Refiner: a region of a slide, looked at once, and prompts in the slide's coordinates."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box, areal
from qp2train.errors import PromptError
from qp2train.refine.fallback import ColourModel
from qp2train.refine.outline import mask_of, outline_of
from qp2train.refine.prompts import EncodedView, Pixels, Prompt, PromptModel
from qp2train.refine.stitched import stitched
from qp2train.slides import Slide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The measurement that says how well the model thinks it has understood.
PREDICTED_IOU = "Predicted IoU"
# So near to each other outlines meet, in full-resolution pixels.
JOINED_PX = 1e-6
# The prompt, in slide coordinates, in an object's metadata: with it the object can be made again.
PROMPT_KEY = "qp2train prompt"


@dataclass(frozen=True, eq=False)
class _Region:
    """What is looked at: its place on the slide, its picture, and what the model made of that."""

    slide: Slide
    box: Box
    picture: Pixels
    view: EncodedView

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture."""
        return self.picture.shape[1], self.picture.shape[0]


@dataclass(frozen=True)
class Step:
    """What was asked, in slide coordinates, and what was answered."""

    points: tuple[tuple[float, float], ...]
    labels: tuple[int, ...]
    box: Box | None
    class_name: str | None
    found: list[Annotation]


class Refiner:
    """Answers prompts on one region at a time: `set_region` is expensive, prompts are cheap.

    `predict` takes a whole prompt; `click` adds one click to the last one and starts from its answer; `undo` takes
    the last of these steps back. All coordinates are full-resolution pixels of the slide.

    Args:
        model: What answers; None = the training-free fallback, which knows colours and no tissue.
        view_px: Longest side of what the model looks at; a larger region is looked at in less detail.

    Raises:
        PromptError: `view_px` is below 1.
    """

    def __init__(self, model: PromptModel | None = None, *, view_px: int = 1024) -> None:
        if not view_px >= 1:
            raise PromptError(f"view_px must be at least 1, not {view_px}")
        self.model: PromptModel = ColourModel() if model is None else model
        self.view_px = view_px
        self._region: _Region | None = None
        self._steps: list[Step] = []

    def set_region(self, slide: Slide, box: Box) -> None:
        """Look at a region; earlier steps are forgotten.

        Args:
            slide: The slide.
            box: The region in full-resolution pixels; of it the part that lies on the slide.

        Raises:
            PromptError: The region is empty, misses the slide, or a number is not finite.
        """
        if not all(math.isfinite(v) for v in (box.x, box.y, box.right, box.bottom)):
            raise PromptError(f"the region {box} has a number that is not finite")
        asked, box = box, box.clipped_to(*slide.size)
        if box.width <= 0 or box.height <= 0:
            raise PromptError(f"the region {asked} is empty or beyond the slide of {slide.size[0]}×{slide.size[1]} px")
        scale = max(1.0, max(box.width, box.height) / self.view_px)
        size = max(1, round(box.width / scale)), max(1, round(box.height / scale))
        picture = slide.read(box, size)
        self._region = _Region(slide, box, picture, self.model.encode(picture))
        self._steps = []

    def predict(
        self,
        *,
        points: Sequence[tuple[float, float]] = (),
        labels: Sequence[int] | None = None,
        box: Box | None = None,
        mask: BaseGeometry | None = None,
        class_name: str | None = None,
    ) -> list[Annotation]:
        """What a prompt may mean, the best first.

        Args:
            points: (x, y) of each click.
            labels: Of each click, 1 = belongs to the object, 0 = does not; None = all belong.
            box: Round the object.
            mask: The object as it was outlined so far; what of it lies beyond the region stays as it is.
            class_name: The class that the answers get.

        Returns:
            Annotations with their predicted IoU as a measurement and the prompt in their metadata; nothing was found =
            an empty list.

        Raises:
            PromptError: No region is set, or the prompt is none.
        """
        looked_at = self._looked_at()
        if mask is not None and not np.isfinite(shapely.get_coordinates(mask)).all():
            raise PromptError("the mask has a coordinate that is not finite")
        region, size = looked_at.box, looked_at.size
        points = Prompt(points, [1] * len(points)).points if len(points) else ()
        sx, sy = size[0] / region.width, size[1] / region.height
        prompt = Prompt(
            [((x - region.x) * sx, (y - region.y) * sy) for x, y in points],
            [1] * len(points) if labels is None else labels,
            None if box is None else _scaled(box, region, sx, sy),
            None if mask is None else mask_of(mask, region, size),
        )
        clicks = [(float(x), float(y)) for x, y in points]
        kept = json.dumps(
            {
                "points": clicks,
                "labels": prompt.labels,
                "box": None if box is None else list(map(float, (box.x, box.y, box.right, box.bottom))),
                "mask": None if mask is None else mask.wkt,
                "region": list(map(float, (region.x, region.y, region.right, region.bottom))),
                "view": size,
                "model": self.model.id,
            }
        )
        # On the slide alone: what hangs over its edge cannot be seen.
        slide = Box(0, 0, *looked_at.slide.size).polygon
        beyond = areal(shapely.make_valid(mask or shapely.Polygon()).intersection(slide).difference(region.polygon))
        answers = looked_at.view.predict(prompt)
        seen = [c for c in answers if c.mask.any()] or ([] if beyond.is_empty else answers[:1])
        found = [
            Annotation(
                _joined(outline_of(candidate.mask, region), beyond),
                class_name,
                measurements={PREDICTED_IOU: round(candidate.iou, 4)},
                metadata={PROMPT_KEY: kept},
            )
            for candidate in seen
        ]
        self._steps.append(Step(tuple(clicks), tuple(prompt.labels), box, class_name, found))
        return found

    def click(self, x: float, y: float, *, belongs: bool = True) -> list[Annotation]:
        """Add a click to the last prompt, and start from its best answer.

        Args:
            x: Of the click.
            y: Of the click.
            belongs: Whether what is there belongs to the object.

        Raises:
            PromptError: No region is set, or a number is not finite.
        """
        last = self.last
        return self.predict(
            points=[*last.points, (x, y)],
            labels=[*last.labels, int(belongs)],
            box=last.box,
            mask=last.found[0].geometry if last.found else None,
            class_name=last.class_name,
        )

    def closer(self, *, scale: float = 1.0) -> list[Annotation]:
        """Go along the best answer in overlapping closer views, for objects that a view shows in less detail.

        Args:
            scale: Full-resolution pixels per pixel of a view.

        Returns:
            The better outline, with the last prompt, which says "closer", and without a predicted IoU, which was of
            the whole; nothing = an empty list.

        Raises:
            PromptError: No region is set, nothing was found in it yet, or the scale is not above 0.
        """
        looked_at, last = self._looked_at(), self.last
        if not last.found:
            raise PromptError("there is no outline to look at more closely: click on an object first")
        if not 0 < scale < math.inf:
            raise PromptError(f"scale must be a number above 0, not {scale}")
        outline = stitched(
            self.model,
            looked_at.slide,
            last.found[0].geometry,
            points=last.points,
            labels=last.labels,
            view_px=self.view_px,
            scale=scale,
        )
        best = last.found[0]
        kept = json.dumps({**json.loads(best.metadata[PROMPT_KEY]), "closer": float(scale)})
        better = replace(
            best,
            geometry=outline,
            id=str(uuid.uuid4()),
            measurements={k: v for k, v in best.measurements.items() if k != PREDICTED_IOU},
            metadata={**best.metadata, PROMPT_KEY: kept},
        )
        found = [] if outline.is_empty else [better]
        self._steps.append(replace(last, found=found))
        return found

    def undo(self) -> list[Annotation]:
        """Take the last step back.

        Returns:
            What was found before it; empty at the beginning.
        """
        if self._steps:
            self._steps.pop()
        return self.last.found

    def show(self, *, size: float = 7.0) -> Figure:
        """The region with the clicks, the box and the best outline of the last step.

        In a notebook with `%matplotlib widget` (ipympl) it is live: a left click belongs to the object, a right click
        does not, the key "u" undoes. Elsewhere it is a picture; call it again after the next click.

        Args:
            size: Of the longer side, in inches.

        Raises:
            PromptError: No region is set.
        """
        from qp2train.refine.show import shown  # matplotlib takes a second

        return shown(self, size=size)

    @property
    def seen(self) -> tuple[Box, Pixels]:
        """The region on the slide, and its picture (H, W, 3) uint8.

        Raises:
            PromptError: No region is set.
        """
        looked_at = self._looked_at()
        return looked_at.box, looked_at.picture

    @property
    def last(self) -> Step:
        """What was asked last, and what was answered; nothing if there is none."""
        return self._steps[-1] if self._steps else Step((), (), None, None, [])

    def _looked_at(self) -> _Region:
        if self._region is None:
            raise PromptError("no region is set: call set_region(slide, box) first")
        return self._region


def _joined(
    inside: shapely.Polygon | shapely.MultiPolygon, beyond: shapely.Polygon | shapely.MultiPolygon
) -> shapely.Polygon | shapely.MultiPolygon:
    """What was found in a region with what lies beyond it; their common edge is the same but for rounding."""
    return inside if beyond.is_empty else areal(shapely.union(inside, beyond, grid_size=JOINED_PX))


def _scaled(box: Box, region: Box, sx: float, sy: float) -> tuple[float, float, float, float]:
    left, right = ((x - region.x) * sx for x in (box.x, box.right))
    top, bottom = ((y - region.y) * sy for y in (box.y, box.bottom))
    return left, top, right, bottom

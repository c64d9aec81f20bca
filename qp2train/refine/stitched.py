"""stitched: the outline of an object that is larger than a view, gone along in closer views."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import shapely
from scipy.ndimage import binary_dilation, binary_erosion
from shapely.geometry.base import BaseGeometry

from qp2train.core.clicks import BitMask
from qp2train.core.geometry import Box
from qp2train.refine.outline import mask_of, outline_of
from qp2train.refine.prompts import Prompt, PromptModel
from qp2train.slides import Slide

# Neighbouring views have this share of their side in common; what is seen well inside of a view counts more.
OVERLAP = 0.5
# No outline is gone along at more pixels than these (8 k × 8 k): larger objects are looked at in less detail.
LARGEST = 1 << 26


def stitched(
    model: PromptModel,
    slide: Slide,
    outline: BaseGeometry,
    *,
    points: Sequence[tuple[float, float]] = (),
    labels: Sequence[int] = (),
    view_px: int,
    scale: float = 1.0,
) -> shapely.Polygon | shapely.MultiPolygon:
    """Go along an outline in overlapping views and outline anew what is in each, from the outline so far.

    Inside of the object and far from it nothing is looked at, and stays as it was.

    Args:
        model: What answers.
        slide: The slide.
        outline: The object as it was outlined so far, in full-resolution pixels.
        points: (x, y) of clicks on it; each counts in the views that it lies in.
        labels: Of each click, 1 = belongs to the object, 0 = does not.
        view_px: Side of a view.
        scale: Full-resolution pixels per pixel of a view; more where the object is too large for that.

    Returns:
        The better outline; where all views together find nothing, an empty Polygon.
    """
    left, top, right, bottom = outline.bounds
    margin = view_px * OVERLAP / 2 * scale
    box = Box(left - margin, top - margin, right - left + 2 * margin, bottom - top + 2 * margin).clipped_to(*slide.size)
    if box.width <= 0 or box.height <= 0:
        return shapely.Polygon()
    scale = max(scale, math.sqrt(box.width * box.height / LARGEST))
    x, y = (math.floor(v / scale) * scale for v in (box.x, box.y))  # on the slide's own pixels
    size = math.ceil((box.right - x) / scale), math.ceil((box.bottom - y) / scale)
    box = Box(x, y, size[0] * scale, size[1] * scale)
    before = mask_of(outline, box, size)
    votes = np.zeros(before.shape, np.float32)
    weights = np.zeros(before.shape, np.float32)
    for rows, columns in _windows(before, view_px):
        seen = Box(
            box.x + columns.start * scale,
            box.y + rows.start * scale,
            (columns.stop - columns.start) * scale,
            (rows.stop - rows.start) * scale,
        )
        here = before[rows, columns]
        clicks = [
            (((x - seen.x) / scale, (y - seen.y) / scale), label)
            for (x, y), label in zip(points, labels, strict=True)
            if seen.x <= x < seen.right and seen.y <= y < seen.bottom
        ]
        view = model.encode(slide.read(seen, (here.shape[1], here.shape[0])))
        found = view.predict(Prompt([c[0] for c in clicks], [c[1] for c in clicks], mask=here))
        weight = _weight(here.shape)
        votes[rows, columns] += weight * (found[0].mask if found else here)
        weights[rows, columns] += weight
    after = np.where(weights > 0, votes > weights / 2, before)
    return outline_of(np.asarray(after, np.bool_), box)


def _windows(mask: BitMask, side: int) -> Iterator[tuple[slice, slice]]:
    """Windows of a grid that overlap and that the mask's edge passes through, pushed inside where they reach over."""
    edge = binary_dilation(mask) & ~binary_erosion(mask, border_value=1)
    step = max(1, round(side * (1 - OVERLAP)))
    for y in _starts(mask.shape[0], side, step):
        for x in _starts(mask.shape[1], side, step):
            window = slice(y, min(y + side, mask.shape[0])), slice(x, min(x + side, mask.shape[1]))
            if edge[window].any() and mask[window].any():
                yield window


def _starts(length: int, side: int, step: int) -> list[int]:
    last = max(0, length - side)
    return [*range(0, last, step), last]


def _weight(shape: tuple[int, ...]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """1 in a view's middle, nearly 0 at its sides, where the model sees half of what there is."""
    rows, columns = (np.minimum(np.arange(n) + 1, n - np.arange(n)) / ((n + 1) / 2) for n in shape)
    return np.outer(rows, columns).astype(np.float32)

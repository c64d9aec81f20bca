"""automask: everything that a model finds on an image, by asking it at the points of a grid.

Source: Kirillov et al. 2023, section B, and the automatic mask generator of segment-anything, whose parameters these
are. Our models answer with masks, not with logits, so there is no stability score to filter by.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from skimage.morphology import remove_small_holes, remove_small_objects

from qp2train.core.clicks import BitMask
from qp2train.refine.prompts import Candidate, EncodedView, Pixels, Prompt

# As the extension shows them.
Output = Literal[
    "Single mask",
    "Multi-mask (all)",
    "Multi-mask (largest)",
    "Multi-mask (smallest)",
    "Multi-mask (best quality)",
]
Place = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where to ask, and what to keep.

    Args:
        points_per_side: Points along each side of the image.
        crop_layers: Also look at 4, 16, … overlapping parts of the image.
        crop_overlap: How much parts of the first layer overlap, as a share of the image's shorter side.
        crop_downscale: In each further layer so many times fewer points per side.
        output: Which of a point's candidates.
        min_iou: Predicted IoU, at least.
        nms_iou: Of two masks whose boxes overlap more than this, the one with the lower predicted IoU is dropped.
        crop_nms_iou: The same between parts of the image; the one from the smaller part stays.
        min_area: Smaller parts and holes of a mask are removed, in pixels.
        edge: Keep masks that touch the image's edge.
    """

    points_per_side: int = 32
    crop_layers: int = 0
    crop_overlap: float = 512 / 1500
    crop_downscale: int = 1
    output: Output = "Single mask"
    min_iou: float = 0.88
    nms_iou: float = 0.7
    crop_nms_iou: float = 0.7
    min_area: int = 0
    edge: bool = True


@dataclass(frozen=True)
class _Found:
    """A mask as packed, compressed bits of its box: thousands of whole masks would fill the memory."""

    bits: bytes
    place: Place
    iou: float

    def mask(self, height: int, width: int) -> BitMask:
        left, top, right, bottom = self.place
        size = (right - left) * (bottom - top)
        flat = np.unpackbits(np.frombuffer(zlib.decompress(self.bits), np.uint8), count=size)
        full = np.zeros((height, width), np.bool_)
        full[top:bottom, left:right] = flat.reshape(bottom - top, right - left)
        return full


def automask(
    image: Pixels, look: Callable[[Pixels], EncodedView], grid: Grid, *, deadline: float = math.inf
) -> Iterator[Candidate]:
    """All that is found, the surest first.

    Args:
        image: (H, W, 3) uint8.
        look: Encodes the image, or a part of it.
        grid: Where to ask, and what to keep.
        deadline: By `time.monotonic()`; asked at every point.

    Raises:
        TimeoutError: The deadline is over.
    """
    height, width = image.shape[:2]
    found, areas = list[_Found](), list[int]()
    for layer, place in _crops(height, width, grid):
        here = _in_crop(image, place, look, grid, max(1, grid.points_per_side // grid.crop_downscale**layer), deadline)
        kept = _apart(here, [one.iou for one in here], grid.nms_iou)
        found += kept
        areas += [(place[2] - place[0]) * (place[3] - place[1])] * len(kept)
    if grid.crop_layers:
        found = _apart(found, [1 / area for area in areas], grid.crop_nms_iou)
    for one in sorted(found, key=lambda one: -one.iou):
        yield Candidate(one.mask(height, width), one.iou)


def _crops(height: int, width: int, grid: Grid) -> Iterator[tuple[int, Place]]:
    yield 0, (0, 0, width, height)
    for layer in range(1, grid.crop_layers + 1):
        n = 2**layer
        overlap = int(grid.crop_overlap * min(height, width) * 2 / n)
        w, h = (math.ceil((overlap * (n - 1) + side) / n) for side in (width, height))
        for i in range(n):
            for k in range(n):
                left, top = (w - overlap) * i, (h - overlap) * k
                if left < width and top < height:
                    yield layer, (left, top, min(left + w, width), min(top + h, height))


def _in_crop(
    image: Pixels,
    place: Place,
    look: Callable[[Pixels], EncodedView],
    grid: Grid,
    per_side: int,
    deadline: float,
) -> list[_Found]:
    left, top, right, bottom = place
    view = look(np.ascontiguousarray(image[top:bottom, left:right]))
    found = dict[tuple[bytes, Place], _Found]()
    at = (np.arange(per_side) + 0.5) / per_side
    for y in at * (bottom - top):
        for x in at * (right - left):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{per_side}×{per_side} points are too many for this model within the time: ask for fewer points "
                    "per side or a smaller view, or start the server with a larger --seconds"
                )
            for candidate in _wanted(view.predict(Prompt([(float(x), float(y))], [1])), grid.output):
                mask = _tidy(candidate.mask, grid.min_area)
                if candidate.iou >= grid.min_iou and mask.any() and _whole(mask, place, image.shape, grid.edge):
                    one = _packed(mask, candidate.iou)
                    one = replace(one, place=_moved(one.place, left, top))
                    if (same := found.get((one.bits, one.place))) is None or same.iou < one.iou:
                        found[one.bits, one.place] = one
    return list(found.values())


def _wanted(candidates: Sequence[Candidate], output: Output) -> Sequence[Candidate]:
    some = [candidate for candidate in candidates if candidate.mask.any()]
    if not some or output == "Multi-mask (all)":
        return some
    if output == "Multi-mask (largest)":
        return [max(some, key=lambda c: int(c.mask.sum()))]
    if output == "Multi-mask (smallest)":
        return [min(some, key=lambda c: int(c.mask.sum()))]
    if output == "Multi-mask (best quality)":
        return [max(some, key=lambda c: c.iou)]
    return some[:1]


def _tidy(mask: BitMask, min_area: int) -> BitMask:
    """Without holes and parts below so many pixels."""
    if min_area < 2:
        return mask
    filled = remove_small_holes(mask, max_size=min_area - 1, connectivity=1)
    return np.asarray(remove_small_objects(filled, max_size=min_area - 1, connectivity=1), np.bool_)


def _whole(mask: BitMask, place: Place, shape: tuple[int, ...], edge: bool) -> bool:
    """Whether a mask is not cut: by the edge of its part of the image, or, if that matters, of the image."""
    left, top, right, bottom = place
    cuts = (
        (mask[:, 0], left == 0),
        (mask[0], top == 0),
        (mask[:, -1], right == shape[1]),
        (mask[-1], bottom == shape[0]),
    )
    return not any(line.any() and not (of_image and edge) for line, of_image in cuts)


def _packed(mask: BitMask, iou: float) -> _Found:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    bits = zlib.compress(np.packbits(mask[top:bottom, left:right]).tobytes(), level=1)
    return _Found(bits, (left, top, right, bottom), float(iou))


def _moved(place: Place, x: int, y: int) -> Place:
    return place[0] + x, place[1] + y, place[2] + x, place[3] + y


def _apart(found: Sequence[_Found], scores: Sequence[float], most: float) -> list[_Found]:
    """Non-maximum suppression: of two whose boxes have an IoU above `most` the one with the higher score."""
    if not found:
        return []
    boxes = np.array([one.place for one in found], np.float64)
    order, kept = np.argsort(-np.asarray(scores), kind="stable"), list[_Found]()
    while len(order):
        kept.append(found[order[0]])
        order = order[1:][_box_iou(boxes[order[0]], boxes[order[1:]]) <= most]
    return kept


def _box_iou(one: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=1)
    area, areas = np.prod(one[2:] - one[:2]), np.prod(others[:, 2:] - others[:, :2], axis=1)
    return np.asarray(both / (area + areas - both), np.float64)

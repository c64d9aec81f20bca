"""Simulated clicks: where an annotator clicks next, and how many clicks outlines needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from skimage.measure import label

from qp2train.errors import PromptError

BitMask = NDArray[np.bool_]

MOST = 20
FAILED = 0.85


def next_click(
    predicted: BitMask,
    truth: BitMask,
    *,
    valid: BitMask | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[float, float, int] | None:
    """Where a careful annotator clicks next: in the largest region that is wrong.

    Args:
        predicted: (H, W) bool.
        truth: (H, W) bool.
        valid: (H, W) bool, where the truth is known; None = everywhere. Elsewhere nothing is wrong.
        rng: None = the region's point that is furthest from its border (which the view's edge is part of). Otherwise
            any pixel of the inner half, at least half as far from the border as that: real clicks are not at centres.

    Returns:
        (x, y, label), a pixel's middle; 1 where the object was missed, 0 where there is too much. None = all is right.
    """
    wrong = predicted != truth
    if valid is not None:
        wrong &= valid
    # Missed and superfluous pixels that touch are two regions.
    regions = label(np.where(wrong, 1 + truth.astype(np.int32), 0), background=0, connectivity=1)
    if regions.max() == 0:
        return None
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    depth = distance_transform_edt(np.pad(regions == sizes.argmax(), 1))[1:-1, 1:-1]
    inner = np.argwhere(depth == depth.max() if rng is None else depth >= depth.max() / 2)
    row, column = inner[0 if rng is None else rng.integers(len(inner))]
    return float(column) + 0.5, float(row) + 0.5, int(truth[row, column])


def iou(predicted: BitMask, truth: BitMask, *, valid: BitMask | None = None) -> float:
    """Intersection over union of two (H, W) bool masks where `valid`; 1 if both are empty."""
    seen = np.ones_like(truth) if valid is None else valid
    union = ((predicted | truth) & seen).sum()
    return float((predicted & truth & seen).sum() / union) if union else 1.0


def extent_of(mask: BitMask) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a mask's pixels, which it has; right and bottom are beyond the last ones."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True)
class ClickScores:
    """How well objects were found by clicking, over many objects.

    Args:
        curves: (objects, 1 + clicks): IoU before the first click, and after each. After the last click of an object
            its value stays.
    """

    curves: NDArray[np.float64]

    @classmethod
    def of(cls, curves: list[list[float]], *, most: int = MOST) -> ClickScores:
        """From each object's IoU before the first click and after each.

        Raises:
            PromptError: There is no object, or a curve with more than `most` clicks.
        """
        if not curves or any(not 1 <= len(curve) <= most + 1 for curve in curves):
            raise PromptError(f"scores need curves of at least one object, each of at most {most} clicks")
        return cls(np.array([[*curve, *[curve[-1]] * (most + 1 - len(curve))] for curve in curves]))

    def iou_at(self, clicks: int) -> float:
        """Mean IoU after so many clicks."""
        return float(self.curves[:, clicks].mean())

    def clicks_to(self, target: float) -> float:
        """Mean number of clicks until an IoU of `target` (NoC); an object that never gets there counts the most.

        An object that has it before the first click counts 0. Source: Xu et al., CVPR 2016.
        """
        return float(self.clicks_each(target).mean())

    def clicks_each(self, target: float) -> NDArray[np.float64]:
        """(objects,): what `clicks_to` is the mean of."""
        there = self.curves >= target
        most = self.curves.shape[1] - 1
        return np.asarray(np.where(there.any(axis=1), there.argmax(axis=1), most), np.float64)

    def never(self, target: float = FAILED) -> float:
        """Share of the objects that never reach an IoU of `target`."""
        return float(self.never_each(target).mean())

    def never_each(self, target: float = FAILED) -> NDArray[np.bool_]:
        """(objects,): what `never` is the mean of."""
        return np.asarray((self.curves < target).all(axis=1))

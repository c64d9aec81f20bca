"""Simulated clicks: how many of them an outline needs, the same for every kind of model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from skimage.measure import label

from qp2train.errors import PromptError
from qp2train.refine.prompts import BitMask, EncodedView, Prompt

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


def click_through(
    view: EncodedView,
    truth: BitMask,
    *,
    valid: BitMask | None = None,
    start: BitMask | None = None,
    most: int = MOST,
    rng: np.random.Generator | None = None,
) -> list[float]:
    """Click until all is right, `most` times at most; the model's best candidate goes into the next prompt.

    Args:
        view: A view that a model has looked at.
        truth: (H, W) bool, the meant object.
        valid: Where the truth is known; None = everywhere.
        start: A mask to begin with, for example a segmentation model's; None = nothing.
        most: Clicks at most.
        rng: Of clicks beside the centre, see `next_click`.

    Returns:
        IoU before the first click, and after each click.

    Raises:
        PromptError: There is no object to be found.
    """
    if not (truth if valid is None else truth & valid).any():
        raise PromptError("there is no object to be found: the true mask is empty")
    mask = np.zeros_like(truth) if start is None else start
    found, points, labels = [iou(mask, truth, valid=valid)], list[tuple[float, float]](), list[int]()
    while len(points) < most and (click := next_click(mask, truth, valid=valid, rng=rng)) is not None:
        points.append(click[:2])
        labels.append(click[2])
        mask = view.predict(Prompt(tuple(points), tuple(labels), mask=mask if mask.any() else None))[0].mask
        found.append(iou(mask, truth, valid=valid))
    return found


def iou(predicted: BitMask, truth: BitMask, *, valid: BitMask | None = None) -> float:
    """Intersection over union of two (H, W) bool masks where `valid`; 1 if both are empty."""
    seen = np.ones_like(truth) if valid is None else valid
    union = ((predicted | truth) & seen).sum()
    return float((predicted & truth & seen).sum() / union) if union else 1.0


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
        """From what `click_through` returned for each object.

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
        most = self.curves.shape[1] - 1
        there = self.curves >= target
        return float(np.where(there.any(axis=1), there.argmax(axis=1), most).mean())

    def never(self, target: float = FAILED) -> float:
        """Share of the objects that never reach an IoU of `target`."""
        return float((self.curves < target).all(axis=1).mean())

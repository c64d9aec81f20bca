"""click_through: simulated clicks on a view, the same for every kind of model."""

from __future__ import annotations

import numpy as np

from qp2train.core.clicks import MOST, BitMask, iou, next_click
from qp2train.errors import PromptError
from qp2train.refine.prompts import EncodedView, Prompt


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

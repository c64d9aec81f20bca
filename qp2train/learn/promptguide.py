"""guide: a prompt, drawn as channels beside a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qp2train.core.clicks import BitMask

# Disks of clicks that belong, disks of those that do not, the box, the earlier mask.
GUIDES = 4
# Radius of a click's disk, as a share of the view's side: 5 px of 256, as in RITM.
RADIUS = 5 / 256


def guide(
    size_px: int,
    points: Sequence[tuple[float, float]],
    labels: Sequence[int],
    box: tuple[float, float, float, float] | None,
    mask: BitMask | None,
) -> NDArray[np.float32]:
    """The channels that a `PromptedNet` reads beside the colours.

    Args:
        size_px: Side of the square view.
        points: (x, y) of each click, in pixels of the view, corners at integers; those outside are not drawn.
        labels: Of each click, 1 = belongs, 0 = does not.
        box: (left, top, right, bottom); what lies outside of the view is not drawn.
        mask: (size_px, size_px) bool, what was outlined so far.

    Returns:
        (4, size_px, size_px): belonging clicks, other clicks, box, mask; 0 or 1.
    """
    drawn = np.zeros((GUIDES, size_px, size_px), np.float32)
    radius = RADIUS * size_px
    for (x, y), label in zip(points, labels, strict=True):
        if not (0 <= x < size_px and 0 <= y < size_px):
            continue
        left, top = max(0, int(x - radius)), max(0, int(y - radius))
        part = drawn[0 if label else 1, top : int(y + radius) + 2, left : int(x + radius) + 2]
        rows = np.arange(top, top + part.shape[0])[:, None] + 0.5 - y
        columns = np.arange(left, left + part.shape[1])[None] + 0.5 - x
        part[rows**2 + columns**2 <= radius**2] = 1
    if box is not None:
        left, top, right, bottom = (int(np.clip(round(v), 0, size_px)) for v in box)
        drawn[2, top:bottom, left:right] = 1
    if mask is not None:
        drawn[3] = mask
    return drawn

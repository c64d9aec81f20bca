"""heard: a network's outline, held to the clicks: each of them has an effect."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from qp2train.core.clicks import BitMask

# A click that the network did not follow takes what is at least this nearly as likely as the pixel clicked on …
ALIKE = 0.95
# … unless the network is surer than this that the click is wrong: then it would take everything.
LEAST = 0.1


def heard(
    share: NDArray[np.float32], answer: BitMask, points: Sequence[tuple[float, float]], labels: Sequence[int]
) -> BitMask:
    """The answer, changed where a click says otherwise: with all round the click that looks alike to the network.

    Args:
        share: (H, W) how likely each pixel belongs, 0–1.
        answer: (H, W) bool, what the network outlined.
        points: (x, y) of each click, in pixels, corners at integers; all inside.
        labels: Of each click, 1 = belongs, 0 = does not.

    Returns:
        (H, W) bool.
    """
    out = answer.copy()
    for (x, y), label in zip(points, labels, strict=True):
        at, belongs = (int(y), int(x)), bool(label)
        if out[at] == belongs:
            continue
        likely = share if belongs else 1 - share
        alike = (likely > max(LEAST, ALIKE * likely[at])) & (out != belongs)
        parts = cv2.connectedComponents(alike.astype(np.uint8), connectivity=4)[1]
        if parts[at]:
            out[parts == parts[at]] = belongs
    return out

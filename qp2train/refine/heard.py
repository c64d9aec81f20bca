"""heard: what a network thinks of a view, held to the clicks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from qp2train.learn.promptguide import RADIUS
from qp2train.learn.prompting import THRESHOLD

Share = NDArray[np.float32]

# A click that the network did not follow takes what is at least this nearly as likely as the pixel clicked on …
ALIKE = 0.95
# … or, if the network is surer than this that the click is wrong, only a disk: what looks alike would be everything.
LEAST = 0.1


def heard(share: Share, points: Sequence[tuple[float, float]], labels: Sequence[int]) -> Share:
    """Where a click says otherwise, what is round it and looks alike to the network belongs, or does not.

    It takes nothing that is nearer to a click that says the opposite; of two on one pixel none counts.

    Args:
        share: (H, W) how likely each pixel belongs to the object, 0–1; from `THRESHOLD` on it does.
        points: (x, y) of each click, in pixels, corners at integers; those outside do not count.
        labels: Of each click, 1 = belongs, 0 = does not.

    Returns:
        (H, W), 1 and 0 where clicks decided.
    """
    height, width = share.shape
    clicks = [
        (int(y), int(x), bool(label))
        for (x, y), label in zip(points, labels, strict=True)
        if 0 <= x < width and 0 <= y < height
    ]
    out = share.copy()
    near = {belongs: _distance(share.shape, [c[:2] for c in clicks if c[2] == belongs]) for belongs in (True, False)}
    for row, column, belongs in clicks:
        if (out[row, column] > THRESHOLD) == belongs:
            continue
        likely = share if belongs else 1 - share
        own = near[belongs] < near[not belongs]
        if likely[row, column] > LEAST:
            parts = cv2.connectedComponents(
                ((likely > ALIKE * likely[row, column]) & own).astype(np.uint8), connectivity=4
            )[1]
            part = parts == parts[row, column] if parts[row, column] else np.zeros_like(own)
        else:
            part = (_distance(share.shape, [(row, column)]) <= RADIUS * width) & own
        out[part] = belongs
    return out


def _distance(shape: tuple[int, ...], places: Sequence[tuple[int, int]]) -> Share:
    """(H, W) how far each pixel is from the nearest of the places, in pixels; infinite without any."""
    if not places:
        return np.full(shape, np.inf, np.float32)
    away = np.ones(shape, np.uint8)
    away[tuple(np.transpose(places))] = 0
    return np.asarray(cv2.distanceTransform(away, cv2.DIST_L2, 5), np.float32)

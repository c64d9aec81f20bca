"""How far outlines lie apart: HD95 and ASSD in µm, where both sides of an outline were annotated."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from qp2train.core.agreement import Floats
from qp2train.core.labels import IGNORE


class BoundaryDistance(NamedTuple):
    """Distances of two outlines in µm; NaN where only one of them is there, or none.

    Args:
        hd95_um: 95 % of each outline lie at most so far from the other (the worse of both directions).
        assd_um: Average symmetric surface distance: the mean over the pixels of both outlines.
    """

    hd95_um: float
    assd_um: float


def boundary_distance(
    truth: NDArray[np.integer], predicted: NDArray[np.integer], value: int, *, mpp: float
) -> BoundaryDistance:
    """Compare the outlines of one class in two label images.

    An outline is made of the class's pixels that touch, by a side, an annotated pixel of something else. Where a class
    ends at an ignored pixel or at the border of the image nobody drew an outline, and there is none.

    Args:
        truth: H×W; 255 = ignored, and what is predicted there does not count.
        predicted: H×W.
        value: The class's pixel value.
        mpp: µm per pixel.

    Sources: Maier-Hein et al., "Metrics reloaded", Nature Methods 21 (2024) 195–212; Heimann et al., "Comparison and
    evaluation of methods for liver segmentation", IEEE Trans. Med. Imaging 28 (2009) 1251–1265 (ASSD).
    """
    valid = truth != IGNORE
    there, said = outline(truth == value, valid), outline(predicted == value, valid)
    if not there.any() or not said.any():
        return BoundaryDistance(np.nan, np.nan)
    box = _around(there | said)
    there, said = there[box], said[box]
    to_said, to_there = mpp * _distance_to(said)[there], mpp * _distance_to(there)[said]
    hd95 = max(float(np.percentile(to_said, 95)), float(np.percentile(to_there, 95)))
    return BoundaryDistance(hd95, float((to_said.sum() + to_there.sum()) / (to_said.size + to_there.size)))


def outline(inside: NDArray[np.bool_], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """H×W bool: valid pixels inside that touch, by a side, a valid pixel outside."""
    inside, outside = inside & valid, ~inside & valid
    touched = np.zeros_like(inside)
    touched[1:] |= outside[:-1]
    touched[:-1] |= outside[1:]
    touched[:, 1:] |= outside[:, :-1]
    touched[:, :-1] |= outside[:, 1:]
    return inside & touched


def _distance_to(pixels: NDArray[np.bool_]) -> Floats:
    """H×W: how far each pixel's centre is from the nearest of these, in pixels."""
    distance: Floats = distance_transform_edt(~pixels)
    return distance


def _around(pixels: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The smallest box that holds them: distances between them are the same in it, and found sooner."""
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)

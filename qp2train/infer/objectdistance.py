"""Which objects of two label images belong together, and the Hausdorff distances between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects
from scipy.spatial import cKDTree

Objects = NDArray[np.intp]
Box = tuple[slice, slice]


class Matches(NamedTuple):
    """Pairs of a true and a predicted object that share pixels; K of them.

    Args:
        true: (K,) the true object, from 0.
        said: (K,) the predicted object, from 0.
        overlap: (K,) pixels that they share.
        best_of_true: Places in these of each true object's pair with the largest overlap; none for objects without.
        best_of_said: Likewise of each predicted object.
    """

    true: Objects
    said: Objects
    overlap: Objects
    best_of_true: Objects
    best_of_said: Objects


def best_matches(there: Objects, said: Objects, true_objects: int, said_objects: int) -> Matches:
    """Pairs of overlapping objects. Of equally large overlaps the object with the smallest number is the best.

    Args:
        there: H×W, the true objects 1, 2, …; background 0.
        said: H×W, the predicted objects 1, 2, …
        true_objects: Number of true objects.
        said_objects: Number of predicted objects.
    """
    both = (there > 0) & (said > 0)
    codes, overlap = np.unique((there[both] - 1) * said_objects + said[both] - 1, return_counts=True)
    true, guess = codes // said_objects, codes % said_objects
    # The last of several entries for one object stays: the largest overlap, and of equal ones the smallest number.
    of_true, of_said = np.full(true_objects, -1), np.full(said_objects, -1)
    order = np.lexsort((-guess, overlap))
    of_true[true[order]] = order
    order = np.lexsort((-true, overlap))
    of_said[guess[order]] = order
    return Matches(true, guess, overlap, of_true[of_true >= 0], of_said[of_said >= 0])


def weighted_distances(there: Objects, said: Objects, match: Matches) -> dict[str, float]:
    """Sums over true and over predicted objects of area · Hausdorff distance (px) from the best match.

    The best match is the object of the other side with the largest overlap, else the one at the least distance.

    Args:
        there: As for `best_matches`.
        said: As for `best_matches`.
        match: What it found.

    Returns:
        The fields of `ObjectCounts` that hold them.
    """
    sides = (
        (there, said, dict(zip(match.true[match.best_of_true], match.said[match.best_of_true], strict=True))),
        (said, there, dict(zip(match.said[match.best_of_said], match.true[match.best_of_said], strict=True))),
    )
    far = [0.0, 0.0]
    for side, (own, other, best) in enumerate(sides):
        own_boxes, other_boxes = find_objects(own), find_objects(other)
        for i, area in enumerate(np.bincount(own.ravel())[1:].tolist()):
            if i in best:
                box = _hull(own_boxes[i], other_boxes[best[i]])
                distance = _hausdorff(own[box] == i + 1, other[box] == best[i] + 1)
            else:
                distance = _nearest(_points(own, own_boxes[i], i + 1), other, other_boxes)
            far[side] += area * distance
    area = [float((side > 0).sum()) for side in (there, said)]
    return {"true_far": far[0], "said_far": far[1], "true_far_area": area[0], "said_far_area": area[1]}


def _hausdorff(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Hausdorff distance of two masks that are not empty."""
    to_a, to_b = distance_transform_edt(~a), distance_transform_edt(~b)
    return max(float(to_b[a].max()), float(to_a[b].max()))


def _nearest(own: Objects, other: Objects, boxes: list[Box]) -> float:
    """The least Hausdorff distance between one object's pixels (N, 2) and any of the others, none overlapping it."""
    low, high = own.min(axis=0), own.max(axis=0)
    lows = np.array([[s.start for s in box] for box in boxes])
    highs = np.array([[s.stop - 1 for s in box] for box in boxes])
    # Each object touches all four sides of its box, so that it is at least as far off as the boxes' sides are; with
    # these limits most of the others need no closer look.
    limits = np.stack([low - lows, lows - high, highs - high, low - highs, lows - low, high - highs]).max(axis=(0, 2))
    tree, least = cKDTree(own), np.inf
    for k in np.argsort(limits, kind="stable"):
        if limits[k] >= least:
            break
        theirs = _points(other, boxes[k], int(k) + 1)
        there = float(tree.query(theirs)[0].max())
        if there < least:
            least = min(least, max(there, float(cKDTree(theirs).query(own)[0].max())))
    return least


def _points(objects: Objects, box: Box, number: int) -> Objects:
    """(N, 2) row and column of an object's pixels."""
    inside: Objects = np.argwhere(objects[box] == number)
    inside += np.array([s.start for s in box])
    return inside


def _hull(a: Box, b: Box) -> Box:
    rows, columns = (slice(min(s.start, t.start), max(s.stop, t.stop)) for s, t in zip(a, b, strict=True))
    return rows, columns

"""Object-level agreement of two label images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def object_dice(predicted: NDArray[np.integer], truth: NDArray[np.integer]) -> float:
    """Object-level Dice of the GlaS challenge: area-weighted Dice of each object with its best match, both ways.

    Each true object is compared with the predicted object that overlaps it most, weighted by its share of
    the true area, and each predicted object with the true one that overlaps it most, weighted by its share of
    the predicted area; the mean of both sums. An object that nothing overlaps counts 0.

    Args:
        predicted: H×W, 0 = background, each other number one object.
        truth: H×W, likewise.

    Returns:
        0–1; 1 if there is no object in either, 0 if only one has objects.

    Source: Sirinukunwattana et al., "Gland segmentation in colon histology images: The GlaS challenge
    contest", Medical Image Analysis 35 (2017) 489–502, section 4.2.
    """
    there, said = _areas(truth), _areas(predicted)
    if there.size == 0 or said.size == 0:
        return float(there.size == said.size)
    _, true_ids = np.unique(truth, return_inverse=True)
    _, said_ids = np.unique(predicted, return_inverse=True)
    rows, columns = int(true_ids.max()) + 1, int(said_ids.max()) + 1
    pairs = np.bincount(true_ids.ravel() * columns + said_ids.ravel(), minlength=rows * columns)
    overlap = pairs.reshape(rows, columns)
    overlap = overlap[int((truth == 0).any()) :, int((predicted == 0).any()) :]
    dice = 2 * overlap / (there[:, None] + said[None, :])
    of_true = dice[np.arange(there.size), overlap.argmax(axis=1)]
    of_said = dice[overlap.argmax(axis=0), np.arange(said.size)]
    return float((of_true @ there / there.sum() + of_said @ said / said.sum()) / 2)


def _areas(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    ids, counts = np.unique(labels, return_counts=True)
    areas: NDArray[np.int64] = counts[ids != 0].astype(np.int64)
    return areas

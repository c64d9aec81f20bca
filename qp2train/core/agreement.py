"""Scores of confusion matrices, of one or of a whole stack of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qp2train.core.labels import BACKGROUND_NAME

Floats = NDArray[np.float64]

CLASS_SCORES = ("dice", "iou", "precision", "recall", "f1", "specificity")
OVERALL_SCORES = ("accuracy", "balanced_accuracy", "kappa")


def class_scores(matrix: NDArray[Any]) -> dict[str, Floats]:
    """Score → (…, C) of matrices (…, C, C) with a row per true class. NaN where a score divides by nothing.

    Each class against all others: dice = f1 = 2·TP / (2·TP + FP + FN), iou = TP / (TP + FP + FN),
    precision = TP / (TP + FP), recall = TP / (TP + FN), specificity = TN / (TN + FP).
    """
    hit, there, said, total = _sums(matrix)
    dice = ratio(2 * hit, there + said)
    return {
        "dice": dice,
        "iou": ratio(hit, there + said - hit),
        "precision": ratio(hit, said),
        "recall": ratio(hit, there),
        "f1": dice,
        "specificity": ratio(total - there - said + hit, total - there),
    }


def overall_scores(matrix: NDArray[Any]) -> dict[str, Floats]:
    """Score → (…) of matrices (…, C, C) with a row per true class, all classes together, background as well.

    accuracy = share on the diagonal; balanced_accuracy = mean recall of the classes that are there; kappa =
    (accuracy − chance) / (1 − chance), where chance is what two independent raters with these marginals agree on.
    NaN for an empty matrix, and for kappa where chance is 1.

    Source: Cohen, "A coefficient of agreement for nominal scales", Educ. Psychol. Meas. 20 (1960) 37–46.
    """
    hit, there, said, total = _sums(matrix)
    accuracy = ratio(hit.sum(axis=-1), total[..., 0])
    chance = ratio((there * said).sum(axis=-1), total[..., 0] ** 2)
    return {
        "accuracy": accuracy,
        "balanced_accuracy": mean_known(ratio(hit, there)),
        "kappa": ratio(accuracy - chance, 1 - chance),
    }


def foreground_mean(values: Floats, names: Sequence[str]) -> Floats:
    """(…, C) → (…): the mean of the classes without background and without NaN; NaN if none is left."""
    return mean_known(values[..., [i for i, name in enumerate(names) if name != BACKGROUND_NAME]])


def mean_known(values: Floats) -> Floats:
    """The mean along the last axis without NaN; NaN if nothing is left. Unlike numpy's, it does not warn."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))


def ratio(over: NDArray[Any], under: NDArray[Any]) -> Floats:
    """`over` / `under`, NaN where `under` is 0 (or NaN)."""
    over, under = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    out: Floats = np.full(np.broadcast_shapes(over.shape, under.shape), np.nan)
    np.divide(over, under, out=out, where=under != 0)
    return out


def _sums(matrix: NDArray[Any]) -> tuple[Floats, Floats, Floats, Floats]:
    """Hits, true and predicted number per class, each (…, C), and the number of all, (…, 1)."""
    counts = np.asarray(matrix, dtype=np.float64)
    there, said = counts.sum(axis=-1), counts.sum(axis=-2)
    return np.diagonal(counts, axis1=-2, axis2=-1), there, said, there.sum(axis=-1, keepdims=True)

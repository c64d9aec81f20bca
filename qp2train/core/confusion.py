"""Confusion: pixel counts of truth against prediction, and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qp2train.core.labels import IGNORE


@dataclass(frozen=True)
class Confusion:
    """Pixels by true class (rows) and predicted class (columns); ignored pixels are not in it.

    Args:
        matrix: (C, C) int64.
        names: The C class names, background first.
    """

    matrix: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def empty(cls, names: Sequence[str]) -> Confusion:
        return cls(np.zeros((len(names), len(names)), dtype=np.int64), tuple(names))

    @classmethod
    def of(cls, truth: NDArray[np.integer], predicted: NDArray[np.integer], names: Sequence[str]) -> Confusion:
        """Count two equally shaped label arrays. Where either is 255, the pixel does not count."""
        counted = (truth != IGNORE) & (predicted != IGNORE)
        pairs = truth[counted].astype(np.int64) * len(names) + predicted[counted]
        counts = np.bincount(pairs, minlength=len(names) ** 2)
        return cls(counts.reshape(len(names), len(names)).astype(np.int64), tuple(names))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.matrix + other.matrix, self.names)

    def dice(self) -> dict[str, float]:
        """Class → 2·TP / (2·TP + FP + FN); NaN for a class that is neither there nor predicted."""
        hit, there, said = self._sums()
        return self._named(2 * hit, there + said)

    def iou(self) -> dict[str, float]:
        """Class → TP / (TP + FP + FN); NaN for a class that is neither there nor predicted."""
        hit, there, said = self._sums()
        return self._named(hit, there + said - hit)

    def mean_dice(self) -> float:
        """The mean Dice of the classes without background; NaN if none of them is there."""
        return _mean([v for name, v in self.dice().items() if name != self.names[0]])

    def table(self) -> pd.DataFrame:
        """Dice, IoU and number of true pixels per class."""
        data = {"Dice": self.dice(), "IoU": self.iou()}
        frame = pd.DataFrame(data).loc[list(self.names)]
        frame["pixels"] = self.matrix.sum(axis=1)
        return frame.rename_axis(index="class")

    def _sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        return np.diag(self.matrix), self.matrix.sum(axis=1), self.matrix.sum(axis=0)

    def _named(self, over: NDArray[np.int64], under: NDArray[np.int64]) -> dict[str, float]:
        return {n: float(o / u) if u else float("nan") for n, o, u in zip(self.names, over, under, strict=True)}


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not np.isnan(v)]
    return float(np.mean(known)) if known else float("nan")

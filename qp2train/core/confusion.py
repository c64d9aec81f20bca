"""Confusion: pixel counts of truth against prediction, and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qp2train.core.agreement import class_scores, foreground_mean, overall_scores
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
        return self._class_score("dice")

    def iou(self) -> dict[str, float]:
        """Class → TP / (TP + FP + FN); NaN for a class that is neither there nor predicted."""
        return self._class_score("iou")

    def precision(self) -> dict[str, float]:
        """Class → TP / (TP + FP), the share of what was predicted that is right; NaN for a class never predicted."""
        return self._class_score("precision")

    def recall(self) -> dict[str, float]:
        """Class → TP / (TP + FN), the share of what is there that was found; NaN for a class that is not there."""
        return self._class_score("recall")

    def f1(self) -> dict[str, float]:
        """Class → 2 / (1 / precision + 1 / recall): of pixels, it is the Dice score under another name."""
        return self._class_score("f1")

    def specificity(self) -> dict[str, float]:
        """Class → TN / (TN + FP), the share of all else that was not taken for it; NaN if there is nothing else."""
        return self._class_score("specificity")

    def accuracy(self) -> float:
        """The share that is right; NaN if nothing was counted."""
        return float(overall_scores(self.matrix)["accuracy"])

    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that are there, background as well; NaN if nothing was counted."""
        return float(overall_scores(self.matrix)["balanced_accuracy"])

    def kappa(self) -> float:
        """Cohen's kappa: agreement beyond chance, 1 = perfect, 0 = chance; NaN where chance alone agrees always."""
        return float(overall_scores(self.matrix)["kappa"])

    def mean(self, scores: Mapping[str, float]) -> float:
        """The mean of a score per class without background; NaN if no class has one."""
        return float(foreground_mean(np.array([scores[n] for n in self.names]), self.names))

    def mean_dice(self) -> float:
        """The mean Dice of the classes without background; NaN if none of them is there."""
        return self.mean(self.dice())

    def mm2(self, mpp: float) -> NDArray[np.float64]:
        """The matrix in mm² of pixels `mpp` µm wide and high."""
        return np.asarray(self.matrix * (mpp / 1000) ** 2, dtype=np.float64)

    def table(self) -> pd.DataFrame:
        """Dice, IoU and number of true pixels per class."""
        data = {"Dice": self.dice(), "IoU": self.iou()}
        frame = pd.DataFrame(data).loc[list(self.names)]
        frame["pixels"] = self.matrix.sum(axis=1)
        return frame.rename_axis(index="class")

    def _class_score(self, score: str) -> dict[str, float]:
        return dict(zip(self.names, class_scores(self.matrix)[score].tolist(), strict=True))

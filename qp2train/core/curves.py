"""ROC and precision-recall curves from histograms of scores, which add up patch by patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qp2train.core.agreement import Floats, ratio
from qp2train.core.labels import IGNORE

# Steps of a score: AUCs are exact for scores rounded to this.
BINS = 1000
# Points of a drawn curve, at most.
POINTS = 101
# The log-odds that a graded score can tell apart, and those up to which its steps are about equal.
MOST_ODDS, EVEN_ODDS = 10_000.0, 2.0


@dataclass(frozen=True)
class ScoreHistogram:
    """How often each class got which score, where it is true and where it is not.

    Args:
        counts: (C, 2, bins) int64; [c, 1, b] = pixels of class c whose score for c lies in bin b, [c, 0, b] = pixels
            of the others. Bin b holds the scores from b / bins up to (b + 1) / bins, the last one also 1.
        names: The C class names.
    """

    counts: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def empty(cls, names: Sequence[str], *, bins: int = BINS) -> ScoreHistogram:
        return cls(np.zeros((len(names), 2, bins), dtype=np.int64), tuple(names))

    @classmethod
    def of(
        cls, truth: NDArray[np.integer], scores: NDArray[np.floating], names: Sequence[str], *, bins: int = BINS
    ) -> ScoreHistogram:
        """Count scores (C, …) in 0–1 against label indices of the shape (…); where these are 255, nothing counts."""
        counted = truth != IGNORE
        labels = truth[counted]
        return cls.of_flags(labels == np.arange(len(names))[:, None], scores[:, counted], names, bins=bins)

    @classmethod
    def of_flags(
        cls, truth: NDArray[np.bool_], scores: NDArray[np.floating], names: Sequence[str], *, bins: int = BINS
    ) -> ScoreHistogram:
        """Count scores (C, N) in 0–1 against flags (C, N): several classes may be true at once."""
        bin_ = np.minimum((scores * bins).astype(np.int64), bins - 1)
        place = (np.arange(len(names))[:, None] * 2 + truth) * bins + bin_
        counts = np.bincount(place.ravel(), minlength=len(names) * 2 * bins)
        return cls(counts.reshape(len(names), 2, bins).astype(np.int64), tuple(names))

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        return ScoreHistogram(self.counts + other.counts, self.names)

    def roc_auc(self) -> dict[str, float]:
        """Class → area under its ROC curve, one against the rest; NaN if all pixels or none are of the class."""
        return dict(zip(self.names, roc_auc(self.counts).tolist(), strict=True))

    def average_precision(self) -> dict[str, float]:
        """Class → average precision, the area under its precision-recall curve; NaN if no pixel is of the class."""
        return dict(zip(self.names, average_precision(self.counts).tolist(), strict=True))

    def roc(self, name: str) -> tuple[Floats, Floats]:
        """False and true positive rates of a class from (0, 0) to (1, 1), at most `POINTS`; empty if it has no AUC."""
        true, false = _above(self.counts[self.names.index(name)])
        fpr, tpr = ratio(false, false[-1]), ratio(true, true[-1])
        return _thinned(fpr, tpr)

    def precision_recall(self, name: str) -> tuple[Floats, Floats]:
        """Recall (rising) and precision of a class at ever lower scores, at most `POINTS`; empty without such pixels.

        The curve begins at the highest score that any pixel got; there is no made-up point at recall 0.
        """
        true, false = _above(self.counts[self.names.index(name)])
        said = true + false > 0
        return _thinned(ratio(true, true[-1])[said], ratio(true, true + false)[said])


def graded(log_odds: NDArray[Any]) -> Floats:
    """Log-odds → scores in 0–1 in the same order, fit for a histogram.

    Probabilities are not: those of a sure network are all next to 0 or 1, and fall into two bins, so that its curves
    would depend on its temperature. Near 0 a thousandth is 0.04 of log-odds; at ±100 it is 2.
    """
    clipped = np.clip(np.asarray(log_odds, dtype=np.float64), -MOST_ODDS, MOST_ODDS)
    return np.asarray((np.arcsinh(clipped / EVEN_ODDS) / np.arcsinh(MOST_ODDS / EVEN_ODDS) + 1) / 2)


def roc_auc(counts: NDArray[Any]) -> Floats:
    """(…) from histograms (…, 2, bins): the area under the trapezoids between the thresholds.

    It equals the Mann–Whitney statistic of the binned scores, ties counting half.

    Source: Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 27 (2006) 861–874.
    """
    true, false = _above(counts)
    area = np.sum(np.diff(false, axis=-1) * (true[..., 1:] + true[..., :-1]) / 2, axis=-1)
    return ratio(area, true[..., -1] * false[..., -1])


def average_precision(counts: NDArray[Any]) -> Floats:
    """(…) from histograms (…, 2, bins): Σ (recall − recall before) · precision, over ever lower thresholds.

    No line is drawn between two points of the curve, as that would be too kind (scikit-learn's definition too).

    Source: Davis & Goadrich, "The relationship between precision-recall and ROC curves", ICML 2006.
    """
    true, false = _above(counts)
    precision = ratio(true, true + false)[..., 1:]
    gained = np.diff(true, axis=-1)
    return ratio(np.sum(np.where(gained > 0, gained * precision, 0), axis=-1), true[..., -1])


def _above(counts: NDArray[Any]) -> tuple[Floats, Floats]:
    """True and false positives (…, bins + 1) at ever lower thresholds: first none, at last all."""
    down = np.cumsum(np.asarray(counts, dtype=np.float64)[..., ::-1], axis=-1)
    down = np.concatenate([np.zeros_like(down[..., :1]), down], axis=-1)
    return down[..., 1, :], down[..., 0, :]


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Of a curve's points at most `POINTS`, about evenly along its way, the first and last among them."""
    if x.size == 0 or np.isnan(x).any() or np.isnan(y).any():
        return np.empty(0), np.empty(0)
    way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], POINTS)))
    kept[-1] = x.size - 1  # where the way ends, not where the last points are all the same
    return x[kept], y[kept]

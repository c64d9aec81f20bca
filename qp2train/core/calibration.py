"""Does a model that says 0.8 hit eight times of ten? Reliability, its error, and the temperature that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from qp2train.core.agreement import Floats, ratio
from qp2train.core.labels import IGNORE

BINS = 15
# Temperatures that are looked at: beyond these a network is not miscalibrated, but broken.
COLDEST, HOTTEST = 0.05, 20.0


@dataclass(frozen=True)
class Reliability:
    """Confidence and hits of predictions, by confidence.

    Args:
        sums: (3, bins) float64: number of predictions, sum of their confidences, number of right ones. Bin b holds
            the confidences above b / bins up to (b + 1) / bins.
    """

    sums: Floats

    @classmethod
    def empty(cls, *, bins: int = BINS) -> Reliability:
        return cls(np.zeros((3, bins)))

    @classmethod
    def of(cls, truth: NDArray[np.integer], scores: NDArray[np.floating], *, bins: int = BINS) -> Reliability:
        """Count probabilities (C, …) against label indices of the shape (…); where these are 255, nothing counts.

        The confidence is the highest class's probability, and the prediction that class.
        """
        counted = truth != IGNORE
        scores, labels = scores[:, counted], truth[counted]
        return cls.of_hits(scores.max(axis=0), scores.argmax(axis=0) == labels, bins=bins)

    @classmethod
    def of_hits(cls, confidence: NDArray[np.floating], right: NDArray[np.bool_], *, bins: int = BINS) -> Reliability:
        """Count confidences in 0–1 and whether the prediction was right, both of one shape."""
        confidence = confidence.ravel().astype(np.float64)
        bin_ = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
        parts = (None, confidence, right.ravel().astype(np.float64))
        return cls(np.stack([np.bincount(bin_, weights=w, minlength=bins).astype(np.float64) for w in parts]))

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(self.sums + other.sums)

    def ece(self) -> float:
        """Expected calibration error, see `expected_calibration_error`."""
        return float(expected_calibration_error(self.sums))

    def bins(self) -> list[dict[str, float]]:
        """Mean confidence, accuracy and share of all predictions, of each bin; NaN, NaN and 0 of an empty one."""
        number, confidence, right = self.sums
        columns = ratio(confidence, number), ratio(right, number), number / max(1.0, number.sum())
        keys = ("confidence", "accuracy", "share")
        return [dict(zip(keys, map(float, values), strict=True)) for values in zip(*columns, strict=True)]


def expected_calibration_error(sums: NDArray[Any]) -> Floats:
    """(…) from sums (…, 3, bins): Σ share · |accuracy − mean confidence| over the bins; NaN without predictions.

    Source: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015.
    """
    number, confidence, right = sums[..., 0, :], sums[..., 1, :], sums[..., 2, :]
    return ratio(np.abs(right - confidence).sum(axis=-1), number.sum(axis=-1))


def fitted_temperature(logits: NDArray[np.floating], truth: NDArray[np.integer]) -> float:
    """The temperature T > 0 for which the softmax of logits / T has the least negative log-likelihood.

    Above 1 the model was too sure of itself, below 1 not sure enough; classes keep their order. The likelihood is
    convex in 1 / T, so there is one best value; it is looked for between 0.05 and 20.

    Args:
        logits: (N, C), or (N,) of one class that is there or not (a sigmoid).
        truth: (N,) class indices without 255, or 0 and 1.

    Raises:
        ValueError: There is no logit.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    if len(logits) == 0:
        raise ValueError("a temperature cannot be fitted to no logits")
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim == 1:
        logits = np.stack([np.zeros_like(logits), logits], axis=1)  # softmax of (0, z) is the sigmoid of z

    def loss(log_t: float) -> float:
        return negative_log_likelihood(logits, truth, float(np.exp(log_t)))

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def negative_log_likelihood(logits: NDArray[np.floating], truth: NDArray[np.integer], temperature: float) -> float:
    """Mean −log probability, in nats, of the true classes (N,) under softmax(logits (N, C) / temperature)."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(truth)), truth]).mean())

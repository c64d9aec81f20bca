"""How sure is a score? Bootstrap over patients, and paired tests of two models on the same patients.

Pixels of a patch, and patches of a patient, resemble each other: intervals over them would be far too narrow. What is
drawn again here are whole patients. Counts of any kind that add up (confusions, histograms) come as one array per
patient, and a score is computed from the sum over the drawn patients.

Source: Efron & Tibshirani, "An introduction to the bootstrap", 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qp2train.core.agreement import Floats

RESAMPLES = 2000
LEVEL = 0.95
# Up to so many patients every exchange is tried; beyond, so many are drawn.
EXACT, EXCHANGES = 12, 10_000
# Draws that are summed at a time, so that memory does not grow with their number.
CHUNK = 100

# Sums of counts (R, …) → scores (R, …), for R draws at once.
Score = Callable[[NDArray[Any]], Floats]


class Interval(NamedTuple):
    """A score and its 95 % interval; `low` and `high` are NaN where there are fewer than two patients."""

    value: float
    low: float
    high: float


def draws(patients: int, *, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """(resamples, patients): how often each patient is drawn; each row adds up to `patients`."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(patients, np.full(patients, 1 / patients), size=resamples).astype(np.int64)


def bootstrap(counts: NDArray[Any], score: Score, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Scores of all patients and their percentile intervals, with patients drawn with replacement.

    Args:
        counts: (P, …), what was counted of each patient.
        score: Sums of counts (R, …) → scores (R, …).
        resamples: Draws.
        seed: Equal seeds draw the same patients.

    Returns:
        (3, …): value, low and high. Low and high are NaN for fewer than two patients, and for a score that no draw has;
        draws without it (a rare class's patients not among them) are left out.
    """
    whole = score(counts.sum(axis=0, keepdims=True))[0]
    if len(counts) < 2:
        return np.stack([whole, np.full_like(whole, np.nan), np.full_like(whole, np.nan)])
    drawn = _scored(counts, draws(len(counts), resamples=resamples, seed=seed), score)
    return np.stack([whole, *percentiles(drawn)])


def percentiles(drawn: Floats) -> tuple[Floats, Floats]:
    """Lower and upper 95 % limits of scores (R, …) over the first axis, without NaN; NaN where all are."""
    sides = (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2)
    none = np.isnan(drawn).all(axis=0)
    low, high = np.nanpercentile(np.where(none, 0, drawn), sides, axis=0)
    return np.where(none, np.nan, low), np.where(none, np.nan, high)


def paired_difference(
    first: NDArray[Any], second: NDArray[Any], score: Score, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Score of `second` − score of `first`, and its bootstrap interval; each draw takes the same patients of both.

    Args:
        first: (P, …), counts of each patient by one model.
        second: Likewise, by another model, of the same patients in the same order.
        score: Sums of counts (R, …) → one score each, (R,).
        resamples: Draws.
        seed: Of the draws.
    """
    value = float(score(second.sum(axis=0, keepdims=True))[0] - score(first.sum(axis=0, keepdims=True))[0])
    if len(first) < 2:
        return Interval(value, np.nan, np.nan)
    chosen = draws(len(first), resamples=resamples, seed=seed)
    low, high = percentiles(_scored(second, chosen, score) - _scored(first, chosen, score))
    return Interval(value, float(low), float(high))


def paired_p_value(first: NDArray[Any], second: NDArray[Any], score: Score, *, seed: int = 0) -> float:
    """How often a difference as large comes about when it is chance which model a result is from: a two-sided p-value.

    A paired permutation test: the counts of any patients are exchanged between the models, and p is the share of
    exchanges that give a difference of the scores at least as large as the observed one. For a score that is a mean
    over patients this is the sign-flip test. Up to 12 patients all 2^P exchanges are tried, and p is exact; beyond,
    10,000 are drawn, and the observed one counts too.

    With P patients no p below 2 / 2^P can come out: 0.0625 for five.

    Args:
        first: As `paired_difference`.
        second: As `paired_difference`.
        score: As `paired_difference`.
        seed: Of drawn exchanges.

    Returns:
        NaN for fewer than two patients, or where there is no score.

    Source: Good, "Permutation, parametric and bootstrap tests of hypotheses", 2005; Phipson & Smyth, "Permutation
    p-values should never be zero", Stat. Appl. Genet. Mol. Biol. 9 (2010) 39.
    """
    patients = len(first)
    if patients < 2:
        return float("nan")
    exact = patients <= EXACT
    if exact:
        swapped = (np.arange(2**patients)[:, None] >> np.arange(patients)) & 1
    else:
        swapped = np.random.default_rng(seed).integers(0, 2, (EXCHANGES, patients))
        swapped = np.concatenate([np.zeros((1, patients), dtype=swapped.dtype), swapped])
    kept = 1 - swapped
    # Sums of what is kept of one and taken of the other, as draws of 2·P "patients".
    both = np.concatenate([first, second])
    of_first = _scored(both, np.concatenate([kept, swapped], axis=1), score)
    of_second = _scored(both, np.concatenate([swapped, kept], axis=1), score)
    difference = np.abs(of_second - of_first)
    known = difference[~np.isnan(difference)]
    if np.isnan(difference[0]):
        return float("nan")
    # Equal up to rounding is equal: sums in another order differ in the last digits.
    return float(np.mean(known >= difference[0] - 1e-12))


def _scored(counts: NDArray[Any], chosen: NDArray[np.int64], score: Score) -> Floats:
    """Scores (R, …) of the sums over patients, each taken as often as `chosen` (R, P) says."""
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    parts = [chosen[i : i + CHUNK] @ flat for i in range(0, len(chosen), CHUNK)]
    return np.concatenate([score(part.reshape(len(part), *counts.shape[1:])) for part in parts])

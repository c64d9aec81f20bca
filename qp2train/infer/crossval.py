"""Folds put together, and two models compared: evaluations in, evaluations and differences out."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qp2train.core.agreement import CLASS_SCORES, OVERALL_SCORES, Floats
from qp2train.core.curves import average_precision, roc_auc
from qp2train.core.intervals import EXACT, Interval, Score, paired_difference, paired_p_value
from qp2train.core.labels import BACKGROUND_NAME
from qp2train.errors import EvaluationError
from qp2train.infer.evaluation import Evaluation

CURVES: dict[str, Callable[[NDArray[Any]], Floats]] = {"roc_auc": roc_auc, "pr_auc": average_precision}
COMPARED = (*CLASS_SCORES, *CURVES, *OVERALL_SCORES)
MEAN = "mean"
COLUMNS = ("difference", "low", "high", "p")


def pool_folds(folds: Sequence[Evaluation], *, split: str = "cross-validation") -> Evaluation:
    """The out-of-fold predictions of a cross-validation as one evaluation: every patient once, by a model without them.

    Counts are put together, not scores averaged: a fold with little tissue weighs little. Its intervals are over the
    patients of all folds. They say how scores vary between patients, not between trainings; folds share most of their
    training patients, so that the interval of a new training would be somewhat wider.

    Args:
        folds: An evaluation of each fold's held-out part.
        split: What the result calls it.

    Raises:
        EvaluationError: No fold; folds of other classes, tasks or resolutions; or a patient in two of them.
    """
    if not folds:
        raise EvaluationError("there is no fold to put together")
    first = folds[0]
    for other in folds[1:]:
        _check_alike(first, other)
    seen: set[str] = set()
    for number, fold in enumerate(folds, start=1):
        twice = sorted(seen & set(fold.patients))
        if twice:
            raise EvaluationError(f"{_named(twice)} of fold {number} was held out before; every patient may be once")
        seen |= set(fold.patients)
    order = np.argsort(np.array([p for fold in folds for p in fold.patients]))

    def joined(name: str) -> Any:
        return np.concatenate([getattr(fold, name) for fold in folds])

    temperatures = {fold.temperature for fold in folds}
    return replace(
        first,
        model=", ".join(fold.model for fold in folds),
        split=split,
        temperature=first.temperature if len(temperatures) == 1 else float("nan"),
        patches=pd.concat([fold.patches.assign(fold=i) for i, fold in enumerate(folds)], ignore_index=True),
        confusions=joined("confusions"),
        histograms=joined("histograms")[order],
        reliabilities=joined("reliabilities")[order],
        boundaries=joined("boundaries"),
        objects=joined("objects"),
    )


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two models on the same patches.

    Args:
        metric: What is compared: "dice", "roc_auc", "kappa", …
        names: What the two are called.
        patients: Number of patients.
        table: A row per class and "mean" (one row "all" of scores over all classes), columns: both scores, difference
            (second − first), low, high (its 95 % interval) and p.
        difference: Of the row "mean" or "all".
        p_value: Of that row, see `paired_p_value`; NaN for fewer than two patients.
        left_out: Classes that are not in "mean", as one of the models has no score of them.
    """

    metric: str
    names: tuple[str, str]
    patients: int
    table: pd.DataFrame
    difference: Interval
    p_value: float
    left_out: tuple[str, ...] = ()

    @property
    def smallest_p(self) -> float:
        """The smallest p that so many patients can give, however large the difference is."""
        return 2 / 2**self.patients if self.patients <= EXACT else 1e-4

    @property
    def sentence(self) -> str:
        """What it means, for people."""
        row = self.table.iloc[-1]
        first, second = self.names
        score = self.metric.replace("_", " ")
        of = f"{'mean ' if row.name == MEAN else ''}{score}, {self.patients} patient{'s' if self.patients != 1 else ''}"
        if self.left_out:
            of += f", without {_named(self.left_out)}, of which one of them has no {score}"
        said = (
            f"{second} scores {row.iloc[1]:.3f} and {first} {row.iloc[0]:.3f} ({of}): "
            f"a difference of {self.difference.value:+.3f}"
        )
        if np.isnan(self.difference.value):
            return f"{first} and {second} cannot be compared by {score}: one of them has none."
        if self.patients < 2:
            return f"{said}. Whether that is chance cannot be told from one patient."
        said += f", 95 % interval {self.difference.low:+.3f} to {self.difference.high:+.3f}, p = {self.p_value:.2g}."
        if self.smallest_p > 0.05:
            return f"{said} So few patients cannot give a p below {self.smallest_p:.2g}: it may be chance."
        if self.p_value > 0.05:
            return f"{said} This may be chance."
        return f"{said} This is hardly chance: {second if self.difference.value > 0 else first} is better."

    def __repr__(self) -> str:
        return f"Comparison({' and '.join(self.names)}: {self.metric} {self.difference.value:+.3f})"

    def __str__(self) -> str:
        return f"{self.table.to_string(float_format=lambda v: f'{v:.3f}')}\n{self.sentence}"

    def _repr_html_(self) -> str:
        return f"{self.table.to_html(float_format=lambda v: f'{v:.3f}')}<p>{html.escape(self.sentence)}</p>"


def compare_evaluations(
    a: Evaluation,
    b: Evaluation,
    *,
    metric: str = "dice",
    names: tuple[str, str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """By how much `b` is better than `a` on the same patches of the same patients, and whether that may be chance.

    Args:
        a: An evaluation.
        b: Another one.
        metric: One of `COMPARED`: "dice", "iou", "precision", "recall", "f1", "specificity", "roc_auc", "pr_auc" of
            each class and their mean; "accuracy", "balanced_accuracy" or "kappa" of all classes together.
        names: What to call them; None = by their models' ids. Names of columns get " (run)" behind them.
        resamples: Draws of patients for the intervals.
        seed: Of these draws, and of the exchanges of more than 12 patients.

    Raises:
        EvaluationError: Other classes, tasks, resolutions, patients, patches or annotations, or an unknown metric.
    """
    if metric not in COMPARED:
        raise EvaluationError(f"metric must be one of {', '.join(COMPARED)}, not {metric!r}")
    _check_alike(a, b)
    _check_same_patches(a, b)
    first, second = names or (a.model, b.model)
    if first == second:
        first, second = f"{first} (1)", f"{second} (2)"
    first, second = (f"{name} (run)" if name in COLUMNS else name for name in (first, second))
    counts = (a.histograms, b.histograms) if metric in CURVES else (a.by_patient(), b.by_patient())
    scored = [~np.isnan(_values(a, metric, c.sum(axis=0, keepdims=True))[0]) for c in counts]
    common = np.logical_and(*scored)
    rows = {}
    for key in ("all",) if metric in OVERALL_SCORES else (*a.names, MEAN):
        score = _score(a, metric, key, common)
        found = paired_difference(*counts, score, resamples=resamples, seed=seed)
        both = [float(score(c.sum(axis=0, keepdims=True))[0]) for c in counts]
        rows[key] = [*both, *found, paired_p_value(*counts, score, seed=seed)]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[first, second, *COLUMNS])
    last = rows[MEAN if MEAN in rows else "all"]
    by_class = metric not in OVERALL_SCORES
    left_out = tuple(n for n, one, of in zip(a.names, *scored, strict=True) if one != of) if by_class else ()
    return Comparison(metric, (first, second), len(a.patients), table, Interval(*last[2:5]), last[5], left_out)


def _score(evaluation: Evaluation, metric: str, key: str, common: NDArray[np.bool_]) -> Score:
    """Sums of counts → one score each; the mean is of the classes of `common`, and NaN where one of them has none.

    Means of different classes are no comparison: who never says a difficult class would win.
    """
    foreground = [i for i, name in enumerate(evaluation.names) if name != BACKGROUND_NAME]
    averaged = [i for i in foreground if key == MEAN and common[i]]

    def score(sums: NDArray[Any]) -> Floats:
        values = _values(evaluation, metric, sums)
        if metric in OVERALL_SCORES:
            return values
        if key == MEAN:
            chosen = values[..., averaged]
            return chosen.mean(axis=-1) if averaged else np.full(chosen.shape[:-1], np.nan)
        of_class: Floats = values[..., evaluation.names.index(key)]
        return of_class

    return score


def _values(evaluation: Evaluation, metric: str, sums: NDArray[Any]) -> Floats:
    """(R, C) scores of each class, or (R,) of all together, from sums of counts (R, …)."""
    if metric in OVERALL_SCORES:
        return evaluation.overall_scores(sums)[metric]
    return CURVES[metric](sums) if metric in CURVES else evaluation.class_scores(sums)[metric]


def _check_alike(a: Evaluation, b: Evaluation) -> None:
    for what, one, other in (
        ("tasks", a.task, b.task),
        ("classes", ", ".join(a.names), ", ".join(b.names)),
        ("µm/px", f"{a.mpp:g}", f"{b.mpp:g}"),
        ("kinds of classes", *("overlapping" if e.multilabel else "exclusive" for e in (a, b))),
    ):
        if one != other:
            raise EvaluationError(f"evaluations of other {what} do not go together: {one} and {other}")


def _check_same_patches(a: Evaluation, b: Evaluation) -> None:
    only = sorted(set(a.patients) ^ set(b.patients))
    if only:
        raise EvaluationError(
            f"a comparison needs the same patients, but {_named(only)} "
            f"{'is' if len(only) == 1 else 'are'} in one of the evaluations only"
        )
    keys = ["patient", "entry", "x", "y"]
    one, other = (e.patches[keys].sort_values(keys).reset_index(drop=True) for e in (a, b))
    if not one.equals(other):
        raise EvaluationError(
            f"a comparison needs the same patches: there are {len(one)} and {len(other)}, at other places; evaluate "
            "both models on one table"
        )
    differ = (a.by_patient().sum(axis=-1) != b.by_patient().sum(axis=-1)).reshape(len(a.patients), -1).any(axis=1)
    if differ.any():
        changed = _named([p for p, d in zip(a.patients, differ, strict=True) if d])
        raise EvaluationError(f"the annotations of {changed} are not the same in both evaluations; evaluate both again")


def _named(patients: Sequence[str], most: int = 5) -> str:
    more = f" and {len(patients) - most} more" if len(patients) > most else ""
    return ", ".join(patients[:most]) + more

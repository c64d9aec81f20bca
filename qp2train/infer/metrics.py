"""Evaluation → metrics.json: every score as plain data, with intervals over patients."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qp2train.core.agreement import Floats, foreground_mean, ratio
from qp2train.core.calibration import expected_calibration_error
from qp2train.core.curves import average_precision, roc_auc
from qp2train.core.intervals import bootstrap
from qp2train.core.labels import BACKGROUND_NAME
from qp2train.infer.objects import object_scores

if TYPE_CHECKING:
    from qp2train.infer.evaluation import Evaluation

FORMAT = 1
METHOD = "percentile bootstrap over patients"

# Of each metric: a value per class and their mean, or one value of all classes together.
Scores = dict[str, dict[str, Any]]
ByMetric = dict[str, Floats]


def metrics(evaluation: Evaluation, *, resamples: int, seed: int) -> dict[str, Any]:
    """The data of metrics.json; see docs of `Evaluation.to_dict`."""
    names, shapes = evaluation.names, _shapes(evaluation, "patient")
    pooled, intervals = _pooled(evaluation, resamples=resamples, seed=seed)
    for kind, (counts, score) in shapes.items():
        intervals[kind] = _shape_intervals(evaluation, counts, score, {"resamples": resamples, "seed": seed})
    reliability = evaluation.reliability
    data: dict[str, Any] = plain(
        {
            "format": FORMAT,
            "task": evaluation.task,
            "model": evaluation.model,
            "split": evaluation.split,
            "mpp": evaluation.mpp,
            "classes": list(names),
            "scored": {
                "patients": len(evaluation.patients),
                "slides": evaluation.patches["slide"].nunique(),
                "patches": len(evaluation.patches),
            },
            "pooled": pooled,
            "intervals": intervals,
            "patients": _patients(evaluation),
            "slides": _grouped(evaluation, "slide"),
            "patches": evaluation.patches.to_dict(orient="records"),
            "confusion": confusion(evaluation),
            "roc": {n: _roc(evaluation, n) for n in names},
            "pr": {n: _precision_recall(evaluation, n) for n in names},
            "calibration": {
                "bins": reliability.bins(),
                "ece": reliability.ece(),
                "temperature": evaluation.temperature,
            },
            "outlined": _outlined(evaluation),
            **{kind: _of_shapes(evaluation, counts.sum(axis=0), score) for kind, (counts, score) in shapes.items()},
        }
    )
    return data


def text(data: Mapping[str, Any]) -> str:
    """Metrics as JSON text that every program can read: there is no NaN in it."""
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _pooled(evaluation: Evaluation, *, resamples: int, seed: int) -> tuple[Scores, dict[str, Any]]:
    pooled: Scores = {}
    intervals: dict[str, Any] = {}

    def add(counts: NDArray[Any], score: Callable[[NDArray[Any]], dict[str, Floats]]) -> None:
        """Scores of one kind of counts: those with a value per class, and those of all classes together."""
        whole = score(counts.sum(axis=0, keepdims=True))
        # A draw without a class's only patient says nothing of the mean: it would be of other classes.
        known = {metric: ~np.isnan(v[0]) for metric, v in whole.items()}

        def flat(sums: NDArray[Any]) -> Floats:
            return np.concatenate([_with_mean(evaluation, v, known[m]) for m, v in score(sums).items()], axis=1)

        values = bootstrap(counts, flat, resamples=resamples, seed=seed)
        layout = {m: [*evaluation.names, "mean"] if v.ndim > 1 else ["all"] for m, v in whole.items()}
        keys = [(metric, key) for metric, of in layout.items() for key in of]
        for (metric, key), (value, low, high) in zip(keys, values.T, strict=True):
            pooled.setdefault(metric, {})[key] = value
            intervals.setdefault(metric, {})[key] = {"value": value, "low": low, "high": high}

    add(evaluation.by_patient(), evaluation.class_scores)
    add(evaluation.histograms, _curve_scores)
    add(evaluation.by_patient(), evaluation.overall_scores)
    add(evaluation.reliabilities, lambda sums: {"ece": expected_calibration_error(sums)})
    patients = len(evaluation.patients)
    intervals |= {"patients": patients, "resamples": resamples, "method": METHOD}
    if patients < 2:
        intervals["why_none"] = f"an interval needs at least 2 patients; there is {patients}"
    return pooled, intervals


def _curve_scores(histograms: NDArray[Any]) -> dict[str, Floats]:
    return {"roc_auc": roc_auc(histograms), "pr_auc": average_precision(histograms)}


def _with_mean(evaluation: Evaluation, values: Floats, known: NDArray[np.bool_] | None = None) -> Floats:
    """(R, C) → (R, C + 1) with the mean of the classes without background; (R,) → (R, 1).

    The mean is of the classes that have a score; if `known` says which, NaN where one of these has none.
    """
    if values.ndim == 1:
        return values[:, None]
    mean = foreground_mean(values, evaluation.names)
    if known is not None:
        mean[np.isnan(values[:, known & _foreground(evaluation)]).any(axis=1)] = np.nan
    return np.concatenate([values, mean[:, None]], axis=1)


def _foreground(evaluation: Evaluation) -> NDArray[np.bool_]:
    return np.array([name != BACKGROUND_NAME for name in evaluation.names])


def _patients(evaluation: Evaluation) -> dict[str, Scores]:
    """Patient → its scores, those of the curves as well."""
    found = _grouped(evaluation, "patient")
    for metric, values in _curve_scores(evaluation.histograms).items():
        for patient, row in zip(evaluation.patients, _with_mean(evaluation, values), strict=True):
            found[patient][metric] = dict(zip((*evaluation.names, "mean"), row, strict=True))
    for kind, (counts, score) in _shapes(evaluation, "patient").items():
        for patient, own in zip(evaluation.patients, counts, strict=True):
            found[patient][kind] = _of_shapes(evaluation, own, score)
    return found


def _grouped(evaluation: Evaluation, column: str) -> dict[str, Scores]:
    """Patient or slide → scores of all its pixels (or patches) together."""
    confusions = evaluation.summed(column, evaluation.confusions)
    scores = evaluation.class_scores(confusions) | evaluation.overall_scores(confusions)
    keys = {metric: (*evaluation.names, "mean") if v.ndim > 1 else ("all",) for metric, v in scores.items()}
    values = {metric: _with_mean(evaluation, v) for metric, v in scores.items()}
    return {
        group: {metric: dict(zip(keys[metric], values[metric][i], strict=True)) for metric in scores}
        for i, group in enumerate(np.unique(evaluation.patches[column].to_numpy(dtype=str)).tolist())
    }


def confusion(evaluation: Evaluation) -> dict[str, Any]:
    """Pixels (of classifications patches) and mm² by true (rows) and predicted class."""
    matrix = evaluation.confusions.sum(axis=0)
    area = matrix * (evaluation.mpp / 1000) ** 2 if evaluation.task == "segmentation" else None
    if not evaluation.multilabel:
        return {"pixels": matrix, "mm2": area}
    each = {name: {"pixels": matrix[i], "mm2": area[i]} for i, name in enumerate(evaluation.names) if area is not None}
    return {"pixels": None, "mm2": None, "each": each}


def _roc(evaluation: Evaluation, name: str) -> dict[str, Any]:
    fpr, tpr = evaluation.histogram.roc(name)
    return {"fpr": fpr, "tpr": tpr, "auc": evaluation.histogram.roc_auc()[name]}


def _precision_recall(evaluation: Evaluation, name: str) -> dict[str, Any]:
    recall, precision = evaluation.histogram.precision_recall(name)
    return {"recall": recall, "precision": precision, "ap": evaluation.histogram.average_precision()[name]}


def _shapes(evaluation: Evaluation, column: str) -> dict[str, tuple[NDArray[Any], Callable[[NDArray[Any]], ByMetric]]]:
    """Of outlines and of objects: counts (G, C, …) of each patient or slide, and the scores (…, C) of such counts."""
    known = ~np.isnan(evaluation.boundaries)
    distances = np.stack([np.where(known, evaluation.boundaries, 0), known], axis=-1)  # (N, C, 2, 2): sum and number

    def boundary(sums: NDArray[Any]) -> ByMetric:
        means = ratio(sums[..., 0], sums[..., 1])
        return {"hd95_um": means[..., 0], "assd_um": means[..., 1]}

    def objects(sums: NDArray[Any]) -> ByMetric:
        scores = object_scores(sums)
        return scores | {"hausdorff_um": scores.pop("hausdorff_px") * evaluation.mpp}

    return {
        "boundary": (evaluation.summed(column, distances), boundary),
        "objects": (evaluation.summed(column, evaluation.objects), objects),
    }


def _of_shapes(evaluation: Evaluation, counts: NDArray[Any], score: Callable[[NDArray[Any]], ByMetric]) -> Any:
    """Class → metric → value of counts (C, …)."""
    return {
        name: {metric: values[i] for metric, values in score(counts).items()}
        for i, name in enumerate(evaluation.names)
        if name != BACKGROUND_NAME
    }


def _shape_intervals(
    evaluation: Evaluation, counts: NDArray[Any], score: Callable[[NDArray[Any]], ByMetric], how: Mapping[str, int]
) -> dict[str, Any]:
    """Class → metric → its interval."""
    layout = [*score(counts.sum(axis=0))]
    found = bootstrap(counts, lambda sums: np.stack([*score(sums).values()], axis=-1), **how)
    return {
        name: {m: dict(zip(("value", "low", "high"), found[:, i, j], strict=True)) for j, m in enumerate(layout)}
        for i, name in enumerate(evaluation.names)
        if name != BACKGROUND_NAME
    }


def _outlined(evaluation: Evaluation) -> dict[str, dict[str, int]]:
    """Class → in how many patches its outlines were measured, of how many where it was drawn or predicted.

    Where it is on one side only there is no distance, so that a class that is missed everywhere has none.
    """
    counts = evaluation.confusions
    hits = counts[..., 1, 1] if evaluation.multilabel else np.diagonal(counts, axis1=1, axis2=2)
    there = counts[..., 1, :].sum(axis=-1) if evaluation.multilabel else counts.sum(axis=2)
    said = counts[..., :, 1].sum(axis=-1) if evaluation.multilabel else counts.sum(axis=1)
    somewhere = (there + said - hits > 0).sum(axis=0)
    measured = (~np.isnan(evaluation.boundaries[..., 0])).sum(axis=0)
    return {
        name: {"patches": measured[i], "of": somewhere[i]}
        for i, name in enumerate(evaluation.names)
        if name != BACKGROUND_NAME
    }


def plain(value: Any) -> Any:
    """Dictionaries, lists, numbers and texts; None for what is no finite number."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value

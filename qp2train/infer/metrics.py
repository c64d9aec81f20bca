"""Evaluation → metrics.json: every score as plain data, with intervals over patients."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qp2train.core.agreement import Floats, foreground_mean, mean_known
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


def metrics(evaluation: Evaluation, *, resamples: int, seed: int) -> dict[str, Any]:
    """The data of metrics.json; see docs of `Evaluation.to_dict`."""
    names = evaluation.names
    pooled, intervals = _pooled(evaluation, resamples=resamples, seed=seed)
    reliability = evaluation.reliability
    data: dict[str, Any] = plain(
        {
            "format": FORMAT,
            "task": evaluation.task,
            "model": evaluation.model,
            "split": evaluation.split,
            "mpp": evaluation.mpp,
            "classes": list(names),
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
            "boundary": _boundary(evaluation),
            "objects": _objects(evaluation),
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
        layout: list[tuple[str, list[str]]] = []

        def flat(sums: NDArray[Any]) -> Floats:
            found = score(sums)
            layout[:] = [(m, [*evaluation.names, "mean"] if v.ndim > 1 else ["all"]) for m, v in found.items()]
            return np.concatenate([_with_mean(evaluation, v) for v in found.values()], axis=1)

        values = bootstrap(counts, flat, resamples=resamples, seed=seed)
        keys = [(metric, key) for metric, of in layout for key in of]
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


def _with_mean(evaluation: Evaluation, values: Floats) -> Floats:
    """(R, C) → (R, C + 1) with the mean of the classes without background; (R,) → (R, 1)."""
    if values.ndim == 1:
        return values[:, None]
    return np.concatenate([values, foreground_mean(values, evaluation.names)[:, None]], axis=1)


def _patients(evaluation: Evaluation) -> dict[str, Scores]:
    """Patient → its scores, those of the curves as well."""
    found = _grouped(evaluation, "patient")
    for metric, values in _curve_scores(evaluation.histograms).items():
        for patient, row in zip(evaluation.patients, _with_mean(evaluation, values), strict=True):
            found[patient][metric] = dict(zip((*evaluation.names, "mean"), row, strict=True))
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


def _boundary(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Means over the patches in which a class has an outline on both sides."""
    means = mean_known(np.moveaxis(evaluation.boundaries, 0, -1))
    return {
        name: {"hd95_um": means[i, 0], "assd_um": means[i, 1]}
        for i, name in enumerate(evaluation.names)
        if name != BACKGROUND_NAME
    }


def _objects(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    scores = object_scores(evaluation.objects.sum(axis=0))
    far = scores.pop("hausdorff_px") * evaluation.mpp
    return {
        name: {metric: values[i] for metric, values in scores.items()} | {"hausdorff_um": far[i]}
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

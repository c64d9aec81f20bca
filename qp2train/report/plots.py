"""The report's plots, drawn from metrics.json and data.json alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from qp2train.report.svg import Bar, Line, Plot, range_of
from qp2train.report.traced import Traced, pointer

METRICS, DATA = "metrics.json", "data.json"
# What simulated clicks begin with, as an evaluation of prompts names it, and in words.
CLICKED = {
    "nothing": "from nothing",
    "jittered": "from nothing, clicks beside the centres",
    "wide": "from nothing, in a view twice as wide",
    "rough": "from a rough outline",
}


def threshold_plots(traced: Traced) -> Iterator[Plot]:
    """ROC and precision-recall curves, of the classes that have one."""
    roc = _curves(traced, "roc", ("fpr", "tpr"), "auc", "AUC")
    if roc:
        yield Plot(
            "ROC curve",
            "For each class the share of its pixels or patches that is found, against the share of all others that is "
            "taken for it, as the threshold falls. The nearer to the upper left corner the better; the diagonal is "
            "chance.",
            roc,
            x="false positive rate",
            y="true positive rate",
            diagonal=True,
        )
    pr = _curves(traced, "pr", ("recall", "precision"), "ap", "AP")
    if pr:
        yield Plot(
            "Precision and recall",
            "For each class the share of what is called so that really is (precision), against the share of it that is "
            "found (recall), as the threshold falls. The nearer to the upper right corner the better.",
            pr,
            x="recall",
            y="precision",
        )


def reliability_plot(traced: Traced) -> Plot | None:
    """Accuracy against confidence; None if calibration was not measured."""
    bins = traced.get(METRICS, "calibration", "bins")
    keys = ("confidence", "accuracy")
    points = _points(bins or (), *keys)
    if not points:
        return None
    bars = [
        Bar((i + 0.5) / len(bins), b["share"], pointer(METRICS, "calibration", "bins", i, "share"))
        for i, b in enumerate(bins)
        if b.get("share")
    ]
    return Plot(
        "Reliability",
        "How often the model is right, against how sure it says it is. On the diagonal both are equal; below it the "
        "model is too sure. Bars: the share of pixels or patches with such a confidence.",
        [Line("observed", points, pointer(METRICS, "calibration", "bins"), keys)],
        x="confidence",
        y="accuracy",
        bars=bars,
        bar_width=0.9 / len(bins),
        diagonal=True,
    )


def clicks_plot(traced: Traced) -> Plot | None:
    """Mean IoU after each click; None if the evaluation is not of prompts."""
    lines = [
        Line(said, points, pointer(METRICS, "curves", start), ("clicks", "iou"))
        for start, said in CLICKED.items()
        if (points := _points(traced.get(METRICS, "curves", start) or (), "clicks", "iou"))
    ]
    if not lines:
        return None
    return Plot(
        "IoU by clicks",
        "The mean IoU of the held-out objects after each simulated click: the sooner a line is high, the fewer clicks.",
        lines,
        x="clicks",
        y="IoU",
        x_range=range_of([x for line in lines for x, _ in line.points]),
        whole_x=True,
    )


def learning_plots(traced: Traced) -> Iterator[Plot]:
    """Loss, and scores of validation, over the epochs."""
    rows: Sequence[Mapping[str, Any]] = traced.get(DATA, "history") or ()
    names = sorted({key for row in rows for key, value in row.items() if isinstance(value, int | float)})
    losses = [n for n in names if n.endswith("/loss")]
    scores = [n for n in names if n.startswith("val/dice")] or [
        n for n in names if n.startswith("val/") and n not in losses
    ]
    for title, keys, y in (("Loss", losses, "loss"), ("Scores on the validation part", scores, "score")):
        lines = [
            Line(_said(key), points, pointer(DATA, "history"), ("epoch", key))
            for key in keys
            if (points := _points(rows, "epoch", key))
        ]
        if lines:
            xs, ys = ([p[i] for line in lines for p in line.points] for i in (0, 1))
            yield Plot(
                title,
                f"{title} after each epoch: {', '.join(line.name for line in lines)}.",
                lines,
                x="epoch",
                y=y,
                x_range=range_of(xs),
                y_range=range_of(ys, least=(0.0, 1.0) if y == "score" else (0.0, 0.0)),
                whole_x=True,
            )


def _curves(traced: Traced, kind: str, keys: tuple[str, str], area: str, said: str) -> list[Line]:
    lines = []
    for name, curve in (traced.get(METRICS, kind) or {}).items():
        pairs = zip(*((curve or {}).get(key) or () for key in keys), strict=False)
        points = [(x, y) for x, y in pairs if x is not None and y is not None]
        if points:
            number = Markup("{} {}").format(said, traced.number(METRICS, kind, name, area))
            lines.append(Line(name, points, pointer(METRICS, kind, name), keys, number))
    return lines


def _points(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> list[tuple[float, float]]:
    return [(row[x], row[y]) for row in rows if row.get(x) is not None and row.get(y) is not None]


def _said(key: str) -> str:
    """train/loss → training; val/dice → Dice, mean; val/dice/Tumor → Tumor."""
    stage, _, rest = key.partition("/")
    if rest == "loss":
        return {"train": "training", "val": "validation"}.get(stage, stage)
    metric, _, name = rest.partition("/")
    return name or ("mean of the classes" if metric == "dice" else metric.replace("_", " "))

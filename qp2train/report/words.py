"""What a report says in words: the metrics' names, the short version, and what to know before believing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qp2train.report.plots import DATA, METRICS
from qp2train.report.traced import Traced

# Metric → its name, and what it says to somebody who does not compute it.
SAID: Mapping[str, tuple[str, str]] = {
    "dice": ("Dice", "twice the common area, over the sum of the annotated and the predicted area"),
    "iou": ("IoU", "the common area over the area of both together (Jaccard index)"),
    "precision": ("Precision", "of what is predicted as the class, the share that really is"),
    "recall": ("Recall", "of what really is the class, the share that is found (sensitivity)"),
    "specificity": ("Specificity", "of what is not the class, the share that is not taken for it"),
    "f1": ("F1", "harmonic mean of precision and recall"),
    "roc_auc": ("ROC-AUC", "how well the class is told from the others over all thresholds; 0.5 is chance"),
    "pr_auc": ("PR-AUC", "precision averaged over recall; the share of the class is chance"),
    "accuracy": ("Accuracy", "share that is right; misleading where one class is most of it"),
    "balanced_accuracy": ("Balanced accuracy", "mean of the classes' recall"),
    "kappa": ("Cohen’s κ", "agreement beyond chance; 1 is perfect, 0 is chance"),
    "ece": ("Calibration error", "mean distance of confidence and accuracy (ECE); 0 is perfect"),
    "hd95_um": ("HD95, µm", "95 % of the outlines are nearer to each other than this"),
    "assd_um": ("ASSD, µm", "mean distance of the outlines"),
    "score": ("probability of its class", "what the model gives to the class that the patch really has"),
    "pq": ("PQ", "panoptic quality: objects found times how well they are outlined"),
    "sq": ("SQ", "how well the objects that are found are outlined: the mean IoU of matching objects"),
    "rq": ("RQ", "how many objects are found: F1 of objects that match with an IoU above 0.5"),
    "iou@1": ("IoU@1", "mean IoU after the first click"),
    "iou@3": ("IoU@3", "mean IoU after three clicks"),
    "iou@5": ("IoU@5", "mean IoU after five clicks"),
    "noc@80": ("NoC@80", "mean number of clicks to an IoU of 0.80; 20 where it is never reached"),
    "noc@85": ("NoC@85", "mean number of clicks to an IoU of 0.85; 20 where it is never reached"),
    "noc@90": ("NoC@90", "mean number of clicks to an IoU of 0.90; 20 where it is never reached"),
    "never": ("Never 0.85", "share of the objects that 20 clicks do not bring to an IoU of 0.85"),
    "hausdorff_um": (
        "Hausdorff, µm",
        "largest distance of outlines of matching objects; objects that were missed have none",
    ),
}
LOWER_IS_BETTER = frozenset({"ece", "hd95_um", "assd_um", "hausdorff_um", "noc@80", "noc@85", "noc@90", "never"})
BACKGROUND = "Background"
FEW_PATIENTS = 10
# One number for all: the first of these that was computed.
HEADLINES = {
    "segmentation": (("dice", "mean"), ("iou", "mean"), ("balanced_accuracy", "all")),
    "classification": (("balanced_accuracy", "all"), ("f1", "mean"), ("accuracy", "all")),
}
# Twice the same number, or one that is for areas.
LEFT_OUT = {"segmentation": frozenset({"f1"}), "classification": frozenset({"dice", "iou"})}

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Summary:
    """Where the sentences of the short version take their numbers from.

    Args:
        metric: The one number's metric and key: ("dice", "mean").
        best: The class with the highest score.
        worst: The class with the lowest; None if there is one class only.
        mistake: (true class, predicted class) as indices into `classes`: the largest share of a true class that is
            taken for another one.
        weakest: The patient with the lowest score; None with fewer than two.
    """

    metric: tuple[str, str]
    best: str | None
    worst: str | None
    mistake: tuple[int, int] | None
    weakest: str | None


def summary(traced: Traced) -> Summary | None:
    """None if there is no evaluation."""
    metric = headline(traced.get(METRICS) or {})
    if metric is None:
        return None
    per_class = metric[0] if metric[1] == "mean" else "recall"
    classes = [c for c in traced.get(METRICS, "classes") or () if c != BACKGROUND]
    scores = {c: v for c in classes if (v := traced.get(METRICS, "pooled", per_class, c)) is not None}
    ranked = sorted(scores, key=lambda c: -scores[c])
    patients = {
        p: v
        for p in traced.get(METRICS, "patients") or {}
        if (v := traced.get(METRICS, "patients", p, *metric)) is not None
    }
    return Summary(
        metric,
        ranked[0] if ranked else None,
        ranked[-1] if len(ranked) > 1 else None,
        _mistake(traced.get(METRICS, "confusion", "pixels") or ()),
        min(patients, key=lambda p: patients[p]) if len(patients) > 1 else None,
    )


def headline(metrics: Mapping[str, Any]) -> tuple[str, str] | None:
    """(metric, key) of the one number for all."""
    scores, known = metrics.get("pooled") or {}, HEADLINES.get(metrics.get("task", ""), ())
    return next(((m, k) for m, k in known if (scores.get(m) or {}).get(k) is not None), None)


def _mistake(rows: Any) -> tuple[int, int] | None:
    shares = {
        (i, j): n / sum(row) for i, row in enumerate(rows) if sum(row) for j, n in enumerate(row) if i != j and n > 0
    }
    return max(shares, key=lambda pair: shares[pair]) if shares else None


def warnings(traced: Traced) -> Iterator[str]:
    """What to know before believing the numbers, worst first."""
    metrics = traced.get(METRICS)
    if not metrics:
        yield (
            "There is no evaluation. Nothing in this report says how good the model is: score it on patients that it "
            "has not seen, with “qp2train evaluate RUN”, and write the report again."
        )
        return
    split = metrics.get("split")
    if split == "train":
        yield "These are the patches that the model learnt from. The numbers say nothing about new patients."
    elif split == "val":
        lacking = "" if "test" in (traced.get(DATA, "parts") or {}) else "There is no test part. "
        yield (
            f"{lacking}The patches scored here are those that training itself was watched by: its best epoch or its "
            "certainty were chosen on them, so the numbers are somewhat too good."
        )
    grouped_by = traced.get(DATA, "grouped_by") or ()
    if "patch" in grouped_by:
        yield (
            "The parts were divided by patch: neighbours of tested patches were learnt from. The numbers are too good."
        )
    elif "patient" not in grouped_by and grouped_by:
        yield f"The parts were divided by {' and '.join(grouped_by)}, not by patient."
    shared = traced.get(DATA, "shared_patients") or 0
    if shared:
        yield (
            f"{shared} {plural(shared, 'patient')} {'is' if shared == 1 else 'are'} in more than one part: what is "
            "scored was learnt from. The numbers are too good."
        )
    patients = len(metrics.get("patients") or {})
    if not has_intervals(traced):
        yield (
            f"There are no confidence intervals: they come from the differences between patients, and here "
            f"{'is one patient' if patients == 1 else 'are fewer than two'}."
        )
    elif patients < FEW_PATIENTS:
        yield (
            f"The intervals rest on {patients} patients. With fewer than {FEW_PATIENTS} a bootstrap interval tends to "
            "be too narrow."
        )


def has_intervals(traced: Traced) -> bool:
    """Whether any metric has one."""
    found = traced.get(METRICS, "intervals") or {}
    each = (interval for values in found.values() if isinstance(values, Mapping) for interval in values.values())
    return any(isinstance(interval, Mapping) and interval.get("low") is not None for interval in each)


def plural(count: int, noun: str) -> str:
    """1 patient, 2 patients, 2 patches."""
    if count == 1:
        return noun
    return f"{noun}es" if noun.endswith("ch") else f"{noun}s"

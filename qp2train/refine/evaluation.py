"""PromptEvaluation: how many clicks the outlines of held-out objects needed."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qp2train.core.clicks import ClickScores, iou
from qp2train.core.grouping import patients_of
from qp2train.core.intervals import bootstrap
from qp2train.core.labels import IGNORE
from qp2train.core.patches import PatchTable
from qp2train.errors import NoAnnotationError, PromptError
from qp2train.learn.models import Model
from qp2train.learn.objects import OBJECT, ObjectViews, objects_of
from qp2train.learn.promptsim import degraded, error_click, loose_box
from qp2train.refine.clicknet import ClickModel
from qp2train.refine.clicks import click_through
from qp2train.refine.prompts import Prompt, PromptModel

log = logging.getLogger(__name__)

FORMAT = 1
METRICS = "metrics.json"
# What the clicks begin with, as metrics.json and the report call it.
NOTHING, JITTERED, WIDE, ROUGH = "nothing", "jittered", "wide", "rough"
STARTS = (NOTHING, JITTERED, WIDE, ROUGH)
# How much wider the view of "wide" is.
WIDER = 2.0
TARGETS, AFTER = (0.80, 0.85, 0.90), (1, 3, 5)
# Side of the view in which an object is judged, whatever the model looks at.
VIEW_PX = 256
RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class PromptEvaluation:
    """Clicks on held-out objects, simulated.

    Args:
        model: The model's id.
        split: Which part of the patches the objects are of.
        objects: A row per object: its entry, slide, patient, class (label), annotation and middle (x, y in
            full-resolution px); rough = IoU of a degraded outline, alone = of what the model makes of it without
            a click, refined = with one click on what is wrong; box = IoU for a loose box.
        curves: What clicking began with ("nothing"; "jittered": from nothing, clicks beside the errors' centres;
            "wide": from nothing, in a view twice as wide;
            "rough": from a degraded outline) → (objects, 21) IoU before the first click and after each.
    """

    model: str
    split: str
    objects: pd.DataFrame
    curves: Mapping[str, NDArray[np.float64]]

    # What the table is of.
    title = "Clicks on objects"

    def table(self) -> pd.DataFrame:
        """Scores (columns) of each way to begin (rows)."""
        pooled = self.to_dict()["pooled"]
        names = list(next(iter(pooled.values())))
        return pd.DataFrame({start: [pooled[start][n] for n in names] for start in STARTS}, index=names).T

    def to_dict(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
        """All scores as plain data, with 95 % intervals over patients: what `save` writes as metrics.json.

        NoC@85: mean clicks to an IoU of 0.85, 20 where it is never reached.
        """
        patients = self.objects["patient"].astype(str)
        order = sorted(set(patients))
        pooled, intervals, each = dict[str, Any](), dict[str, Any](), {p: dict[str, Any]() for p in order}
        for kind, scores in self._scores().items():
            pooled[kind] = {name: float(values.mean()) for name, values in scores.items()}
            intervals[kind] = {}
            for name, values in scores.items():
                counts = np.array([[values[patients == p].sum(), (patients == p).sum()] for p in order], np.float64)
                low, high = bootstrap(counts, _mean, resamples=resamples, seed=seed)[1:]
                intervals[kind][name] = None if np.isnan(low) else {"low": float(low), "high": float(high)}
                for p, (total, count) in zip(order, counts, strict=True):
                    each[p].setdefault(kind, {})[name] = float(total / count)
        return {
            "format": FORMAT,
            "task": "prompted",
            "model": self.model,
            "split": self.split,
            "scored": {
                "patients": len(order),
                "slides": int(self.objects["slide"].nunique()),
                "objects": len(self.objects),
            },
            "pooled": pooled,
            "intervals": {**intervals, "resamples": resamples, "patients": len(order)},
            "patients": each,
            "curves": {
                start: [{"clicks": k, "iou": float(v)} for k, v in enumerate(curve.mean(axis=0))]
                for start, curve in self.curves.items()
            },
            "clicked": self.objects.to_dict(orient="records"),
        }

    def save(self, folder: str | Path) -> Path:
        """Write `metrics.json`. Returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / f".{METRICS}.new"  # a full disk leaves what was there
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        new.write_text(text + "\n", encoding="utf-8")
        os.replace(new, folder / METRICS)
        return folder

    def _scores(self) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Way to begin, or kind of prompt → score → (objects,)."""
        found = {start: _of_clicks(ClickScores(self.curves[start])) for start in STARTS}
        given = {name: self.objects[name].to_numpy(np.float64) for name in ("box", "rough", "alone", "refined")}
        found["box"] = {"iou": given["box"]}
        found["refinement"] = {
            "before": given["rough"],
            "alone": given["alone"],
            "after": given["refined"],
            "gain": given["refined"] - given["rough"],
        }
        return found

    def __repr__(self) -> str:
        part = f", {self.split}" if self.split else ""
        patients = self.objects["patient"].nunique()
        return f"PromptEvaluation({self.model!r}{part}: {len(self.objects)} objects of {patients} patients)"


def evaluate_prompts(
    model: Model | PromptModel, table: PatchTable, *, most: int = 1000, seed: int = 0, device: str = "auto"
) -> PromptEvaluation:
    """Click on the held-out objects of a table until their outlines are right, 20 times each at most.

    Each object is shown as 256 × 256 pixels with 40 % more round it. A click is at the centre of the largest region
    that is wrong, where anything is known; the answer with the highest predicted IoU goes into the next prompt.

    Args:
        model: A trained model of the task "prompted", or anything else that answers prompts.
        table: Held-out patches; the objects are those on their slides.
        most: Of more objects so many are drawn.
        seed: Of that draw, of degraded outlines, loose boxes and clicks beside the centre.
        device: "auto", "cpu", "cuda", … of a trained model.

    Raises:
        NoAnnotationError: No object is outlined, or none can be seen.
        PromptError: The model is of another task, or `most` is below 1.
    """
    if most < 1:
        raise PromptError(f"most must be at least 1, not {most}")
    answering = ClickModel(model, device=device) if isinstance(model, Model) else model
    objects = objects_of(table)
    views = ObjectViews(objects, VIEW_PX)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(objects))[:most])
    if len(chosen) < len(objects):
        log.info("%d of %d objects are clicked on", len(chosen), len(objects))
    curves: dict[str, list[list[float]]] = {start: [] for start in STARTS}
    of_entry = patients_of(table.slides.values(), table.grouped_by)
    rows = []
    for i in chosen:
        image, mask = views.read(int(i), objects.view(int(i)), VIEW_PX)
        truth, known = mask == OBJECT, mask != IGNORE
        wide_image, mask = views.read(int(i), objects.view(int(i), scale=WIDER), VIEW_PX)
        wide_truth, wide_known = mask == OBJECT, mask != IGNORE
        if not (truth.any() and wide_truth.any()):  # thinner than a pixel, or ignored
            continue
        view, own = answering.encode(image), np.random.default_rng([seed, int(i)])
        rough = degraded(truth, own)
        click = error_click(rough, truth, known, own)
        points = [] if click is None else [click[:2]]
        refined = view.predict(Prompt(points, [] if click is None else [click[2]], mask=rough))[0].mask
        alone = view.predict(Prompt(mask=rough))[0].mask
        boxed = view.predict(Prompt(box=loose_box(truth, own)))[0].mask
        curves[NOTHING].append(click_through(view, truth, valid=known))
        curves[JITTERED].append(click_through(view, truth, valid=known, rng=own))
        curves[WIDE].append(click_through(answering.encode(wide_image), wide_truth, valid=wide_known))
        curves[ROUGH].append(click_through(view, truth, valid=known, start=rough))
        row = objects.table.rows.iloc[int(i)]
        ref = table.slides[row["entry"]]
        rows.append(
            {
                "entry": ref.entry,
                "slide": ref.name,
                "patient": of_entry.get(ref.entry) or row["group"] or ref.entry,
                "label": row["label"],
                "annotation": row["annotation"],
                "x": float(row["x"]),
                "y": float(row["y"]),
                "rough": iou(rough, truth, valid=known),
                "alone": iou(alone, truth, valid=known),
                "refined": iou(refined, truth, valid=known),
                "box": iou(boxed, truth, valid=known),
            }
        )
    if not rows:
        raise NoAnnotationError(
            f"none of {len(objects)} objects can be seen at {VIEW_PX} px, so that none was clicked on"
        )
    clicked = {start: ClickScores.of(found).curves for start, found in curves.items()}
    split = set(table.rows["split"])
    return PromptEvaluation(answering.id, split.pop() if len(split) == 1 else "", pd.DataFrame(rows), clicked)


def _of_clicks(scores: ClickScores) -> dict[str, NDArray[np.float64]]:
    """Score → (objects,)."""
    found = {f"iou@{k}": np.asarray(scores.curves[:, k], np.float64) for k in AFTER}
    for target in TARGETS:
        found[f"noc@{round(100 * target)}"] = scores.clicks_each(target)
    found["never"] = scores.never_each().astype(np.float64)
    return found


def _mean(sums: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(sums[..., 0] / sums[..., 1], np.float64)

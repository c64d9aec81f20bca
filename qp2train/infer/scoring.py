"""Tally: predictions of patches, one after the other → an Evaluation. Memory holds counts, never pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import entr, logit

from qp2train.core.agreement import foreground_mean
from qp2train.core.boundary import boundary_distance
from qp2train.core.calibration import BINS as RELIABILITY_BINS
from qp2train.core.calibration import Reliability
from qp2train.core.confusion import Confusion
from qp2train.core.curves import BINS, ScoreHistogram, graded
from qp2train.core.grouping import patients_of
from qp2train.core.labels import BACKGROUND_NAME, IGNORE
from qp2train.core.patches import PatchTable
from qp2train.infer.evaluation import Evaluation, Task
from qp2train.infer.objects import ObjectCounts, components

# Of a patch with more objects of a class no Hausdorff distance is measured: it is noise, and would take minutes.
MOST_OBJECTS = 200

Probabilities = NDArray[np.floating]


class Tally:
    """Counts the predictions of a table's patches, in row order.

    Args:
        table: The patches.
        names: Class names by index.
        rows: (N,) which rows these are of the table that was asked for.
        task: "segmentation" or "classification".
        multilabel: Classes may overlap: probabilities and truths are one per class, none for background.
        boundary: Measure outlines; takes two distance transforms per patch and class.
        objects: Count connected parts of each class, and measure their distances.
    """

    def __init__(
        self,
        table: PatchTable,
        names: Sequence[str],
        *,
        rows: NDArray[np.intp],
        task: Task = "segmentation",
        multilabel: bool = False,
        boundary: bool = True,
        objects: bool = True,
    ) -> None:
        self.table, self.names, self.task, self.multilabel = table, tuple(names), task, multilabel
        self._rows = rows
        self._measured = [i for i, n in enumerate(names) if n != BACKGROUND_NAME and task == "segmentation"]
        self._boundary, self._objects = boundary, objects
        of_entry = patients_of(table.slides.values(), table.grouped_by)
        groups = zip(table.rows["entry"], table.rows["group"].astype(str), strict=True)
        by_hand = table.grouped_by != ("patch",)  # whose groups are patches
        self._patients = [of_entry.get(entry) or (group if by_hand else str(entry)) for entry, group in groups]
        places = {p: i for i, p in enumerate(sorted(set(self._patients)))}
        self._place = [places[p] for p in self._patients]
        n, c = len(table), len(names)
        self.confusions = np.zeros((n, c, 2, 2) if multilabel else (n, c, c), dtype=np.int64)
        self.histograms = np.zeros((len(places), c, 2, BINS), dtype=np.int64)
        self.reliabilities = np.zeros((len(places), 3, RELIABILITY_BINS))
        self.boundaries = np.full((n, c, 2), np.nan)
        self.objects = np.zeros((n, c, len(fields(ObjectCounts))))
        self.uncertainty, self.score = np.full(n, np.nan), np.full(n, np.nan)
        self.row = 0

    def add(
        self, truth: NDArray[np.integer], probabilities: Probabilities, log_odds: Probabilities | None = None
    ) -> None:
        """Count the next patch.

        Args:
            truth: (H, W) label indices, or a number of a whole patch; 255 = ignored. With `multilabel` (C, H, W) of
                0, 1 and 255.
            probabilities: (C, H, W), or (C,) of a whole patch.
            log_odds: Likewise, of each class against all others; None = those of the probabilities, which cannot tell
                a sure prediction from a surer one.
        """
        grades = graded(logit(probabilities) if log_odds is None else log_odds)
        row, place = self.row, self._place[self.row]
        self.row += 1
        if self.multilabel:
            self._add_flags(row, place, truth, probabilities, grades)
            return
        said = probabilities.argmax(axis=0)
        self.confusions[row] = Confusion.of(truth, said, self.names).matrix
        self.histograms[place] += ScoreHistogram.of(truth, grades, self.names).counts
        self.reliabilities[place] += Reliability.of(truth, probabilities).sums
        # In bits over log2(C), the base does not matter: 1 = all classes are equally likely.
        self.uncertainty[row] = entr(probabilities).sum(axis=0).mean() / np.log(len(self.names))
        if self.task == "classification":
            self.score[row] = probabilities[int(truth)]
        for value in self._measured:
            self._measure(row, value, truth, said, value)

    def evaluation(self, *, model: str, temperature: float) -> Evaluation:
        """What was counted."""
        assert self.row == len(self.table), "every patch is to be counted once"
        rows = self.table.rows
        split = set(rows["split"])
        found = Evaluation(
            self.task,
            model,
            split.pop() if len(split) == 1 else "",
            self.names,
            self.table.mpp,
            temperature,
            self._patches(),
            self.confusions,
            self.histograms,
            self.reliabilities,
            self.boundaries,
            self.objects,
        )
        found.patches["dice"] = foreground_mean(found.class_scores(self.confusions)["dice"], self.names)
        return found

    def _patches(self) -> pd.DataFrame:
        rows = self.table.rows
        return pd.DataFrame(
            {
                "row": self._rows,
                "entry": rows["entry"].astype(str).to_numpy(),
                "slide": [slide_keys(self.table)[e] for e in rows["entry"]],
                "patient": self._patients,
                "x": rows["x"].to_numpy(),
                "y": rows["y"].to_numpy(),
                "dice": np.nan,
                "score": self.score,
                "uncertainty": self.uncertainty,
            }
        )

    def _add_flags(
        self, row: int, place: int, truth: NDArray[np.integer], probabilities: Probabilities, grades: Probabilities
    ) -> None:
        """A patch whose classes may overlap: each is told from all else."""
        for value, (flags, p, grade) in enumerate(zip(truth, probabilities, grades, strict=True)):
            said = (p > 0.5).astype(np.uint8)
            self.confusions[row, value] = Confusion.of(flags, said, ("not", "yes")).matrix
            counted = flags != IGNORE
            there, p_there = flags[counted] == 1, p[counted]
            self.histograms[place, value] += ScoreHistogram.of_flags(
                there[None], grade[None, counted], ("yes",)
            ).counts[0]
            right = (p_there > 0.5) == there
            self.reliabilities[place] += Reliability.of_hits(np.maximum(p_there, 1 - p_there), right).sums
            self._measure(row, value, flags, said, 1)
        self.uncertainty[row] = (entr(probabilities) + entr(1 - probabilities)).mean() / np.log(2)

    def _measure(self, row: int, index: int, truth: NDArray[np.integer], said: NDArray[np.integer], value: int) -> None:
        """Outlines and objects of one class of a patch, in what is annotated of it."""
        there, predicted = truth == value, (said == value) & (truth != IGNORE)
        if self._boundary:
            self.boundaries[row, index] = boundary_distance(truth, said, value, mpp=self.table.mpp)
        if self._objects:
            counts: tuple[Any, ...] = astuple(
                ObjectCounts.of(components(predicted), components(there), most=MOST_OBJECTS)
            )
            self.objects[row, index] = counts


def slide_keys(table: PatchTable) -> dict[str, str]:
    """Entry id → the slide's name, with the id where several slides have that name."""
    names = {entry: ref.name for entry, ref in table.slides.items()}
    count = pd.Series(names).value_counts()
    return {e: name if count[name] == 1 else f"{name} ({e})" for e, name in names.items()}

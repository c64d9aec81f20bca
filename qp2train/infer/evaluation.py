"""Evaluation: what was counted of a model's predictions, patch by patch, and the scores of it."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal, Self
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qp2train.core.agreement import Floats, class_scores, foreground_mean, mean_known, overall_scores
from qp2train.core.calibration import Reliability
from qp2train.core.confusion import Confusion
from qp2train.core.curves import ScoreHistogram
from qp2train.errors import EvaluationError
from qp2train.infer.metrics import FORMAT, confusion, metrics, plain, text

Task = Literal["segmentation", "classification"]

METRICS, COUNTS = "metrics.json", "counts.npz"
PATCH_COLUMNS = ("row", "entry", "slide", "patient", "x", "y", "dice", "score", "uncertainty")
_UNREADABLE = (
    OSError,
    EOFError,
    BadZipFile,
    zlib.error,
    TokenError,  # of numpy's parser of headers
    SyntaxError,
    NotImplementedError,
    LookupError,
    TypeError,
    ValueError,
)
_ARRAYS = ("confusions", "histograms", "reliabilities", "boundaries", "objects")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model made of held-out patches. All scores follow from these counts, and counts add up.

    Args:
        task: "segmentation": pixels were counted; "classification": patches.
        model: The model's id; of several models' pooled patches all of them.
        split: Which part of the patches: "test", …; empty if they were of none, or of several.
        names: Class names by index. Background has none where classes may overlap.
        mpp: µm per pixel.
        temperature: By which the logits were divided.
        patches: A row per patch: its number in the table, its entry, slide, patient and corner (full-resolution px);
            dice = mean Dice of its classes; score = probability of its class, of classifications; uncertainty = mean
            entropy of its pixels, as a share of the largest possible, annotated or not.
        confusions: (N, C, C), a confusion per patch; where classes may overlap (N, C, 2, 2), one per class.
        histograms: (P, C, 2, bins), a `ScoreHistogram` per patient, in the order of `patients`.
        reliabilities: (P, 3, bins), a `Reliability` per patient.
        boundaries: (N, C, 2): HD95 and ASSD in µm of each patch and class, NaN where there is none.
        objects: (N, C, 13): `ObjectCounts` of each patch and class.
    """

    task: Task
    model: str
    split: str
    names: tuple[str, ...]
    mpp: float
    temperature: float
    patches: pd.DataFrame
    confusions: NDArray[np.int64]
    histograms: NDArray[np.int64]
    reliabilities: Floats
    boundaries: Floats
    objects: Floats

    # What the table is of.
    title = "Dice"

    @cached_property
    def patients(self) -> tuple[str, ...]:
        """The patients (or slides, where the table knows no patients), sorted."""
        return tuple(sorted(set(self.patches["patient"])))

    @property
    def multilabel(self) -> bool:
        """Whether classes may overlap, so that each has a confusion of its own."""
        return self.confusions.ndim == 4

    @property
    def groups(self) -> Mapping[str, Confusion]:
        """Patient → its confusion.

        Raises:
            EvaluationError: Classes may overlap.
        """
        return {p: self._confusion(m) for p, m in zip(self.patients, self.by_patient(), strict=True)}

    @property
    def pooled(self) -> Confusion:
        """All pixels (or patches) together.

        Raises:
            EvaluationError: Classes may overlap.
        """
        return self._confusion(self.confusions.sum(axis=0))

    def by_patient(self) -> NDArray[np.int64]:
        """(P, C, C) or (P, C, 2, 2): the confusions of each patient's patches together."""
        return self.summed("patient", self.confusions)

    def summed(self, column: str, values: NDArray[Any]) -> NDArray[Any]:
        """(G, …): sums of (N, …) over the patches that share a value of a column, the values sorted."""
        keys, place = np.unique(self.patches[column].to_numpy(dtype=str), return_inverse=True)
        out = np.zeros((len(keys), *values.shape[1:]), dtype=values.dtype)
        np.add.at(out, place, values)
        return out

    def class_scores(self, confusions: NDArray[Any]) -> dict[str, Floats]:
        """Score → (…, C) of confusions (…) + those of a patch, see `agreement.class_scores`."""
        scores = class_scores(confusions)
        return {k: v[..., 1] for k, v in scores.items()} if self.multilabel else scores

    def overall_scores(self, confusions: NDArray[Any]) -> dict[str, Floats]:
        """Score → (…), see `agreement.overall_scores`; the mean over the classes where they may overlap."""
        scores = overall_scores(confusions)
        if not self.multilabel:
            return scores
        # Of a class that is nowhere, the share of right pixels is no balanced accuracy.
        there = confusions[..., 1, :].sum(axis=-1) > 0
        scores["balanced_accuracy"] = np.where(there, scores["balanced_accuracy"], np.nan)
        return {k: mean_known(v) for k, v in scores.items()}

    @property
    def histogram(self) -> ScoreHistogram:
        """The scores of all patients together."""
        return ScoreHistogram(self.histograms.sum(axis=0), self.names)

    @property
    def reliability(self) -> Reliability:
        """The confidences of all patients together."""
        return Reliability(self.reliabilities.sum(axis=0))

    def table(self) -> pd.DataFrame:
        """Dice per class (columns) and patient (rows), and of all pixels (or patches) together (last row)."""
        confusions = np.concatenate([self.by_patient(), self.confusions.sum(axis=0, keepdims=True)])
        dice = self.class_scores(confusions)["dice"]
        last = "all pixels" if self.task == "segmentation" else "all patches"
        frame = pd.DataFrame(dice, index=[*self.patients, last], columns=list(self.names))
        frame["mean"] = foreground_mean(dice, self.names)
        return frame

    def to_dict(self, *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """All scores as plain data, with 95 % intervals over patients: what `save` writes as metrics.json.

        What cannot be computed is None.

        Args:
            resamples: Draws of patients.
            seed: Of these draws.
        """
        return metrics(self, resamples=resamples, seed=seed)

    def save(self, folder: str | Path) -> Path:
        """Write `metrics.json`, for people and other programs, and `counts.npz`, for `load`. Returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        counts = io.BytesIO()
        np.savez_compressed(counts, **{name: getattr(self, name) for name in _ARRAYS})
        for name, data in ((COUNTS, counts.getvalue()), (METRICS, text(self.to_dict()).encode())):
            new = folder / f".{name}.new"  # a full disk leaves what was there
            new.write_bytes(data)
            os.replace(new, folder / name)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote. Nothing is unpickled.

        Raises:
            EvaluationError: There is none, it is of a newer format, or its two files do not belong together.
        """
        folder = Path(folder)
        try:
            data = json.loads((folder / METRICS).read_text(encoding="utf-8"))
            if data["task"] == "prompted":
                raise EvaluationError(
                    f"{folder} says how many clicks objects needed: its {METRICS} is to be read as it is"
                )
            with np.load(io.BytesIO((folder / COUNTS).read_bytes()), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in _ARRAYS}
            if data["format"] > FORMAT:
                raise EvaluationError(f"{folder} was written by a newer qp2train (format {data['format']}); update it")
            task, model, split = data["task"], data["model"], data["split"]
            rows = pd.DataFrame(data["patches"])
            rows = rows[[*PATCH_COLUMNS, *(c for c in rows.columns if c not in PATCH_COLUMNS)]].astype(
                {"row": int} | dict.fromkeys(("x", "y", "dice", "score", "uncertainty"), float)
            )
            temperature = float(data["calibration"]["temperature"])
            found = cls(task, model, split, tuple(data["classes"]), float(data["mpp"]), temperature, rows, **arrays)
        except FileNotFoundError as error:
            raise EvaluationError(f"{folder} holds no evaluation: {METRICS} or {COUNTS} is missing") from error
        except _UNREADABLE as error:
            if isinstance(error, EvaluationError):
                raise
            raise EvaluationError(f"{folder} does not hold a readable evaluation: {error}") from error
        lengths = {"confusions": len(rows), "boundaries": len(rows), "objects": len(rows)}
        lengths |= dict.fromkeys(("histograms", "reliabilities"), len(found.patients))
        if any(len(arrays[name]) != n for name, n in lengths.items()) or plain(confusion(found)) != data["confusion"]:
            raise EvaluationError(f"{folder}: {METRICS} and {COUNTS} are not of the same evaluation; evaluate again")
        return found

    def _confusion(self, matrix: NDArray[np.int64]) -> Confusion:
        if self.multilabel:
            raise EvaluationError("overlapping classes have no common confusion; their scores are in to_dict()")
        return Confusion(matrix, self.names)

    def __repr__(self) -> str:
        part = f", {self.split}" if self.split else ""
        return f"Evaluation({self.model!r}{part}: {len(self.patches)} patches of {len(self.patients)} patients)"

    def __str__(self) -> str:
        return self.table().to_string(float_format=lambda v: f"{v:.3f}")

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format=lambda v: f"{v:.3f}")

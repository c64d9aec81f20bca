"""Predictions against annotations: per patch, slide and patient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from qp2train.core.annotation import Annotation
from qp2train.core.confusion import Confusion
from qp2train.core.geometry import Box
from qp2train.core.labels import IGNORE, LabelMap
from qp2train.core.patches import PatchTable
from qp2train.errors import ModelError, NoAnnotationError
from qp2train.infer.predict import choose_device
from qp2train.learn.data import plain_loader
from qp2train.learn.models import Model
from qp2train.sampling.mask import Painter


@dataclass(frozen=True)
class Evaluation:
    """Pixel scores of a model on held-out patches.

    Args:
        groups: Patient (or slide) → its confusion.
    """

    groups: Mapping[str, Confusion]

    @property
    def pooled(self) -> Confusion:
        """All pixels together."""
        first, *rest = self.groups.values()
        return sum(rest, start=first)

    def table(self) -> pd.DataFrame:
        """Dice per class (columns) and group (rows), and of all pixels together (last row)."""
        rows = {**{g: c.dice() for g, c in self.groups.items()}, "all pixels": self.pooled.dice()}
        frame = pd.DataFrame(rows).T
        frame["mean"] = [c.mean_dice() for c in (*self.groups.values(), self.pooled)]
        return frame

    def __str__(self) -> str:
        return self.table().to_string(float_format=lambda v: f"{v:.3f}")

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format=lambda v: f"{v:.3f}")


def evaluate(model: Model, table: PatchTable, *, batch_size: int = 8, device: str = "auto") -> Evaluation:
    """Score a model on the patches of a table. Ignored pixels do not count; overlapping patches count twice.

    Raises:
        ModelError: The table has other classes, or another resolution, than the model.
        NoAnnotationError: The table is empty.
    """
    if table.labels.names != model.labels.names or abs(table.mpp / model.mpp - 1) > 0.01:
        raise ModelError(
            f"the model predicts {', '.join(model.labels.classes)} at {model.mpp:g} µm/px, but the patches are of "
            f"{', '.join(table.labels.classes)} at {table.mpp:g} µm/px"
        )
    if len(table) == 0:
        raise NoAnnotationError("there is no patch to evaluate on")
    chosen = choose_device(device)
    net = model.net.to(chosen).eval()
    group = table.rows["group"].tolist()
    found: dict[str, Confusion] = {}
    row = 0
    with torch.inference_mode():
        for pixels, masks in plain_loader(table, batch_size=batch_size):
            predicted = net(pixels.to(chosen).contiguous()).argmax(dim=1).cpu().numpy()
            for mask, guess in zip(masks.numpy(), predicted, strict=True):
                counts = Confusion.of(mask, guess, model.labels.names)
                found[group[row]] = found.get(group[row], Confusion.empty(model.labels.names)) + counts
                row += 1
    return Evaluation(dict(sorted(found.items())))


def compare(
    predicted: Iterable[Annotation],
    truth: Iterable[Annotation],
    labels: LabelMap,
    *,
    box: Box,
    downsample: float = 1.0,
    band: int = 2048,
) -> Confusion:
    """Paint predicted and true annotations and count their pixels, in bands of rows.

    Where the truth says nothing (255), nothing counts; where no object was predicted, background was.

    Args:
        predicted: A model's annotations.
        truth: A human's.
        labels: Class → pixel value, for both.
        box: What to compare, in full-resolution pixels.
        downsample: Full-resolution pixels per compared pixel.
        band: Rows of compared pixels per step.
    """
    guess, true = Painter(predicted, labels), Painter(truth, labels)
    total = Confusion.empty(labels.names)
    width, height = max(1, round(box.width / downsample)), max(1, round(box.height / downsample))
    row_px = box.height / height
    for top in range(0, height, band):
        rows = min(band, height - top)
        part = Box(box.x, box.y + top * row_px, box.width, rows * row_px)
        said = guess.paint(part, (width, rows))
        total += Confusion.of(true.paint(part, (width, rows)), np.where(said == IGNORE, 0, said), labels.names)
    return total

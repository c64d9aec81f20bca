"""Annotated images as one can write them down: a letter is a pixel."""

from __future__ import annotations

import numpy as np
import shapely
from fakes import FakeEntry
from scipy.ndimage import label

from qp2train import Annotation, LabelMap

CLASSES = {"T": "Tumor", "S": "Stroma", "I": "Ignore*"}
LABELS = LabelMap(["Tumor", "Stroma"])
REGION = Annotation(shapely.box(0, 0, 6, 6), "Region*", id="region")


def sketch(text: str, *more: Annotation, id: str = "a", kind: str = "annotation", **about: object) -> FakeEntry:
    """Every connected part of a letter is one annotation, named by letter and number: T1, T2, S1. "." is nothing."""
    field = np.array([list(line) for line in text.split()])
    drawn = list(more)
    for letter in CLASSES:
        parts, count = label(field == letter)
        for i in range(1, count + 1):
            pixels = [shapely.box(x, y, x + 1, y + 1) for y, x in np.argwhere(parts == i)]
            drawn.append(Annotation(shapely.union_all(pixels), CLASSES[letter], id=f"{letter}{i}", kind=kind))
    return FakeEntry(id, drawn, np.full((*field.shape, 3), 255, np.uint8), **about)


def places(table, label: str | None = None) -> list[tuple[float, float]]:
    """(x, y) of the patches (of a label), in order."""
    rows = table.rows if label is None else table.rows[table.rows["label"] == label]
    return [(float(x), float(y)) for x, y in zip(rows["x"], rows["y"], strict=True)]

"""A small patch table over two pictures, to export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from fakes import square, write_png

from qp2train import Annotation, LabelMap, PatchTable
from qp2train.core.patches import COLUMNS, SlideRef

SIDE = 8
LABELS = LabelMap(["Stroma", "Tumor"], colors={"Stroma": (0, 200, 0), "Tumor": (200, 0, 0)})
RING = shapely.Polygon(shapely.box(0, 0, 8, 8).exterior, [shapely.box(2, 2, 6, 6).exterior])


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 32, 3)).astype(np.uint8)


def small_table(folder: Path, rows: Sequence[tuple] | None = None, *, mpp: float = 0.5, **more) -> PatchTable:
    """Two slides of 32×24 px at 0.5 µm; patches of 8 px. Rows are (entry, x, y, label, annotation, split).

    Slide A: Region* over its left half, in it a Tumor (0–8 × 0–8 with a hole 2–6 × 2–6) named "core", and a Stroma
    without a name below a Tumor named "edge". Slide B: a Stroma named "fibres", and an Ignore* in it.
    """
    drawn = {
        "a": [
            square(0, 0, 16, "Region*", id="region"),
            Annotation(RING, "Tumor", id="ring", name="core"),
            Annotation(shapely.box(8, 0, 16, 8), "Tumor", id="over", name="edge"),
            Annotation(shapely.box(9, 1, 12, 5), "Stroma", id="under", parent="over"),
        ],
        "b": [
            Annotation(shapely.box(0, 0, 20, 20), "Stroma", id="fibres", name="fibres"),
            Annotation(shapely.box(4, 4, 8, 8), "Ignore*", id="fold"),
        ],
    }
    slides = {
        entry: SlideRef(
            entry,
            f"Case {entry.upper()}.svs",
            str(write_png(folder / f"{entry}.png", picture(ord(entry)))),
            0.5,
            (32, 24),
            {"patient": f"P{entry}"},
            tuple(drawn[entry]),
        )
        for entry in drawn
    }
    rows = rows or [
        ("a", 0, 0, "Tumor", "ring", "train"),
        ("b", 0, 0, "Stroma", "fibres", "val"),
        ("a", 8, 0, "Stroma", "under", "train"),
        ("a", 12, 12, "Background", "", "train"),
    ]
    frame = pd.DataFrame(
        [(e, x, y, label, a, 1.0, f"P{e}", split, 0.25) for e, x, y, label, a, split in rows], columns=list(COLUMNS)
    ).astype(COLUMNS)
    return PatchTable(frame, slides, more.pop("labels", LABELS), SIDE, mpp)

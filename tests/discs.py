"""Pictures in which the colour of one disc says the class: red in "Tumor", blue in "Stroma", none in the background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from fakes import BLUE, RED, square, write_png

from qp2train import LabelMap, PatchTable
from qp2train.core.patches import COLUMNS, SlideRef

SIDE, RADIUS = 48, 9
LABELS = LabelMap(["Stroma", "Tumor"])
COLOURS = {"Stroma": BLUE, "Tumor": RED}


def tile(label: str, rng: np.random.Generator, centre: tuple[int, int] | None = None) -> np.ndarray:
    """SIDE × SIDE × 3 of pale noise with a disc, its centre (x, y) anywhere inside."""
    picture = np.full((SIDE, SIDE, 3), 225.0)
    if label in COLOURS:
        x, y = centre or tuple(int(v) for v in rng.integers(RADIUS, SIDE - RADIUS, 2))
        rows, columns = np.ogrid[:SIDE, :SIDE]
        picture[(columns - x) ** 2 + (rows - y) ** 2 <= RADIUS**2] = COLOURS[label]
    return np.clip(picture + rng.normal(0, 8, picture.shape), 0, 255).astype(np.uint8)


def disc_table(folder: Path, labels: list[str], *, slides: int = 2, seed: int = 0, context: tuple = ()) -> PatchTable:
    """Slides of one row of tiles each; `labels` are those of each slide's tiles."""
    rng = np.random.default_rng(seed)
    refs, rows = {}, []
    for n in range(slides):
        array = np.concatenate([tile(label, rng) for label in labels], axis=1)
        path = write_png(folder / f"{n}.png", array)
        drawn = [square(SIDE * i, 0, SIDE, label) for i, label in enumerate(labels) if label in LABELS.classes]
        drawn.append(square(0, 0, SIDE * len(labels), "Region*"))
        size = (array.shape[1], array.shape[0])
        refs[f"s{n}"] = SlideRef(f"s{n}", f"{n}.png", str(path), 1.0, size, {}, drawn)
        rows += [(f"s{n}", SIDE * i, 0, label, "", 1.0, f"s{n}", "", 1.0) for i, label in enumerate(labels)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return PatchTable(frame, refs, LABELS, SIDE, 1.0, context)

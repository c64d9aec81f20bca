"""Look at a patch table before training on it."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from qp2train.core.patches import PatchTable
from qp2train.report.figures import contact_sheet
from qp2train.sampling.mask import Painter
from qp2train.slides import open_slide


def contact_sheet_of(table: PatchTable, *, count: int = 32, columns: int = 8, seed: int = 0) -> Figure:
    """Patches of a table with their masks laid over: as many of each class as there is room for.

    Args:
        table: Where from.
        count: Patches shown, at most.
        columns: Per row.
        seed: Which ones.
    """
    rng = np.random.default_rng(seed)
    labels = table.rows["label"].to_numpy()
    names = sorted(set(labels))
    each = max(1, count // max(1, len(names)))
    rows = [i for n in names for i in rng.permutation(np.flatnonzero(labels == n))[:each]]
    shown = []
    for i in rows[:count]:
        entry, box = table.slides[table.rows["entry"].iloc[i]], table.box(int(i))
        with open_slide(entry.path, mpp=entry.mpp, view=entry.view) as slide:
            picture = slide.read(box, (table.size_px, table.size_px))
        mask = Painter(entry.annotations, table.labels, slide_size=entry.size).paint(
            box, (table.size_px, table.size_px)
        )
        split = table.rows["split"].iloc[i]
        shown.append((picture, mask, f"{labels[i]}{f' · {split}' if split else ''}"))
    return contact_sheet(shown, table.labels, columns=columns)

"""Says before a training which classes it cannot learn."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from qp2train.core.labels import BACKGROUND_NAME
from qp2train.core.patches import PatchTable
from qp2train.learn.hardware import first_process
from qp2train.sampling.layers import LayerPainter
from qp2train.sampling.mask import Painter

log = logging.getLogger(__name__)

# Patches that are looked at, evenly over the table, and how finely: what decides is whether a class is there at all.
LOOKED_AT, LOOKED_PX = 300, 256


def warn_of_absent(table: PatchTable, *, multilabel: bool = False) -> None:
    """Name the classes of which the training patches of a segmentation have no pixel.

    Of overlapping classes also those of which no pixel is said to be anything else: nothing then teaches where to stop.
    """
    there, elsewhere, looked = _seen(table, multilabel=multilabel)
    classes = table.labels.classes if multilabel else table.labels.names
    labelled = set(table.rows["label"])
    lacking = [name for name, seen in zip(classes, there, strict=True) if not (seen or name in labelled)]
    of = f"none of {looked} training patches" if looked == len(table) else f"none of {looked} of the training patches"
    if BACKGROUND_NAME in lacking:
        _say(
            "%s has a pixel of background, so that everything will be called %s: draw Region* annotations, in which "
            "the rest is background, or some of a class that is background",
            of,
            " or ".join(table.labels.classes),
        )
    missing = [name for name in lacking if name != BACKGROUND_NAME]
    if missing:
        _say("%s has a pixel of %s: the network cannot learn it", of, " or ".join(missing))
    boundless = [n for n, seen, other in zip(classes, there, elsewhere, strict=True) if seen and not other]
    if multilabel and boundless:
        _say(
            "%s has a pixel that is not %s, so that everything will be called so: draw Region* annotations, in which "
            "the rest is background",
            of,
            " or ".join(boundless),
        )


def warn_of_unlearnt(names: Sequence[str], counts: Sequence[int]) -> None:
    """Name the classes, but for the background, that a classifier has no training patch of."""
    missing = [name for name, n in zip(names, counts, strict=True) if not n and name != BACKGROUND_NAME]
    if missing:
        _say("no training patch is %s: the network will never say so", " or ".join(missing))


def _say(text: str, *values: object) -> None:
    if first_process():
        log.warning(text, *values)


def _seen(table: PatchTable, *, multilabel: bool) -> tuple[list[bool], list[bool], int]:
    """Of each class, whether some pixel is of it and whether some pixel is not; and of how many patches."""
    rows = np.unique(np.linspace(0, len(table) - 1, min(len(table), LOOKED_AT)).round().astype(int))
    entries, px = table.rows["entry"].to_numpy(), min(table.size_px, LOOKED_PX)
    classes = table.labels.classes if multilabel else table.labels.names
    there, elsewhere = np.zeros(len(classes), bool), np.zeros(len(classes), bool)
    for entry in np.unique(entries[rows].astype(str)):
        ref = table.slides[entry]
        kind = LayerPainter if multilabel else Painter
        painter = kind(ref.annotations, table.labels, slide_size=ref.size)
        for row in rows[entries[rows] == entry].tolist():
            mask = painter.paint(table.box(row), (px, px))
            if multilabel:
                there |= (mask == 1).any(axis=(1, 2))
                elsewhere |= (mask == 0).any(axis=(1, 2))
            else:
                there |= np.isin(np.arange(len(classes)), mask)
    return there.tolist(), elsewhere.tolist(), len(rows)

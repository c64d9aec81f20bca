"""What each patch of a table is, for classification."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qp2train.core.labels import IGNORE
from qp2train.core.patches import PatchTable
from qp2train.errors import LabelError, NoAnnotationError
from qp2train.learn.classweights import LEAST, MOST
from qp2train.sampling.mask import Painter

log = logging.getLogger(__name__)

# A patch is judged on at most this many points a side.
JUDGED_PX = 64


def patch_labels(table: PatchTable, *, share: float | None = None) -> NDArray[np.int64]:
    """(N,) index in `table.labels.names` of each patch, 255 for one without a class.

    Args:
        table: The patches.
        share: None = what the table says: the class of the annotation that the patch was drawn for, or of its slide.
            A number: the class, background among them, that fills at least this share of the patch's annotated part.

    Raises:
        LabelError: The table names a class that its label map has not.
    """
    if share is not None:
        return _filled(table, share)
    index = {name: i for i, name in enumerate(table.labels.names)} | {"": IGNORE}
    said = table.rows["label"].tolist()
    unknown = sorted({name for name in said if name not in index})
    if unknown:
        raise LabelError(f"the table calls patches {unknown[0]!r}; its classes are {', '.join(table.labels.names)}")
    return np.array([index[name] for name in said], dtype=np.int64)


def labelled(table: PatchTable, *, share: float | None = None) -> tuple[PatchTable, NDArray[np.int64]]:
    """The patches that have a class, and the class of each.

    Raises:
        NoAnnotationError: None has one.
    """
    labels = patch_labels(table, share=share)
    has = labels != IGNORE
    if not has.any():
        rule = "in its table" if share is None else f"that fills {share:.0%} of its annotated part"
        raise NoAnnotationError(f"none of {len(table)} patches has a class {rule}")
    if not has.all():
        log.info("%d of %d patches have no class and are left out", int((~has).sum()), len(table))
        table = table.take(np.flatnonzero(has))
    return table, labels[has]


def class_counts(labels: NDArray[np.int64], classes: int) -> tuple[int, ...]:
    """How many patches each class has."""
    return tuple(np.bincount(labels, minlength=classes).tolist())


def balanced_weights(counts: Sequence[float]) -> tuple[float, ...]:
    """N / (K · n), from 0.1 to 10, of each class with n of N patches, K classes with any; 0 for a class without.

    Source: scikit-learn's `class_weight="balanced"` (King and Zeng, 2001).
    """
    there = sum(n > 0 for n in counts)
    return tuple(min(max(sum(counts) / (there * n), LEAST), MOST) if n else 0.0 for n in counts)


def _filled(table: PatchTable, share: float) -> NDArray[np.int64]:
    labels = np.full(len(table), IGNORE, dtype=np.int64)
    px = min(table.size_px, JUDGED_PX)
    entries = table.rows["entry"].to_numpy()
    for entry, ref in table.slides.items():
        rows = np.flatnonzero(entries == entry)
        painter = Painter(ref.annotations, table.labels, slide_size=ref.size) if len(rows) else None
        for row in rows.tolist():
            assert painter is not None
            counts = np.bincount(painter.paint(table.box(row), (px, px)).ravel(), minlength=IGNORE + 1)[:IGNORE]
            if counts.sum() and counts.max() >= share * counts.sum():
                labels[row] = counts.argmax()
    return labels

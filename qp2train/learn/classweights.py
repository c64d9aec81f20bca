"""Class weights: given by name, or from how often each class is annotated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qp2train.core.labels import IGNORE
from qp2train.core.patches import PatchTable
from qp2train.errors import LabelError
from qp2train.learn.balance import drawing_shares
from qp2train.sampling.mask import Painter

ClassWeights = Literal["auto"] | Mapping[str, float] | None

# Masks that the shares of the classes are estimated from.
SAMPLE = 200
# What a weight may be at least and at most: a class of ten pixels is not worth as much as all others.
LEAST, MOST = 0.1, 10.0


def class_weights(
    given: ClassWeights, table: PatchTable, *, balanced: bool = False, seed: int = 0
) -> tuple[float, ...] | None:
    """A weight per class, background first; None where none were asked for.

    Args:
        given: Class → weight (those not named have 1), or "auto": the median of the classes' shares of the annotated
            pixels divided by a class's share, from 0.1 to 10, and 1 for a class without a pixel.
        table: The patches that are trained on; for "auto" the masks of a sample of them are painted.
        balanced: Whether patches are drawn so that every class comes equally often, see `drawing_shares`.
        seed: Of the sample.

    Raises:
        LabelError: An unknown class, or a weight that is no number above 0.

    Source of "auto": median frequency balancing, Eigen & Fergus, Predicting Depth, Surface Normals and Semantic Labels
    with a Common Multi-Scale Convolutional Architecture, ICCV 2015, section 4.3.
    """
    if given is None:
        return None
    if given == "auto":
        return from_pixels(annotated_pixels(table, balanced=balanced, seed=seed))
    return named_weights(given, table.labels.names)


def named_weights(given: Mapping[str, float], names: Sequence[str]) -> tuple[float, ...]:
    """The weight of each of `names`; 1 where none is given.

    Raises:
        LabelError: No weights per class, an unknown class, or a weight that is no number above 0.
    """
    if not isinstance(given, Mapping):
        raise LabelError(f"class_weights must be 'auto' or a weight per class, not {given!r}")
    unknown = [name for name in given if name not in names]
    if unknown:
        raise LabelError(f"class_weights names {unknown[0]!r}; the classes are {', '.join(names)}")
    wrong = [w for w in given.values() if not 0 < w < float("inf")]
    if wrong:
        raise LabelError(f"a class weight must be above 0, not {wrong[0]}")
    return tuple(float(given.get(name, 1.0)) for name in names)


def from_pixels(pixels: NDArray[np.int64]) -> tuple[float, ...]:
    """Median frequency balancing of pixel counts (C,)."""
    there = pixels > 0
    if not there.any():
        return (1.0,) * len(pixels)
    weights = np.ones(len(pixels))
    weights[there] = np.clip(np.median(pixels[there]) / pixels[there], LEAST, MOST)
    return tuple(weights.tolist())


def annotated_pixels(
    table: PatchTable, *, balanced: bool = False, seed: int = 0, sample: int = SAMPLE
) -> NDArray[np.int64]:
    """The pixels of each class, background first: (C,), in a sample of the table's masks."""
    rng = np.random.default_rng(seed)
    shares = drawing_shares(table) if balanced else None
    rows = rng.choice(len(table), min(sample, len(table)), replace=balanced, p=shares)
    entries = table.rows["entry"].to_numpy()
    size = (table.size_px, table.size_px)
    counts = np.zeros(len(table.labels.names), dtype=np.int64)
    for entry in np.unique(entries[rows].astype(str)):
        ref = table.slides[entry]
        painter = Painter(ref.annotations, table.labels, slide_size=ref.size)
        for row in rows[entries[rows] == entry]:
            mask = painter.paint(table.box(int(row)), size)
            counts += np.bincount(mask[mask != IGNORE], minlength=len(counts))
    return counts

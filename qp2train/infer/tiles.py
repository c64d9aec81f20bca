"""Score map → tiles with class probabilities, which QuPath shows as a heatmap (Measure > Show measurement maps)."""

from __future__ import annotations

import math

import numpy as np

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box
from qp2train.core.labels import BACKGROUND, IGNORE
from qp2train.core.scores import STEPS, ScoreMap
from qp2train.errors import Qp2trainError

PROBABILITY = "Probability "
_MANY = 1_000_000  # tiles; QuPath becomes slow long before


def tiles(scores: ScoreMap, *, size_um: float = 100.0) -> list[Annotation]:
    """Average a score map over a grid of square tiles, one tile object each.

    Args:
        scores: What `predict` returned.
        size_um: Side of a tile; rounded to whole map pixels, at least one.

    Returns:
        Annotations of kind "tile", row by row, in full-resolution pixels, smaller at the map's right and lower border.
        Measurements: "Probability Tumor" … (0–1) for background and each class, the mean over the tile's predicted
        pixels. Class: the most probable one; None where that is background. Tiles without a predicted pixel (glass)
        are left out.

    Raises:
        Qp2trainError: A size that is not positive, or that makes more than a million tiles.
    """
    if not (math.isfinite(size_um) and size_um > 0):
        raise Qp2trainError(f"size_um must be a positive number of µm, not {size_um!r}")
    step = max(1, round(size_um / scores.mpp))
    height, width = scores.shape
    if math.ceil(height / step) * math.ceil(width / step) > _MANY:
        raise Qp2trainError(f"size_um={size_um:g} makes more than {_MANY:,} tiles: use larger ones")
    names = scores.labels.names
    sx, sy = scores.scale
    starts = np.arange(0, width, step)
    found = []
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        predicted = scores.classmap[rows] != IGNORE
        pixels = np.add.reduceat(predicted.sum(axis=0), starts)
        sums = np.add.reduceat((scores.scores[:, rows] * predicted).sum(axis=1, dtype=np.int64), starts, axis=1)
        for i in np.flatnonzero(pixels):
            left = int(starts[i])
            mean = sums[:, i] / (int(pixels[i]) * STEPS)
            best = int(mean.argmax())
            box = Box(
                scores.box.x + left * sx,
                scores.box.y + top * sy,
                (min(left + step, width) - left) * sx,
                (rows.stop - top) * sy,
            )
            measured = {PROBABILITY + name: round(float(p), 4) for name, p in zip(names, mean, strict=True)}
            name = None if best == BACKGROUND else names[best]
            found.append(Annotation(box.polygon, name, kind="tile", measurements=measured))
    return found

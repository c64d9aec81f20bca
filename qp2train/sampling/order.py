"""Who paints over whom: annotations from bottom to top."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from qp2train.core.labels import BACKGROUND, IGNORE, REGION, LabelMap


def values_of(class_names: Sequence[str | None], labels: LabelMap) -> NDArray[np.int16]:
    """The pixel value that each annotation paints, -1 = none."""
    known = {name: labels.value_of(name) for name in set(class_names)}
    return np.array([-1 if known[n] is None else known[n] for n in class_names], dtype=np.int16)


def bottom_to_top(
    geometries: NDArray[np.object_],
    class_names: Sequence[str | None],
    ids: Sequence[str],
    parents: Sequence[str | None],
    labels: LabelMap,
) -> NDArray[np.intp]:
    """Indices of the annotations that paint something, in the order in which they are painted.

    `Region*` as background first, then the mapped classes (by `labels.paint_order`; children over parents, small
    over large), then what is ignored. Equals stay in the order given.
    """
    values = values_of(class_names, labels)
    rank = {name: i for i, name in enumerate(labels.paint_order)}
    of_class = {name: rank.get(labels.name_of(name) or "", 0) for name in set(class_names)}
    ranks = np.array([of_class[name] for name in class_names], dtype=np.intp)
    region = np.array([name == REGION for name in class_names], dtype=bool)
    layer = np.where(values == IGNORE, 2, np.where(region & (values == BACKGROUND), 0, 1))
    area = shapely.area(geometries)
    order = np.lexsort(np.stack([-area, _depth(ids, parents), ranks, layer]))
    paints = (values >= 0) & ~shapely.is_empty(geometries)
    # A polygon without extent (a click by mistake) has no pixel, and patches drawn for it would teach nothing. The
    # area of one that crosses itself may come to 0, too.
    flat = np.flatnonzero((area == 0) & (shapely.get_dimensions(geometries) == 2))
    paints[flat] &= shapely.area(shapely.convex_hull(geometries[flat])) > 0
    found: NDArray[np.intp] = order[paints[order]]
    return found


def _depth(ids: Sequence[str], parents: Sequence[str | None]) -> NDArray[np.intp]:
    """How many objects lie above each one. A parent that is not among them counts as one; a circle as more than all."""
    if not any(parents):
        return np.zeros(len(parents), dtype=np.intp)
    nobody, unknown = -1, -2
    index = {one: i for i, one in enumerate(ids)}
    up = np.array([nobody if p is None else index.get(p, unknown) for p in parents], dtype=np.intp)
    depth: NDArray[np.intp] = (up != nobody).astype(np.intp)
    climbing, at = np.flatnonzero(up >= 0), up[up >= 0]
    for _ in range(len(ids)):
        if not climbing.size:
            break
        above = up[at]
        depth[climbing[above != nobody]] += 1
        climbing, at = climbing[above >= 0], above[above >= 0]
    return depth

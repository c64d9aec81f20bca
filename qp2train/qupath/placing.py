"""Which object a prediction belongs under in QuPath's hierarchy.

The rule is QuPath's (PathObjectHierarchy, "Resolve hierarchy"): an annotation belongs under the smallest annotation or
TMA core that covers it, anything else under the smallest one that holds its centroid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import shapely

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import areal

Under = Literal["root", "enclosing"]


def under_enclosing(annotations: Sequence[Annotation], there: Sequence[Annotation]) -> list[Annotation]:
    """`annotations` with the human's object that encloses each as its parent; those that have a parent keep it.

    Args:
        annotations: Predictions, full-resolution pixels.
        there: What the entry holds. Parents are its annotations and TMA cores that no model made, see
            `Annotation.drawn`, with an area, on the same plane; of several of the same area, the one deepest in the
            hierarchy.
    """
    hosts = [a for a in there if a.kind in ("annotation", "tma_core") and a.drawn]
    areas = np.array([areal(a.geometry) for a in hosts], dtype=object)
    free = [i for i, a in enumerate(annotations) if a.parent is None and not a.geometry.is_empty]
    if not free or not len(areas):
        return list(annotations)
    whole = np.array([annotations[i].geometry for i in free], dtype=object)
    drawn = np.array([annotations[i].kind == "annotation" for i in free])
    # "covers" of a point is what QuPath asks for detections; for annotations it is all of the outline.
    probes = np.where(drawn, whole, shapely.centroid(whole))
    # The tree holds the many small ones: a query prepares what it is asked with, the few large ones.
    host, child = shapely.STRtree(probes).query(areas, predicate="covers")
    size = shapely.area(areas)
    parents: dict[int, str] = {}
    for k in np.lexsort((host, -size[host])):  # the smallest comes last; of equals the one read last, so the deepest
        prediction, holder = annotations[free[child[k]]], hosts[host[k]]
        if prediction.plane == holder.plane and prediction.id != holder.id:
            parents[free[child[k]]] = holder.id
    return [replace(a, parent=parents[i]) if i in parents else a for i, a in enumerate(annotations)]

"""The annotated objects in a patch, as areas clipped to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box, areal, clean
from qp2train.core.labels import BACKGROUND, IGNORE, LabelMap

# What is left of an object at a patch's edge counts from here on; less is no object for a detector.
LEAST_PX2 = 1.0


@dataclass(frozen=True)
class Instance:
    """One object of a patch.

    Args:
        value: The value of its class, from 1.
        annotation: Where it comes from.
        area: What of it lies in the patch, in patch pixels, corners at integers.
    """

    value: int
    annotation: Annotation
    area: shapely.Polygon | shapely.MultiPolygon


class Instances:
    """Finds the objects in any box of one slide.

    Each annotation of a class of `labels` is one object, also where another is painted over it. Background, what
    is ignored, lines and points are none.
    """

    def __init__(self, annotations: Sequence[Annotation], labels: LabelMap) -> None:
        known = [(a, labels.value_of(a.class_name)) for a in annotations]
        found = [(a, v, areal(clean(a.geometry))) for a, v in known if v not in (None, BACKGROUND, IGNORE)]
        self._found = [(a, int(v or 0), area) for a, v, area in found if area.area > 0]
        self._tree = shapely.STRtree([area for _, _, area in self._found])

    def within(self, box: Box, size_px: int) -> list[Instance]:
        """The objects in `box`, which is `size_px` patch pixels wide and high, in the order of the annotations."""
        scale = size_px / np.array([box.width, box.height])
        instances = []
        for i in np.sort(self._tree.query(box.polygon)):
            annotation, value, area = self._found[i]
            inside = areal(shapely.intersection(area, box.polygon))
            placed = shapely.transform(inside, lambda xy: np.clip((xy - (box.x, box.y)) * scale, 0, size_px))
            if placed.area >= LEAST_PX2:
                instances.append(Instance(value, annotation, placed))
        return instances

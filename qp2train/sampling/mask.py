"""Annotations → label masks, by the pixel-centre rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.transform import Affine
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box
from qp2train.core.labels import BACKGROUND, IGNORE, REGION, LabelMap

Mask = NDArray[np.uint8]

# Corners from which on an outline is clipped to the box before it is painted.
CLIPPED_FROM = 500


def paint(annotations: Iterable[Annotation], labels: LabelMap, *, box: Box, size: tuple[int, int]) -> Mask:
    """The label mask of a box: see `Painter`, which is faster for many boxes of one slide."""
    return Painter(annotations, labels).paint(box, size)


class Painter:
    """Paints masks of any box of one slide.

    A pixel belongs to a shape when its centre lies inside. Lines are one mask pixel wide, points are one
    mask pixel. Order from bottom to top: the `unannotated` value, `Region*` as background, the mapped
    classes (children over parents, then small over large, or `labels.paint_order`), and what is ignored.

    Args:
        annotations: The objects of one slide, in full-resolution pixels.
        labels: Class → pixel value.
        slide_size: (width, height) of the slide. What lies beyond its border is ignored, whatever was drawn there:
            the picture is made-up white. None = the plane has no border.
    """

    def __init__(
        self, annotations: Iterable[Annotation], labels: LabelMap, *, slide_size: tuple[int, int] | None = None
    ) -> None:
        self.labels, self.slide_size = labels, slide_size
        ordered = _bottom_to_top(list(annotations), labels)
        shapes = [(a, v) for a in ordered if (v := labels.value_of(a.class_name)) is not None]
        self._values = [v for _, v in shapes]
        self._geometries = np.array([a.geometry for a, _ in shapes], dtype=object)
        self._tree = shapely.STRtree(self._geometries)
        # Of an outline with 100,000 corners a patch needs a few: clipping it first is 100 times faster.
        detailed = shapely.get_num_coordinates(self._geometries) > CLIPPED_FROM
        self._clipped = detailed & shapely.is_valid(self._geometries)

    def paint(self, box: Box, size: tuple[int, int]) -> Mask:
        """The mask of `box` (full-resolution px) in `size` = (width, height) pixels: (height, width) uint8."""
        width, height = size
        blank = IGNORE if self.labels.unannotated == "ignore" else BACKGROUND
        mask = np.full((height, width), blank, dtype=np.uint8)
        inside = np.sort(self._tree.query(box.polygon))
        if inside.size:
            transform = Affine(box.width / width, 0, box.x, 0, box.height / height, box.y)
            near = [(self._near(i, box, margin=2 * max(transform.a, transform.e)), self._values[i]) for i in inside]
            shapes = [(geometry, value) for geometry, value in near if not geometry.is_empty]
            if shapes:
                rasterize(shapes, out=mask, transform=transform)
        if self.slide_size is not None:
            x = box.x + (np.arange(width) + 0.5) * box.width / width
            y = box.y + (np.arange(height) + 0.5) * box.height / height
            mask[(y < 0) | (y >= self.slide_size[1])] = IGNORE
            mask[:, (x < 0) | (x >= self.slide_size[0])] = IGNORE
        return mask

    def _near(self, i: int, box: Box, *, margin: float) -> BaseGeometry:
        geometry: BaseGeometry = self._geometries[i]
        if not self._clipped[i]:
            return geometry
        return shapely.clip_by_rect(geometry, box.x - margin, box.y - margin, box.right + margin, box.bottom + margin)


def _bottom_to_top(annotations: Sequence[Annotation], labels: LabelMap) -> list[Annotation]:
    parents = {a.id: a.parent for a in annotations}
    rank = {name: i for i, name in enumerate(labels.paint_order)}

    def depth(annotation: Annotation) -> int:
        steps, above = 0, annotation.parent
        while above is not None and steps <= len(parents):
            steps, above = steps + 1, parents.get(above)
        return steps

    def layer(annotation: Annotation) -> int:
        value = labels.value_of(annotation.class_name)
        if annotation.class_name == REGION and value == BACKGROUND:
            return 0
        return 2 if value == IGNORE else 1

    return sorted(
        (a for a in annotations if not a.geometry.is_empty),
        key=lambda a: (layer(a), rank.get(labels.name_of(a.class_name) or "", 0), depth(a), -a.geometry.area),
    )

"""Annotations → label masks: by the pixel-centre rule, or as QuPath's own LabeledImageServer draws them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.env import Env, hasenv
from rasterio.features import rasterize
from rasterio.transform import Affine
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box
from qp2train.core.labels import BACKGROUND, IGNORE, LabelMap
from qp2train.errors import Qp2trainError
from qp2train.sampling.lattice import draw
from qp2train.sampling.order import bottom_to_top, values_of

Mask = NDArray[np.uint8]
Rule = Literal["centre", "qupath"]

# Corners from which on an outline is clipped to the box before it is painted.
CLIPPED_FROM = 500
# Outlines that are kept in the form that rasterio wants; 4,000 of 20 corners are 10 MB.
CONVERTED = 4000
# Side of QuPath's tiles, in mask pixels. It clips outlines to them before they are drawn, which moves long edges a bit.
TILE = 512


def paint(
    annotations: Iterable[Annotation], labels: LabelMap, *, box: Box, size: tuple[int, int], rule: Rule = "centre"
) -> Mask:
    """The label mask of a box: see `Painter`, which is faster for many boxes of one slide."""
    return Painter(annotations, labels, rule=rule).paint(box, size)


class Painter:
    """Paints masks of any box of one slide.

    A pixel belongs to a shape when its centre lies inside. Lines are one mask pixel wide, points are one
    mask pixel. Order from bottom to top: the `unannotated` value, `Region*` as background, the mapped
    classes (children over parents, then small over large, or `labels.paint_order`), and what is ignored.

    `rule="qupath"` draws what QuPath's `LabeledImageServer` would, for comparing with masks exported from QuPath:

    - A pixel belongs to a shape when its top left *corner* lies inside (see `lattice`), so everything lies half a mask
      pixel further right and down than here. Of the painted pixels of a test project with shapes 100 to 400 wide that
      changes 0.8 %, 1.5 % and 3.7 % at downsample 1, 2 and 4; of 3,000 polygons 10 pixels wide, 16 % at downsample 1.
    - An annotation counts only under its exact class, as QuPath's `addLabel` names it: "Tumor: Positive" is no "Tumor",
      and `Region*` and `Ignore*` paint nothing unless they are mapped.
    - Classes are painted in the order of the map (or of `labels.paint_order`), whatever is child of what or smaller.

    At downsample 1, 2 and 4 no pixel differs from masks that QuPath 0.6.0 wrote, if the box begins at a whole mask
    pixel. Elsewhere some do: of QuPath's ellipses, which are polygons here, 0.5 % of the pixels; a row at the sides of
    rectangles that QuPath keeps as polygons, where these fall between pixels, as they are taken for its rectangles;
    outlines that cross themselves, which were repaired when read; and where the downsample is larger in single
    precision (3.7), 0.1 % of the pixels of areas, and most of those of lines, which QuPath there draws wider.

    Args:
        annotations: The objects of one slide, in full-resolution pixels.
        labels: Class → pixel value.
        slide_size: (width, height) of the slide. What lies beyond its border is ignored, whatever was drawn there:
            the picture is made-up white. None = the plane has no border.
        rule: Which pixels a shape covers, and who paints over whom.
    """

    def __init__(
        self,
        annotations: Iterable[Annotation],
        labels: LabelMap,
        *,
        slide_size: tuple[int, int] | None = None,
        rule: Rule = "centre",
    ) -> None:
        if rule not in ("centre", "qupath"):
            raise Qp2trainError(f"rule is 'centre' or 'qupath', not {rule!r}")
        self.labels, self.slide_size, self.rule = labels, slide_size, rule
        shapes = _by_label(annotations, labels) if rule == "qupath" else _bottom_to_top(list(annotations), labels)
        self._values = [v for _, v in shapes]
        self._geometries = np.array([a.geometry for a, _ in shapes], dtype=object)
        self._tree = shapely.STRtree(self._geometries)
        # Of an outline with 100,000 corners a patch needs a few: clipping it first is 100 times faster.
        detailed = shapely.get_num_coordinates(self._geometries) > CLIPPED_FROM
        self._converted: dict[int, dict[str, Any]] = {}
        self._clipped = detailed & shapely.is_valid(self._geometries)

    def paint(self, box: Box, size: tuple[int, int]) -> Mask:
        """The mask of `box` (full-resolution px) in `size` = (width, height) pixels: (height, width) uint8."""
        width, height = size
        blank = IGNORE if self.labels.unannotated == "ignore" else BACKGROUND
        mask = np.full((height, width), blank, dtype=np.uint8)
        if self.rule == "qupath":
            self._draw_tiles(mask, box, blank)
        else:
            self._rasterize(mask, box)
        if self.slide_size is not None:
            x = box.x + (np.arange(width) + 0.5) * box.width / width
            y = box.y + (np.arange(height) + 0.5) * box.height / height
            mask[(y < 0) | (y >= self.slide_size[1])] = IGNORE
            mask[:, (x < 0) | (x >= self.slide_size[0])] = IGNORE
        return mask

    def _rasterize(self, mask: Mask, box: Box) -> None:
        height, width = mask.shape
        inside = np.sort(self._tree.query(box.polygon))
        if inside.size:
            transform = Affine(box.width / width, 0, box.x, 0, box.height / height, box.y)
            near = [(self._near(i, box, margin=2 * max(transform.a, transform.e)), self._values[i]) for i in inside]
            shapes = [(shape, value) for shape, value in near if shape is not None]
            if not hasenv():
                Env().__enter__()  # for good: rasterio would set one up, and take it down, for every mask
            if shapes:
                rasterize(shapes, out=mask, transform=transform)

    def _draw_tiles(self, mask: Mask, box: Box, blank: int) -> None:
        height, width = mask.shape
        cell = box.width / width, box.height / height
        for row, top in _tiles(box.y / cell[1], height):
            for column, left in _tiles(box.x / cell[0], width):
                # Drawn whole from its own corner, and then cut: so a pixel is the same from wherever one looks.
                tile = np.full((TILE, TILE), blank, dtype=np.uint8)
                place = Box(left * cell[0], top * cell[1], TILE * cell[0], TILE * cell[1])
                for i in np.sort(self._tree.query(place.polygon)):
                    draw(tile, self._geometries[i], self._values[i], origin=(place.x, place.y), cell=cell)
                seen = slice(max(row, 0), min(row + TILE, height)), slice(max(column, 0), min(column + TILE, width))
                mask[seen] = tile[
                    seen[0].start - row : seen[0].stop - row, seen[1].start - column : seen[1].stop - column
                ]

    def _near(self, i: int, box: Box, *, margin: float) -> BaseGeometry | dict[str, Any] | None:
        """What is painted of a shape in a box, None = nothing."""
        if i in self._converted:
            return self._converted[i]
        geometry: BaseGeometry = self._geometries[i]
        if self._clipped[i]:
            edges = box.x - margin, box.y - margin, box.right + margin, box.bottom + margin
            geometry = shapely.clip_by_rect(geometry, *edges)
            return None if geometry.is_empty else geometry
        if not isinstance(geometry, shapely.Polygon):
            return geometry
        # What rasterio makes of a polygon anew for each mask, which takes as long as painting it.
        rings = [shapely.get_coordinates(ring).tolist() for ring in shapely.get_rings(geometry)]
        converted = {"type": "Polygon", "coordinates": rings}
        if len(self._converted) < CONVERTED:
            self._converted[i] = converted
        return converted


def _bottom_to_top(annotations: Sequence[Annotation], labels: LabelMap) -> list[tuple[Annotation, int]]:
    names = [a.class_name for a in annotations]
    geometries = np.array([a.geometry for a in annotations], dtype=object)
    order = bottom_to_top(geometries, names, [a.id for a in annotations], [a.parent for a in annotations], labels)
    values = values_of(names, labels)
    return [(annotations[i], int(values[i])) for i in order]


def _by_label(annotations: Iterable[Annotation], labels: LabelMap) -> list[tuple[Annotation, int]]:
    """What QuPath would draw, in its order: label by label, each with the annotations of exactly its class."""
    order = labels.paint_order or labels.classes
    classes = [name for label in order for name in dict.fromkeys((label, *labels.merged[label]))]
    rank = {name: i for i, name in enumerate((*classes, *labels.background, *labels.ignore))}
    drawn = [a for a in annotations if a.class_name in rank and not a.geometry.is_empty]
    drawn.sort(key=lambda a: rank[str(a.class_name)])
    values = ((a, labels.value_of(a.class_name)) for a in drawn)
    return [(a, value) for a, value in values if value is not None]


def _tiles(start: float, length: int) -> Iterator[tuple[int, float]]:
    """QuPath's tiles over `length` mask pixels from `start`: (first pixel within the mask, place on the slide)."""
    whole = round(start)
    if abs(start - whole) > 1e-6:  # off QuPath's lattice: tiles are counted from here
        yield from ((i, start + i) for i in range(0, length, TILE))
    else:
        yield from ((i - whole, float(i)) for i in range(whole // TILE * TILE, whole + length, TILE))

"""Boxes and the one coordinate frame: full-resolution pixels, corners at integers, (x, y), half-open."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

_PAIRS, _PAIRS_PER_SEGMENT = 200_000, 10
_PAIRS_AT_ONCE = 20_000_000  # 0.3 GB


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned rectangle in full-resolution pixels: [x, x + width) × [y, y + height)."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def polygon(self) -> shapely.Polygon:
        return shapely.box(self.x, self.y, self.right, self.bottom)

    def clipped_to(self, width: float, height: float) -> Box:
        """The part of the box inside [0, width) × [0, height); empty (size 0) when there is none."""
        x0, y0 = min(max(self.x, 0), width), min(max(self.y, 0), height)
        x1, y1 = min(max(self.right, 0), width), min(max(self.bottom, 0), height)
        return Box(x0, y0, x1 - x0, y1 - y0)


def areal(geometry: BaseGeometry) -> shapely.Polygon | shapely.MultiPolygon:
    """The polygons of any geometry, as one Polygon or MultiPolygon (empty Polygon if there are none)."""
    if isinstance(geometry, shapely.Polygon | shapely.MultiPolygon):
        return geometry
    parts = [p for p in shapely.get_parts(shapely.get_parts(np.asarray([geometry]))) if isinstance(p, shapely.Polygon)]
    if not parts:
        return shapely.Polygon()
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


@np.errstate(all="ignore")  # coordinates near the limits of a double overflow in GEOS; caught or made empty below
def clean(geometry: BaseGeometry) -> BaseGeometry:
    """Make an area valid as QuPath does: what the outline runs round, once or twice, is inside.

    A bow-tie becomes two triangles; a loop of the outline over itself stays inside (the even-odd rule would punch it
    out); spikes vanish. Valid areas, lines and points are returned as they are. Source: JTS GeometryFixer, of which
    shapely's method "structure" is the port; of 107 crossing outlines it gives QuPath's own export for all, the
    method "linework" for 87.

    A tangle, whose outline crosses itself so often that the repair would take more than about a second, has no area
    that anyone meant: it becomes an empty polygon.
    """
    if geometry.is_valid or not isinstance(geometry, shapely.Polygon | shapely.MultiPolygon):
        return geometry
    if is_tangled(geometry):
        return shapely.Polygon()
    try:
        return areal(shapely.make_valid(geometry, method="structure", keep_collapsed=False))
    except shapely.errors.GEOSException:  # overflow: coordinates near the limits of a double
        return shapely.Polygon()


def is_tangled(geometry: BaseGeometry) -> bool:
    """Whether far more pairs of an outline's segments meet, by their boxes, than neighbours do.

    Repair takes time and memory by the crossing: 700 vertices at random places 1.0 s and 0.1 GB, 2,000 12 s and 1 GB.
    A scribble of 3,000 vertices as a hand draws it has 25,000 pairs and takes 0.02 s.
    """
    rings = shapely.get_rings(shapely.get_parts([geometry]))  # of a MultiPolygon as such, get_rings finds none
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    inside = ring[1:] == ring[:-1]
    segments = shapely.linestrings(np.stack([xy[:-1][inside], xy[1:][inside]], axis=1))
    tree = shapely.STRtree(segments)
    left = _PAIRS + _PAIRS_PER_SEGMENT * len(segments)
    step = max(1, _PAIRS_AT_ONCE // max(1, len(segments)))
    for start in range(0, len(segments), step):
        left -= tree.query(segments[start : start + step]).shape[1]
        if left < 0:
            return True
    return False

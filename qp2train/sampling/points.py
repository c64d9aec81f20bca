"""Points of shapes: drawn uniformly inside, along the outline, or the one in the middle."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from qp2train.core.geometry import clean

Floats = NDArray[np.float64]
Shapes = NDArray[np.object_]

# Points tried in a shape's bounding box before it is cut into triangles: a thin slanting sliver fills next to
# nothing of its box.
TRIES = 20


def points_within(shapes: Shapes, rng: np.random.Generator) -> Floats:
    """(N, 2): a uniformly drawn point of each area, line or set of points. None of the shapes is empty."""
    out = np.empty((len(shapes), 2))
    areal = shapely.area(shapes) > 0
    linear = ~areal & (shapely.length(shapes) > 0)
    out[areal] = _in_areas(shapes[areal], rng)
    out[linear] = points_along(shapes[linear], rng)
    for i in np.flatnonzero(~areal & ~linear):
        xy = shapely.get_coordinates(shapes[i])
        out[i] = xy[rng.integers(len(xy))]
    return out


def points_along(lines: Shapes, rng: np.random.Generator) -> Floats:
    """(N, 2): a uniformly drawn point of each line."""
    merged = shapely.line_merge(lines)
    points = shapely.line_interpolate_point(merged, rng.uniform(0, 1, len(lines)), normalized=True)
    return np.stack([shapely.get_x(points), shapely.get_y(points)], axis=1)


def middles(shapes: Shapes) -> Floats:
    """(N, 2): the centre of gravity of each shape; where that lies outside, a point inside."""
    centre, inside = shapely.centroid(shapes), shapely.point_on_surface(shapes)
    chosen = np.where(shapely.covers(shapes, centre), centre, inside)
    return np.stack([shapely.get_x(chosen), shapely.get_y(chosen)], axis=1)


def _in_areas(shapes: Shapes, rng: np.random.Generator) -> Floats:
    out = np.empty((len(shapes), 2))
    missing = np.arange(len(shapes))
    for _ in range(TRIES):
        if not missing.size:
            return out
        x0, y0, x1, y1 = shapely.bounds(shapes[missing]).T
        out[missing] = np.stack([rng.uniform(x0, x1), rng.uniform(y0, y1)], axis=1)
        missing = missing[~shapely.contains_xy(shapes[missing], *out[missing].T)]
    for i in missing:
        out[i] = _in_triangles(shapes[i], rng)
    return out


def _in_triangles(shape: BaseGeometry, rng: np.random.Generator) -> Floats:
    # A crossing outline has no triangulation of its own.
    triangles = shapely.get_parts(shapely.constrained_delaunay_triangles(clean(shape)))
    area = shapely.area(triangles)
    if not area.sum() > 0:
        corner: Floats = shapely.get_coordinates(shape)[0]
        return corner
    a, b, c = shapely.get_coordinates(rng.choice(triangles, p=area / area.sum()))[:3]
    u, v = rng.uniform(0, 1, 2)
    u, v = (u, v) if u + v <= 1 else (1 - u, 1 - v)
    point: Floats = a + u * (b - a) + v * (c - a)
    return point

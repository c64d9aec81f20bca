"""A GeoJSON geometry ↔ shapely; x and y only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from qp2train.qupath.roi import homogeneous

_MAX_PARTS_DEPTH = 16


def from_geojson(shape: Mapping[str, Any], depth: int = 0) -> BaseGeometry:
    """The geometry, an empty polygon if there is none. Unclosed rings are closed, z is dropped.

    Raises:
        ValueError: An unknown type, or coordinates that are no finite numbers.
        TypeError: Coordinates of the wrong shape.
    """
    kind = shape.get("type")
    coordinates: Any = shape.get("coordinates")
    if not shape or (not coordinates and kind != "GeometryCollection"):
        return shapely.Polygon()
    if kind == "Polygon":
        return _polygon(coordinates)
    if kind == "MultiPolygon":
        parts = [_polygon(part) for part in coordinates]
        return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    if kind == "LinearRing":
        return _polygon([coordinates])
    if kind == "Point":
        return shapely.Point(_xy([coordinates])[0])
    if kind == "MultiPoint":
        return shapely.MultiPoint(_xy(coordinates))
    if kind == "LineString":
        return shapely.LineString(_xy(coordinates))
    if kind == "MultiLineString":
        lines = [shapely.LineString(_xy(part)) for part in coordinates]
        return lines[0] if len(lines) == 1 else shapely.MultiLineString(lines)
    if kind == "GeometryCollection":
        if depth == _MAX_PARTS_DEPTH:
            raise ValueError(f"collections nested more than {_MAX_PARTS_DEPTH} deep")
        geometries = [from_geojson(part, depth + 1) for part in shape.get("geometries") or []]
        return homogeneous(shapely.GeometryCollection(geometries))
    raise ValueError(f"type {kind!r}")


def to_geojson(geometry: BaseGeometry) -> dict[str, Any]:
    """The geometry with all its digits; one part is never written as Multi."""
    parts = shapely.get_parts(geometry)
    if len(parts) == 1:
        geometry = parts[0]
    if isinstance(geometry, shapely.Polygon):
        coordinates: Any = _rings(geometry)
    elif isinstance(geometry, shapely.MultiPolygon):
        coordinates = [_rings(part) for part in geometry.geoms]
    elif isinstance(geometry, shapely.Point):
        coordinates = shapely.get_coordinates(geometry)[0].tolist()
    elif isinstance(geometry, shapely.MultiLineString):
        coordinates = [shapely.get_coordinates(part).tolist() for part in geometry.geoms]
    else:
        coordinates = shapely.get_coordinates(geometry).tolist()
    return {"type": geometry.geom_type, "coordinates": coordinates}


def _rings(polygon: shapely.Polygon) -> list[Any]:
    return [shapely.get_coordinates(ring).tolist() for ring in (polygon.exterior, *polygon.interiors)]


def _polygon(rings: Any) -> shapely.Polygon:
    shell, *holes = [_xy(ring) for ring in rings]
    if len(shell) < 3:
        return shapely.Polygon()
    return shapely.Polygon(shell, [hole for hole in holes if len(hole) >= 3])


def _xy(points: Any) -> NDArray[np.float64]:
    try:
        array = np.array([(point[0], point[1]) for point in points], dtype=float).reshape(-1, 2)
    except (IndexError, KeyError, OverflowError) as error:
        raise ValueError(f"a point without x and y ({error})") from error
    if not np.isfinite(array).all():
        raise ValueError("a coordinate is not finite")
    return array

"""GeoJSON geometries ↔ shapely; x and y only. Polygons of one ring, nearly all of a large file, go in one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from qp2train.core.geometry import clean
from qp2train.qupath.roi import homogeneous

_MAX_PARTS_DEPTH = 16
FARTHEST = 1e10  # px; QuPath's images are at most 2^31 wide, and beyond 1e16 the crossings of an outline get lost
_EMPTY = shapely.Polygon()
UNCLOSED, CROSSED, MIXED = "closed, their outline was open", "repaired, their area crossed itself", "of mixed shapes"


class Shapes(NamedTuple):
    """Geometries, and for each place in the list what had to be repaired, if anything."""

    geometries: list[BaseGeometry]
    repairs: list[tuple[int, str]]


class ShapeError(ValueError):
    """The geometry at `index` cannot be understood."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


def read_shapes(items: Sequence[Mapping[str, Any]]) -> Shapes:
    """The geometries, an empty polygon where there is none.

    Unclosed rings are closed, areas that cross themselves repaired, z dropped.

    Raises:
        ShapeError: An unknown type, or coordinates that are no finite numbers up to 1e10.
    """
    repairs: list[tuple[int, str]] = []
    result = np.full(len(items), _EMPTY, dtype=object)
    rings, where, others = [], [], []
    for i, item in enumerate(items):
        ring = _only_ring(item)
        if ring is None:
            others.append(i)
        else:
            rings.append(ring)
            where.append(i)
    built = _build(rings)
    if built is None:  # something among them is odd: find out one by one
        others = list(range(len(items)))
    else:
        result[where] = built[0]
        repairs += [(where[i], UNCLOSED) for i in np.flatnonzero(built[1]).tolist()]
    for i in others:
        try:
            result[i] = _read(items[i], lambda what, i=i: repairs.append((i, what)))  # type: ignore[misc]
        except (TypeError, ValueError, shapely.errors.ShapelyError) as error:
            raise ShapeError(i, str(error)) from error
    for i in np.flatnonzero(~shapely.is_valid(result)).tolist():
        result[i] = clean(result[i])
        repairs.append((i, CROSSED))
    repairs.sort()
    return Shapes(result.tolist(), repairs)


def short(value: object) -> str:
    """A value for a message; never long, whatever a file holds."""
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:60] + "…"


def _only_ring(item: Mapping[str, Any]) -> list[Any] | None:
    rings = item.get("coordinates") if item.get("type") == "Polygon" else None
    if type(rings) is list and len(rings) == 1 and type(rings[0]) is list and len(rings[0]) >= 4:
        return rings[0]
    return None


def _build(rings: list[list[Any]]) -> tuple[NDArray[np.object_], NDArray[np.bool_]] | None:
    """Polygons, and which of their rings were open; None if not all are plain lists of finite numbers."""
    if not rings:
        return np.empty(0, object), np.empty(0, bool)
    points = list(chain.from_iterable(rings))
    if set(map(type, points)) != {list} or len(sizes := set(map(len, points))) != 1 or (size := sizes.pop()) < 2:
        return None
    numbers = list(chain.from_iterable(points))
    if not set(map(type, numbers)) <= {int, float}:
        return None
    try:
        xy = np.array(numbers, dtype=float).reshape(-1, size)[:, :2]
    except OverflowError:
        return None
    if not (np.abs(xy) <= FARTHEST).all():
        return None
    counts = np.fromiter(map(len, rings), np.intp, len(rings))
    ends = np.cumsum(counts)
    unclosed = (xy[ends - counts] != xy[ends - 1]).any(axis=1)
    return shapely.polygons(shapely.linearrings(xy, indices=np.repeat(np.arange(len(rings)), counts))), unclosed


def _read(item: Mapping[str, Any], report: Callable[[str], None], depth: int = 0) -> BaseGeometry:
    if not isinstance(item, dict):
        raise ValueError(f"{short(item)}, not an object")
    kind = item.get("type")
    coordinates: Any = item.get("coordinates")
    if kind == "GeometryCollection":
        if depth == _MAX_PARTS_DEPTH:
            raise ValueError(f"collections nested more than {_MAX_PARTS_DEPTH} deep")
        parts = [_read(part, report, depth + 1) for part in _list(item.get("geometries") or [])]
        if len({int(shapely.get_dimensions(part)) for part in parts}) > 1:
            report(MIXED)
        return homogeneous(shapely.GeometryCollection(parts))
    if not coordinates and (coordinates is None or isinstance(coordinates, list)):
        return _EMPTY
    if kind == "Polygon":
        return _polygon(coordinates, report)
    if kind == "MultiPolygon":
        polygons = [_polygon(part, report) for part in _list(coordinates)]
        return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)
    if kind == "LinearRing":
        return _polygon([coordinates], report)
    if kind == "Point":
        return shapely.Point(_xy([coordinates])[0])
    if kind == "MultiPoint":
        return shapely.MultiPoint(_xy(coordinates))
    if kind == "LineString":
        return shapely.LineString(_xy(coordinates))
    if kind == "MultiLineString":
        lines = [shapely.LineString(_xy(part)) for part in _list(coordinates)]
        return lines[0] if len(lines) == 1 else shapely.MultiLineString(lines)
    raise ValueError(f"type {short(kind)}")


def _polygon(rings: Any, report: Callable[[str], None]) -> shapely.Polygon:
    outlines = [_xy(ring) for ring in _list(rings)]
    if not outlines or len(outlines[0]) < 3:
        return _EMPTY
    drawable = [ring for ring in outlines if len(ring) >= 3]
    if any((ring[0] != ring[-1]).any() for ring in drawable):
        report(UNCLOSED)
    return shapely.Polygon(drawable[0], drawable[1:])


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{short(value)} where a list belongs")
    return value


def _xy(points: Any) -> NDArray[np.float64]:
    pairs = [tuple(_list(point)[:2]) for point in _list(points)]
    if not all(len(pair) == 2 for pair in pairs):
        raise ValueError("a point without x and y")
    if not {type(number) for pair in pairs for number in pair} <= {int, float}:
        raise ValueError("a coordinate is no number")
    try:
        array = np.array(pairs, dtype=float).reshape(-1, 2)
    except OverflowError as error:
        raise ValueError("a coordinate is not finite") from error
    if not (np.abs(array) <= FARTHEST).all():
        raise ValueError(f"a coordinate is not finite, or beyond {FARTHEST:g} px")
    return array


def to_geojson(geometry: BaseGeometry) -> dict[str, Any]:
    """The geometry with all its digits, for orjson; one part is never written as Multi."""
    parts = shapely.get_parts(geometry)
    if len(parts) == 1:
        geometry = parts[0]
    if isinstance(geometry, shapely.Polygon):
        coordinates: Any = _rings(geometry)
    elif isinstance(geometry, shapely.MultiPolygon):
        coordinates = [_rings(part) for part in geometry.geoms]
    elif isinstance(geometry, shapely.Point):
        coordinates = shapely.get_coordinates(geometry)[0]
    elif isinstance(geometry, shapely.MultiLineString):
        coordinates = [shapely.get_coordinates(part) for part in geometry.geoms]
    else:
        coordinates = shapely.get_coordinates(geometry)
    return {"type": geometry.geom_type, "coordinates": coordinates}


def _rings(polygon: shapely.Polygon) -> list[NDArray[np.float64]]:
    return [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]


def write_shapes(geometries: Sequence[BaseGeometry]) -> Iterator[dict[str, Any]]:
    """`to_geojson` of many: the coordinates of polygons with one ring come from one array."""
    array = np.array([*geometries, None], dtype=object)[:-1]
    simple = (shapely.get_type_id(array) == shapely.GeometryType.POLYGON) & (shapely.get_num_interior_rings(array) == 0)
    xy = shapely.get_coordinates(array)
    ends = np.cumsum(shapely.get_num_coordinates(array))
    starts = [0, *ends.tolist()]
    for geometry, is_simple, start, end in zip(geometries, simple.tolist(), starts, ends.tolist(), strict=False):
        yield {"type": "Polygon", "coordinates": [xy[start:end]]} if is_simple else to_geojson(geometry)

"""ROI proxies → shapely. Source: the `SerializationProxy` classes in qupath.lib.roi.

Coordinates are full-resolution pixels; (0, 0) is the top-left corner of the first pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Plane
from qp2train.core.geometry import areal, clean, is_tangled
from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import JArray, JObject, Node
from qp2train.qupath.javatypes import describe, elements, numbers
from qp2train.qupath.wkb import read_wkb

PACKAGE = "qupath.lib.roi."
_PROXY = "$SerializationProxy"
_WKB = PACKAGE + "GeometryROI$WKBSerializationProxy"
_POLYGON = PACKAGE + "PolygonROI" + _PROXY
_DEFAULT_PLANE = Plane()
_MAX_COLLECTION_DEPTH = 16
_QUPATH_GRID_PX = 0.01


class Shape(NamedTuple):
    """A ROI's geometry; `repaired` = it was no valid area as stored."""

    geometry: BaseGeometry
    ellipse: bool = False
    repaired: bool = False


class Planes:
    """ROIs → planes; what a polygon's 12 bytes say is read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], Plane] = {}

    def read(self, roi: JObject) -> Plane:
        """The channel, z-slice and time point of a ROI; what an old file leaves out is 0, as in Java."""
        packed = roi.values[0] if roi.values else None
        if not isinstance(packed, bytes) or len(packed) != 12:
            return _plane_of(roi)
        key = (id(roi.desc), packed)
        plane = self._known.get(key)
        if plane is None:
            plane = self._known[key] = _plane_of(roi)
        return plane


def _plane_of(roi: JObject) -> Plane:
    slots = roi.desc.slots
    c, z, t = (roi.integer(key) if key in slots else 0 for key in "czt")
    return _DEFAULT_PLANE if (c, z, t) == (-1, 0, 0) else Plane(c, z, t)


@np.errstate(all="ignore")  # signalling NaNs, and coordinates near the limits of a double
def shapes(rois: Sequence[JObject | None]) -> list[Shape]:
    """The geometry of every ROI; an empty polygon where there is none (null).

    Polygons, nearly all of a large file, are built in one go. Vertices are kept as stored (float32 values in
    float64); areas that cross themselves are repaired as QuPath does.

    Raises:
        QuPathFormatError: A ROI of an unknown or unreadable kind.
    """
    result = [Shape(shapely.Polygon())] * len(rois)
    where: list[int] = []
    vertices: list[tuple[bytes, bytes]] = []
    for i, roi in enumerate(rois):
        if roi is None:
            continue
        if roi.desc.name == _POLYGON:
            where.append(i)
            vertices.append(_vertices(roi))
        else:
            result[i] = _single(roi)
    for i, shape in zip(where, _polygons(vertices), strict=True):
        result[i] = shape
    return result


def _vertices(roi: JObject) -> tuple[bytes, bytes]:
    x, y = roi.ref("x"), roi.ref("y")
    if isinstance(x, JArray) and isinstance(y, JArray) and x.desc.name == "[F" == y.desc.name:
        xs, ys = x.items, y.items
        if isinstance(xs, bytes) and isinstance(ys, bytes) and len(xs) == len(ys):
            return xs, ys
    raise QuPathFormatError(f"{roi.desc.name}: x and y are not equally long lists of float")


def _points(roi: JObject) -> NDArray[np.float64]:
    return np.column_stack([np.frombuffer(raw, ">f4").astype(float) for raw in _vertices(roi)])


def _polygons(vertices: list[tuple[bytes, bytes]]) -> list[Shape]:
    counts = np.array([len(x) // 4 for x, _ in vertices], dtype=np.intp)
    xy = np.column_stack(
        [
            np.frombuffer(b"".join(part), ">f4").astype(float)
            for part in (zip(*vertices, strict=True) if vertices else ([], []))
        ]
    )
    owner = np.repeat(np.arange(len(vertices)), counts)
    drawable = counts >= 3
    drawable[owner[~np.isfinite(xy).all(axis=1)]] = False
    if not drawable.all():
        keep = drawable[owner]
        xy, owner = xy[keep], (np.cumsum(drawable) - 1)[owner[keep]]
    geometries = np.full(len(vertices), shapely.Polygon(), dtype=object)
    geometries[drawable] = shapely.polygons(shapely.linearrings(xy, indices=owner))
    valid = shapely.is_valid(geometries) & drawable
    result = [Shape(g) for g in geometries]
    repairs: dict[tuple[bytes, bytes], Shape] = {}  # objects may share an outline that takes long to repair
    for i in np.flatnonzero(~valid).tolist():
        if vertices[i] not in repairs:
            repairs[vertices[i]] = Shape(clean(geometries[i]), repaired=True)
        result[i] = repairs[vertices[i]]
    return result


def _area(geometry: BaseGeometry) -> Shape:
    return Shape(geometry) if geometry.is_valid else Shape(clean(geometry), repaired=True)


def _single(roi: JObject) -> Shape:
    name = roi.desc.name
    kind = name.removeprefix(PACKAGE).removesuffix(_PROXY)
    if kind in ("RectangleROI", "EllipseROI", "LineROI"):
        x, y, x2, y2 = (roi.number(key) for key in ("x", "y", "x2", "y2"))
        if not all(map(math.isfinite, (x, y, x2, y2))):
            return Shape(shapely.Polygon(), repaired=True)
        if kind == "LineROI":
            return Shape(shapely.LineString([(x, y), (x2, y2)]))
        if x == x2 or y == y2:
            return Shape(shapely.Polygon(), repaired=True)
        if kind == "RectangleROI":
            return Shape(shapely.box(min(x, x2), min(y, y2), max(x, x2), max(y, y2)))
        return Shape(ellipse(x, y, x2, y2), ellipse=True)
    if kind == "PolylineROI":
        points = _points(roi)
        if not np.isfinite(points).all():
            return Shape(shapely.LineString(), repaired=True)
        return Shape(shapely.LineString(points if len(points) != 1 else points.repeat(2, axis=0)))
    if kind == "PointsROI":
        points = _points(roi)
        finite = points[np.isfinite(points).all(axis=1)]
        repaired = len(finite) < len(points)
        return Shape(shapely.Point(finite[0]) if len(finite) == 1 else shapely.MultiPoint(finite), repaired=repaired)
    if name == _WKB:
        return _from_wkb(numbers(roi.ref("wkb")).tobytes())
    if kind == "AreaROI":
        rings = zip(elements(roi.ref("x")), elements(roi.ref("y")), strict=False)
        return _from_rings([_ring(x, y) for x, y in rings])
    raise QuPathFormatError(
        f"a ROI of class {name}, which qp2train cannot read: open and save the image with QuPath 0.2 or later"
    )


def _ring(x: Node, y: Node) -> NDArray[np.float64]:
    xs, ys = numbers(x), numbers(y)
    if len(xs) != len(ys):
        raise QuPathFormatError("AreaROI: x and y differ in length")
    return np.column_stack([xs.astype(float), ys.astype(float)])


def _from_rings(rings: list[NDArray[np.float64]]) -> Shape:
    """AWT areas: the even-odd rule decides which rings are holes."""
    closed = [shapely.Polygon(r) for r in rings if len(r) >= 3 and np.isfinite(r).all()]
    if is_tangled(shapely.MultiPolygon(closed)):
        return Shape(shapely.Polygon(), repaired=True)
    parts = np.array([clean(ring) for ring in closed] or [shapely.Polygon()], dtype=object)
    repaired = len(closed) < len(rings) or not all(ring.is_valid for ring in closed)
    while len(parts) > 1:  # in pairs: one after the other would take time by the square of their number
        odd = parts[len(parts) & ~1 :]
        pairs = shapely.symmetric_difference(parts[: len(parts) & ~1 : 2], parts[1::2])
        parts = np.array([*map(areal, pairs), *odd], dtype=object)
    return Shape(parts[0], repaired=repaired)


def _from_wkb(raw: bytes) -> Shape:
    geometry = read_wkb(raw)
    if not np.isfinite(shapely.get_coordinates(geometry)).all():
        return Shape(shapely.Polygon(), repaired=True)
    return _area(homogeneous(geometry))


def homogeneous(geometry: BaseGeometry) -> BaseGeometry:
    """Of a GeometryCollection, the parts of highest dimension, as QuPath takes it; anything else unchanged."""
    for _ in range(_MAX_COLLECTION_DEPTH):
        if not isinstance(geometry, shapely.GeometryCollection):
            return geometry
        parts = shapely.get_parts(shapely.get_parts([geometry]))
        if not len(parts):
            return shapely.Polygon()
        if any(isinstance(p, shapely.GeometryCollection) for p in parts):
            geometry = shapely.GeometryCollection(list(parts))
            continue
        dimension = shapely.get_dimensions(parts)
        best = list(parts[dimension == dimension.max()])
        if dimension.max() == 2:
            return areal(shapely.GeometryCollection(best))
        if len(best) == 1:
            return best[0]
        return shapely.MultiLineString(best) if dimension.max() == 1 else shapely.MultiPoint(best)
    raise QuPathFormatError(f"geometry collections nested more than {_MAX_COLLECTION_DEPTH} deep")


def ellipse(x: float, y: float, x2: float, y2: float) -> shapely.Polygon:
    """A polygon for the ellipse in a box: area within 1e-4, outline within 0.01 px up to 10,000 px radius.

    A multiple of four vertices puts one on each axis end, so the polygon's bounds are the ellipse's.
    """
    a, b = abs(x2 - x) / 2, abs(y2 - y) / 2
    count = 4 * math.ceil(min(max(math.pi * math.sqrt(max(a, b) / 0.02), 360), 2400) / 4)
    angle = np.arange(count) * (2 * np.pi / count)
    cos, sin = np.cos(angle), np.sin(angle)
    quarter = count // 4
    cos[[quarter, 3 * quarter]], sin[[0, 2 * quarter]] = 0, 0
    return shapely.Polygon(np.column_stack([(x + x2) / 2 + a * cos, (y + y2) / 2 + b * sin]))


def _as_qupath_rounds(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """To 0.01 px, halves up, then float32: GeometryTools.getDefaultFactory(). Rounding twice changes nothing."""
    with np.errstate(all="ignore"):
        return (np.floor(xy / _QUPATH_GRID_PX + 0.5) * _QUPATH_GRID_PX).astype(np.float32).astype(np.float64)


def stored_form(roi: Node) -> bytes:
    """What a human could change about a ROI, as bytes: kind, plane and coordinates; closing vertices and caches not.

    QuPath keeps these when it saves a ROI again, so equal bytes mean an untouched outline. Not quite so of areas with
    holes or several parts, which QuPath 0.6 and later round as it reads them: theirs are the rounded coordinates.
    """
    if roi is None:
        return b""
    if not isinstance(roi, JObject):
        raise QuPathFormatError(f"a ROI expected, found {describe(roi)}")
    name = roi.desc.name
    parts = [name.encode("utf-8", "replace")]
    if name == _WKB:
        raw = numbers(roi.ref("wkb")).tobytes()
        parts.append(shapely.to_wkb(shapely.transform(read_wkb(raw), _as_qupath_rounds), byte_order=0))
    elif name == _POLYGON:
        x, y = _vertices(roi)
        closed = len(x) > 4 and x[:4] == x[-4:] and y[:4] == y[-4:]
        parts += [x[:-4], y[:-4]] if closed else [x, y]
    else:
        for value in roi.values:
            if isinstance(value, JArray) and isinstance(value.items, bytes):
                parts.append(value.items)
            elif isinstance(value, JArray) and isinstance(value.items, list):
                parts += [row.items for row in value.items if isinstance(row, JArray) and isinstance(row.items, bytes)]
    parts += [value for value in roi.values if isinstance(value, bytes)]
    return b"\0".join(parts)

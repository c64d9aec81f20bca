"""QuPath's Java objects ↔ Annotations, for the paquo backend. Java itself is handed in: nothing here imports it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import shapely

from qp2train.core.annotation import Annotation, Plane
from qp2train.core.geometry import clean
from qp2train.errors import ProjectError
from qp2train.qupath.pathobject import KINDS, OBJECTS, Rgb, argb, rgb
from qp2train.qupath.qpdata import FINGERPRINT_KEY, MISSING_KEY, SOURCE_KEY, ReadResult
from qp2train.qupath.roi import Shape, ellipse, homogeneous

# QuPath keeps areas in float64, their outline rounded to 0.01 px; Java's Area bug loses far more than this.
_AREA_TOLERANCE = 0.01


class Java:
    """QuPath's classes, looked up once."""

    def __init__(self, jpype: Any, folder: str) -> None:
        self._jpype = jpype
        self.folder = folder
        self.cls = functools.cache(jpype.JClass)
        self.doubles = jpype.JArray(jpype.JDouble)
        self.GeneralTools = self.cls("qupath.lib.common.GeneralTools")
        self.cls("qupath.lib.images.servers.ImageServers")  # its loading teaches QuPath's JSON reader image servers
        self.wkb = self.cls("org.locationtech.jts.io.WKBWriter")(2)
        self._fields: dict[str, Any] = {}

    def errors(self, what: str) -> JavaErrors:
        return JavaErrors(self._jpype.JException, what)

    def bytes(self, data: bytes) -> Any:
        return self._jpype.JArray(self._jpype.JByte)(data)

    def xy(self, roi: Any, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """A polygon's or polyline's vertices as QuPath holds them: getAllPoints would take a call for each."""
        if name not in self._fields:
            field = self.cls("java.lang.Class").forName("qupath.lib.roi." + name).getDeclaredField("vertices")
            field.setAccessible(True)
            self._fields[name] = field
        vertices = self._fields[name].get(roi)
        return np.column_stack([np.array(part(None), dtype=np.float64) for part in (vertices.getX, vertices.getY)])


class JavaErrors:
    """Turns what Java throws into a ProjectError."""

    def __init__(self, kind: type[BaseException], what: str) -> None:
        self._kind, self._what = kind, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, self._kind):
            raise ProjectError(f"{self._what} by QuPath: {error}") from error


def below(root: Any) -> list[Any]:
    """Every object under `root`, parents before children."""
    found: list[Any] = []
    stack = list(reversed(root.getChildObjectsAsArray()))
    while stack:
        obj = stack.pop()
        found.append(obj)
        if obj.hasChildObjects():
            stack.extend(reversed(obj.getChildObjectsAsArray()))
    return found


def read_hierarchy(java: Java, hierarchy: Any) -> ReadResult:
    root = hierarchy.getRootObject()
    top = str(root.getID())
    found: list[Annotation] = []
    repaired: list[str] = []
    bare: list[str] = []
    names: dict[int, str | None] = {}
    for obj in below(root):
        object_id = str(obj.getID())
        roi, kind = obj.getROI(), KINDS[OBJECTS + str(obj.getClass().getSimpleName())]
        inner = obj.getNucleusROI() if kind == "cell" else None
        shape = _shape(java, roi or inner, object_id)
        nucleus = None if inner is None else _shape(java, inner, object_id)
        if shape.repaired or (nucleus is not None and nucleus.repaired):
            repaired.append(object_id)
        if roi is None and inner is None:
            bare.append(object_id)
        path_class, name, color = obj.getPathClass(), obj.getName(), obj.getColor()
        key = 0 if path_class is None else int(path_class.hashCode())
        class_name = None if path_class is None else names.setdefault(key, str(path_class)) or None
        metadata = {str(k): str(v) for k, v in obj.getMetadata().items()}
        source = metadata.pop(SOURCE_KEY, None)
        if source is not None:
            metadata.pop(FINGERPRINT_KEY, None)
        if kind == "tma_core" and obj.isMissing():
            metadata[MISSING_KEY] = "true"
        values, above = obj.getMeasurementList(), str(obj.getParent().getID())
        found.append(
            Annotation(
                shape.geometry,
                class_name,
                kind=kind,
                name=None if name is None else str(name),
                measurements={} if values.isEmpty() else {str(n): float(values.get(n)) for n in values.getNames()},
                locked=bool(obj.isLocked()),
                id=object_id,
                parent=None if above == top else above,
                plane=_plane(roi or inner),
                ellipse=shape.ellipse,
                color=None if color is None else rgb(int(color)),
                source=source,
                metadata=metadata,
                nucleus=None if nucleus is None else nucleus.geometry,
            )
        )
    return ReadResult(found, tuple(repaired), tuple(bare))


def _plane(roi: Any) -> Plane:
    return Plane() if roi is None else Plane(int(roi.getC()), int(roi.getZ()), int(roi.getT()))


def _shape(java: Java, roi: Any, object_id: str) -> Shape:
    """A ROI's geometry as QuPath holds it in memory: no AWT, no rounding."""
    if roi is None:
        return Shape(shapely.Polygon())
    name = str(roi.getClass().getSimpleName())
    x, y, w, h = (float(v()) for v in (roi.getBoundsX, roi.getBoundsY, roi.getBoundsWidth, roi.getBoundsHeight))
    if name in ("RectangleROI", "EllipseROI"):
        if not (w and h):
            return Shape(shapely.Polygon(), repaired=True)
        made = shapely.box(x, y, x + w, y + h) if name == "RectangleROI" else ellipse(x, y, x + w, y + h)
        return Shape(made, ellipse=name == "EllipseROI")
    if name == "LineROI":
        return Shape(shapely.LineString([(roi.getX1(), roi.getY1()), (roi.getX2(), roi.getY2())]))
    if name == "PolylineROI":
        points = java.xy(roi, name)
        return Shape(shapely.LineString(points if len(points) != 1 else points.repeat(2, axis=0)))
    if name == "PointsROI":
        dots = [(float(p.getX()), float(p.getY())) for p in roi.getAllPoints()]
        return Shape(shapely.Point(dots[0]) if len(dots) == 1 else shapely.MultiPoint(dots))
    if name == "PolygonROI":
        points = java.xy(roi, name)
        if len(points) < 3:
            return Shape(shapely.Polygon(), repaired=True)
        polygon = shapely.Polygon(points)
        return Shape(polygon) if polygon.is_valid else Shape(clean(polygon), repaired=True)
    geometry = homogeneous(shapely.from_wkb(bytes(java.wkb.write(roi.getGeometry()))))
    if not geometry.is_valid:
        return Shape(clean(geometry), repaired=True)
    area = float(roi.getArea()) if roi.isArea() else geometry.area
    if abs(area - geometry.area) > _AREA_TOLERANCE * max(area, 1):
        raise ProjectError(
            f"object {object_id}: its area is {area:g} px² by one of QuPath's methods and {geometry.area:g} by "
            "another: this Java loses parts of areas (25.0.3 and 26.0.1 do). Use another Java"
        )
    return Shape(geometry)


def java_object(java: Java, annotation: Annotation, metadata: Mapping[str, str], colors: Mapping[str, Rgb]) -> Any:
    integer, objects = java.cls("java.lang.Integer"), java.cls("qupath.lib.objects.PathObjects")
    name = annotation.class_name
    path_class = None
    if name is not None:
        color = integer.valueOf(argb(colors[name])) if name in colors else None
        path_class = java.cls("qupath.lib.objects.classes.PathClass").fromString(name, color)
    roi = _java_roi(java, annotation)
    if annotation.kind == "annotation":
        made = objects.createAnnotationObject(roi, path_class)
    elif annotation.kind == "detection":
        made = objects.createDetectionObject(roi, path_class)
    elif annotation.kind == "tile":
        made = objects.createTileObject(roi, path_class, None)
    elif annotation.kind != "cell":
        raise ProjectError(f'{annotation.id}: kind={annotation.kind!r} cannot be written with backend="paquo"')
    else:
        nucleus = annotation.nucleus
        inner = None if nucleus is None else _java_roi(java, replace(annotation, geometry=nucleus, ellipse=False))
        made = objects.createCellObject(roi, inner, path_class, None)
    made.setID(java.cls("java.util.UUID").fromString(annotation.id))
    if annotation.name is not None:
        made.setName(annotation.name)
    if annotation.color is not None:
        made.setColor(integer.valueOf(argb(annotation.color)))
    if annotation.locked:
        made.setLocked(True)
    if annotation.measurements:
        values = made.getMeasurementList()
        for key, value in annotation.measurements.items():
            values.put(key, float(value))
        values.close()
    for key, text in metadata.items():
        made.getMetadata().put(key, text)
    return made


def _java_roi(java: Java, annotation: Annotation) -> Any:
    geometry, p = annotation.geometry, annotation.plane
    rois = java.cls("qupath.lib.roi.ROIs")
    plane = java.cls("qupath.lib.regions.ImagePlane").getPlaneWithChannel(p.c, p.z, p.t)
    if annotation.ellipse:
        x, y, x2, y2 = geometry.bounds
        return rois.createEllipseROI(x, y, x2 - x, y2 - y, plane)
    xy = shapely.get_coordinates(geometry)
    if isinstance(geometry, shapely.LineString) and len(xy) == 2:
        (x, y), (x2, y2) = xy.tolist()
        return rois.createLineROI(x, y, x2, y2, plane)
    if isinstance(geometry, shapely.Polygon) and not geometry.interiors:
        xy = xy[:-1]
        return rois.createPolygonROI(*(java.doubles(part) for part in xy.T), plane)
    if isinstance(geometry, shapely.LineString):
        return rois.createPolylineROI(*(java.doubles(part) for part in xy.T), plane)
    if isinstance(geometry, shapely.Point | shapely.MultiPoint):
        return rois.createPointsROI(*(java.doubles(part) for part in xy.T), plane)
    read = java.cls("org.locationtech.jts.io.WKBReader")().read(java.bytes(shapely.to_wkb(geometry)))
    return java.cls("qupath.lib.roi.GeometryTools").geometryToROI(read, plane)

"""Annotations → new objects of a `.qpdata` tree, laid out as QuPath 0.6 writes them.

Classes and strings that the tree already has are shared, so that taking the objects out again leaves the stream as
it was. Source: the serialised forms of qupath.lib.objects and qupath.lib.roi.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import clean
from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import Block, ClassDesc, Field, JArray, JEnum, JObject, JString, Node, encode_utf
from qp2train.qupath.pathobject import KINDS, MEASUREMENTS, METADATA_MAP, OBJECT_ID, OBJECTS, PATH_CLASS, Rgb, argb
from qp2train.qupath.qpproj import default_color
from qp2train.qupath.roi import PACKAGE as ROI

_KIND_CLASS = {kind: name for name, kind in KINDS.items()}
_NUMERIC = MEASUREMENTS + "NumericMeasurementList$"
_PROXY = "$SerializationProxy"
_POLYGON_TYPE = 3  # shapely.get_type_id
_NO_CHILDREN, _NO_PROBABILITY = Block(bytes(4)), Block(struct.pack(">d", float("nan")))
CHILDREN_AT = 4  # where, in what an object writes, its children are counted
_FARTHEST = 1e30  # px; float32, in which QuPath stores vertices, ends at 3e38
_STRING = "Ljava/lang/String;"

# class → (serialVersionUID, flags, fields "type name signature" in wire order, superclass)
_CLASSES: dict[str, tuple[int, int, str, str | None]] = {
    OBJECTS + "PathObject": (1, 0x0C, "", None),
    OBJECTS + "PathRootObject": (1, 0x0C, "", OBJECTS + "PathObject"),
    OBJECTS + "PathROIObject": (1, 0x0C, "", OBJECTS + "PathObject"),
    OBJECTS + "PathAnnotationObject": (1, 0x0C, "", OBJECTS + "PathROIObject"),
    OBJECTS + "PathDetectionObject": (1, 0x0C, "", OBJECTS + "PathROIObject"),
    OBJECTS + "PathCellObject": (1, 0x0C, "", OBJECTS + "PathDetectionObject"),
    OBJECTS + "PathTileObject": (1, 0x0C, "", OBJECTS + "PathDetectionObject"),
    METADATA_MAP: (1, 0x0C, "", None),
    OBJECTS + "hierarchy.PathObjectHierarchy": (
        1,
        0x02,
        "L rootObject Lqupath/lib/objects/PathObject;, L tmaGrid Lqupath/lib/objects/hierarchy/TMAGrid;",
        None,
    ),
    PATH_CLASS: (
        1,
        0x02,
        f"L colorRGB Ljava/lang/Integer;, L name {_STRING}, L parentClass Lqupath/lib/objects/classes/PathClass;",
        None,
    ),
    _NUMERIC + "AbstractNumericMeasurementList": (
        1,
        0x02,
        "Z isClosed, L map Ljava/util/Map;, L names Ljava/util/List;",
        None,
    ),
    _NUMERIC + "DoubleList": (1, 0x02, "[ values [D", _NUMERIC + "AbstractNumericMeasurementList"),
    ROI + "PolygonROI" + _PROXY: (
        1,
        0x02,
        f"I c, I t, I z, L name {_STRING}, L stats Lqupath/lib/roi/ClosedShapeStatistics;, [ x [F, [ y [F",
        None,
    ),
    ROI + "PolylineROI" + _PROXY: (1, 0x02, "I c, I t, I z, [ x [F, [ y [F", None),
    ROI + "PointsROI" + _PROXY: (1, 0x02, f"I c, I t, I z, L name {_STRING}, [ x [F, [ y [F", None),
    ROI + "EllipseROI" + _PROXY: (1, 0x02, f"I c, I t, D x, D x2, D y, D y2, I z, L name {_STRING}", None),
    ROI + "LineROI" + _PROXY: (1, 0x02, f"I c, I t, D x, D x2, D y, D y2, I z, L name {_STRING}", None),
    ROI + "GeometryROI$WKBSerializationProxy": (
        1,
        0x02,
        "I c, I t, I z, L stats Lqupath/lib/roi/GeometryROI$GeometryStats;, [ wkb [B",
        None,
    ),
    "qupath.lib.images.ImageData$ImageType": (0, 0x12, "", "java.lang.Enum"),
    "java.lang.Enum": (0, 0x12, "", None),
    "java.lang.Number": (-8742448824652078965, 0x02, "", None),
    "java.lang.Integer": (1360826667806852920, 0x02, "I value", "java.lang.Number"),
    "java.lang.Boolean": (-3665804199014368530, 0x02, "Z value", None),
    "java.util.ArrayList": (8683452581122892189, 0x03, "I size", None),
    "java.util.HashMap": (362498820763181265, 0x03, "F loadFactor, I threshold", None),
    "[F": (836686056779680834, 0x02, "", None),
    "[D": (4514449696888150558, 0x02, "", None),
    "[B": (-5984413125824719648, 0x02, "", None),
    "[Ljava.lang.Object;": (-8012369246846506644, 0x02, "", None),
}


class Builder:
    """Makes nodes for one tree.

    Args:
        known: Class descriptors that the tree already has.
        classes: Path classes that it already has, by full name.
        colors: Class name → (r, g, b), for classes that it has not.
    """

    def __init__(
        self,
        known: Sequence[ClassDesc] = (),
        *,
        classes: Mapping[str, JObject] | None = None,
        colors: Mapping[str, Rgb] | None = None,
    ) -> None:
        self._descs: dict[str, ClassDesc] = {}
        for desc in known:
            if desc.name in _CLASSES and desc.name not in self._descs and _as_specified(desc):
                self._descs[desc.name] = desc
        self._signatures = {
            f.signature.text: f.signature for desc in known for f in desc.fields if f.signature is not None
        }
        self._classes = dict(classes or {})
        self._colors = dict(colors or {})
        self._strings: dict[str, JString] = {}
        self._names: dict[tuple[str, ...], JObject] = {}
        self._keys: dict[tuple[str, ...], JArray] = {}
        self._booleans: dict[bool, JObject] = {}
        self._one: JObject | None = None

    def desc(self, name: str) -> ClassDesc:
        """The descriptor of a class in the table above, the tree's own if it has one."""
        found = self._descs.get(name)
        if found is None:
            uid, flags, fields, parent = _CLASSES[name]
            found = ClassDesc(name.encode("ascii"), uid, flags, parent=self.desc(parent) if parent else None)
            for spec in filter(None, fields.split(", ")):
                kind, field_name, *signature = spec.split(" ")
                found.fields.append(
                    Field(kind, field_name.encode("ascii"), self._signature(signature[0]) if signature else None)
                )
            self._descs[name] = found
        return found

    def _signature(self, text: str) -> JString:
        return self._signatures.setdefault(text, JString(text))

    def _string(self, text: str) -> JString:
        """One node per text: for keys and names that many objects share."""
        return self._strings.setdefault(text, JString(text))

    def object(self, name: str, *values: bytes | list[Node] | Node) -> JObject:
        return JObject(self.desc(name), list(values))

    def array(self, name: str, items: bytes | list[Node]) -> JArray:
        return JArray(self.desc(name), items)

    def integer(self, value: int) -> JObject:
        return self.object("java.lang.Integer", struct.pack(">i", value))

    def boolean(self, value: bool) -> JObject:
        if value not in self._booleans:
            self._booleans[value] = self.object("java.lang.Boolean", struct.pack(">?", value))
        return self._booleans[value]

    def image_type(self, name: str) -> JEnum:
        return JEnum(self.desc("qupath.lib.images.ImageData$ImageType"), JString(name))

    def list(self, items: Sequence[Node]) -> JObject:
        size = struct.pack(">i", len(items))
        return self.object("java.util.ArrayList", size, [Block(size), *items])

    def text_map(self, pairs: Mapping[str, str]) -> JObject:
        """A HashMap of strings."""
        buckets = 16
        while buckets * 0.75 < len(pairs):
            buckets *= 2
        items: list[Node] = [Block(struct.pack(">ii", buckets, len(pairs)))]
        for key, value in pairs.items():
            items += [JString(key), JString(value)]
        return self.object("java.util.HashMap", struct.pack(">fi", 0.75, buckets * 3 // 4), items)

    def metadata(self, pairs: Mapping[str, str]) -> JObject:
        """A MetadataMap; an object's id is one of its keys."""
        if self._one is None:
            self._one = self.integer(1)
        names = tuple(pairs)
        if names not in self._keys:
            self._keys[names] = self.array("[Ljava.lang.Object;", [self._string(name) for name in names])
        values = self.array("[Ljava.lang.Object;", [JString(value) for value in pairs.values()])
        return self.object(METADATA_MAP, [self._one, self._keys[names], values])

    def path_class(self, name: str) -> JObject:
        """The class of a full name, with its parents; each is made once."""
        found = self._classes.get(name)
        if found is None:
            parent, _, level = name.rpartition(": ")
            found = self.object(
                PATH_CLASS,
                self.integer(argb(self._colors.get(name) or default_color(name))),
                JString(level),
                self.path_class(parent) if parent else None,
            )
            self._classes[name] = found
        return found

    def measurements(self, values: Mapping[str, float]) -> JObject | None:
        """A list of doubles that share their names with other objects; None for no measurements."""
        if not values:
            return None
        names = tuple(values)
        if names not in self._names:
            self._names[names] = self.list([self._string(name) for name in names])
        packed = struct.pack(f">{len(names)}d", *values.values())
        return self.object(_NUMERIC + "DoubleList", b"\0", None, self._names[names], self.array("[D", packed))

    def root(self, object_id: str) -> JObject:
        """A hierarchy's root without children."""
        contents: list[Node] = [None, None, self.metadata({OBJECT_ID: object_id}), None, Block(bytes(4))]
        return self.object(OBJECTS + "PathRootObject", contents)

    def path_object(
        self, annotation: Annotation, roi: JObject, metadata: Mapping[str, str], nucleus: JObject | None = None
    ) -> JObject:
        """The object for an annotation, without children; `metadata` is all that is written of that kind.

        Raises:
            QuPathFormatError: A kind that cannot be written.
        """
        kind = _KIND_CLASS[annotation.kind]
        if annotation.kind == "tma_core":
            raise QuPathFormatError("TMA cores can be read, not written: make a TMA grid in QuPath")
        name, color, path_class = annotation.name, annotation.color, annotation.class_name
        contents: list[Node] = [
            None if name is None else JString(name),
            None if color is None else self.integer(argb(color)),
            self.metadata({**metadata, OBJECT_ID: annotation.id}),
            self.measurements(annotation.measurements),
            _NO_CHILDREN,
            self.boolean(annotation.locked),
            None if path_class is None else self.path_class(path_class),
            roi,
            _NO_PROBABILITY,
        ]
        if annotation.kind == "cell":
            contents.append(nucleus)
        return self.object(kind, contents)

    def rois(self, annotations: Sequence[Annotation]) -> Iterator[JObject]:
        """What `roi` makes of each; the vertices of polygons, nearly all of many, are packed in one go."""
        geometries = np.array([a.geometry for a in annotations], dtype=object)
        plain = (shapely.get_type_id(geometries) == _POLYGON_TYPE) & (shapely.get_num_interior_rings(geometries) == 0)
        plain &= ~np.array([a.ellipse for a in annotations], dtype=bool) & ~shapely.is_empty(geometries)
        counts = np.where(plain, shapely.get_num_coordinates(geometries), 0)
        xy = shapely.get_coordinates(geometries[plain])
        packed = np.where(np.abs(xy) < _FARTHEST, xy, np.nan).astype(">f4")
        plain[np.repeat(np.arange(len(plain)), counts)[np.isnan(packed).any(axis=1)]] = False  # `roi` refuses it
        ends = np.cumsum(counts) * 4
        x, y = packed[:, 0].tobytes(), packed[:, 1].tobytes()
        desc, floats = self.desc(ROI + "PolygonROI" + _PROXY), self.desc("[F")
        planes = {plane: struct.pack(">iii", plane.c, plane.t, plane.z) for plane in {a.plane for a in annotations}}
        spans = zip(annotations, plain.tolist(), (ends - counts * 4).tolist(), (ends - 4).tolist(), strict=True)
        for annotation, is_plain, start, end in spans:
            if is_plain:  # the closing vertex is left out
                xs, ys = JArray(floats, x[start:end]), JArray(floats, y[start:end])
                yield JObject(desc, [planes[annotation.plane], None, None, xs, ys])
            else:
                yield self.roi(annotation)

    def nucleus(self, annotation: Annotation) -> JObject | None:
        """The ROI of a cell's nucleus, on the cell's plane; None if it has none.

        Raises:
            QuPathFormatError: Something else than a cell has a nucleus, or it is empty.
        """
        if annotation.nucleus is None:
            return None
        if annotation.kind != "cell":
            raise QuPathFormatError(f"annotation {annotation.id} is no cell and has a nucleus: use kind='cell'")
        return self.roi(replace(annotation, geometry=annotation.nucleus, ellipse=False))

    def roi(self, annotation: Annotation) -> JObject:
        """The ROI of an annotation: one part without holes → vertices in float32; else WKB in float64."""
        geometry, p = annotation.geometry, annotation.plane
        plane = struct.pack(">iii", p.c, p.t, p.z)
        xy = shapely.get_coordinates(geometry)
        if not len(xy) or not (np.abs(xy) < _FARTHEST).all():
            raise QuPathFormatError(f"annotation {annotation.id} has an empty or infinite geometry: leave it out")
        if annotation.ellipse or (isinstance(geometry, shapely.LineString) and len(xy) == 2):
            if annotation.ellipse:
                kind, (x, y, x2, y2) = "EllipseROI", geometry.bounds
            else:
                kind, ((x, y), (x2, y2)) = "LineROI", xy.tolist()
            return self.object(ROI + kind + _PROXY, struct.pack(">iiddddi", p.c, p.t, x, x2, y, y2, p.z), None)
        if isinstance(geometry, shapely.MultiPolygon) and len(geometry.geoms) == 1:
            geometry = geometry.geoms[0]
        if isinstance(geometry, shapely.Polygon) and not geometry.interiors:
            x_and_y = self._float_lists(xy[:-1])
            return self.object(ROI + "PolygonROI" + _PROXY, plane, None, None, *x_and_y)
        if isinstance(geometry, shapely.Point | shapely.MultiPoint):
            return self.object(ROI + "PointsROI" + _PROXY, plane, None, *self._float_lists(xy))
        if isinstance(geometry, shapely.LineString):
            return self.object(ROI + "PolylineROI" + _PROXY, plane, *self._float_lists(xy))
        if isinstance(geometry, shapely.MultiPolygon | shapely.Polygon | shapely.MultiLineString):
            wkb: bytes = shapely.to_wkb(clean(geometry), byte_order=0, output_dimension=2)
            return self.object(ROI + "GeometryROI$WKBSerializationProxy", plane, None, self.array("[B", wkb))
        raise QuPathFormatError(f"annotation {annotation.id}: QuPath has no ROI for a {geometry.geom_type}")

    def _float_lists(self, xy: NDArray[np.float64]) -> tuple[JArray, JArray]:
        packed = xy.astype(">f4")
        return self.array("[F", packed[:, 0].tobytes()), self.array("[F", packed[:, 1].tobytes())


def _as_specified(desc: ClassDesc) -> bool:
    uid, flags, fields, parent = _CLASSES[desc.name]
    specified = [spec.split(" ")[:2] for spec in filter(None, fields.split(", "))]
    return (
        (desc.uid, desc.flags) == (uid, flags)
        and [[f.type, f.name.decode("utf-8", "replace")] for f in desc.fields] == specified
        and (desc.parent.name if desc.parent else None) == parent
        and (desc.parent is None or _as_specified(desc.parent))
    )


def new_file(
    header: str, *, image_type: str, root_id: str, marker: str | None, properties: Mapping[str, str]
) -> list[Node]:
    """The contents of a `.qpdata` file with an empty hierarchy.

    Args:
        header: The JSON text with data version and image server.
        image_type: QuPath's name of it, such as "BRIGHTFIELD_H_E" or "UNSET".
        root_id: The UUID of the hierarchy's root.
        marker: A text that QuPath skips when it reads the file, and drops when it saves it.
        properties: The image's properties.
    """
    builder = Builder()
    first = encode_utf("Data file version 3")
    return [
        Block(struct.pack(">H", len(first)) + first),
        JString(header),
        *([] if marker is None else [JString(marker)]),
        builder.image_type(image_type),
        builder.object(OBJECTS + "hierarchy.PathObjectHierarchy", builder.root(root_id), None),
        builder.text_map(properties),
        JString("EOF"),
    ]

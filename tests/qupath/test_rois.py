"""ROIs as their classes store them, good and bad, and what surrounds the objects in a file."""

from __future__ import annotations

import math
import struct
import uuid
from typing import Any

import pytest
import shapely

from qp2train.core.annotation import Annotation, Plane
from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import Block, ClassDesc, Field, JArray, JObject, JString
from qp2train.qupath.javastream import serialise
from qp2train.qupath.qpbuild import Builder
from qp2train.qupath.qpdata import ReadResult, load, made_up_id, read_annotations

from .test_qpdata import annotation_with, in_a_file, proxy
from .worked_example import TRIANGLE, TRIANGLE_ID

FLOATS, ROWS = ClassDesc(b"[F", 836686056779680834, 2), ClassDesc(b"[[F", 7425693303107163146, 2)
BOX = "I c, I t, D x, D x2, D y, D y2, I z, L name"


def floats(*values: float) -> JArray:
    return JArray(FLOATS, struct.pack(f">{len(values)}f", *values))


def plane(c: int = -1, z: int = 0, t: int = 0) -> bytes:
    return struct.pack(">iii", c, t, z)


def box(kind: str, x: float, y: float, x2: float, y2: float) -> JObject:
    return proxy(kind, BOX, struct.pack(">iiddddi", 0, 2, x, x2, y, y2, 1), None)


def path(kind: str, *points: tuple[float, float]) -> JObject:
    name = {"PolylineROI": [], "PointsROI": [None], "PolygonROI": [None, None]}[kind]
    fields = ["I c", "I t", "I z", "L name", "L stats"][: 3 + len(name)]
    x, y = (floats(*(point[axis] for point in points)) for axis in (0, 1))
    return proxy(kind, ", ".join([*fields, "[ x", "[ y"]), plane(0, 1, 2), *name, x, y)


def area(*rings: list[tuple[float, float]]) -> JObject:
    x, y = ([floats(*(point[axis] for point in ring)) for ring in rings] for axis in (0, 1))
    fields = "I c, I t, I z, L name, L stats, [ x, [ y"
    return proxy("AreaROI", fields, plane(0, 1, 2), None, None, JArray(ROWS, [*x]), JArray(ROWS, [*y]))


def read(*rois: JObject) -> ReadResult:
    objects = [annotation_with(roi) for roi in rois]
    for i, made in enumerate(objects):
        values = made.contents[2].contents[2].items  # type: ignore[union-attr]
        values[0] = JString(f"00000000-0000-0000-0000-{i:012d}")  # type: ignore[index]
    return read_annotations(load(in_a_file(*objects)))


SQUARE = [(0, 0), (10, 0), (10, 10), (0, 10)]
EVERY_ROI: dict[str, tuple[JObject, Any]] = {
    "rectangle, corners swapped": (box("RectangleROI", 10, 10, 0, 0), shapely.box(0, 0, 10, 10)),
    "line": (box("LineROI", 1, 2, 3, 4), shapely.LineString([(1, 2), (3, 4)])),
    "polyline": (path("PolylineROI", (1, 2), (3, 4), (5, 4)), shapely.LineString([(1, 2), (3, 4), (5, 4)])),
    "polyline of one vertex": (path("PolylineROI", (1, 2)), shapely.LineString([(1, 2), (1, 2)])),
    "point": (path("PointsROI", (1, 2)), shapely.Point(1, 2)),
    "points": (path("PointsROI", (1, 2), (3, 4)), shapely.MultiPoint([(1, 2), (3, 4)])),
    "no points": (path("PointsROI"), shapely.MultiPoint()),
    "polygon": (path("PolygonROI", *SQUARE), shapely.Polygon(SQUARE)),
    "closed polygon": (path("PolygonROI", *SQUARE, SQUARE[0]), shapely.Polygon(SQUARE)),
    "area": (area([(0, 0), (9, 0), (0, 9)]), shapely.Polygon([(0, 0), (9, 0), (0, 9)])),
    "area of two": (
        area(SQUARE, [(20, 0), (30, 0), (30, 10)]),
        shapely.MultiPolygon([shapely.Polygon(SQUARE), shapely.Polygon([(20, 0), (30, 0), (30, 10)])]),
    ),
    "area with an island in a hole": (
        area(SQUARE, [(2, 2), (8, 2), (8, 8), (2, 8)], [(4, 4), (6, 4), (6, 6), (4, 6)]),
        shapely.box(0, 0, 10, 10).difference(shapely.box(2, 2, 8, 8)).union(shapely.box(4, 4, 6, 6)),
    ),
    "empty area": (area(), shapely.Polygon()),
}


@pytest.mark.parametrize("name", EVERY_ROI)
def test_every_roi_and_its_plane(name: str) -> None:
    roi, expected = EVERY_ROI[name]
    result = read(roi)
    (found,) = result.annotations
    assert found.geometry.geom_type == expected.geom_type
    assert found.geometry.equals(expected) or (found.geometry.is_empty and expected.is_empty)
    assert found.plane == (Plane(0, 1, 2))
    assert result.repaired == ()


@pytest.mark.parametrize(
    "roi",
    [
        box("RectangleROI", math.nan, 0, 1, 1),
        box("EllipseROI", 0, 0, math.inf, 1),
        box("LineROI", 0, 0, 1, -math.inf),
        path("PolylineROI", (0, 0), (math.nan, 1)),
        path("PointsROI", (math.inf, 1)),
        path("PolygonROI", (0, 0), (1, math.inf), (1, 1)),
        area([(0, 0), (1, math.nan), (1, 1)]),
    ],
)
def test_coordinates_that_are_no_numbers_leave_nothing_and_are_reported(roi: JObject) -> None:
    result = read(roi)
    assert result.annotations[0].geometry.is_empty
    assert len(result.repaired) == 1


def test_points_that_are_numbers_stay() -> None:
    result = read(path("PointsROI", (math.nan, 1), (3, 4)))
    assert result.annotations[0].geometry.equals(shapely.Point(3, 4))
    assert len(result.repaired) == 1


def test_a_plane_that_an_old_file_leaves_out_is_zero_as_in_java() -> None:
    desc = ClassDesc(
        b"qupath.lib.roi.LineROI$SerializationProxy", 1, 2, [Field("D", k) for k in (b"x", b"x2", b"y", b"y2")]
    )
    assert read(JObject(desc, [struct.pack(">4d", 1, 2, 3, 4)])).annotations[0].plane == Plane(0, 0, 0)


def test_a_plane_that_is_no_whole_number_is_refused() -> None:
    desc = ClassDesc(
        b"qupath.lib.roi.LineROI$SerializationProxy", 1, 2, [Field("D", k) for k in (b"c", b"x", b"x2", b"y", b"y2")]
    )
    with pytest.raises(QuPathFormatError, match=r"field 'c' of .* is nan, not a whole number"):
        read(JObject(desc, [struct.pack(">5d", math.nan, 1, 2, 3, 4)]))


def test_old_jts_geometries_are_refused_with_what_to_do() -> None:
    roi = JObject(ClassDesc(b"qupath.lib.roi.GeometryROI$SerializationProxy", 1, 2), [])
    with pytest.raises(QuPathFormatError, match="open and save the image with QuPath"):
        read(roi)


def test_a_few_objects_may_share_an_outline_and_a_great_many_large_ones_may_not() -> None:
    circle = shapely.Point(0, 0).buffer(100, quad_segs=5000)
    shared = Builder().roi(Annotation(circle))
    result = read(*[shared] * 100)
    assert {a.geometry.area for a in result.annotations} == {result.annotations[0].geometry.area}
    with pytest.raises(QuPathFormatError, match="refer to the same parts so often"):
        read(*[shared] * 200)


def test_one_crossing_outline_under_many_objects_is_repaired_once_and_reported_for_each() -> None:
    bowtie = Builder().roi(Annotation(shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])))
    result = read(*[bowtie] * 50)
    assert len(result.repaired) == 50
    assert result.annotations[0].geometry is result.annotations[49].geometry


def test_overlapping_rings_by_the_thousand_are_given_up_at_once() -> None:
    rings = [
        [(x, y), (x + 300, y), (x + 300, y + 300), (x, y + 300)] for x in range(0, 300, 10) for y in range(0, 300, 10)
    ]
    result = read(area(*rings))
    assert result.annotations[0].geometry.is_empty
    assert len(result.repaired) == 1


def test_a_version_2_file_has_text_for_a_header_and_no_ids() -> None:
    data = load(TRIANGLE)
    first = b"Data file version 2"
    data.contents[0] = Block(struct.pack(">H", len(first)) + first)
    data.contents[1] = JString("Image path: /data/ü.svs")
    triangle = next(node for node in data.root.contents if isinstance(node, JObject) and "Annotation" in node.desc.name)
    del triangle.contents[2]  # the metadata with the id
    (found,) = read_annotations(load(data.to_bytes())).annotations
    assert found.id == str(uuid.uuid5(uuid.NAMESPACE_URL, "Image path: /data/ü.svs#0"))


def test_ids_are_made_up_for_any_header() -> None:
    assert made_up_id("\ud800", 1) != made_up_id("\ud800", 2)


def test_what_we_do_not_know_is_carried_through() -> None:
    connections = ClassDesc(b"qupath.lib.objects.PathObjectConnections", 1, 0x0C)
    odd = ClassDesc(b"org.example.Odd", 99, 3, [Field("J", b"j"), Field("L", b"ref", JString("Lx;"))])
    data = load(TRIANGLE)
    triangle = next(node for node in data.root.contents if isinstance(node, JObject) and "Annotation" in node.desc.name)
    extra = JObject(odd, [bytes(8), triangle, [Block(b"abc"), JString("x")]])
    properties = Builder().text_map({"a": "b"})
    properties.contents.extend([JString("OBJECT_CONNECTIONS"), JObject(connections, [[Block(b"\0\0\0\1"), extra]])])
    data.contents.insert(-1, properties)
    raw = data.to_bytes()
    again = load(raw)
    assert [a.id for a in read_annotations(again).annotations] == [TRIANGLE_ID]
    assert again.to_bytes() == raw == serialise(again.contents)

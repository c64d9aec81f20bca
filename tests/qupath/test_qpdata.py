from __future__ import annotations

import contextlib
import logging
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from qp2train.core.annotation import Annotation, Plane
from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import Block, ClassDesc, Field, JArray, JObject, JString
from qp2train.qupath.javastream import parse, serialise
from qp2train.qupath.qpbuild import Builder
from qp2train.qupath.qpdata import load, read_annotations
from qp2train.qupath.roi import ellipse, shapes

from .worked_example import ROOT_ID, TRIANGLE, TRIANGLE_ID


def test_worked_example() -> None:
    (found,) = read_annotations(load(TRIANGLE)).annotations
    assert found == Annotation(
        shapely.Polygon([(1, 2), (4, 2), (4, 6)]), "Tumor", name="A1", id=TRIANGLE_ID, measurements={}
    )
    assert load(TRIANGLE).to_bytes() == TRIANGLE


def test_a_crossing_outline_is_repaired_and_reported(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = load((shared_data / "qupath_written/0.6.0/project/data/1/data.qpdata").read_bytes())
    with caplog.at_level(logging.WARNING):
        result = read_annotations(data)
    (bowtie,) = [a for a in result.annotations if a.name == "self-intersecting bowtie"]
    assert result.repaired == (bowtie.id,)
    assert bowtie.id in caplog.text
    assert bowtie.geometry.geom_type == "MultiPolygon"
    assert bowtie.geometry.area == 5000


def test_kinds(shared_data: Path) -> None:
    data = load((shared_data / "qupath_written/0.6.0/project/data/2/data.qpdata").read_bytes())
    counts = {
        kinds: len(read_annotations(data, kinds=kinds).annotations) for kinds in ("annotation", "detection", "all")
    }
    assert counts == {"annotation": 3, "detection": 354, "all": 357}
    with pytest.raises(ValueError, match="kinds='cells': use one of 'annotation', 'detection', 'all'"):
        read_annotations(data, kinds="cells")  # type: ignore[arg-type]


def test_files_of_qupath_0_2_without_ids_get_the_same_ids_every_time(shared_data: Path) -> None:
    file = shared_data / "qupath_public/stardist_example/qupath_example_project/data/1/data.qpdata"
    once, twice = (read_annotations(load(file.read_bytes())).annotations for _ in range(2))
    assert len(once) == 19
    assert len({a.id for a in once}) == 19
    assert [a.id for a in once] == [a.id for a in twice]


def in_a_file(*objects: JObject) -> bytes:
    """A file with these objects under the root."""
    data = load(TRIANGLE)
    contents = data.root.contents
    contents[4:] = [Block(struct.pack(">i", len(objects))), *objects]
    return data.to_bytes()


def proxy(name: str, fields: str, *values: Any) -> JObject:
    """A ROI proxy of a kind that we read but never write."""
    specs = [f.split(" ") for f in fields.split(", ")]
    listed = [Field(kind, field.encode(), JString("[[F") if kind in "L[" else None) for kind, field in specs]
    return JObject(ClassDesc(f"qupath.lib.roi.{name}$SerializationProxy".encode(), 1, 2, listed), list(values))


def annotation_with(roi: JObject | None) -> JObject:
    builder = Builder()
    made = builder.path_object(Annotation(shapely.box(0, 0, 1, 1), id=TRIANGLE_ID), builder.integer(0), {})
    made.contents[7] = roi
    return made


def test_legacy_areas_take_holes_by_the_even_odd_rule() -> None:
    floats, rows = ClassDesc(b"[F", 836686056779680834, 2), ClassDesc(b"[[F", 7425693303107163146, 2)

    def ring(*values: float) -> JArray:
        return JArray(floats, struct.pack(f">{len(values)}f", *values))

    roi = proxy(
        "AreaROI",
        "I c, I t, I z, L name, L stats, [ x, [ y",
        struct.pack(">iii", -1, 0, 0),
        None,
        None,
        JArray(rows, [ring(0, 10, 10, 0), ring(2, 4, 4, 2)]),
        JArray(rows, [ring(0, 0, 10, 10), ring(2, 2, 4, 4)]),
    )
    (found,) = read_annotations(load(in_a_file(annotation_with(roi)))).annotations
    assert found.geometry.equals(
        shapely.Polygon(shapely.box(0, 0, 10, 10).exterior, [shapely.box(2, 2, 4, 4).exterior])
    )


@pytest.mark.parametrize(
    "points", [[], [(1, 2)], [(1, 2), (3, 4)], [(0, 0), (1, 1), (2, 2)], [(0, 0), (math.nan, 1), (2, 0)]]
)
def test_polygons_without_extent_come_back_empty_and_reported(points: list[tuple[float, float]]) -> None:
    roi = Builder().roi(Annotation(shapely.Polygon([(0, 0), (1, 0), (1, 1)])))
    for axis, index in ((0, 3), (1, 4)):
        array = roi.values[index]
        assert isinstance(array, JArray)
        array.items = struct.pack(f">{len(points)}f", *(point[axis] for point in points))
    result = read_annotations(load(in_a_file(annotation_with(roi))))
    assert [a.geometry.is_empty for a in result.annotations] == [True]
    assert result.repaired == (TRIANGLE_ID,)


def test_an_object_without_roi_is_kept_and_reported() -> None:
    result = read_annotations(load(in_a_file(annotation_with(None))))
    assert result.annotations[0].geometry.is_empty
    assert result.without_shape == (TRIANGLE_ID,)


def test_rois_of_unknown_kind_are_refused_by_name() -> None:
    roi = JObject(ClassDesc(b"qupath.lib.roi.GeometryROI$SerializationProxy", 1, 2), [])
    with pytest.raises(QuPathFormatError, match="GeometryROI"):
        read_annotations(load(in_a_file(annotation_with(roi))))


@pytest.mark.parametrize("size", [(1, 1), (100, 30), (20_000, 5_000)])
def test_ellipses_are_fine_enough(size: tuple[float, float]) -> None:
    width, height = size
    polygon = ellipse(10, 20, 10 + width, 20 + height)
    assert polygon.area == pytest.approx(math.pi * width * height / 4, rel=1e-4)
    assert polygon.bounds == (10, 20, 10 + width, 20 + height)


def test_polygons_are_built_in_one_go_with_the_stored_vertices() -> None:
    wanted = [Annotation(shapely.Polygon([(i, 0), (i + 0.1, 0), (i, 1 + i)])) for i in range(50)]
    found = shapes([Builder().roi(a) for a in wanted])
    for shape, one in zip(found, wanted, strict=True):
        stored = np.float32(shapely.get_coordinates(one.geometry))
        assert (shapely.get_coordinates(shape.geometry) == stored).all()


def test_the_data_version_4_form_of_ids_is_read() -> None:
    made = annotation_with(Builder().roi(Annotation(shapely.box(0, 0, 1, 1))))
    uuid = JObject(
        ClassDesc(
            b"java.util.UUID", -4856846361193249489, 2, [Field("J", b"leastSigBits"), Field("J", b"mostSigBits")]
        ),
        [struct.pack(">qq", -1, 1)],
    )
    made.contents[2:4] = [uuid, Block(struct.pack(">i", 2)), made.contents[2], None]
    (found,) = read_annotations(load(in_a_file(made))).annotations
    assert found.id == "00000000-0000-0001-ffff-ffffffffffff"


def test_ten_thousand_objects_in_each_other() -> None:
    builder = Builder()
    inner: list[JObject] = []
    for i in range(10_000):
        a = Annotation(shapely.box(0, 0, 1, 1), id=f"00000000-0000-0000-0001-{i:012d}")
        node = builder.path_object(a, builder.roi(a), {})
        node.contents[4:5] = [Block(struct.pack(">i", len(inner))), *inner]
        inner = [node]
    found = read_annotations(load(in_a_file(*inner))).annotations
    assert len(found) == 10_000
    assert found[0].parent is None
    assert found[1].parent == found[0].id


def test_an_object_in_two_places_is_refused() -> None:
    node = annotation_with(Builder().roi(Annotation(shapely.box(0, 0, 1, 1))))
    with pytest.raises(QuPathFormatError, match="at two places"):
        read_annotations(load(in_a_file(node, node)))
    node.contents[4:5] = [Block(struct.pack(">i", 1)), node]
    with pytest.raises(QuPathFormatError, match="at two places"):
        read_annotations(load(in_a_file(node)))


def everything(data: bytes) -> None:
    read_annotations(load(data))


def test_foreign_and_truncated_files_are_refused() -> None:
    with pytest.raises(QuPathFormatError, match="starts with nothing"):
        everything(b"")
    with pytest.raises(QuPathFormatError, match="starts with 7b 7d"):
        everything(b"{}")
    with pytest.raises(QuPathFormatError, match='does not begin with "Data file version"'):
        everything(serialise([Block(b"\0\5hello"), JString("EOF")]))
    with pytest.raises(QuPathFormatError, match="hierarchy is missing"):
        everything(serialise([Block(b"\0\x13Data file version 3"), JString("{}"), JString("EOF")]))
    for size in range(len(TRIANGLE)):
        with pytest.raises(QuPathFormatError):
            everything(TRIANGLE[:size])


def test_truncated_real_files_are_refused(shared_data: Path) -> None:
    for name in ("qupath_written/0.6.0/project/data/1", "qupath_public/stardist_example/qupath_example_project/data/1"):
        data = (shared_data / name / "data.qpdata").read_bytes()
        for size in range(0, len(data), 97):
            with pytest.raises(QuPathFormatError):
                everything(data[:size])


@settings(max_examples=300, deadline=None)
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5))
def test_flipped_bytes_of_a_file_with_every_kind_raise_nothing_else(flips: list[tuple[float, int]]) -> None:
    data = bytearray(ZOO)
    for where, value in flips:
        data[int(where * len(data))] = value
    with contextlib.suppress(QuPathFormatError):
        everything(bytes(data))


def zoo() -> bytes:
    """Objects of every kind that we write, with measurements, metadata, colours and planes."""
    geometries = [
        shapely.Polygon([(0, 0), (9, 0), (5, 7)]),
        shapely.box(0, 0, 9, 9).difference(shapely.box(2, 2, 3, 3)),
        shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(4, 4, 5, 5)]),
        shapely.LineString([(0, 0), (5, 5)]),
        shapely.LineString([(0, 0), (5, 5), (9, 0)]),
        shapely.MultiLineString([[(0, 0), (5, 5)], [(9, 9), (8, 8)]]),
        shapely.Point(3, 4),
        shapely.MultiPoint([(3, 4), (5, 6)]),
    ]
    kinds = ["annotation", "detection", "cell", "tile"]
    builder = Builder(colors={"Tumor": (200, 0, 0)})
    nodes = []
    for i, geometry in enumerate(geometries):
        a = Annotation(
            geometry,
            "Tumor: Positive",
            kind=kinds[i % 4],  # type: ignore[arg-type]
            name="ß😀",
            measurements={"a": 1.5, "b": math.nan},
            locked=bool(i % 2),
            id=f"00000000-0000-0000-0000-{i + 10:012d}",
            plane=Plane(0, 1, 2),
            color=(1, 2, 3),
        )
        nodes.append(builder.path_object(a, builder.roi(a), {"key": "value"}))
    return in_a_file(*nodes)


ZOO = zoo()


def test_every_kind_that_we_write_is_read_back() -> None:
    found = read_annotations(load(ZOO)).annotations
    assert [a.kind for a in found] == ["annotation", "detection", "cell", "tile"] * 2
    assert found[2].geometry.geom_type == "MultiPolygon"
    for a in found:
        assert (a.class_name, a.name, a.color, a.plane, a.metadata) == (
            ("Tumor: Positive", "ß😀", (1, 2, 3), Plane(0, 1, 2), {"key": "value"})
        )
        assert a.measurements["a"] == 1.5
        assert math.isnan(a.measurements["b"])
    assert parse(ZOO)
    assert ROOT_ID

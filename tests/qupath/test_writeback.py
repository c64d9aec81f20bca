from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation, Plane
from qp2train.errors import LabelError, ProjectError, QuPathFormatError
from qp2train.qupath.hierarchy import Hierarchy
from qp2train.qupath.javanodes import JObject, JString
from qp2train.qupath.javatypes import class_name
from qp2train.qupath.pathobject import PathObject, set_children, walk
from qp2train.qupath.qpbuild import _CLASSES, Builder, _as_specified
from qp2train.qupath.qpdata import QpData, load, read_annotations
from qp2train.qupath.writeback import WriteReport, remove_objects, write_objects

from .test_qpdata import ZOO
from .worked_example import TRIANGLE, TRIANGLE_ID

SQUARE = shapely.Polygon([(10, 10), (20, 10), (20, 20), (10, 20)])


def predicted(geometry: BaseGeometry = SQUARE, class_name: str | None = "Tumor", **more: object) -> Annotation:
    return Annotation(geometry, class_name, **more)  # type: ignore[arg-type]


def object_of(data: QpData, object_id: str) -> PathObject:
    return next(obj for obj in walk(data.root) if obj.id == object_id)


def reread(data: QpData) -> QpData:
    return load(data.to_bytes())


def test_what_is_written_comes_back_with_its_source() -> None:
    data = load(TRIANGLE)
    wanted = predicted(name="ß😀", measurements={"p": 0.1}, metadata={"k": "v"}, locked=True, plane=Plane(0, 1, 2))
    report = write_objects(data, [wanted], source="unet-1")
    assert report == WriteReport("", "unet-1", added=1)
    human, ours = read_annotations(reread(data)).annotations
    assert human.id == TRIANGLE_ID
    assert ours == replace(wanted, source="unet-1")
    assert str(replace(report, entry="a.svs")) == "a.svs: 1 added, 0 removed (unet-1)"


def test_every_class_has_a_colour_without_which_qupath_reads_no_object_of_the_file() -> None:
    """A derived class without one: PathClass.readResolve of QuPath 0.6 failed, and the image had no objects."""
    data = load(TRIANGLE)
    write_objects(data, [predicted(class_name="Lymph: Dense: Peripheral")], source=None)
    classes = Hierarchy(reread(data)).classes
    nodes = {classes.name(obj.path_class): obj.path_class for obj in walk(reread(data).root) if obj.path_class}
    node = nodes["Lymph: Dense: Peripheral"]
    for _ in range(3):
        assert node.ref("colorRGB") is not None
        node = node.ref("parentClass")
    assert node is None


SHAPES = {
    "polygon": (SQUARE, "PolygonROI"),
    "holes": (SQUARE.difference(shapely.box(12, 12, 13, 13)), "GeometryROI$WKB"),
    "two parts": (shapely.MultiPolygon([SQUARE, shapely.box(30, 30, 40, 40)]), "GeometryROI$WKB"),
    "one part": (shapely.MultiPolygon([SQUARE]), "PolygonROI"),
    "line": (shapely.LineString([(0, 0), (5, 5)]), "LineROI"),
    "polyline": (shapely.LineString([(0, 0), (5, 5), (9, 0)]), "PolylineROI"),
    "lines": (shapely.MultiLineString([[(0, 0), (5, 5)], [(9, 9), (8, 8)]]), "GeometryROI$WKB"),
    "point": (shapely.Point(3, 4), "PointsROI"),
    "points": (shapely.MultiPoint([(3, 4), (5, 6)]), "PointsROI"),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_each_geometry_becomes_the_roi_that_qupath_would_make(kind: str) -> None:
    geometry, roi = SHAPES[kind]
    data = load(TRIANGLE)
    wanted = predicted(geometry)
    write_objects(data, [wanted], source="m")
    node = object_of(data, wanted.id).roi
    assert isinstance(node, JObject)
    assert node.desc.name == f"qupath.lib.roi.{roi}SerializationProxy".replace("ROIS", "ROI$S")
    assert read_annotations(reread(data)).annotations[1].geometry.equals(geometry)


def test_ellipses_stay_ellipses(shared_data: Path) -> None:
    source = read_annotations(load((shared_data / "qupath_written/0.6.0/project/data/1/data.qpdata").read_bytes()))
    (ellipse,) = [a for a in source.annotations if a.ellipse]
    data = load(TRIANGLE)
    write_objects(data, [ellipse], source="m")
    assert read_annotations(reread(data)).annotations[1] == replace(ellipse, source="m")


def test_polygons_keep_float32_and_multipolygons_all_digits() -> None:
    fine = shapely.Polygon([(0, 0), (100_000.123456789, 0), (0, 1 / 3)])
    two = shapely.MultiPolygon([fine, shapely.box(-9, -9, -8, -8)])
    data = load(TRIANGLE)
    write_objects(data, [predicted(fine), predicted(two)], source="m")
    _, simple, several = read_annotations(reread(data)).annotations
    assert simple.geometry.bounds[2] == 100_000.125
    assert several.geometry == two


@pytest.mark.parametrize("original", [TRIANGLE, ZOO], ids=["worked example", "zoo"])
def test_write_then_clear_gives_the_original_bytes(original: bytes) -> None:
    data = load(original)
    write_objects(data, [predicted(g, f"New: {i}") for i, (g, _) in enumerate(SHAPES.values())], source="m")
    data = reread(data)
    assert data.to_bytes() != original
    remove_objects(data, "m")
    assert data.to_bytes() == original


def test_the_classes_we_write_are_declared_as_qupath_declares_them(qpdata_files: list[Path]) -> None:
    seen = set()
    for file in qpdata_files:
        for desc in load(file.read_bytes()).classes:
            if desc.name in _CLASSES:
                assert _as_specified(desc), f"{desc.name} in {file}"
                seen.add(desc.name.rpartition(".")[2])
    assert {"PolygonROI$SerializationProxy", "GeometryROI$WKBSerializationProxy", "PathClass", "MetadataMap"} < seen
    # what no file at hand contains: open lists of doubles
    assert {name.rpartition(".")[2] for name in _CLASSES} - seen <= {"NumericMeasurementList$DoubleList", "[D"}


def test_write_then_clear_gives_the_original_bytes_of_every_real_file(qpdata_files: list[Path]) -> None:
    assert len(qpdata_files) >= 14
    for file in qpdata_files:
        original = file.read_bytes()
        data = load(original)
        for source in ("one", "two"):
            write_objects(data, [predicted(measurements={"a": 1}), predicted(class_name="Some: New")], source=source)
            data = reread(data)
        for source in ("one", "two"):
            remove_objects(data, source)
            data = reread(data)
        assert data.to_bytes() == original, file


geometries = st.sampled_from([g for g, _ in SHAPES.values()])
annotations = st.lists(
    st.builds(
        predicted,
        geometries,
        st.none() | st.sampled_from(["Tumor", "Tumor: Positive", "Ünïcode 腫瘍", "A: B: C"]),
        name=st.none() | st.text(max_size=5),
        locked=st.booleans(),
        measurements=st.dictionaries(st.text(max_size=4), st.floats(), max_size=3),
        metadata=st.dictionaries(st.text(min_size=1, max_size=4), st.text(max_size=4), max_size=2),
        id=st.builds(lambda: str(uuid.uuid4())),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["a", "b"]), annotations), max_size=4))
def test_any_writes_and_then_clears_give_the_original_bytes(steps: list[tuple[str, list[Annotation]]]) -> None:
    data = load(ZOO)
    for source, wanted in steps:
        write_objects(data, wanted, source=source)
        data = reread(data)
        written = [a for a in read_annotations(data).annotations if a.source == source]
        assert [a.id for a in written] == [a.id for a in wanted]
        assert [a.class_name for a in written] == [a.class_name for a in wanted]
    for source in ("a", "b"):
        remove_objects(data, source)
    assert data.to_bytes() == ZOO


def test_running_twice_replaces_and_adding_adds() -> None:
    data = load(TRIANGLE)
    for _ in range(3):
        report = write_objects(data, [predicted(), predicted(shapely.box(0, 0, 1, 1))], source="m")
        data = reread(data)
    assert (report.added, report.removed) == (2, 2)
    assert len(read_annotations(data).annotations) == 3
    write_objects(data, [predicted()], source="m", mode="add")
    assert len(read_annotations(data).annotations) == 4


def test_sources_do_not_touch_each_other() -> None:
    data = load(TRIANGLE)
    write_objects(data, [predicted(id="00000000-0000-0000-0000-00000000000a")], source="a")
    write_objects(data, [predicted(id="00000000-0000-0000-0000-00000000000b")], source="b")
    remove_objects(data, "a")
    assert [a.source for a in read_annotations(reread(data)).annotations] == [None, "b"]


def move_a_vertex(data: QpData, obj: PathObject) -> None:
    obj.node.contents[7] = Builder(data.classes).roi(predicted(shapely.box(10, 10, 21, 20)))


def reclassify(data: QpData, obj: PathObject) -> None:
    obj.node.contents[6] = object_of(data, TRIANGLE_ID).path_class


def rename(data: QpData, obj: PathObject) -> None:
    obj.node.contents[0] = JString("checked")


def lock(data: QpData, obj: PathObject) -> None:
    obj.node.contents[5] = Builder(data.classes).boolean(True)


def describe(data: QpData, obj: PathObject) -> None:
    at = [class_name(node) for node in obj.node.contents].index("qupath.lib.objects.MetadataMap")
    about = {"Object ID": str(obj.id), **obj.metadata, "ANNOTATION_DESCRIPTION": "seen by Dr X"}
    obj.node.contents[at] = Builder(data.classes).metadata(about)


@pytest.mark.parametrize("edit", [move_a_vertex, reclassify, rename, lock, describe])
def test_what_a_human_edited_is_kept_and_supersedes_the_same_prediction(edit: object) -> None:
    data = load(TRIANGLE)
    first, second = predicted(class_name="Stroma"), predicted(shapely.box(50, 50, 60, 60), "Stroma")
    write_objects(data, [first, second], source="m")
    edit(data, object_of(data, first.id))  # type: ignore[operator]
    data = reread(data)
    assert read_annotations(data).edited == (first.id,)

    again = [replace(a, id=str(uuid.uuid4())) for a in (first, second)]
    report = write_objects(data, again, source="m")
    assert (report.added, report.removed, report.kept_edited, report.superseded) == (1, 1, 1, 1)
    assert "1 kept because edited by hand" in str(report)
    assert [a.id for a in read_annotations(reread(data)).annotations] == [TRIANGLE_ID, first.id, again[1].id]

    assert remove_objects(data, "m").removed == [again[1].id]
    assert remove_objects(data, "m", edited=True).removed == [first.id]
    assert [a.id for a in read_annotations(data).annotations] == [TRIANGLE_ID]


def test_a_rerun_with_the_same_ids_leaves_the_edited_object() -> None:
    data = load(TRIANGLE)
    one = predicted(class_name="Stroma")
    write_objects(data, [one], source="m")
    rename(data, object_of(data, one.id))
    report = write_objects(data, [replace(one, geometry=shapely.box(0, 0, 5, 5))], source="m")
    assert (report.added, report.superseded) == (0, 1)


def test_a_description_that_the_model_gave_is_no_edit() -> None:
    data = load(TRIANGLE)
    one = predicted(metadata={"ANNOTATION_DESCRIPTION": "uncertain"})
    write_objects(data, [one], source="m")
    assert remove_objects(reread(data), "m").removed == [one.id]


def test_a_copy_that_a_human_corrected_does_not_stand_for_the_original() -> None:
    """In QuPath a copy keeps the metadata; the original still lies there, untouched."""
    data = load(TRIANGLE)
    one = predicted(class_name="Stroma")
    write_objects(data, [one, copy := replace(one, id=str(uuid.uuid4()))], source="m")
    move_a_vertex(data, object_of(data, copy.id))
    report = write_objects(data, [again := replace(one, id=str(uuid.uuid4()))], source="m")
    assert (report.added, report.removed, report.kept_edited, report.superseded) == (1, 1, 1, 0)
    assert [a.id for a in read_annotations(reread(data)).annotations] == [TRIANGLE_ID, copy.id, again.id]


def test_one_id_in_capitals_and_small_letters_is_one_to_java() -> None:
    with pytest.raises(ProjectError, match="already there"):
        write_objects(load(TRIANGLE), [predicted(id=TRIANGLE_ID.upper())], source="m")


def test_a_closing_vertex_that_qupath_adds_is_no_edit() -> None:
    data = load(TRIANGLE)
    one = predicted()
    write_objects(data, [one], source="m")
    roi = object_of(data, one.id).roi
    assert isinstance(roi, JObject)
    for array in roi.values[3:]:
        array.items += array.items[:4]  # type: ignore[union-attr,operator,index]
    assert remove_objects(reread(data), "m").removed == [one.id]


def test_the_coordinates_that_qupath_rounds_on_saving_are_no_edit() -> None:
    outer = [(0.004, 0), (300000.13, 0), (300000.13, 9.125), (-0.125, 9.125)]
    one = predicted(shapely.Polygon(outer, [[(2, 2), (2, 3.333), (3, 2)]]))
    data = load(TRIANGLE)
    write_objects(data, [one], source="m")
    # what QuPath 0.6.0 and 0.7.0 make of it: 0.01 px, halves up, then float32 (1/32 px apart at 300,000)
    outer = [(0, 0), (300000.125, 0), (300000.125, 9.130000114440918), (-0.11999999731779099, 9.130000114440918)]
    saved = shapely.Polygon(outer, [[(2, 2), (2, 3.3299999237060547), (3, 2)]])
    contents = object_of(data, one.id).node.contents
    contents[7] = Builder(data.classes).roi(predicted(saved))
    assert read_annotations(reread(data)).edited == ()

    moved = shapely.transform(saved, lambda xy: xy + 0.05)
    contents[7] = Builder(data.classes).roi(predicted(moved))
    assert read_annotations(reread(data)).edited == (one.id,)


def test_a_humans_children_of_a_removed_object_move_up_in_place() -> None:
    data = load(TRIANGLE)
    outer, inner = predicted(), predicted(shapely.box(50, 50, 60, 60))
    write_objects(data, [outer, replace(inner, parent=outer.id)], source="m")
    write_objects(data, [predicted(id="00000000-0000-0000-0000-0000000000cc", parent=inner.id)], source="human's tool")
    root = next(walk(data.root))
    set_children(root, list(reversed(root.children)))  # the prediction first, the human's triangle last
    removal = remove_objects(data, "m")
    assert (removal.removed, removal.moved_up) == ([outer.id, inner.id], 1)
    found = read_annotations(reread(data)).annotations
    assert [(a.id, a.parent) for a in found] == [("00000000-0000-0000-0000-0000000000cc", None), (TRIANGLE_ID, None)]


def test_parents_may_be_old_or_new_objects() -> None:
    data = load(TRIANGLE)
    one = predicted(parent=TRIANGLE_ID)
    two = predicted(parent=one.id)
    write_objects(data, [one, two], source="m")
    assert [(a.id, a.parent) for a in read_annotations(reread(data)).annotations] == [
        (TRIANGLE_ID, None),
        (one.id, TRIANGLE_ID),
        (two.id, one.id),
    ]
    remove_objects(data, "m")
    assert data.to_bytes() == TRIANGLE


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ([predicted(id=TRIANGLE_ID)], ProjectError, f"{TRIANGLE_ID} is already there"),
        ([predicted(id="7")], ProjectError, "'7' is no UUID"),
        ([predicted(parent=str(uuid.UUID(int=99)))], ProjectError, "which is not there: use parent=None"),
        ([predicted(class_name="A: ")], LabelError, "class name 'A: '"),
        ([predicted(class_name="A\nB")], LabelError, "one line"),
        ([predicted(class_name="A:B")], LabelError, "no other colon"),
        ([predicted(shapely.Polygon())], QuPathFormatError, "empty or infinite geometry"),
        ([predicted(shapely.Point(float("inf"), 0))], QuPathFormatError, "empty or infinite geometry"),
        ([predicted(shapely.GeometryCollection([SQUARE]))], QuPathFormatError, "no ROI for a GeometryCollection"),
        ([predicted(kind="tma_core")], QuPathFormatError, "TMA cores can be read, not written"),
    ],
)
def test_what_qupath_cannot_hold_is_refused(wanted: list[Annotation], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        write_objects(load(TRIANGLE), wanted, source="m")


def test_reports_add_up() -> None:
    total = WriteReport("a", "m", added=1, removed=2) + WriteReport("b", "m", added=3, moved_up=1)
    assert total == WriteReport("", "m", added=4, removed=2, moved_up=1)
    assert str(total) == "all entries: 4 added, 2 removed, 1 of others moved up (m)"

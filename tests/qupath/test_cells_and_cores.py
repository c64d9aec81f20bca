"""Cells with nuclei, and tissue microarrays."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from qp2train.core.annotation import Annotation, Plane
from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import Block, ClassDesc, Field, JObject, JString
from qp2train.qupath.javastream import serialise
from qp2train.qupath.pathobject import set_children, walk
from qp2train.qupath.qpbuild import CHILDREN_AT, Builder
from qp2train.qupath.qpdata import FINGERPRINT_KEY, QpData, load, read_annotations
from qp2train.qupath.tma import TmaGrid
from qp2train.qupath.writeback import remove_objects, write_objects

from .worked_example import TRIANGLE

CELL = shapely.Polygon([(0, 0), (20, 0), (20, 20), (0, 20)])
NUCLEUS = shapely.Polygon([(5, 5), (15, 5), (10, 15)])


def written(*annotations: Annotation, source: str | None = "m") -> QpData:
    data = load(TRIANGLE)
    write_objects(data, annotations, source=source)
    return load(data.to_bytes())


def cell(nucleus: object = NUCLEUS, **more: object) -> Annotation:
    return Annotation(CELL, "Tumor", kind="cell", nucleus=nucleus, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "nucleus",
    [
        NUCLEUS,
        shapely.box(2, 2, 18, 18).difference(shapely.box(4, 4, 5, 5)),
        shapely.MultiPolygon([shapely.box(1, 1, 2, 2), shapely.box(4, 4, 5, 5)]),
        None,
    ],
)
def test_a_nucleus_comes_back_on_the_cells_plane(nucleus: object) -> None:
    wanted = cell(nucleus, plane=Plane(0, 1, 2))
    _, found = read_annotations(written(wanted)).annotations
    assert found == replace(wanted, source="m")


def test_only_cells_have_nuclei() -> None:
    with pytest.raises(QuPathFormatError, match="is no cell and has a nucleus: use kind='cell'"):
        written(Annotation(CELL, nucleus=NUCLEUS))


def test_a_moved_nucleus_is_a_humans_edit() -> None:
    data = written(cell(), cell(None))
    assert read_annotations(data).edited == ()
    *_, one, other = walk(data.root)
    one.node.contents[9] = Builder().roi(Annotation(shapely.box(5, 5, 9, 9)))
    other.node.contents[9] = Builder().roi(Annotation(shapely.box(5, 5, 9, 9)))
    assert read_annotations(data).edited == (one.id, other.id)
    assert remove_objects(data, "m").removed == []


def test_fingerprints_of_objects_without_nucleus_are_those_of_earlier_versions() -> None:
    found = [
        obj.metadata[FINGERPRINT_KEY]
        for obj in walk(written(cell(None), Annotation(NUCLEUS, "Tumor", name="a", locked=True)).root)
        if FINGERPRINT_KEY in obj.metadata
    ]
    assert found == ["91cbfe09dd7fd085", "33b6ffc8b7494c7d"]


def test_a_cell_that_is_a_nucleus_alone_takes_its_outline() -> None:
    data = written(cell())
    *_, found = walk(data.root)
    found.node.contents[7] = None
    _, one = read_annotations(data).annotations
    assert one.geometry.equals(NUCLEUS)
    assert one.nucleus is not None
    assert one.nucleus.equals(NUCLEUS)


def test_a_crossing_nucleus_is_repaired_and_reported() -> None:
    data = written(cell(shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])))
    result = read_annotations(data)
    assert result.repaired == (result.annotations[1].id,)
    assert result.annotations[1].nucleus is not None
    assert result.annotations[1].nucleus.area == 50


polygons = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=3, max_size=6).map(shapely.Polygon)
outlines = st.one_of(
    polygons,
    st.just(shapely.Point(1, 2)),
    st.just(shapely.LineString([(0, 0), (3, 4), (9, 9)])),
    st.just(shapely.box(0, 0, 9, 9).difference(shapely.box(1, 1, 2, 2))),
    st.just(shapely.MultiPolygon([shapely.box(0, 0, 1, 1)])),
)


@given(
    st.lists(st.builds(Annotation, outlines, plane=st.sampled_from([Plane(), Plane(0, 1, 2)]), ellipse=st.booleans()))
)
def test_outlines_packed_together_equal_those_packed_one_by_one(annotations: list[Annotation]) -> None:
    drawn = [a for a in annotations if not (a.ellipse and a.geometry.area == 0)]
    builder = Builder()
    for one, other in zip(builder.rois(drawn), map(builder.roi, drawn), strict=True):
        assert serialise([one]) == serialise([other])


@pytest.mark.parametrize("geometry", [shapely.Polygon(), shapely.Polygon([(0, 0), (1, 1), (1e31, 0)]), shapely.Point()])
def test_an_outline_that_cannot_be_packed_is_refused_by_id(geometry: shapely.Geometry) -> None:
    bad = Annotation(geometry)
    with pytest.raises(QuPathFormatError, match=bad.id):
        list(Builder().rois([Annotation(CELL), bad, Annotation(CELL)]))


def core(builder: Builder, index: int, *, missing: bool) -> JObject:
    """A TMA core, as QuPath's TMACoreObject writes itself."""
    a = Annotation(CELL, id=f"00000000-0000-0000-0000-{index:012d}", name=f"A-{index}")
    made = builder.path_object(a, builder.roi(a), {})
    parent = made.desc.parent
    contents = [*made.contents[:8], Block(struct.pack(">d?", float("nan"), missing))]
    return JObject(ClassDesc(b"qupath.lib.objects.TMACoreObject", 1, 0x0C, parent=parent), [contents])


def grid(width: int, height: int, cores: list[JObject], name: str = "DefaultTMAGrid") -> JObject:
    fields = [Field("I", b"gridHeight"), Field("I", b"gridWidth"), Field("L", b"cores", JString("Ljava/util/List;"))]
    desc = ClassDesc(f"qupath.lib.objects.hierarchy.{name}".encode(), 1, 2, fields)
    return JObject(desc, [struct.pack(">ii", height, width), Builder().list(cores)])


def array_of_cores(width: int, height: int, *, in_grid: int = 6, name: str = "DefaultTMAGrid") -> QpData:
    data = load(TRIANGLE)
    builder = Builder(data.classes)
    cores = [core(builder, i, missing=i == 4) for i in range(6)]
    set_children(next(walk(data.root)), cores)
    data.hierarchy.values[1] = grid(width, height, cores[:in_grid], name)
    return load(data.to_bytes())


def test_cores_and_grid_are_read() -> None:
    data = array_of_cores(3, 2)
    assert data.tma_grid == TmaGrid(3, 2, tuple(f"00000000-0000-0000-0000-{i:012d}" for i in range(6)))
    found = read_annotations(data).annotations
    assert [a.kind for a in found] == ["tma_core"] * 6
    assert [a.metadata for a in found] == [{"isMissing": "true"} if i == 4 else {} for i in range(6)]
    assert load(data.to_bytes()).to_bytes() == data.to_bytes()


def test_no_grid() -> None:
    assert load(TRIANGLE).tma_grid is None


def test_a_grid_that_does_not_fit_its_cores_is_refused_and_the_objects_are_not() -> None:
    for data, message in (
        (array_of_cores(3, 3), "a TMA grid of 3 x 3 with 6 cores"),
        (array_of_cores(-3, -2), "a TMA grid of -3 x -2"),
        (array_of_cores(3, 2, name="OddTMAGrid"), "a TMA grid of class qupath.lib.objects.hierarchy.OddTMAGrid"),
    ):
        assert len(read_annotations(data).annotations) == 6
        with pytest.raises(QuPathFormatError, match=message):
            _ = data.tma_grid
    data = array_of_cores(3, 2)
    set_children(next(walk(data.root)), [])
    with pytest.raises(QuPathFormatError, match="a core of the TMA grid is not among the objects"):
        _ = data.tma_grid


def test_cores_are_not_written() -> None:
    with pytest.raises(QuPathFormatError, match="TMA cores can be read, not written"):
        written(Annotation(CELL, kind="tma_core"))


def test_predictions_go_below_a_core_and_out_again() -> None:
    data = array_of_cores(3, 2)
    before = data.to_bytes()
    write_objects(data, [cell(parent="00000000-0000-0000-0000-000000000002")], source="m")
    again = load(data.to_bytes())
    assert again.tma_grid == data.tma_grid
    assert [a.parent for a in read_annotations(again).annotations if a.kind == "cell"] == [data.tma_grid.cores[2]]  # type: ignore[union-attr]
    remove_objects(again, "m")
    assert again.to_bytes() == before


def test_ten_thousand_nested_levels_are_written_into_cleared_and_written_back() -> None:
    data = load(TRIANGLE)
    builder = Builder(data.classes)
    inner: list[JObject] = []
    for i in range(10_000):
        a = Annotation(CELL, id=f"00000000-0000-0000-0001-{i:012d}")
        node = builder.path_object(a, builder.roi(a), {})
        node.contents[CHILDREN_AT : CHILDREN_AT + 1] = [Block(struct.pack(">i", len(inner))), *inner]
        inner = [node]
    set_children(next(walk(data.root)), inner)
    before = data.to_bytes()
    ours = [cell(parent=None if i % 2 else f"00000000-0000-0000-0001-{i:012d}") for i in range(100)]
    report = write_objects(data, ours, source="m")
    assert report.added == 100
    again = load(data.to_bytes())
    assert len(read_annotations(again).annotations) == 10_100
    assert len(remove_objects(again, "m").removed) == 100
    assert again.to_bytes() == before


def test_ten_thousand_nested_predictions_are_cleared_and_what_lay_below_moves_up() -> None:
    ids = [f"00000000-0000-0000-0002-{i:012d}" for i in range(10_000)]
    chain = [cell(id=one, parent=above) for one, above in zip(ids, [None, *ids], strict=False)]
    data = written(*chain)
    human = Annotation(NUCLEUS, parent=ids[-1])
    write_objects(data, [human], source=None)
    again = load(data.to_bytes())
    removal = remove_objects(again, "m")
    assert (len(removal.removed), removal.moved_up) == (10_000, 1)
    assert read_annotations(load(again.to_bytes())).annotations[1] == replace(human, parent=None)

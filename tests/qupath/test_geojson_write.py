"""What is written is what QuPath writes, at any size, packed or nested; an error leaves the old file as it was."""

from __future__ import annotations

import gzip
import json
import logging
import math
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import geojson as independent
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from qp2train.core.annotation import Annotation, Kind, Plane
from qp2train.errors import ProjectError
from qp2train.qupath.geojson import CORRECTED_KEY, read_geojson, write_geojson
from qp2train.qupath.roi import ellipse

SQUARE = shapely.box(0, 0, 4, 4)


def named(name: str, parent: str | None = None, **more: Any) -> Annotation:
    return Annotation(SQUARE, name=name, id=an_id(name), parent=None if parent is None else an_id(parent), **more)


def an_id(name: str) -> str:
    return f"00000000-0000-0000-0000-{ord(name):012x}"


def features(file: Path) -> list[dict[str, Any]]:
    return list(json.loads(file.read_bytes())["features"])


def test_a_cell_keeps_its_nucleus(tmp_path: Path) -> None:
    cell = Annotation(SQUARE, "Tumor", kind="cell", nucleus=shapely.box(1, 1, 2, 2), plane=Plane(-1, 3, 0))
    write_geojson(tmp_path / "a.geojson", [cell])
    (feature,) = features(tmp_path / "a.geojson")
    assert list(feature) == ["type", "id", "geometry", "nucleusGeometry", "properties"]
    assert feature["nucleusGeometry"] == {
        "type": "Polygon",
        "coordinates": [[[2, 1], [2, 2], [1, 2], [1, 1], [2, 1]]],
        "plane": {"c": -1, "z": 3, "t": 0},
    }
    assert read_geojson(tmp_path / "a.geojson") == [cell]


def test_a_nucleus_without_a_cell_is_left_out_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nucleus = {"type": "Polygon", "coordinates": [[[1, 1], [2, 1], [2, 2], [1, 1]]]}
    cell = {"type": "Feature", "geometry": None, "nucleusGeometry": nucleus, "properties": {"objectType": "cell"}}
    other = {"type": "Feature", "geometry": nucleus, "nucleusGeometry": nucleus, "properties": {}}
    (tmp_path / "a.geojson").write_text(json.dumps([cell, other]))
    with caplog.at_level(logging.WARNING):
        first, second = read_geojson(tmp_path / "a.geojson")
    assert first.geometry == first.nucleus == second.geometry
    assert second.nucleus is None
    assert f"1 object(s) with a nucleus that is not understood, or no cells: {second.id}" in caplog.text


def test_a_missing_core_is_said_as_qupath_says_it(tmp_path: Path) -> None:
    core = Annotation(ellipse(0, 0, 9, 9), kind="tma_core", name="A-1", ellipse=True, metadata={"isMissing": "true"})
    write_geojson(tmp_path / "a.geojson", [core, replace(core, id=an_id("b"), metadata={})])
    first, second = (feature["properties"] for feature in features(tmp_path / "a.geojson"))
    assert first == {"objectType": "tmaCore", "name": "A-1", "isMissing": True}
    assert second["isMissing"] is False
    assert read_geojson(tmp_path / "a.geojson")[0] == core


def test_nested_objects_come_back_under_their_parents(tmp_path: Path) -> None:
    family = [named("a"), named("b", "a"), named("c", "b"), named("d", "a"), named("e"), named("f", "x")]
    write_geojson(tmp_path / "a.geojson", family, nested=True)
    top = features(tmp_path / "a.geojson")
    assert [feature["properties"]["name"] for feature in top] == ["a", "e", "f"]
    assert [child["properties"]["name"] for child in top[0]["properties"]["childObjects"]] == ["b", "d"]
    again = read_geojson(tmp_path / "a.geojson")
    assert again == [*family[:5], replace(family[5], parent=None)]


def test_parents_that_go_round_and_towers_are_written_all_the_same(tmp_path: Path) -> None:
    circle = [named("a", "c"), named("b", "a"), named("c", "b"), named("d", "d")]
    write_geojson(tmp_path / "a.geojson", circle, nested=True)
    assert sorted(a.name or "" for a in read_geojson(tmp_path / "a.geojson")) == ["a", "b", "c", "d"]
    tower = [Annotation(SQUARE)]
    for _ in range(2000):
        tower.append(Annotation(SQUARE, parent=tower[-1].id))
    write_geojson(tmp_path / "b.geojson", tower, nested=True)
    again = read_geojson(tmp_path / "b.geojson")
    assert [a.id for a in again] == [a.id for a in tower]
    assert [a.parent for a in again[:64]] == [a.parent for a in tower[:64]]
    assert {a.parent for a in again[64:]} == {tower[62].id}


@settings(max_examples=60, deadline=None)
@given(parents=st.lists(st.none() | st.integers(0, 20), min_size=1, max_size=20))
def test_no_object_is_lost_by_nesting(tmp_path_factory: pytest.TempPathFactory, parents: list[int | None]) -> None:
    made = [named(chr(97 + i), None if p is None else chr(97 + p)) for i, p in enumerate(parents)]
    file = tmp_path_factory.getbasetemp() / "nested.geojson"
    write_geojson(file, made, nested=True)
    again = {a.id: a.parent for a in read_geojson(file)}
    assert set(again) == {a.id for a in made}
    upward = [a for i, a in enumerate(made) if (p := parents[i]) is None or p < i]
    if len(upward) == len(made):
        assert again == {a.id: a.parent for a in made}


def test_coordinates_are_rounded_when_asked(tmp_path: Path) -> None:
    shape = shapely.Polygon([(0.123456, 0), (4, 0.005), (4, 4.126)])
    tiny = shapely.box(1, 1, 1.001, 1.001)
    write_geojson(tmp_path / "a.geojson", [Annotation(shape), Annotation(tiny)], decimals=2)
    first, second = read_geojson(tmp_path / "a.geojson")
    assert first.geometry == shapely.Polygon([(0.12, 0), (4, 0.0), (4, 4.13)])
    assert second.geometry == tiny  # rather than lost


def test_numbers_that_qupath_0_4_cannot_read_are_left_out_when_asked(tmp_path: Path) -> None:
    measured = Annotation(SQUARE, measurements={"a": 1.0, "b": math.nan, "c": -math.inf})
    write_geojson(tmp_path / "a.geojson", [measured], omit_nan=True)
    assert features(tmp_path / "a.geojson")[0]["properties"]["measurements"] == {"a": 1.0}


def test_half_a_surrogate_pair_does_not_stop_the_writing(tmp_path: Path) -> None:
    odd = Annotation(
        SQUARE, "a\ud800", name="\ude00\ud83d", metadata={"\ud800": "x\udfff"}, measurements={"\ud800": 1}, source="m"
    )
    write_geojson(tmp_path / "a.geojson", [odd])
    (again,) = read_geojson(tmp_path / "a.geojson")
    assert (again.class_name, again.name) == ("a\ufffd", "\ufffd\ufffd")
    assert again.metadata == {"\ufffd": "x\ufffd"}
    assert again.measurements == {"\ufffd": 1}
    assert again.source == "m"  # not taken for a human's correction


def test_what_is_no_shape_is_left_out_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = [
        Annotation(shapely.Polygon()),
        Annotation(shapely.Point(math.nan, 1)),
        Annotation(shapely.Point(1, 1e300)),
    ]
    write_geojson(tmp_path / "a.geojson", [*bad, Annotation(SQUARE)])
    assert len(features(tmp_path / "a.geojson")) == 1
    assert (
        f"3 object(s) left out, their geometry is empty or not finite: {bad[0].id}, {bad[1].id}, {bad[2].id}"
        in caplog.text
    )


def test_other_shapes_of_shapely_are_written_as_qupath_knows_them(tmp_path: Path) -> None:
    ring = shapely.LinearRing([(0, 0), (1, 0), (1, 1)])
    mixed = shapely.GeometryCollection([SQUARE, shapely.Point(9, 9)])
    write_geojson(tmp_path / "a.geojson", [Annotation(ring), Annotation(mixed)])
    assert [a.geometry.geom_type for a in read_geojson(tmp_path / "a.geojson")] == ["Polygon", "Polygon"]


def test_a_zip_is_as_qupath_packs_it(tmp_path: Path) -> None:
    write_geojson(tmp_path / "slide 1.zip", [named("a")])
    with zipfile.ZipFile(tmp_path / "slide 1.zip") as archive:
        assert archive.namelist() == ["slide 1.geojson"]
        assert archive.testzip() is None
    assert read_geojson(tmp_path / "slide 1.zip") == [named("a")]


@pytest.mark.parametrize("suffix", [".geojson", ".geojson.gz", ".zip"])
def test_many_are_written_in_pieces_and_the_same_twice(tmp_path: Path, suffix: str) -> None:
    many = [Annotation(shapely.box(i, 0, i + 1, 1), id=f"00000000-0000-0000-0000-{i:012x}") for i in range(10_000)]
    file = tmp_path / f"a{suffix}"
    write_geojson(file, iter(many))
    once = file.read_bytes()
    assert read_geojson(file) == many
    write_geojson(file, many)
    assert file.read_bytes() == once


def test_none_at_all_is_a_collection_too(tmp_path: Path) -> None:
    write_geojson(tmp_path / "a.geojson.gz", [])
    assert json.loads(gzip.decompress((tmp_path / "a.geojson.gz").read_bytes())) == {
        "type": "FeatureCollection",
        "features": [],
    }


def test_an_error_midway_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.geojson"
    write_geojson(file, [named("a")])

    def failing() -> Iterator[Annotation]:
        for _ in range(20_000):
            yield Annotation(SQUARE)
        raise RuntimeError("the model fell over")

    with pytest.raises(RuntimeError, match="fell over"):
        write_geojson(file, failing())
    assert read_geojson(file) == [named("a")]
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(ProjectError, match="could not be written"):
        write_geojson(tmp_path / "no folder" / "a.geojson", [named("a")])


def test_what_a_human_changed_is_the_humans(tmp_path: Path) -> None:
    file = tmp_path / "a.geojson"
    predictions = [named(name, class_name="Tumor", source="unet-1") for name in "abcd"]
    write_geojson(file, predictions)
    data = json.loads(file.read_bytes())
    data["features"][1]["geometry"]["coordinates"][0][1][0] += 0.5
    data["features"][2]["properties"]["classification"]["name"] = "Stroma"
    data["features"][3]["geometry"]["coordinates"][0][1][0] += 0.004  # QuPath's rounding
    file.write_text(json.dumps(data))
    again = read_geojson(file)
    assert [a.source for a in again] == ["unet-1", None, None, "unet-1"]
    assert [dict(a.metadata) for a in again[:3]] == [{}, *[{CORRECTED_KEY: "unet-1"}] * 2]


coordinates = st.floats(-1e6, 1e6) | st.integers(-50, 50).map(float)
points = st.tuples(coordinates, coordinates)
rings = st.lists(points, min_size=3, max_size=8)
shapes = (
    st.builds(shapely.Polygon, rings)
    | st.builds(shapely.MultiPolygon, st.lists(st.builds(shapely.Polygon, rings), min_size=1, max_size=3))
    | st.builds(shapely.LineString, st.lists(points, min_size=2, max_size=5))
    | st.builds(shapely.MultiPoint, st.lists(points, min_size=1, max_size=4))
    | st.builds(shapely.Point, points)
)
kinds: list[Kind] = ["annotation", "detection", "cell", "tile", "tma_core"]


@settings(max_examples=150, deadline=None)
@given(
    made=st.lists(
        st.builds(
            Annotation,
            shapes,
            st.none() | st.text("aB: ß", min_size=1, max_size=6),
            kind=st.sampled_from(kinds),
            name=st.none() | st.text(max_size=5),
            measurements=st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=3),
            locked=st.booleans(),
            plane=st.builds(Plane, st.integers(-1, 3), st.integers(0, 9), st.integers(0, 9)),
            color=st.none() | st.tuples(*[st.integers(0, 255)] * 3),
            nucleus=st.none() | st.builds(shapely.Polygon, rings),
        ),
        max_size=4,
    )
)
def test_all_that_is_written_is_valid_geojson_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory, made: list[Annotation]
) -> None:
    file = tmp_path_factory.getbasetemp() / "made.geojson"
    write_geojson(file, made)
    assert independent.loads(file.read_text()).is_valid
    for feature in features(file):
        parts = feature["geometry"]["coordinates"] if feature["geometry"]["type"] == "MultiPolygon" else [[], []]
        assert len(parts) > 1
        assert not {key for key, value in feature["properties"].items() if value is None}
    once = read_geojson(file)
    by_id = {a.id: a for a in made}
    for a in once:
        given = by_id[a.id]
        assert a.geometry.is_valid or not isinstance(a.geometry, shapely.Polygon | shapely.MultiPolygon)
        assert (a.kind, a.class_name, a.locked, a.plane) == (given.kind, given.class_name, given.locked, given.plane)
        assert (a.color, a.measurements) == (given.color, given.measurements)
    write_geojson(file, once)
    assert read_geojson(file) == once

from __future__ import annotations

import gzip
import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import geojson as independent
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from qp2train.core.annotation import Annotation, Plane
from qp2train.errors import QuPathFormatError
from qp2train.qupath.geojson import read_geojson, write_geojson
from qp2train.qupath.qpdata import load, read_annotations

from .test_qpdata import ZOO

ID = "00000000-0000-0000-0000-00000000000a"
SQUARE: dict[str, Any] = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]}


def feature(geometry: object = SQUARE, id: object = ID, **properties: object) -> dict[str, Any]:
    return {"type": "Feature", "id": id, "geometry": geometry, "properties": properties}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read_value(value: object) -> list[Annotation]:
        file = tmp_path / "in.geojson"
        file.write_text(value if isinstance(value, str) else json.dumps(value))
        return read_geojson(file)

    return read_value


def test_what_we_write_is_what_qupath_writes(tmp_path: Path) -> None:
    annotation = Annotation(
        shapely.Polygon([(0.123456789, 0), (4, 0), (4, 4)]),
        "Tumor: Positive",
        kind="detection",
        name="ß",
        measurements={"a": 1.5, "nan": math.nan, "inf": -math.inf},
        locked=True,
        id=ID,
        plane=Plane(-1, 2, 0),
        color=(1, 2, 3),
        source="unet-1",
        metadata={"k": "v"},
    )
    file = tmp_path / "out.geojson"
    write_geojson(file, [annotation], colors={"Tumor: Positive": (9, 8, 7)})
    data = json.loads(file.read_bytes())
    assert len(data["features"][0]["properties"]["metadata"].pop("qp2train written as")) == 16
    assert data == {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "id": ID,
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[0.123456789, 0], [4, 0], [4, 4], [0.123456789, 0]]],
                    "plane": {"c": -1, "z": 2, "t": 0},
                },
                "properties": {
                    "objectType": "detection",
                    "name": "ß",
                    "color": [1, 2, 3],
                    "classification": {"names": ["Tumor", "Positive"], "color": [9, 8, 7]},
                    "isLocked": True,
                    "measurements": {"a": 1.5, "nan": "NaN", "inf": "-Infinity"},
                    "metadata": {"k": "v", "qp2train source": "unet-1"},
                },
            }
        ],
    }
    (again,) = read_geojson(file)
    np.testing.assert_equal(dict(again.measurements), dict(annotation.measurements))
    assert replace(again, measurements={}) == replace(annotation, measurements={})


@pytest.mark.parametrize("suffix", [".geojson", ".geojson.gz"])
def test_every_geometry_there_and_back(tmp_path: Path, suffix: str) -> None:
    wanted = [replace(a, measurements={}) for a in read_annotations(load(ZOO)).annotations]
    file = tmp_path / f"zoo{suffix}"
    write_geojson(file, wanted)
    assert read_geojson(file) == wanted
    text = gzip.decompress(file.read_bytes()) if suffix.endswith("gz") else file.read_bytes()
    assert independent.loads(text.decode()).is_valid


def test_what_qupath_cannot_read_is_not_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bowtie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    one_part = shapely.MultiPolygon([shapely.box(0, 0, 1, 1)])
    empty = Annotation(shapely.Polygon())
    write_geojson(tmp_path / "f.geojson", [Annotation(bowtie), Annotation(one_part), empty])
    features = json.loads((tmp_path / "f.geojson").read_bytes())["features"]
    assert [f["geometry"]["type"] for f in features] == ["MultiPolygon", "Polygon"]
    assert empty.id in caplog.text


@pytest.mark.parametrize(
    "container",
    [
        lambda f: f,
        lambda f: [f],
        lambda f: [[f]],
        lambda f: {"type": "FeatureCollection", "features": [f]},
        lambda f: f["geometry"],
        lambda f: {
            "type": "GeometryCollection",
            "geometries": [f["geometry"], {"type": "Point", "coordinates": [1, 2]}],
        },
        lambda f: "\ufeff" + json.dumps(f),
        lambda f: json.dumps([f]).replace("]]}", "],]}")[:-1] + ", ]",
    ],
)
def test_all_containers(read: Any, container: Any) -> None:
    (found,) = read(container(feature()))
    assert found.geometry.equals(shapely.box(0, 0, 4, 4))


def test_an_empty_collection(read: Any) -> None:
    assert read({"type": "FeatureCollection", "features": []}) == []


@pytest.mark.parametrize(
    ("classification", "name"),
    [
        ({"name": "Tumor", "color": [1, 2, 3]}, "Tumor"),
        ({"name": "Tumor"}, "Tumor"),
        ({"name": "Tumor", "colorRGB": -1}, "Tumor"),
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive"),
        ("Tumor: Positive", "Tumor: Positive"),
        ({}, None),
        (None, None),
        ({"name": None}, None),
    ],
)
def test_classes_in_all_forms(read: Any, classification: object, name: str | None) -> None:
    assert read(feature(classification=classification))[0].class_name == name


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"isLocked": True}, {"locked": True}),
        ({"locked": True}, {"locked": True}),
        ({"color": [1, 2, 3]}, {"color": (1, 2, 3)}),
        ({"color": -3670016}, {"color": (200, 0, 0)}),
        ({"color": "#0102ff"}, {"color": (1, 2, 255)}),
        ({"color": "red"}, {"color": None}),
        ({"object_type": "cell"}, {"kind": "cell"}),
        ({"objectType": "tmaCore"}, {"kind": "tma_core"}),
        ({"objectType": "something new"}, {"kind": "annotation"}),
        ({"name": None}, {"name": None}),
        ({"measurements": [{"name": "a", "value": 1}]}, {"measurements": {"a": 1.0}}),
        ({"measurements": {"a": 1, "b": None, "c": "inf"}}, {"measurements": {"a": 1.0, "c": math.inf}}),
        ({"metadata": {"a": "b", "n": 1, "x": {}}}, {"metadata": {"a": "b", "n": "1"}}),
        ({"metadata": {"qp2train source": "m"}}, {"metadata": {}, "source": "m"}),
    ],
)
def test_properties_in_all_forms(read: Any, properties: dict[str, object], expected: dict[str, object]) -> None:
    (found,) = read(feature(**properties))
    assert {key: getattr(found, key) for key in expected} == expected


def test_literal_nan_of_qupath_0_4(read: Any) -> None:
    (found,) = read('{"type":"Feature","geometry":null,"properties":{"measurements":{"a":NaN,"b":-Infinity}}}')
    assert math.isnan(found.measurements["a"])
    assert found.measurements["b"] == -math.inf


@pytest.mark.parametrize("properties", [None, [], "x"])
def test_missing_properties_are_fine(read: Any, properties: object) -> None:
    assert read({"type": "Feature", "geometry": SQUARE, "properties": properties})[0].class_name is None


@pytest.mark.parametrize(
    ("geometry", "wkt"),
    [
        ({"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4]]]}, "POLYGON ((0 0, 4 0, 4 4, 0 0))"),
        ({"type": "Polygon", "coordinates": [[[0, 0, 7], [4, 0, 7], [4, 4, 7]]]}, "POLYGON ((0 0, 4 0, 4 4, 0 0))"),
        ({"type": "LinearRing", "coordinates": [[0, 0], [4, 0], [4, 4]]}, "POLYGON ((0 0, 4 0, 4 4, 0 0))"),
        ({"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"]]}, "POLYGON ((0 0, 4 0, 4 4, 0 4, 0 0))"),
        ({"type": "Point", "coordinates": [1, 2]}, "POINT (1 2)"),
        ({"type": "MultiLineString", "coordinates": [[[0, 0], [1, 1]]]}, "LINESTRING (0 0, 1 1)"),
        (None, "POLYGON EMPTY"),
        ({}, "POLYGON EMPTY"),
        ({"type": "Polygon", "coordinates": []}, "POLYGON EMPTY"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [2, 2]]]}, "POLYGON EMPTY"),
    ],
)
def test_geometries_in_all_forms(read: Any, geometry: object, wkt: str) -> None:
    assert read(feature(geometry))[0].geometry == shapely.from_wkt(wkt)


def test_children_know_their_parent(read: Any) -> None:
    child = feature(id=ID.replace("a", "b"))
    first, second = read(feature(childObjects=[child]))
    assert (first.parent, second.parent) == (None, ID)
    assert read(feature(children=[child])) == [first, second]


def test_ids_that_are_no_uuid_are_made_and_stay_the_same(read: Any) -> None:
    features = [feature(id="PathDetectionObject"), feature(id=7), feature(id=None), feature(), feature()]
    once = read(features)
    assert once[0].kind == "detection"
    assert len({a.id for a in once}) == 5
    assert once[3].id == ID
    assert [a.id for a in read(features)] == [a.id for a in once]


def test_repairs_are_reported(read: Any, caplog: pytest.LogCaptureFixture) -> None:
    bowtie = {"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}
    with caplog.at_level(logging.WARNING):
        (found,) = read(feature(bowtie, measurements={"a": "x"}))
    assert found.geometry.area == 2
    assert f"1 object(s) repaired, their area crossed itself: {ID}" in caplog.text
    assert f"1 object(s) with a measurement that is no number: {ID}" in caplog.text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("7", "feature 0 expected, found b'7'"),
        ({"type": "Topology"}, "type 'Topology' is neither"),
        (feature({"type": "Circle", "coordinates": [1]}), "geometry not understood: type 'Circle'"),
        (feature({"type": "Polygon", "coordinates": 7}), "geometry not understood"),
        (feature({"type": "Polygon", "coordinates": [[["a", "b"]]]}), "geometry not understood"),
        (feature({"type": "Point", "coordinates": [1]}), "a point without x and y"),
        (feature({"type": "LineString", "coordinates": [[0, 0]]}), "geometry not understood"),
        ([feature(), feature({"type": "Circle", "coordinates": [1]}, id="x")], r"feature 1 \(id 'x'\)"),
    ],
)
def test_what_is_no_geojson_is_refused_with_the_place(read: Any, value: object, message: str) -> None:
    with pytest.raises(QuPathFormatError, match=message) as caught:
        read(value)
    assert "in.geojson" in str(caught.value)


def test_a_missing_and_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(QuPathFormatError, match="does not exist"):
        read_geojson(tmp_path / "a.geojson")
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(b"{}")[:-4])
    with pytest.raises(QuPathFormatError, match="cannot be read"):
        read_geojson(tmp_path / "a.geojson.gz")


def test_every_real_file_is_read(shared_data: Path, tmp_path: Path) -> None:
    files = sorted(shared_data.rglob("*.geojson"))
    assert len(files) >= 20
    for file in files:
        found = read_geojson(file)
        assert found, file
        write_geojson(tmp_path / "again.geojson", found)
        again = read_geojson(tmp_path / "again.geojson")
        assert [(a.id, a.class_name, a.name, a.geometry.wkt) for a in again] == [
            (a.id, a.class_name, a.name, a.geometry.wkt) for a in found
        ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(["Polygon", "Feature", "Point", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "geometry", "coordinates", "properties", "features", "classification", "plane"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@settings(max_examples=200, deadline=None)
@given(value=json_values)
def test_any_json_gives_annotations_or_our_error(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.geojson"
    for item in (value, {"type": "Feature", "geometry": value, "properties": value}):
        file.write_text(json.dumps(item))
        try:
            read_geojson(file)
        except QuPathFormatError as error:
            assert "fuzz.geojson" in str(error)  # noqa: PT017

"""A GeoJSON file is read in pieces: what is found must not depend on where they end."""

from __future__ import annotations

import gzip
import io
import json
import logging
import math
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qp2train.core.annotation import Annotation
from qp2train.errors import QuPathFormatError
from qp2train.qupath.geojson import iter_geojson, read_geojson
from qp2train.qupath.geojsonsplit import split

POINT = '{"type":"Point","coordinates":[1,2]}'
PIECES = (1, 7, 64, 1000)


def point(name: str, **more: object) -> dict[str, Any]:
    return {"type": "Feature", "geometry": json.loads(POINT), "properties": {"name": name, **more}}


def cut(text: bytes, size: int) -> Iterator[bytes]:
    return (text[i : i + size] for i in range(0, len(text), size))


def features(text: str, size: int = 1 << 20) -> list[str]:
    return [part.decode() for parts in split(cut(text.encode(), size)) for part in parts]


@pytest.mark.parametrize("size", PIECES)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"a":1},{"b":[2]}]', ['{"a":1}', '{"b":[2]}']),
        ('\ufeff [ {"a":1} , {"b":2} , ] ', ['{"a":1}', '{"b":2}']),
        ("[]", []),
        ('{"type":"Feature"}', ['{"type":"Feature"}']),
        ('{"t":1,"features":[{"a":1},{"b":2}],"x":[3]}', ['{"a":1}', '{"b":2}', '{"t":1,"features":[],"x":[3]}']),
        ('{"features" : [ [1,2] ] }', ["[1,2]", '{"features" : [] }']),
        ('{"a":1}\n{"b":2}\r\n\n{"c":3}\n', ['{"a":1}', '{"b":2}', '{"c":3}']),
        ('\x1e{"a":1}\n\x1e{"b":2}\n', ['{"a":1}', '{"b":2}']),
        ('[{"features":[1]}]', ['{"features":[1]}']),
        ('{"x":{"features":[1]}}', ['{"x":{"features":[1]}}']),
        ('{"x":"\\"features\\":[","y":1}', ['{"x":"\\"features\\":[","y":1}']),
        (r'[{"a":"]}\\"},{"b":"\\\"]"},{"c":"\\\\"}]', [r'{"a":"]}\\"}', r'{"b":"\\\"]"}', r'{"c":"\\\\"}']),
    ],
)
def test_features_are_cut_out_whatever_the_pieces(text: str, expected: list[str], size: int) -> None:
    assert features(text, size) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("  \n ", "the file is empty"),
        ("[", "ends before feature 0"),
        ('[{"a":1},{"b"', "ends before feature 1"),
        ('{"features":[{"a":1}', "ends before feature 1"),
        ('{"a":"', "ends before feature 0"),
        ('[{"a":1}{"b":2}]', "feature 1 expected"),
        ('[{"a":1},,{"b":2}]', "feature 1 expected, found b',,"),
        ("[,]", "feature 0 expected"),
        ("[null]", "feature 0 expected, found b'null"),
        ('[{"a":1}}', "feature 1 expected"),
        ("]", "feature 0 expected"),
        ('{"a":1}{"b":2}', "after feature 0 another value follows on the same line"),
        ('{"a":1}, {"b":2}', "feature 1 expected"),
        ("hello", "feature 0 expected, found b'hello'"),
        ("[" * 2000 + "]" * 2000, "nested more than 1000 deep"),
    ],
)
def test_what_is_no_list_of_features_is_refused_with_the_place(text: str, message: str) -> None:
    for size in (1, 1 << 20):
        with pytest.raises(QuPathFormatError, match=message):
            features(text, size)


def test_utf_16_is_named() -> None:
    with pytest.raises(QuPathFormatError, match="save it as UTF-8"):
        list(split([POINT.encode("utf-16")]))


json_values = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(alphabet='"\\[]{},:features\n', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "features"]), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.dictionaries(st.text(alphabet='"\\[]x', max_size=3), json_values, max_size=3)), st.integers(1, 30))
def test_any_list_comes_back_feature_by_feature(items: list[dict[str, Any]], size: int) -> None:
    assert [json.loads(part) for part in features(json.dumps(items), size)] == items
    lines = "\n".join(map(json.dumps, [{"k": item} for item in items]))
    if items:
        assert [json.loads(part)["k"] for part in features(lines, size)] == items


def mixed() -> str:
    """Features of every kind of trouble, with and without ids, nested, as no strict JSON."""
    square = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4]]]}
    bowtie = {"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}
    holed = {"type": "Polygon", "coordinates": [*square["coordinates"], [[1, 1], [2, 1], [2, 2], [1, 1]]]}
    items: list[Any] = [
        point("a", childObjects=[point("b", children=[point("c")]), point("d")]),
        {"type": "Feature", "geometry": square, "properties": {"measurements": {"x": math.nan, "y": "what"}}},
        {"type": "FeatureCollection", "features": [point("e"), point("f")]},
        [point("g"), json.loads(POINT)],
        {"type": "Feature", "geometry": bowtie, "nucleusGeometry": square, "properties": {"objectType": "cell"}},
        {"type": "Feature", "geometry": holed, "properties": {"classification": "ß", "color": "red"}},
        {"type": "Feature", "geometry": None, "properties": None},
    ]
    return json.dumps(items * 3, indent=1)[:-1] + ",]"


def test_pieces_change_neither_objects_nor_ids_nor_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "mixed.geojson"
    file.write_text(mixed())

    def read(piece: int) -> tuple[list[str], list[str]]:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = [repr(a) for a in iter_geojson(file, piece=piece)]
        return found, [record.getMessage() for record in caplog.records]

    whole, log = read(1 << 20)
    assert len(whole) == 3 * 12
    assert {line.split("object(s) ")[1].split(":")[0] for line in log} == {
        "read though they are not strict JSON",
        "closed, their outline was open",
        "repaired, their area crossed itself",
        "with a measurement that is no number",
        "with a colour that is not understood",
        "without a shape",
    }
    for piece in PIECES:
        assert read(piece) == (whole, log)


def test_an_error_names_the_feature_whatever_the_pieces(tmp_path: Path) -> None:
    file = tmp_path / "f.geojson"
    bad = {"type": "Feature", "id": "me", "geometry": {"type": "Circle", "coordinates": [1]}}
    file.write_text(json.dumps([point(str(i)) for i in range(50)] + [bad] + [point("z")]))
    for piece in (1, 500, 1 << 20):
        with pytest.raises(QuPathFormatError, match=r"f\.geojson: feature 50 \(id 'me'\): geometry not understood"):
            list(iter_geojson(file, piece=piece))
    file.write_text(file.read_text().replace('"Circle"', "Circle"))
    for piece in (1, 500, 1 << 20):
        with pytest.raises(QuPathFormatError, match="feature 50: not JSON"):
            list(iter_geojson(file, piece=piece))


def test_annotations_come_while_the_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "f.geojson"
    file.write_text(json.dumps([point(str(i)) for i in range(50)])[:-1])
    found: list[Annotation] = []
    with pytest.raises(QuPathFormatError, match="the text ends before feature 50"):
        found.extend(iter_geojson(file, piece=100))
    iterator = iter_geojson(file, piece=100)
    assert [next(iterator).name for _ in range(3)] == ["0", "1", "2"]


def zipped(**members: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return data.getvalue()


def test_every_geojson_of_a_zip_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    text = json.dumps(point("a")).encode()
    file.write_bytes(zipped(b_geojson=text, sub__a_JSON=b"[" + text + b"]", notes_txt=b"hello"))
    found = read_geojson(file)
    assert [a.name for a in found] == ["a", "a"]
    assert len({a.id for a in found}) == 2
    file.write_bytes(zipped(notes_txt=b"hello"))
    with pytest.raises(QuPathFormatError, match=r"a\.zip: no \.geojson in the zip file"):
        read_geojson(file)


def test_gzip_and_plain_give_the_same_ids(tmp_path: Path) -> None:
    text = json.dumps([point("a"), point("b")]).encode()
    (tmp_path / "a.geojson").write_bytes(text)
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(text[:40]) + gzip.compress(text[40:]))
    assert read_geojson(tmp_path / "a.geojson") == read_geojson(tmp_path / "a.geojson.gz")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b" " * (1 << 25)), "unpacks to far more"),
        (zipped(a_geojson=b" " * (1 << 25)), "unpacks to far more"),
        (zipped(a_geojson=b"[]" + b" " * (9 << 20), b_geojson=b"[]" + b" " * (9 << 20)), "unpacks to far more"),
        (gzip.compress(b"[" * (1 << 22)), "nested more than"),
        (gzip.compress(b'[{"type":"Feature"}' + b',{"type":"Feature"}' * 200_000 + b"]"), "without a shape"),
        (gzip.compress(b"[]")[:-6], "cannot be read"),
        (b"PK\3\4" + bytes(40), "cannot be read"),
        (zipped(a_geojson=b"[]" * 99).replace(b"PK\1\2", b"PK\1\3"), "cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # the bytes hold the time, which no test's name may
)
def test_archives_that_are_broken_or_hostile_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(QuPathFormatError, match=message):
        for _ in iter_geojson(tmp_path / "a"):
            pass


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"Point","coordinates":[1e999,0]}',
        '{"type":"Point","coordinates":[1e11,0]}',
        '{"type":"Polygon","coordinates":[[[1e11,0],[1,1],[2,0],[0,0]]]}',
        '{"type":"Point","coordinates":[' + "9" * 5000 + ",0]}",
        '{"type":"Point","coordinates":[' + "9" * 400 + ",0]}",
        '{"type":"Point","coordinates":["1","2"]}',
        '{"type":"Point","coordinates":[true,false]}',
        '{"type":"Point","coordinates":"12"}',
        '{"type":"Point","coordinates":{"0":1,"1":2}}',
        '{"type":"LineString","coordinates":["12","34"]}',
        '{"type":"Polygon","coordinates":[["12","34","56","12"]]}',
        '{"type":"Polygon","coordinates":[[[true,0],[1,1],[2,0],[true,0]]]}',
        '{"type":"Polygon","coordinates":[[[NaN,0],[1,1],[2,0],[0,0]]]}',
        '{"type":"Polygon","coordinates":[[[0],[1],[2],[0]]]}',
        '{"type":"Polygon","coordinates":' + "[" * 400 + "]" * 400 + "}",
        '{"type":"GeometryCollection","geometries":["x",true]}',
        '{"type":"GeometryCollection","geometries":7}',
        '{"type":' + "[" * 900 + "]" * 900 + ',"coordinates":[]}',
        '{"type":"Feature","geometry":' + POINT[:-1] + ',"plane":{"z":1e999}}}',
        '{"type":"Feature","geometry":' + POINT[:-1] + ',"plane":{"z":true}}}',
        '{"type":"Feature","geometry":' + POINT[:-1] + ',"plane":[1]}}',
    ],
)
def test_impossible_shapes_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(QuPathFormatError, match="feature 0"):
        read_geojson(tmp_path / "a.geojson")


@pytest.mark.parametrize(
    ("properties", "field", "expected", "report"),
    [
        ('{"name":"\\ud800"}', "name", "\ud800", "not strict JSON"),
        ('{"name":' + "[" * 400 + "]" * 400 + "}", "name", None, "with a name that is no text"),
        ('{"name":7}', "name", "7", ""),
        ('{"name":"a","name":"b"}', "name", "b", ""),
        ('{"measurements":{"a":' + "9" * 400 + "}}", "measurements", {}, "with a measurement that is no number"),
        ('{"measurements":[[1],{"name":["x"],"value":1}]}', "measurements", {}, "with a measurement that is no number"),
        ('{"measurements":7}', "measurements", {}, "with a measurement that is no number"),
        ('{"metadata":[1]}', "metadata", {}, "with metadata that is not understood"),
        ('{"metadata":{"a":true}}', "metadata", {"a": "true"}, ""),
        ('{"classification":{"names":[1,2],"name":3}}', "class_name", None, "with a class that is no text"),
        ('{"color":[1,2,999]}', "color", None, "with a colour that is not understood"),
        ('{"objectType":"something"}', "kind", "annotation", "of an unknown type, taken as annotations"),
        ('{"isLocked":"false"}', "locked", False, ""),
    ],
)
def test_odd_words_are_taken_or_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, properties: str, field: str, expected: object, report: str
) -> None:
    (tmp_path / "a.geojson").write_text(f'{{"type":"Feature","geometry":{POINT},"properties":{properties}}}')
    (found,) = read_geojson(tmp_path / "a.geojson")
    assert getattr(found, field) == expected
    assert report in caplog.text
    assert bool(report) == bool(caplog.text)


def test_the_image_itself_is_no_object(tmp_path: Path) -> None:
    root = {"type": "Feature", "geometry": None, "properties": {"objectType": "root", "childObjects": [point("a")]}}
    (tmp_path / "a.geojson").write_text(json.dumps(root))
    assert [(a.name, a.parent) for a in read_geojson(tmp_path / "a.geojson")] == [("a", None)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count peak memory otherwise")
def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    ring = [[x, x * x] for x in range(20)]
    shape = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    text = json.dumps({"type": "Feature", "geometry": shape, "properties": {"name": "x" * 1000}})
    with (tmp_path / "a.geojson").open("w") as file:
        file.write("[" + text)
        for _ in range(60_000):  # 80 MB
            file.write("," + text)
        file.write("]")
    program = (
        "import resource, sys; from qp2train.qupath.geojson import iter_geojson\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); count = sum(1 for _ in iter_geojson(sys.argv[1])); print(count, (peak() - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a.geojson"], capture_output=True, check=True)
    count, megabytes = map(int, done.stdout.split())
    assert count == 60_001
    assert megabytes < 60

"""Files made by hand to cost far more than they weigh. Run as a script, it tries each and prints what it cost, as JSON.

Each case is tried in a process of its own with limits, so that a hang, a crash or a memory hog is an outcome.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import logging
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import shapely

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from qp2train.core.annotation import Annotation
from qp2train.errors import Qp2trainError
from qp2train.qupath.geojson import read_geojson
from qp2train.qupath.javanodes import Block, ClassDesc, Field, JArray, JObject, JString, Node
from qp2train.qupath.pathobject import MEASUREMENTS, PATH_CLASS, set_children, walk
from qp2train.qupath.qpbuild import Builder
from qp2train.qupath.qpdata import load, read_annotations
from qupath.worked_example import TRIANGLE

GIVE_UP_CPU_S = 10
GIVE_UP_BYTES = 3 << 30
PLANE = struct.pack(">iii", -1, 0, 0)
Edit = Callable[[Builder, list[JObject]], None]


def objects(count: int, edit: Edit) -> bytes:
    """A file with `count` annotations (contents: 0 name, 2 metadata, 3 measurements, 6 class, 7 ROI) after `edit`."""
    builder, made = Builder(), []
    for i in range(count):
        one = Annotation(shapely.box(0, 0, 1, 1), id=f"00000000-0000-0000-0001-{i:012d}")
        made.append(builder.path_object(one, builder.roi(one), {}))
    edit(builder, made)
    data = load(TRIANGLE)
    set_children(next(walk(data.root)), made)
    return data.to_bytes()


def each(count: int, place: int, part: Callable[[Builder], Callable[[], Node]]) -> Callable[[], bytes]:
    """A file whose objects all refer to what `part` makes."""

    def edit(builder: Builder, made: list[JObject]) -> None:
        make = part(builder)
        for node in made:
            node.contents[place] = make()

    return lambda: objects(count, edit)


def same(node: Node) -> Callable[[], Node]:
    return lambda: node


def scribble(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 2)) * 1000


def polygon(builder: Builder, xy: np.ndarray) -> JObject:
    return builder.object("qupath.lib.roi.PolygonROI$SerializationProxy", PLANE, None, None, *builder._float_lists(xy))


def circle(count: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.column_stack([100 * np.cos(angle), 100 * np.sin(angle)])


def polygons_of_shared_vertices(size: int) -> Callable[[Builder], Callable[[], Node]]:
    def part(builder: Builder) -> Callable[[], Node]:
        x, y = builder._float_lists(circle(size))
        name = "qupath.lib.roi.PolygonROI$SerializationProxy"
        return lambda: builder.object(name, PLANE, None, None, x, y)

    return part


def shared_wkb(size: int) -> Callable[[Builder], Callable[[], Node]]:
    def part(builder: Builder) -> Callable[[], Node]:
        wkb = builder.roi(Annotation(shapely.Polygon(circle(size), [[(0, 0), (1, 0), (1, 1)]]))).values[2]
        return lambda: builder.object("qupath.lib.roi.GeometryROI$WKBSerializationProxy", PLANE, None, wkb)

    return part


def measurements(size: int) -> Callable[[Builder], Callable[[], Node]]:
    return lambda builder: same(builder.measurements({f"m{i}": 0.0 for i in range(size)}))


def old_measurements(size: int) -> Callable[[Builder], Callable[[], Node]]:
    text = JString("Ljava/lang/String;")
    one = ClassDesc(
        (MEASUREMENTS + "DoubleMeasurement").encode(), 1, 2, [Field("D", b"value"), Field("L", b"name", text)]
    )
    all_ = ClassDesc((MEASUREMENTS + "DefaultMeasurementList").encode(), 1, 2, [Field("L", b"list", text)])
    listed = [JObject(one, [bytes(8), JString(f"m{i}")]) for i in range(size)]
    return lambda builder: same(JObject(all_, [builder.list(listed)]))


def metadata(size: int) -> Callable[[Builder], Callable[[], Node]]:
    return lambda builder: same(builder.metadata({f"k{i}": "v" for i in range(size)}))


def class_of_levels(levels: int, size: int) -> Callable[[Builder], Callable[[], Node]]:
    def part(builder: Builder) -> Callable[[], Node]:
        name, parent = JString("x" * size), None
        for _ in range(levels):
            parent = builder.object(PATH_CLASS, None, name, parent)
        return lambda: builder.object(PATH_CLASS, None, name, parent)

    return part


def legacy_area(rings: int, shared: bool) -> Callable[[Builder], Callable[[], Node]]:
    floats, rows = ClassDesc(b"[F", 836686056779680834, 2), ClassDesc(b"[[F", 7425693303107163146, 2)
    fields = [Field("I", key) for key in (b"c", b"t", b"z")] + [Field("[", k, JString("[[F")) for k in (b"x", b"y")]
    desc = ClassDesc(b"qupath.lib.roi.AreaROI$SerializationProxy", 1, 2, fields)

    def part(builder: Builder) -> Callable[[], Node]:
        corners = (
            [np.array([0, 300, 300, 0]) + x for x in scribble(rings).T[0]],
            [np.array([0, 0, 300, 300]) + y for y in scribble(rings).T[1]],
        )
        if shared:
            corners = [scribble(1000).T[0]] * rings, [scribble(1000).T[1]] * rings
        made = {id(row): JArray(floats, row.astype(">f4").tobytes()) for axis in corners for row in axis}
        return same(JObject(desc, [PLANE, *(JArray(rows, [made[id(row)] for row in axis]) for axis in corners)]))

    return part


def extra(*nodes: Node) -> bytes:
    """The worked example with more contents before its end."""
    data = load(TRIANGLE)
    data.contents[-1:-1] = nodes
    return data.to_bytes()


def many_classes_of_many_ancestors(count: int) -> bytes:
    parent = None
    for i in range(60):
        parent = ClassDesc(b"A%d" % i, 1, 2, [], parent=parent)
    return extra(*(JObject(ClassDesc(b"C%d" % i, 1, 2, [], parent=parent), []) for i in range(count)))


def arrays_in_arrays(levels: int) -> bytes:
    desc, node = ClassDesc(b"[LObject;", 7, 2), None
    for _ in range(levels):
        node = JArray(desc, [node])
    return extra(node)


def objects_in_objects(levels: int) -> bytes:
    def edit(builder: Builder, made: list[JObject]) -> None:
        for outer, inner in itertools.pairwise(made):
            outer.contents[4:5] = [Block(struct.pack(">i", 1)), inner]
        del made[1:]

    return objects(levels, edit)


def its_own_child() -> bytes:
    def edit(builder: Builder, made: list[JObject]) -> None:
        made[0].contents[4:5] = [Block(struct.pack(">i", 1)), made[0]]

    return objects(1, edit)


def class_that_is_its_own_parent(builder: Builder) -> Callable[[], Node]:
    node = builder.path_class("A")
    node.values[-1] = node
    return same(node)


def list_in_itself(builder: Builder) -> Callable[[], Node]:
    desc = ClassDesc(b"java.util.Arrays$ArrayList", 1, 2, [Field("L", b"a", JString("Ljava/util/List;"))])
    wrapper = JObject(desc, [])
    wrapper.values.append(wrapper)
    made = builder.measurements({"a": 1.0})
    assert made is not None
    made.values[2] = wrapper
    return same(made)


def feature(**properties: object) -> dict[str, object]:
    return {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": properties}


def geojson(value: object) -> bytes:
    return json.dumps(value).encode()


def boxes(count: int) -> list[list[list[list[float]]]]:
    return [[[[i, i], [100 + i, i], [100 + i, 100 + i], [i, 100 + i]]] for i in np.arange(count) / 100]


def zipped(*parts: bytes) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for i, part in enumerate(parts):
                archive.writestr(f"{i}.geojson", part)
        return file.getvalue()


def nested(levels: int) -> bytes:
    return b'{"type":"Feature","properties":{"childObjects":[' * levels + b"]}}" * levels


QPDATA: dict[str, Callable[[], bytes]] = {
    "one large outline of 20,000 objects": each(20_000, 7, lambda b: same(polygon(b, circle(20_000)))),
    "one scribble of 2,000 objects": each(2_000, 7, lambda b: same(polygon(b, scribble(300)))),
    "outlines of the same vertices": each(20_000, 7, polygons_of_shared_vertices(20_000)),
    "areas of the same WKB": each(5_000, 7, shared_wkb(20_000)),
    "one measurement list": each(5_000, 3, measurements(5_000)),
    "one measurement list of old kind": each(5_000, 3, old_measurements(5_000)),
    "one metadata map": each(5_000, 2, metadata(5_000)),
    "one long name": each(5_000, 0, lambda b: same(JString("é" * 500_000))),
    "one long class name": each(5_000, 6, lambda b: same(b.object(PATH_CLASS, None, JString("é" * 500_000), None))),
    "classes of many long levels": each(2_000, 6, class_of_levels(60, 60_000)),
    "a class that is its own parent": each(1, 6, class_that_is_its_own_parent),
    "measurement names in themselves": each(1, 3, list_in_itself),
    "a legacy area of 3,000 overlapping rings": each(1, 7, legacy_area(3_000, False)),
    "a legacy area of one ring 3,000 times": each(1, 7, legacy_area(3_000, True)),
    "an outline of 3,000 random vertices": each(1, 7, lambda b: same(polygon(b, scribble(3_000)))),
    "classes of 60 ancestors": lambda: many_classes_of_many_ancestors(20_000),
    "arrays nested 100,000 deep": lambda: arrays_in_arrays(100_000),
    "objects nested 10,000 deep": lambda: objects_in_objects(10_000),
    "an object that is its own child": its_own_child,
}
GEOJSON: dict[str, Callable[[], bytes]] = {
    "100 MB of '['": lambda: b"[" * 100_000_000,
    "a million '{'": lambda: b'{"a":' * 1_000_000,
    "features nested 500 deep": lambda: nested(500),
    "features nested 100,000 deep": lambda: nested(100_000),
    "quotes after NaN": lambda: b"[NaN," + b'"' * 1_000_001,
    "backslashes after NaN": lambda: b'[NaN,"' + b"\\" * 3_000_001,
    "commas and blanks after NaN": lambda: b"[NaN" + (b"," + b" " * 2_000) * 2_000,
    "a number of 10 million digits": lambda: b'[{"type":"Feature","id":' + b"9" * 10_000_000 + b"}]",
    "a number of 3 million digits after NaN": lambda: b"[NaN," + b"9" * 3_000_000 + b"]",
    "an outline of 3,000 random vertices": lambda: geojson(
        {"type": "Polygon", "coordinates": [scribble(3_000).tolist()]}
    ),
    "3,000 overlapping parts": lambda: geojson({"type": "MultiPolygon", "coordinates": boxes(3_000)}),
    "a collection of 3,000 overlapping parts": lambda: geojson(
        {
            "type": "GeometryCollection",
            "geometries": [{"type": "Polygon", "coordinates": part} for part in boxes(3_000)],
        }
    ),
    "100 MB of blanks in a gz": lambda: gzip.compress(b" " * 100_000_000, 1),
    "2 GB of blanks in a gz": lambda: gzip.compress(b" " * 100_000_000, 1) * 20,
    "2 GB of '[' in a gz": lambda: gzip.compress(b"[" * 100_000_000, 1) * 20,
    "50 million features in a gz": lambda: (
        gzip.compress(b"[", 1) + gzip.compress(b'{"type":"Feature"},' * 1_000_000, 1) * 50
    ),
    "200 MB of blanks in a zip": lambda: zipped(b" " * 200_000_000),
    "a zip of 20,000 files": lambda: zipped(*[b"[]"] * 20_000),
    "a lone surrogate": lambda: geojson(feature(name="\ud800")),
}


def cost(kind: str, make: Callable[[], bytes]) -> dict[str, object]:
    """Make a file in one process, read it in another: outcome, CPU seconds, MiB beyond what the interpreter takes."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as answer:
        file = Path(folder) / "hostile"
        for step in (lambda: file.write_bytes(make()), lambda: _read(kind, file, answer.fileno())):
            child = os.fork()
            if child == 0:
                try:
                    step()
                finally:
                    os._exit(0)
            status = os.waitpid(child, 0)[1]
        answer.seek(0)
        text = answer.read()
        died = {"outcome": f"died of {signal.Signals(os.WTERMSIG(status)).name}" if status else "no answer"}
        size = file.stat().st_size if file.exists() else 0
        return {**(json.loads(text) if text else died), "bytes": size}


def _read(kind: str, file: Path, answer: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (GIVE_UP_BYTES, GIVE_UP_BYTES))
    signal.setitimer(signal.ITIMER_PROF, GIVE_UP_CPU_S)
    before = time.process_time()
    try:
        found = read_annotations(load(file.read_bytes())).annotations if kind == "qpdata" else read_geojson(file)
        outcome = f"read: {len(found)} objects"
    except Qp2trainError as error:
        outcome = f"refused: {error}"[:300]
    except BaseException as error:  # noqa: BLE001  whatever it is, it is the outcome
        outcome = f"FAILED {type(error).__name__}: {error}"[:300]
    spent = time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    os.write(answer, json.dumps({"outcome": outcome, "cpu_s": spent, "peak_mib": peak}).encode())


def main() -> None:
    logging.disable(logging.CRITICAL)
    wanted = sys.argv[1:]
    for kind, cases in (("qpdata", QPDATA), ("geojson", GEOJSON)):
        for name, make in cases.items():
            if not wanted or any(word in name for word in wanted):
                print(json.dumps({"kind": kind, "name": name, **cost(kind, make)}), flush=True)


if __name__ == "__main__":
    main()

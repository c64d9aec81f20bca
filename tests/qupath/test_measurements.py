"""Measurement lists of each kind that QuPath writes, by the bytes of its classes."""

from __future__ import annotations

import math
import struct

import pytest
import shapely

from qp2train.core.annotation import Annotation
from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import Block, ClassDesc, Field, JArray, JObject, JString, Node
from qp2train.qupath.javastream import parse, serialise
from qp2train.qupath.pathobject import MEASUREMENTS, Measurements
from qp2train.qupath.qpbuild import Builder

NUMERIC = MEASUREMENTS + "NumericMeasurementList$"
BUILDER = Builder()


def text_list(*names: str) -> JObject:
    return BUILDER.list([JString(name) for name in names])


def unmodifiable(names: JObject) -> JObject:
    """As QuPath 0.4 and 0.5 close a list: both fields refer to the same ArrayList."""
    parent = ClassDesc(
        b"java.util.Collections$UnmodifiableCollection", 1820017752578914078, 2, [Field("L", b"c", JString("x"))]
    )
    desc = ClassDesc(
        b"java.util.Collections$UnmodifiableList",
        -283967356065247728,
        2,
        [Field("L", b"list", JString("Ljava/util/List;"))],
        parent=parent,
    )
    return JObject(desc, [names, names])


def immutable(*names: str) -> JObject:
    """As QuPath 0.6 and later close a list: List.copyOf, which writes itself as CollSer."""
    desc = ClassDesc(b"java.util.CollSer", 6309168927139932177, 3, [Field("I", b"tag")])
    size = struct.pack(">i", len(names))
    return JObject(desc, [struct.pack(">i", 1), [Block(size), *(JString(name) for name in names)]])


def numeric(kind: str, names: Node, *values: float, closed: bool) -> JObject:
    code = {"FloatList": "f", "DoubleList": "d"}[kind]
    signature = "[" + code.upper()
    parent = ClassDesc(
        (NUMERIC + "AbstractNumericMeasurementList").encode(),
        1,
        2,
        [
            Field("Z", b"isClosed"),
            Field("L", b"map", JString("Ljava/util/Map;")),
            Field("L", b"names", JString("Ljava/util/List;")),
        ],
    )
    desc = ClassDesc((NUMERIC + kind).encode(), 1, 2, [Field("[", b"values", JString(signature))], parent=parent)
    array = JArray(ClassDesc(signature.encode(), 1, 2), struct.pack(f">{len(values)}{code}", *values))
    index = BUILDER.text_map({}) if closed else None
    return JObject(desc, [struct.pack(">?", closed), index, names, array])


def one_by_one(kind: str, **values: float) -> JObject:
    code = {"DoubleMeasurement": "d", "FloatMeasurement": "f"}[kind]
    desc = ClassDesc(
        (MEASUREMENTS + kind).encode(), 1, 2, [Field(code.upper(), b"value"), Field("L", b"name", JString("x"))]
    )
    made = [JObject(desc, [struct.pack(f">{code}", value), JString(name)]) for name, value in values.items()]
    fields = [Field("L", b"list", JString("Ljava/util/List;"))]
    return JObject(ClassDesc((MEASUREMENTS + "DefaultMeasurementList").encode(), 1, 2, fields), [BUILDER.list(made)])


NAN, INF = math.nan, math.inf
LISTS = {
    "none": (None, {}),
    "double, open, with spare room": (numeric("DoubleList", text_list("a"), 1.1, 0, 0, closed=False), {"a": 1.1}),
    "float, open, with spare room": (numeric("FloatList", text_list("a"), 0.5, 0, closed=False), {"a": 0.5}),
    "float, closed by 0.5": (
        numeric("FloatList", unmodifiable(text_list("a", "b")), NAN, -INF, closed=True),
        {"a": NAN, "b": -INF},
    ),
    "double, closed by 0.6": (numeric("DoubleList", immutable("a", "ß"), 0.1, INF, closed=True), {"a": 0.1, "ß": INF}),
    "doubles one by one": (one_by_one("DoubleMeasurement", a=NAN, b=INF, c=0.1), {"a": NAN, "b": INF, "c": 0.1}),
    "floats one by one": (one_by_one("FloatMeasurement", a=0.5), {"a": 0.5}),
    "empty": (numeric("DoubleList", text_list(), closed=False), {}),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_every_kind(name: str) -> None:
    node, expected = LISTS[name]
    (again,) = parse(serialise([node])).contents
    found = Measurements().read(again)
    assert list(found) == list(expected)
    assert all(found[k] == v or (math.isnan(v) and math.isnan(found[k])) for k, v in expected.items())


def test_what_we_write_keeps_doubles_nan_and_infinity() -> None:
    values = {"a": 0.1, "b": NAN, "c": -INF, "d": 5e-324}
    node = Builder().measurements(values)
    found = Measurements().read(node)
    assert [struct.pack(">d", v) for v in found.values()] == [struct.pack(">d", v) for v in values.values()]


def test_names_that_objects_share_are_stored_once() -> None:
    builder = Builder()
    one = Annotation(shapely.Point(0, 0), measurements={"long name of a measurement": 1.0})
    lists = [builder.measurements(one.measurements) for _ in range(100)]
    assert serialise([*lists]).count(b"long name of a measurement") == 1


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (numeric("DoubleList", text_list("a", "b"), 1.0, closed=False), "2 measurement names with 1 values"),
        (numeric("DoubleList", None, 1.0, closed=False), "a list expected, found null"),
        (JObject(ClassDesc(b"java.util.TreeMap", 1, 2), []), "measurements of class java.util.TreeMap"),
        (JString("a"), "an object expected, found JString"),
    ],
)
def test_lists_that_qupath_does_not_write_are_refused(node: Node, message: str) -> None:
    with pytest.raises(QuPathFormatError, match=message):
        Measurements().read(node)


def test_values_of_another_type_are_refused() -> None:
    node = numeric("DoubleList", text_list("a"), 1.0, closed=False)
    node.values[-1] = JArray(ClassDesc(b"[B", 1, 2), bytes(8))
    with pytest.raises(QuPathFormatError, match=r"measurements as \[B, not as float or double"):
        Measurements().read(node)


def test_one_list_under_very_many_objects_is_refused() -> None:
    names = [f"m{i}" for i in range(10_000)]
    shared = numeric("DoubleList", text_list(*names), *range(10_000), closed=False)
    reader = Measurements()
    with pytest.raises(QuPathFormatError, match="refer to the same parts so often"):
        list(map(reader.read, [shared] * 10_000))

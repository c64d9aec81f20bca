from __future__ import annotations

import contextlib
import itertools
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import (
    MAGIC,
    Block,
    ClassDesc,
    Field,
    JArray,
    JClass,
    JEnum,
    JObject,
    JString,
    Node,
    Reset,
    decode_utf,
    encode_utf,
)
from qp2train.qupath.javastream import _Reader, parse, serialise

from .worked_example import HANDLES, TRIANGLE, desc, string


def test_worked_example_has_48_handles_and_is_written_back_identically() -> None:
    assert len(TRIANGLE) == 1328
    reader = _Reader(TRIANGLE)
    contents = reader.contents()
    assert len(reader.handles) == HANDLES == 48
    assert serialise(contents) == TRIANGLE


@pytest.mark.parametrize(
    ("text", "raw"),
    [("", ""), ("aß", "61 C39F"), ("\0", "C080"), ("😀", "EDA0BD EDB880"), ("\ud83d", "EDA0BD")],
)
def test_modified_utf8(text: str, raw: str) -> None:
    assert encode_utf(text) == bytes.fromhex(raw)
    assert decode_utf(bytes.fromhex(raw)) == text


@given(st.text())
def test_modified_utf8_there_and_back(text: str) -> None:
    assert decode_utf(encode_utf(text)) == text


def test_equal_strings_stay_separate_and_shared_ones_shared() -> None:
    one = JString("")
    data = serialise([one, JString(""), one])
    assert data == MAGIC + b"\x74\0\0" + b"\x74\0\0" + b"\x71\0\x7e\0\0"
    first, second, third = parse(data).contents
    assert first is third
    assert first is not second


def test_reset_empties_the_handle_table_on_the_way_out_too() -> None:
    one = JString("a")
    contents = parse(data := serialise([one, one, Reset(), one, one])).contents
    twice = b"\x74\0\1a" + b"\x71\0\x7e\0\0"
    assert data == MAGIC + twice + b"\x79" + twice
    assert serialise(contents) == data


def test_long_forms_are_remembered() -> None:
    data = MAGIC + b"\x7a\0\0\0\1x" + b"\x7c" + struct.pack(">q", 1) + b"y" + b"\x77\1z"
    assert serialise(parse(data).contents) == data
    assert serialise([Block(bytes(256))])[4:9] == b"\x7a\0\0\1\0"


def test_nan_payloads_survive() -> None:
    floats = ClassDesc(b"[F", 836686056779680834, 2)
    data = serialise([JArray(floats, bytes.fromhex("7FC00001 FF800000"))])
    assert serialise(parse(data).contents) == data


def test_fields_are_read_by_name() -> None:
    parent = ClassDesc(b"P", 1, 2, [Field("I", b"n")])
    child = ClassDesc(b"C", 1, 3, [Field("D", b"d"), Field("Z", b"z"), Field("L", b"s", JString("LS;"))], parent=parent)
    made = JObject(child, [struct.pack(">i", 7), struct.pack(">d?", 0.5, True), JString("text"), [Block(b"!")]])
    (node,) = parse(serialise([made])).contents
    assert isinstance(node, JObject)
    assert [node.number(name) for name in ("n", "d", "z")] == [7, 0.5, True]
    text = node.ref("s")
    assert isinstance(text, JString)
    assert text.text == "text"
    with pytest.raises(QuPathFormatError, match="without its field 'q'"):
        node.number("q")
    with pytest.raises(QuPathFormatError, match="'s' of C is not a primitive"):
        node.number("s")


def test_ten_thousand_nested_levels() -> None:
    box = ClassDesc(b"Box", 1, 2, [Field("L", b"in", JString("LBox;"))])
    node: Node = None
    for _ in range(10_000):
        node = JObject(box, [node])
    data = serialise([node])
    assert serialise(parse(data).contents) == data


TEXT = JString("Ljava/lang/Object;")
PRIMITIVES = {"B": 1, "C": 2, "D": 8, "F": 4, "I": 4, "J": 8, "S": 2, "Z": 1}
BASE = ClassDesc(b"Base", 1, 2, [Field("D", b"d"), Field("Z", b"z"), Field("L", b"ref", TEXT)])
CLASSES = {  # class → how an instance is laid out: bytes of primitives, -1 for a reference, 0 for contents
    BASE: (9, -1),
    ClassDesc(b"Derived", 2, 2, [Field("[", b"a", TEXT), Field("L", b"b", TEXT)], parent=BASE): (9, -1, -1, -1),
    ClassDesc(b"Custom", 3, 3, [Field("J", b"j")], parent=BASE): (9, -1, 8, 0),
    ClassDesc(b"Plain", 4, 2): (),
    ClassDesc(b"External", 5, 0x0C, parent=ClassDesc(b"ExternalBase", 6, 0x0C)): (0,),
    ClassDesc(b"Annotated", 7, 3, annotation=[Block(b"codebase"), JString("url"), None]): (0,),
    ClassDesc(b"", flags=2, interfaces=[b"One", b"Two"], name="(proxy)"): (),
}
ARRAYS = [ClassDesc(b"[" + kind.encode(), 10, 2) for kind in PRIMITIVES]
OBJECT_ARRAY, COLOUR = ClassDesc(b"[LObject;", 11, 2), ClassDesc(b"Colour", 0, 0x12)


@st.composite
def streams(draw: st.DrawFn) -> list[Node]:
    """Random streams of every kind of node, in each other, shared and in circles."""
    made: list[Node] = [None]
    block = st.builds(Block, st.one_of(st.binary(max_size=20), st.just(bytes(300))), st.booleans())
    earlier = st.deferred(lambda: st.sampled_from(made))
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["string", "object", "numbers", "array", "enum", "class", "desc"]))
        desc = draw(st.sampled_from([*CLASSES]))
        if kind == "string":
            text = draw(st.one_of(st.text(max_size=5), st.just("long " * 20_000)))
            made.append(JString(text, draw(st.booleans())))
        elif kind == "object":
            node = JObject(desc, [])
            made.append(node)  # so that it may refer to itself
            for part in CLASSES[desc]:
                if part > 0:
                    node.values.append(draw(st.binary(min_size=part, max_size=part)))
                else:
                    node.values.append(draw(earlier) if part else draw(st.lists(earlier | block, max_size=4)))
        elif kind == "numbers":
            array = draw(st.sampled_from(ARRAYS))
            size = PRIMITIVES[array.name[1]] * draw(st.integers(0, 3))
            made.append(JArray(array, draw(st.binary(min_size=size, max_size=size))))
        elif kind == "array":
            items: list[Node] = []
            made.append(JArray(OBJECT_ARRAY, items))
            items += draw(st.lists(earlier, max_size=4))
        elif kind == "enum":
            made.append(JEnum(COLOUR, draw(st.sampled_from([TEXT, JString("RED")]))))
        else:
            made.append(JClass(desc) if kind == "class" else desc)
    return draw(st.lists(st.one_of(st.sampled_from(made), block, st.builds(Reset)), max_size=6)) + made[-1:]


@settings(max_examples=int(os.environ.get("QP2TRAIN_EXAMPLES", "60")))
@given(streams())
def test_any_stream_is_read_back_as_it_was_written(contents: list[Node]) -> None:
    data = serialise(contents)
    again = parse(data).contents
    assert [type(node) for node in again] == [type(node) for node in contents]
    assert serialise(again) == data
    # What is one object stays one, and two stay two; null and blocks of bytes have no identity in Java.
    for one, other in itertools.combinations(range(len(contents)), 2):
        if not any(isinstance(node, Reset) for node in contents[one:other]) and not _without_identity(contents[one]):
            assert (contents[one] is contents[other]) == (again[one] is again[other])


def _without_identity(node: Node) -> bool:
    return node is None or isinstance(node, Block)


def test_every_truncation_is_an_error_or_ends_between_two_contents() -> None:
    whole = 0
    for size in range(len(TRIANGLE)):
        try:
            parse(TRIANGLE[:size])
        except QuPathFormatError as error:
            assert "byte" in str(error) or "starts with" in str(error)  # noqa: PT017
        else:
            whole += 1
    assert whole == 5  # after the magic, the block, the header, the image type, the hierarchy


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(4, len(TRIANGLE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_bytes_raise_nothing_else(flips: list[tuple[int, int]]) -> None:
    data = bytearray(TRIANGLE)
    for position, value in flips:
        data[position] = value
    try:
        contents = parse(bytes(data)).contents
    except QuPathFormatError:
        return
    assert parse(serialise(contents))


@given(st.binary(max_size=200))
def test_noise_raises_nothing_else(noise: bytes) -> None:
    for data in (noise, MAGIC + noise):
        with contextlib.suppress(QuPathFormatError):
            parse(data)


INTS = desc("[I", 1, 2)
OBJECTS = desc("[LObject;", 1, 2)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\x75" + INTS + b"\x7f\xff\xff\xff", "8589934588 bytes expected, 0 remain"),
        (b"\x75" + INTS + b"\xff\xff\xff\xff", "-4 bytes expected"),
        (b"\x75" + OBJECTS + b"\x7f\xff\xff\xff", "array of 2147483647 elements, but 0 bytes remain"),
        (b"\x7a\x7f\xff\xff\xff", "2147483647 bytes expected"),
        (b"\x7c\x7f" + b"\xff" * 7, "9223372036854775807 bytes expected"),
        (b"\x71\x00\x7e\x00\x00", "reference to object 0, 0 are known"),
        (b"\x71\x00\x00\x00\x00", "reference to object -8257536"),
        (b"\x78", "an end mark"),
        (b"\x7b", "type code 0x7b"),
        (b"\x00", "type code 0x00"),
        (b"\x73\x70", "an object without a class"),
        (b"\x73" + string("x"), "a class descriptor expected"),
        (b"\x73" + desc("A", 1, 2, parent=b"\x71\x00\x7e\x00\x00"), "a class descriptor expected"),
        (b"\x73" + desc("A", 1, 4), "without length marks"),
        (b"\x72" + b"\0\1A" + bytes(8) + b"\2\0\1" + b"X\0\1x", "field type 'X'"),
        (b"\x74\0\2\xc3\x28", "not modified UTF-8"),
        (b"\x7d\x7f\xff\xff\xff", "a proxy of 2147483647 interfaces"),
    ],
)
def test_malformed_streams_are_refused_with_the_place(body: bytes, message: str) -> None:
    with pytest.raises(QuPathFormatError, match=message) as caught:
        parse(MAGIC + body)
    assert "byte" in str(caught.value)


def test_deep_class_annotations_are_refused() -> None:
    start = b"\x72\0\1A" + bytes(8) + b"\2\0\0"
    with pytest.raises(QuPathFormatError, match="nested more than 20 deep"):
        parse(MAGIC + start * 1000)


def test_a_long_chain_of_ancestors_is_refused() -> None:
    start = b"\x72\0\1A" + bytes(8) + b"\2\0\0\x78"
    with pytest.raises(QuPathFormatError, match="more than 64 ancestors"):
        parse(MAGIC + b"\x73" + start * 1000 + b"\x70")


def test_what_is_no_java_stream_says_so() -> None:
    with pytest.raises(QuPathFormatError, match="starts with 50 4b 03 04"):
        parse(b"PK\x03\x04")

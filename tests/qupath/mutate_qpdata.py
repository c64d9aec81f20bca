"""Damaged and hostile variants of `.qpdata` files: bytes, words of Java's serialisation, and parsed trees."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Sequence
from random import Random
from typing import Any

from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import Block, ClassDesc, JArray, JObject, JString, Node
from qp2train.qupath.javastream import parse, serialise

from .mutate import BYTES, Mutation, put, several, some_range

_COUNTS = (0, 1, -1, 2, 255, 256, 65535, 65536, 1 << 24, (1 << 31) - 1, -(1 << 31))
_TYPE_CODES = range(0x70, 0x80)
# where a stream says how long something is: strings, blocks, arrays after their class, blocks that hold one count
_STRING = re.compile(rb"\x74(?=[\0-\3])")
_HANDLE = re.compile(rb"\x71\0\x7e")
_ARRAY = re.compile(rb"\x75\x71\0\x7e..", re.DOTALL)
_COUNT_BLOCK = re.compile(rb"\x77[\x04\x08]")
_CLASS_NAME = re.compile(rb"qupath\.lib\.[A-Za-z.$]+|java\.util\.[A-Za-z.$]+|\[\[?[BDFIJ](?=\x0b|\x3e|\xac|\x73|\x02)")


def mutated_qpdata(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A variant of a `.qpdata` file; `others` are files to take parts from."""
    if rng.random() < 0.4:
        with contextlib.suppress(QuPathFormatError):
            data = _other_tree(rng, data)
        if rng.random() < 0.6:
            return data
    return several(rng, data, others, (*BYTES, *_JAVA, *_JAVA))


def _one(rng: Random, pattern: re.Pattern[bytes], data: bytes) -> re.Match[bytes] | None:
    found = list(pattern.finditer(data))
    return rng.choice(found) if found else None


def _other_length(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    match = _one(rng, rng.choice((_STRING, _ARRAY, _COUNT_BLOCK)), data)
    if match is None:
        return data
    count = rng.choice(_COUNTS)
    if match.re is _STRING:
        return put(data, match.end(), struct.pack(">H", count & 0xFFFF))
    if match.re is _COUNT_BLOCK and rng.random() < 0.2:  # the block's own length
        return put(data, match.start() + 1, bytes([count & 255]))
    return put(data, match.end(), struct.pack(">i", count))


def _other_handle(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    match = _one(rng, _HANDLE, data)
    return data if match is None else put(data, match.end(), struct.pack(">H", rng.randrange(rng.choice((8, 64, 999)))))


def _handle_for_a_part(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    gone = some_range(rng, data)
    return data[: gone.start] + b"\x71\0\x7e" + struct.pack(">H", rng.randrange(64)) + data[gone.stop :]


def _other_type_code(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    where = [i for i, byte in enumerate(data[:20_000]) if byte in _TYPE_CODES]
    return put(data, rng.choice(where), bytes([rng.choice(_TYPE_CODES)])) if where else data


def _other_class_name(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    match, other = _one(rng, _CLASS_NAME, data), _one(rng, _CLASS_NAME, rng.choice(others))
    if match is None or other is None:
        return data
    head = data[: match.start() - 2] + struct.pack(">H", len(other[0]))
    return head + other[0] + data[match.end() :]


def _other_flags(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    match = _one(rng, _CLASS_NAME, data)
    return data if match is None else put(data, match.end() + 8, bytes([rng.choice((0, 1, 2, 3, 4, 0x0C, 0x12, 255))]))


_JAVA: tuple[Mutation, ...] = (
    _other_length,
    _other_handle,
    _handle_for_a_part,
    _other_type_code,
    _other_class_name,
    _other_flags,
)


def _other_tree(rng: Random, data: bytes) -> bytes:
    """Parse, put nodes where they do not belong, and write the tree: shared, cyclic, missing, of another class."""
    contents = parse(data).contents
    lists, nodes = _lists_and_nodes(contents)
    for _ in range(rng.choice((1, 1, 2, 4))):
        holder = rng.choice(lists)
        places = [i for i, item in enumerate(holder) if not isinstance(item, bytes | list)]
        if not places:
            continue
        at = rng.choice(places)
        how = rng.randrange(5)
        if how == 0:
            holder[at] = None
        elif how == 1:
            other = rng.choice(lists)
            holder[at] = rng.choice([item for item in other if not isinstance(item, bytes | list)] or [None])
        elif how == 2:
            holder[at] = rng.choice(nodes)
        elif how == 3:
            holder[at] = rng.choice((JString(""), JString("\0😀\ud800"), JString("x" * 70_000), JString("-1e999")))
        elif isinstance(block := holder[at], Block):  # replaced, not changed: equal blocks of a file are one node
            data = block.data
            other = (_other_number(rng, data), data * 2, b"", struct.pack(">i", rng.choice(_COUNTS)))
            holder[at] = Block(rng.choice(other))
        else:
            _other_content(rng, holder[at], nodes)
    for node in rng.sample(nodes, min(2, len(nodes))):
        if isinstance(node, JObject) and rng.random() < 0.3:
            values = [i for i, value in enumerate(node.values) if isinstance(value, bytes)]
            if values and (at := rng.choice(values)) is not None:
                node.values[at] = _other_number(rng, node.values[at])  # type: ignore[arg-type]
    return serialise(contents)


def _other_content(rng: Random, node: Any, nodes: list[Any]) -> None:
    if isinstance(node, JArray) and isinstance(node.items, bytes):
        width = {"[B": 1, "[F": 4, "[I": 4}.get(node.desc.name, 8)
        count = rng.choice((0, 1, 2, len(node.items) // width + 1))
        node.items = rng.choice((_other_number(rng, node.items), (node.items * 2)[: count * width]))
        node.items = node.items[: len(node.items) // width * width]
    elif isinstance(node, JArray):
        rng.choice((node.items.clear, node.items.reverse, lambda: node.items.append(rng.choice(nodes))))()
    elif isinstance(node, JObject) and node.values and isinstance(node.values[-1], list):
        mine = node.values[-1]
        if mine and rng.random() < 0.5:
            del mine[rng.randrange(len(mine))]
        else:
            mine.insert(rng.randrange(len(mine) + 1), rng.choice(nodes))
    elif isinstance(node, JString):
        node.raw = rng.choice((b"", b"\xc0\x80", node.raw * 3, b"7", b"Object ID", b": ", b"true"))


def _other_number(rng: Random, packed: bytes) -> bytes:
    """Some bytes of a packed number replaced by those of a special one."""
    if not packed:
        return packed
    special = rng.choice(
        (
            b"\xff" * 8,
            b"\x7f" + b"\xff" * 7,
            bytes(8),
            struct.pack(">d", float("inf")),
            struct.pack(">d", 1e300),
            struct.pack(">f", 3e38),
            struct.pack(">f", float("nan")),
            rng.randbytes(8),
        )
    )
    at = rng.randrange(len(packed)) & ~3
    return (packed[:at] + special + packed[at + 8 :])[: len(packed)]


def _lists_and_nodes(contents: list[Node]) -> tuple[list[list[Any]], list[Any]]:
    lists: list[list[Any]] = [contents]
    nodes: list[Any] = []
    seen: set[int] = set()
    stack: list[Any] = list(contents)
    while stack:
        node = stack.pop()
        if id(node) in seen or isinstance(node, bytes | ClassDesc):
            continue
        seen.add(id(node))
        inner: list[Any] = []
        if isinstance(node, list):
            inner = node
        else:
            nodes.append(node)
            if isinstance(node, JObject):
                inner = node.values
            elif isinstance(node, JArray) and isinstance(node.items, list):
                inner = node.items
        if inner:
            lists.append(inner)
            stack += inner
    return lists, nodes

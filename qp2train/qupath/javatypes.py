"""The few JDK classes that QuPath's files use, as Python values: boxed numbers, strings, lists, arrays."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import Block, JArray, JObject, JString, Node

_ARRAY_DTYPES = {"[F": ">f4", "[D": ">f8", "[B": ">u1", "[I": ">i4", "[J": ">i8"}
_HELD_BY = {  # class → the field that holds the list it wraps
    "java.util.Collections$UnmodifiableList": "list",
    "java.util.Collections$UnmodifiableRandomAccessList": "list",
    "java.util.Collections$SynchronizedList": "list",
    "java.util.Collections$SynchronizedRandomAccessList": "list",
    "java.util.Arrays$ArrayList": "a",
}


def describe(node: object) -> str:
    """What a node is, for messages."""
    if isinstance(node, JObject | JArray):
        return node.desc.name
    return "null" if node is None else type(node).__name__


def class_name(node: Node) -> str:
    """The class of an object; "" for anything else."""
    return node.desc.name if isinstance(node, JObject) else ""


def text_or_none(node: Node) -> str | None:
    """The text of a String or null."""
    if node is None:
        return None
    if not isinstance(node, JString):
        raise QuPathFormatError(f"a string expected, found {describe(node)}")
    return node.text


def int_or_none(node: Node) -> int | None:
    """The value of a java.lang.Integer or null."""
    if node is None:
        return None
    if class_name(node) != "java.lang.Integer" or not isinstance(node, JObject):
        raise QuPathFormatError(f"an Integer expected, found {describe(node)}")
    return int(node.number("value"))


def as_object(node: Node) -> JObject:
    """The node, which must be an object."""
    if not isinstance(node, JObject):
        raise QuPathFormatError(f"an object expected, found {describe(node)}")
    return node


def numbers(node: Node) -> NDArray[Any]:
    """The elements of a primitive array, big-endian as stored."""
    if not isinstance(node, JArray) or not isinstance(node.items, bytes) or node.desc.name not in _ARRAY_DTYPES:
        raise QuPathFormatError(f"an array of numbers expected, found {describe(node)}")
    return np.frombuffer(node.items, dtype=_ARRAY_DTYPES[node.desc.name])


def elements(node: Node) -> list[Node]:
    """The elements of an Object[] or of any list class that QuPath's files hold."""
    for _ in range(8):  # wrappers of wrappers
        if isinstance(node, JArray) and isinstance(node.items, list):
            return node.items
        name = class_name(node)
        if not isinstance(node, JObject) or name not in _HELD_BY:
            break
        node = node.ref(_HELD_BY[name])
    if class_name(node) in ("java.util.ArrayList", "java.util.CollSer") and isinstance(node, JObject):
        return [item for item in node.contents if not isinstance(item, Block)]
    raise QuPathFormatError(f"a list expected, found {describe(node)}")


class Cursor:
    """Reads what custom code wrote, in order: objects, and primitives across the blocks that hold them."""

    __slots__ = ("items", "next")

    def __init__(self, items: list[Node]) -> None:
        self.items = items
        self.next = 0

    def peek(self) -> Node:
        """The next item, which stays."""
        return self.items[self.next] if self.next < len(self.items) else None

    def take(self) -> Node:
        """The next item, which must be an object or null."""
        if self.next >= len(self.items):
            raise QuPathFormatError("an object ends too early")
        item = self.items[self.next]
        if isinstance(item, Block):
            raise QuPathFormatError("an object expected, found primitive data")
        self.next += 1
        return item

    def primitives(self) -> bytes:
        """All primitive data up to the next object, adjacent blocks joined."""
        data = b""
        while isinstance(block := self.peek(), Block):
            data = data + block.data if data else block.data
            self.next += 1
        return data

    def int(self) -> int:
        """A block that holds one int."""
        data = self.primitives()
        if len(data) != 4:
            raise QuPathFormatError(f"a 4-byte number expected, found {len(data)} bytes")
        value: int = struct.unpack(">i", data)[0]
        return value

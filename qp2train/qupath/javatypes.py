"""The few JDK classes that QuPath's files use, as Python values: boxed numbers, strings, lists, arrays."""

from __future__ import annotations

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
    return node.integer("value")


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


def elements(node: Node, reuse: Reuse | None = None) -> list[Node]:
    """The elements of an Object[] or of any list class that QuPath's files hold."""
    for _ in range(8):  # wrappers of wrappers
        if reuse is not None:
            reuse.read(node)
        if isinstance(node, JArray) and isinstance(node.items, list):
            return node.items
        name = class_name(node)
        if not isinstance(node, JObject) or name not in _HELD_BY:
            break
        node = node.ref(_HELD_BY[name])
    if class_name(node) in ("java.util.ArrayList", "java.util.CollSer") and isinstance(node, JObject):
        return [item for item in node.contents if not isinstance(item, Block)]
    raise QuPathFormatError(f"a list expected, found {describe(node)}")


_ELEMENT = 64  # bytes that an element of a list stands for


class Reuse:
    """Bounds the work on parts that many objects refer to.

    A stream names a part once and refers to it with five bytes, so 100,000 objects can share one outline of a million
    vertices: 14 MB of file, terabytes of geometry. Reading a part again is therefore counted, in bytes. What QuPath
    shares for good, names, keys and classes, is taken apart once and not counted.
    """

    __slots__ = ("_left", "_seen")

    def __init__(self, limit: int = 16_000_000) -> None:
        self._left = limit
        self._seen: set[int] = set()

    def read(self, node: Node) -> None:
        """Count a string, an array or a list that is about to be read.

        Raises:
            QuPathFormatError: What was read more than once adds up to more than the limit.
        """
        if id(node) not in self._seen:
            self._seen.add(id(node))
            return
        self._left -= 8 + _size(node)
        if self._left < 0:
            raise QuPathFormatError(
                "objects refer to the same parts so often that they would be far larger than the file; QuPath does not"
                " write that, and it is not read"
            )


def _size(node: Node) -> int:
    if isinstance(node, JString):
        return len(node.raw)
    if isinstance(node, JArray):
        return len(node.items) * (1 if isinstance(node.items, bytes) else _ELEMENT)
    if isinstance(node, JObject):
        return _ELEMENT * max((len(value) for value in node.values if isinstance(value, list)), default=0)
    return 0

"""One object of QuPath's hierarchy: its place in the stream, and what it says.

Source: writeExternal of qupath.lib.objects.PathObject, PathROIObject, PathCellObject and TMACoreObject.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from qp2train.core.annotation import Kind
from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import Block, JArray, JObject, JString, Node
from qp2train.qupath.javatypes import (
    Reuse,
    as_object,
    class_name,
    describe,
    elements,
    int_or_none,
    numbers,
    text_or_none,
)

OBJECTS = "qupath.lib.objects."
MEASUREMENTS = "qupath.lib.measurements."
PATH_CLASS = OBJECTS + "classes.PathClass"
METADATA_MAP = OBJECTS + "MetadataMap"
OBJECT_ID = "Object ID"
ROOT = OBJECTS + "PathRootObject"
KINDS: Mapping[str, Kind] = {
    OBJECTS + "PathAnnotationObject": "annotation",
    OBJECTS + "PathDetectionObject": "detection",
    OBJECTS + "PathCellObject": "cell",
    OBJECTS + "PathTileObject": "tile",
    OBJECTS + "TMACoreObject": "tma_core",
}
_MAX_CLASS_LEVELS, _MAX_CLASS_NAME = 64, 10_000
_NO_CHILDREN = bytes(4)
_SMALL = 256  # bytes: parts that any number of objects may share, since an object itself takes 30 or more
_UUID = "java.util.UUID"

Rgb = tuple[int, int, int]


def rgb(argb: int) -> Rgb:
    """(r, g, b) of QuPath's signed 32-bit ARGB."""
    return (argb >> 16 & 255, argb >> 8 & 255, argb & 255)


def argb(color: Rgb) -> int:
    """The inverse of `rgb`, opaque: (200, 0, 0) → -3670016. What lies outside 0 to 255 becomes the nearest of them."""
    r, g, b = (min(max(int(part), 0), 255) for part in color)
    return (255 << 24 | r << 16 | g << 8 | b) - (1 << 32)


@dataclass(slots=True)
class PathObject:
    """What one object says. `children_at` is the index, in `node.contents`, of the block that counts its children."""

    node: JObject
    kind: Kind | None
    name: str | None
    color: Rgb | None
    metadata: dict[str, str]
    id: str | None
    measurements: Node
    children: list[JObject]
    children_at: int
    locked: bool = False
    path_class: JObject | None = None
    roi: JObject | None = None
    nucleus: JObject | None = None
    missing: bool = False
    parent: PathObject | None = field(default=None, repr=False)


def read_object(node: JObject, parent: PathObject | None = None) -> PathObject:
    """Take an object's contents apart; its children are named, not read.

    Raises:
        QuPathFormatError: The contents are not laid out as QuPath 0.2 to 0.7 does.
    """
    kind = KINDS.get(node.desc.name) or _kind(node)
    try:
        return _take_apart(node, node.contents, kind, parent)
    except IndexError as error:
        raise QuPathFormatError("an object ends too early") from error


def ids_and_children(root: JObject) -> Iterator[tuple[str | None, int]]:
    """The id of every object in the order of `walk`, and how many children it has; the rest of it is not looked at."""
    stack = [root]
    while stack:
        node = stack.pop()
        try:
            metadata, object_id, _, at = _metadata(node.contents)
            children, _ = _children(node.contents, at)
        except IndexError as error:
            raise QuPathFormatError("an object ends too early") from error
        yield object_id or metadata.get(OBJECT_ID), len(children)
        stack.extend(reversed(children))


def _children(items: list[Node], at: int) -> tuple[list[JObject], int]:
    """The children that are counted at `at`, and where the object goes on."""
    data, at = _primitives(items, at)
    if data == _NO_CHILDREN:
        return [], at
    count = struct.unpack(">i", data)[0] if len(data) == 4 else -1
    if not 0 <= count <= len(items) - at:
        raise QuPathFormatError(f"an object with {count} children")
    return [as_object(child) for child in items[at : at + count]], at + count


def _take_apart(node: JObject, items: list[Node], kind: Kind | None, parent: PathObject | None) -> PathObject:
    metadata, object_id, measurements, children_at = _metadata(items)
    children, at = _children(items, children_at)
    color = int_or_none(items[1])
    result = PathObject(
        node,
        kind,
        text_or_none(items[0]),
        None if color is None else rgb(color),
        metadata,
        metadata.pop(OBJECT_ID, None) if object_id is None else object_id,
        measurements,
        children,
        children_at,
    )
    result.parent = parent
    if kind is None:
        return result
    item = items[at]
    if isinstance(item, JObject) and item.desc.name == "java.lang.Boolean":  # absent in old files
        result.locked = bool(item.number("value"))
        at += 1
        item = items[at]
    if item is not None:
        if not isinstance(item, JObject) or item.desc.name != PATH_CLASS:
            raise QuPathFormatError(f"a class expected, found {describe(item)}")
        result.path_class = item
    roi = items[at + 1]
    result.roi = None if roi is None else as_object(roi)
    probability, at = _primitives(items, at + 2)
    if len(probability) != (9 if kind == "tma_core" else 8):
        raise QuPathFormatError(f"{len(probability)} bytes where an object's class probability must be")
    if kind == "tma_core":
        result.missing = probability[8] != 0
    elif kind == "cell":
        nucleus = items[at]
        result.nucleus = None if nucleus is None else as_object(nucleus)
    return result


def _primitives(items: list[Node], at: int) -> tuple[bytes, int]:
    """All primitive data from `at` up to the next object, adjacent blocks joined, and where that object is."""
    start = at
    while at < len(items) and isinstance(items[at], Block):
        at += 1
    if at == start + 1:  # nearly always
        return items[start].data, at  # type: ignore[union-attr]
    return b"".join(block.data for block in items[start:at] if isinstance(block, Block)), at


def walk(root: JObject) -> Iterator[PathObject]:
    """Every object below `root` and `root` itself, parents before children, in the order of the file.

    Raises:
        QuPathFormatError: An object lies in two places, or is its own ancestor; or objects share so much that they
            would be far larger than the file.
    """
    seen: set[int] = set()
    reuse = Reuse()
    stack: list[tuple[JObject, PathObject | None]] = [(root, None)]
    while stack:
        node, parent = stack.pop()
        if id(node) in seen:
            raise QuPathFormatError("an object lies at two places of the hierarchy")
        seen.add(id(node))
        found = read_object(node, parent)
        _count_shared(found, reuse)
        yield found
        stack.extend((child, found) for child in reversed(found.children))


def set_children(obj: PathObject, children: list[JObject]) -> None:
    """Give an object other children, in the stream too; every other byte of it stays."""
    contents = obj.node.contents
    block = contents[obj.children_at]
    if not isinstance(block, Block) or len(block.data) != 4:
        raise QuPathFormatError("the number of children is not where QuPath writes it; nothing was changed")
    start = obj.children_at + 1
    contents[start : start + len(obj.children)] = children
    contents[obj.children_at] = Block(struct.pack(">i", len(children)), block.long)
    obj.children = children


def _kind(node: JObject) -> Kind | None:
    if node.desc.name in KINDS:
        return KINDS[node.desc.name]
    for desc in node.desc.lineage():
        if desc.name in KINDS:
            return KINDS[desc.name]
        if desc.name == ROOT:
            return None
    raise QuPathFormatError(f"an object of class {node.desc.name} in the hierarchy: qp2train cannot read it")


def _metadata(items: list[Node]) -> tuple[dict[str, str], str | None, Node, int]:
    """Steps c and d: metadata with the id, then measurements; or the UUID form of data version 4. And where e is."""
    metadata: dict[str, str] = {}
    item = items[2]
    kind = class_name(item)
    if kind == METADATA_MAP:
        return _metadata_map(as_object(item)), None, items[3], 4
    if kind != _UUID:
        return metadata, None, item, 3
    uuid = as_object(item)
    high, low = (uuid.integer(key) & (1 << 64) - 1 for key in ("mostSigBits", "leastSigBits"))
    h = f"{high:016x}{low:016x}"
    measurements: Node = None
    data, at = _primitives(items, 3)
    count = min(struct.unpack(">i", data)[0], 3) if len(data) == 4 else 0
    for item in items[at : at + max(count, 0)]:
        if class_name(item) == METADATA_MAP:
            metadata = _metadata_map(as_object(item))
        elif item is not None:
            measurements = item
    return metadata, f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}", measurements, at + max(count, 0)


def _metadata_map(node: JObject) -> dict[str, str]:
    contents = node.contents
    if len(contents) != 3:  # its version (an Integer), keys, values
        raise QuPathFormatError(f"metadata of {len(contents)} parts instead of 3")
    keys, values = elements(contents[1]), elements(contents[2])
    if len(keys) != len(values):
        raise QuPathFormatError(f"metadata with {len(keys)} keys and {len(values)} values")
    texts = [node.text if type(node) is JString else text_or_none(node) or "" for node in (*keys, *values)]
    return dict(zip(texts[: len(keys)], texts[len(keys) :], strict=True))


def _count_shared(obj: PathObject, reuse: Reuse) -> None:
    """Count what an object refers to, but its measurements, which `Measurements` counts.

    Metadata: the values; keys are shared by all objects, and there are as many.
    """
    if len(obj.name or "") > _SMALL:
        reuse.read(obj.node.contents[0])
    if len(obj.metadata) > _SMALL // 8:
        reuse.read(_values(obj))
    for roi in (obj.roi, obj.nucleus):
        for value in () if roi is None else roi.values:
            if isinstance(value, JArray) and len(value.items) > _SMALL:
                reuse.read(value)
            if isinstance(value, JArray) and isinstance(value.items, list):
                for row in value.items:
                    reuse.read(row)


def _values(obj: PathObject) -> Node:
    """The array of an object's metadata."""
    maps = (as_object(node) for node in obj.node.contents if class_name(node) == METADATA_MAP)
    return next((found.contents[2] for found in maps), None)


class Classes:
    """PathClass nodes → full names ("Tumor: Positive") and colours; every node is taken apart once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[str | None, Rgb | None]] = {}
        self.nodes: dict[str, JObject] = {}

    def name(self, node: JObject | None) -> str | None:
        return None if node is None else self._read(node)[0]

    def color(self, node: JObject | None) -> Rgb | None:
        return None if node is None else self._read(node)[1]

    def _read(self, node: JObject) -> tuple[str | None, Rgb | None]:
        if id(node) not in self._known:
            levels: list[str] = []
            length = 0
            level: Node = node
            while level is not None:
                if class_name(level) != PATH_CLASS or len(levels) == _MAX_CLASS_LEVELS:
                    raise QuPathFormatError(f"a class of more than {_MAX_CLASS_LEVELS} levels, or no class at all")
                level = as_object(level)
                text = text_or_none(level.ref("name")) or ""
                length += len(text)
                if length > _MAX_CLASS_NAME:
                    raise QuPathFormatError(f"a class whose name has more than {_MAX_CLASS_NAME} characters")
                levels.append(text)
                level = level.ref("parentClass")
            color = int_or_none(node.ref("colorRGB"))
            full = ": ".join(part for part in reversed(levels) if part) or None
            self._known[id(node)] = (full, None if color is None else rgb(color))
            if full is not None:
                self.nodes.setdefault(full, node)
        return self._known[id(node)]


class Measurements:
    """Measurement lists → dicts; the names that many objects share are read once."""

    def __init__(self) -> None:
        self._names: dict[int, list[str]] = {}
        self._reuse = Reuse()

    def read(self, node: Node) -> dict[str, float]:
        """Name → number of a measurement list; empty for null.

        Raises:
            QuPathFormatError: A list of a kind QuPath does not write, or with fewer values than names.
        """
        if node is None:
            return {}
        node = as_object(node)
        kind = node.desc.name.removeprefix(MEASUREMENTS)
        if kind == "DefaultMeasurementList":
            pairs = map(as_object, elements(node.ref("list"), self._reuse))
            return {text_or_none(pair.ref("name")) or "": pair.number("value") for pair in pairs}
        if not kind.startswith("NumericMeasurementList$"):
            raise QuPathFormatError(f"measurements of class {node.desc.name}: qp2train cannot read them")
        listed, stored = node.ref("names"), node.ref("values")
        names = self._names.get(id(listed))
        if names is None:
            names = self._names[id(listed)] = [text_or_none(name) or "" for name in elements(listed, self._reuse)]
        self._reuse.read(stored)
        if not isinstance(stored, JArray) or stored.desc.name not in ("[F", "[D"):
            raise QuPathFormatError(f"measurements as {describe(stored)}, not as float or double numbers")
        values = numbers(stored)[: len(names)].tolist()  # an open list has spare room behind
        if len(values) < len(names):
            raise QuPathFormatError(f"{len(names)} measurement names with {len(values)} values")
        return dict(zip(names, values, strict=True))

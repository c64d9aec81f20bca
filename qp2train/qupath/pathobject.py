"""One object of QuPath's hierarchy: its place in the stream, and what it says.

Source: writeExternal of qupath.lib.objects.PathObject, PathROIObject, PathCellObject and TMACoreObject.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from qp2train.core.annotation import Kind
from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import Block, JObject, Node
from qp2train.qupath.javatypes import (
    Cursor,
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
_MAX_CLASS_LEVELS = 64
_UUID = "java.util.UUID"

Rgb = tuple[int, int, int]


def rgb(argb: int) -> Rgb:
    """(r, g, b) of QuPath's signed 32-bit ARGB."""
    return (argb >> 16 & 255, argb >> 8 & 255, argb & 255)


def argb(color: Rgb) -> int:
    """The inverse of `rgb`, opaque: (200, 0, 0) → -3670016."""
    r, g, b = color
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
    kind = _kind(node)
    cursor = Cursor(node.contents)
    name = text_or_none(cursor.take())
    color = int_or_none(cursor.take())
    metadata, object_id, measurements = _metadata(cursor)
    children_at = cursor.next
    count = cursor.int()
    if not 0 <= count <= len(cursor.items):
        raise QuPathFormatError(f"an object with {count} children")
    children = [as_object(cursor.take()) for _ in range(count)]
    if object_id is None:
        object_id = metadata.pop(OBJECT_ID, None)
    result = PathObject(
        node,
        kind,
        name,
        None if color is None else rgb(color),
        metadata,
        object_id,
        measurements,
        children,
        children_at,
    )
    result.parent = parent
    if kind is None:
        return result
    item = cursor.take()
    if class_name(item) == "java.lang.Boolean":  # absent in old files
        result.locked = bool(as_object(item).number("value"))
        item = cursor.take()
    if item is not None:
        if class_name(item) != PATH_CLASS:
            raise QuPathFormatError(f"a class expected, found {describe(item)}")
        result.path_class = as_object(item)
    roi = cursor.take()
    result.roi = None if roi is None else as_object(roi)
    probability = cursor.primitives()
    if len(probability) != (9 if kind == "tma_core" else 8):
        raise QuPathFormatError(f"{len(probability)} bytes where an object's class probability must be")
    if kind == "tma_core":
        result.missing = probability[8] != 0
    elif kind == "cell":
        nucleus = cursor.take()
        result.nucleus = None if nucleus is None else as_object(nucleus)
    return result


def walk(root: JObject) -> Iterator[PathObject]:
    """Every object below `root` and `root` itself, parents before children, in the order of the file.

    Raises:
        QuPathFormatError: An object lies in two places, or is its own ancestor.
    """
    seen: set[int] = set()
    stack: list[tuple[JObject, PathObject | None]] = [(root, None)]
    while stack:
        node, parent = stack.pop()
        if id(node) in seen:
            raise QuPathFormatError("an object lies at two places of the hierarchy")
        seen.add(id(node))
        found = read_object(node, parent)
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


def _metadata(cursor: Cursor) -> tuple[dict[str, str], str | None, Node]:
    """Steps c and d: metadata with the id, then measurements; or the UUID form of data version 4."""
    metadata: dict[str, str] = {}
    if class_name(cursor.peek()) == _UUID:
        uuid = as_object(cursor.take())
        high, low = (int(uuid.number(key)) & (1 << 64) - 1 for key in ("mostSigBits", "leastSigBits"))
        h = f"{high:016x}{low:016x}"
        measurements: Node = None
        for _ in range(min(cursor.int(), 3)):
            item = cursor.take()
            if class_name(item) == METADATA_MAP:
                metadata = _metadata_map(as_object(item))
            elif item is not None:
                measurements = item
        return metadata, f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}", measurements
    if class_name(cursor.peek()) == METADATA_MAP:
        metadata = _metadata_map(as_object(cursor.take()))
    return metadata, None, cursor.take()


def _metadata_map(node: JObject) -> dict[str, str]:
    contents = node.contents
    if len(contents) != 3:  # its version (an Integer), keys, values
        raise QuPathFormatError(f"metadata of {len(contents)} parts instead of 3")
    keys, values = elements(contents[1]), elements(contents[2])
    if len(keys) != len(values):
        raise QuPathFormatError(f"metadata with {len(keys)} keys and {len(values)} values")
    return {text_or_none(k) or "": text_or_none(v) or "" for k, v in zip(keys, values, strict=True)}


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
            level: Node = node
            while level is not None:
                if class_name(level) != PATH_CLASS or len(levels) == _MAX_CLASS_LEVELS:
                    raise QuPathFormatError(f"a class of more than {_MAX_CLASS_LEVELS} levels, or no class at all")
                level = as_object(level)
                levels.append(text_or_none(level.ref("name")) or "")
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
            pairs = map(as_object, elements(node.ref("list")))
            return {text_or_none(pair.ref("name")) or "": pair.number("value") for pair in pairs}
        if not kind.startswith("NumericMeasurementList$"):
            raise QuPathFormatError(f"measurements of class {node.desc.name}: qp2train cannot read them")
        listed = node.ref("names")
        names = self._names.get(id(listed))
        if names is None:
            names = self._names[id(listed)] = [text_or_none(name) or "" for name in elements(listed)]
        values = numbers(node.ref("values"))[: len(names)].tolist()  # an open list has spare room behind
        if len(values) < len(names):
            raise QuPathFormatError(f"{len(names)} measurement names with {len(values)} values")
        return dict(zip(names, values, strict=True))

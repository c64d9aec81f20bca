"""Java object serialisation, generic: bytes → tree. Nothing is executed; `javawrite` is the way back.

Grammar: "Java Object Serialization Specification", chapter 6. An explicit stack replaces recursion, so the depth
of a tree is limited by memory only, and every length is compared with the bytes that remain before it is used.
"""

from __future__ import annotations

import contextlib
import gc
import struct
from collections.abc import Iterator
from typing import NamedTuple

from qp2train.errors import QuPathFormatError
from qp2train.qupath import javanodes as tc
from qp2train.qupath.javanodes import (
    FIRST_HANDLE,
    MAGIC,
    PRIMITIVE,
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
    Value,
    decode_utf,
)
from qp2train.qupath.javawrite import serialise

__all__ = ["Stream", "gc_paused", "parse", "serialise"]

_MAX_CLASS_ANNOTATIONS = 20  # nested; QuPath and the JDK write none at all

_U2, _I4, _I8, _CLASS_HEAD = struct.Struct(">H"), struct.Struct(">i"), struct.Struct(">q"), struct.Struct(">qBH")
_unpack_i4 = _I4.unpack_from
_SIZE = {ord(kind): packed.size for kind, packed in PRIMITIVE.items()}  # of an element, by its typecode


class Stream(NamedTuple):
    """A parsed stream: its contents, and every class descriptor in the order of the file."""

    contents: list[Node]
    classes: list[ClassDesc]


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Collect no garbage meanwhile.

    A tree of millions of nodes, none of them garbage, would be searched again and again: 13 s instead of 6 s for
    100,000 objects.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def parse(data: bytes) -> Stream:
    """Parse a whole stream.

    Raises:
        QuPathFormatError: Not a Java stream, truncated, or malformed; the message gives the offset.
    """
    if data[:4] != MAGIC:
        raise QuPathFormatError(f"starts with {data[:4].hex(' ') or 'nothing'}, a Java stream with {MAGIC.hex(' ')}")
    reader = _Reader(data)
    try:
        return Stream(reader.contents(), reader.classes)
    except QuPathFormatError as error:
        raise QuPathFormatError(f"{error} (at byte {reader.pos} of {len(data)})") from error.__cause__
    except (IndexError, struct.error) as error:
        raise QuPathFormatError(f"truncated at byte {len(data)}") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = len(MAGIC)
        self.handles: list[Node] = []
        self.classes: list[ClassDesc] = []
        self.blocks: dict[bytes, Block] = {}
        self.depth = 0

    def contents(self, *, until_end: bool = False) -> list[Node]:
        """Contents up to the end of the stream, or up to ENDBLOCKDATA (class annotations)."""
        data, handles, size, blocks = self.data, self.handles, len(self.data), self.blocks
        result: list[Node] = []
        # What is being filled: `target` lacks `left` contents (-1: until ENDBLOCKDATA); then `plan[step:]` of the
        # object whose parts are `values` follows; then the frame on top of the stack goes on.
        target: list[Value] | list[Node] = result
        values: list[Value] = []
        plan: tuple[int, ...] = ()
        left, step = -1, 0
        stack: list[tuple[list[Value] | list[Node], int, list[Value], tuple[int, ...], int]] = []
        while True:
            if left == 0:
                if step < len(plan):
                    part: int = plan[step]
                    step += 1
                    if part > 0:
                        values.append(self._take(part))
                    elif part < 0:
                        if -part > size - self.pos:
                            raise QuPathFormatError(f"truncated: {-part} fields expected")
                        target, left = values, -part
                    else:
                        notes: list[Node] = []
                        values.append(notes)
                        target, left = notes, -1
                elif stack:
                    target, left, values, plan, step = stack.pop()
                else:
                    return result
                continue
            pos = self.pos
            if pos == size and left < 0 and not stack and not plan and not until_end:
                return result
            tag = data[pos]
            self.pos = pos + 1
            if left > 0:
                left -= 1
            if tag == tc.NULL:
                target.append(None)
            elif tag == tc.REFERENCE:
                index = _unpack_i4(data, pos + 1)[0] - FIRST_HANDLE
                if not 0 <= index < len(handles):
                    raise QuPathFormatError(f"reference to object {index}, {len(handles)} are known")
                target.append(handles[index])
                self.pos = pos + 5
            elif tag == tc.OBJECT:
                desc = self._class()
                values_of_it: list[Value] = []
                obj = JObject(desc, values_of_it)
                handles.append(obj)
                target.append(obj)
                stack.append((target, left, values, plan, step))
                target = values = values_of_it
                left, plan, step = 0, desc.plan, 0
            elif tag == tc.STRING:
                end = self.pos = pos + 3 + (data[pos + 1] << 8 | data[pos + 2])
                if end > size:
                    raise QuPathFormatError(f"a string of {end - pos - 3} bytes, {size - pos - 3} remain")
                text = JString(data[pos + 3 : end])
                if not text.raw.isascii():
                    decode_utf(text.raw)  # so that no later access can fail
                handles.append(text)
                target.append(text)
            elif tag == tc.LONGSTRING:
                target.append(self._string(tag))
            elif tag == tc.BLOCK:
                if left >= 0:
                    raise QuPathFormatError("primitive data where an object must be")
                end = self.pos = pos + 2 + data[pos + 1]
                if end > size:
                    raise QuPathFormatError(f"{data[pos + 1]} bytes expected, {size - pos - 2} remain")
                raw = data[pos + 2 : end]
                block = blocks.get(raw)  # "no children", "no probability": of equal ones one is kept
                if block is None:
                    block = blocks[raw] = Block(raw)
                target.append(block)
            elif tag == tc.END:
                if left >= 0 or (not stack and not plan and not until_end):
                    raise QuPathFormatError("an end mark (78) where none may be")
                left = 0
            elif tag == tc.ARRAY:
                desc = self._class()
                array = JArray(desc, b"")
                handles.append(array)
                target.append(array)
                pos = self.pos + 4
                count = _unpack_i4(data, pos - 4)[0]
                name = desc.raw_name
                if len(name) < 2 or name[0] != 0x5B:  # "["
                    raise QuPathFormatError(f"an array of class {desc.name!r}")
                self.pos = pos
                if name[1] in _SIZE:
                    end = self.pos = pos + count * _SIZE[name[1]]
                    if not pos <= end <= size:
                        raise QuPathFormatError(f"{end - pos} bytes expected, {size - pos} remain")
                    array.items = data[pos:end]
                    continue
                if not 0 <= count <= size - self.pos:
                    raise QuPathFormatError(f"array of {count} elements, but {size - self.pos} bytes remain")
                stack.append((target, left, values, plan, step))
                items: list[Node] = []
                array.items = items
                target, left, values, plan, step = items, count, [], (), 0
            elif tag == tc.ENUM:
                desc = self._class()
                constant = JEnum(desc, JString(b""))
                handles.append(constant)
                constant.constant = self._text()
                target.append(constant)
            elif tag == tc.LONGBLOCK:
                if left >= 0:
                    raise QuPathFormatError("primitive data where an object must be")
                target.append(Block(self._take(self._int()), long=True))
            elif tag == tc.CLASSDESC or tag == tc.PROXYDESC:
                self.pos = pos
                target.append(self._class())
            elif tag == tc.CLASS:
                cls = JClass(self._class())
                handles.append(cls)
                target.append(cls)
            elif tag == tc.RESET and not stack and not until_end:
                target.append(Reset())
                handles.clear()
            else:
                self.pos = pos
                raise QuPathFormatError(f"type code {tag:#04x} is unknown or misplaced")

    def _take(self, count: int, skip: int = 0) -> bytes:
        start = self.pos + skip
        end = start + count
        if count < 0 or end > len(self.data):
            raise QuPathFormatError(f"{count} bytes expected, {len(self.data) - start} remain")
        self.pos = end
        return self.data[start:end]

    def _int(self) -> int:
        pos = self.pos
        self.pos = pos + 4
        value: int = _I4.unpack_from(self.data, pos)[0]
        return value

    def _utf(self) -> bytes:
        return self._take(_U2.unpack_from(self.data, self.pos)[0], skip=2)

    def _string(self, tag: int) -> JString:
        if tag == tc.STRING:
            node = JString(self._take(_U2.unpack_from(self.data, self.pos)[0], skip=2))
        else:
            node = JString(self._take(_I8.unpack_from(self.data, self.pos)[0], skip=8), long=True)
        if not node.raw.isascii():
            decode_utf(node.raw)  # so that no later access can fail
        self.handles.append(node)
        return node

    def _reference(self) -> Node:
        index: int = _I4.unpack_from(self.data, self.pos)[0] - FIRST_HANDLE
        self.pos += 4
        if not 0 <= index < len(self.handles):
            raise QuPathFormatError(f"reference to object {index}, {len(self.handles)} are known")
        return self.handles[index]

    def _text(self) -> JString:
        """A string, new or by reference."""
        tag = self.data[self.pos]
        self.pos += 1
        if tag == tc.STRING or tag == tc.LONGSTRING:
            return self._string(tag)
        node = self._reference() if tag == tc.REFERENCE else None
        if not isinstance(node, JString):
            raise QuPathFormatError("a string expected")
        return node

    def _class(self) -> ClassDesc:
        """A class descriptor that must be there."""
        pos = self.pos
        if self.data[pos] == tc.REFERENCE:  # nearly always
            index = _unpack_i4(self.data, pos + 1)[0] - FIRST_HANDLE
            node = self.handles[index] if 0 <= index < len(self.handles) else None
            if type(node) is ClassDesc and node.complete:
                self.pos = pos + 5
                return node
            raise QuPathFormatError(f"a class descriptor expected, not object {index}")
        desc = self._class_or_null()
        if desc is None:
            raise QuPathFormatError("an object without a class")
        return desc

    def _class_or_null(self) -> ClassDesc | None:
        """A class descriptor with its ancestors, new or by reference."""
        first: ClassDesc | None = None
        open_descs: list[ClassDesc] = []
        while True:
            tag = self.data[self.pos]
            self.pos += 1
            if tag == tc.CLASSDESC or tag == tc.PROXYDESC:
                desc = self._new_class(tag)
            elif tag == tc.NULL:
                desc = None
            else:
                node = self._reference() if tag == tc.REFERENCE else None
                if not isinstance(node, ClassDesc) or not node.complete:
                    raise QuPathFormatError("a class descriptor expected")
                desc = node
            if open_descs:
                open_descs[-1].parent = desc
            else:
                first = desc
            if desc is None or desc.complete:
                for known in open_descs:
                    known.complete = True
                return first
            open_descs.append(desc)
            self.classes.append(desc)

    def _new_class(self, tag: int) -> ClassDesc:
        if tag == tc.PROXYDESC:
            desc = ClassDesc(b"", flags=2, interfaces=[], name="(proxy)", complete=False)
            self.handles.append(desc)
            count = self._int()
            if not 0 <= count <= (len(self.data) - self.pos) // 2:
                raise QuPathFormatError(f"a proxy of {count} interfaces")
            desc.interfaces = [self._utf() for _ in range(count)]
        else:
            name = self._utf()
            uid, flags, count = _CLASS_HEAD.unpack_from(self.data, self.pos)
            self.pos += _CLASS_HEAD.size
            desc = ClassDesc(name, uid, flags, complete=False)
            self.handles.append(desc)
            for _ in range(count):
                kind = chr(self.data[self.pos])
                self.pos += 1
                field_name = self._utf()
                decode_utf(field_name)
                if kind in PRIMITIVE:
                    if desc.fields and desc.fields[-1].signature:
                        raise QuPathFormatError(f"fields of class {desc.name} out of order")
                    desc.fields.append(Field(kind, field_name))
                elif kind in "L[":
                    desc.fields.append(Field(kind, field_name, self._text()))
                else:
                    raise QuPathFormatError(f"field type {kind!r} of class {desc.name}")
        if self.data[self.pos] == tc.END:
            self.pos += 1
            return desc
        self.depth += 1
        if self.depth > _MAX_CLASS_ANNOTATIONS:
            raise QuPathFormatError(f"class annotations nested more than {_MAX_CLASS_ANNOTATIONS} deep")
        desc.annotation = self.contents(until_end=True)
        self.depth -= 1
        return desc

"""The other half of `javastream`: a tree of nodes back to the bytes of a Java stream."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import chain, count

from qp2train.qupath import javanodes as tc
from qp2train.qupath.javanodes import (
    FIRST_HANDLE,
    MAGIC,
    PRIMITIVE,
    Block,
    ClassDesc,
    JArray,
    JClass,
    JEnum,
    JObject,
    JString,
    Node,
    Reset,
    Value,
)

_U2, _I4, _I8, _REFERENCE = struct.Struct(">H"), struct.Struct(">i"), struct.Struct(">q"), struct.Struct(">BI")
_pack_i4, _pack_reference = _I4.pack, _REFERENCE.pack
_pack_i4_of, _pack_instance, _pack_string = (struct.Struct(form).pack for form in (">Bi", ">BBI", ">BH"))
_starts = count(1, 1 << 40)  # marks of later writers are larger than those of earlier ones
_SHORT = [bytes((tc.BLOCK, size)) for size in range(256)]  # how a block of that size begins
_SIZE = {ord(kind): packed.size for kind, packed in PRIMITIVE.items()}  # of an element, by its typecode


def serialise(contents: list[Node]) -> bytes:
    """A stream that holds `contents`; the exact bytes they were parsed from, if nothing was changed.

    Not for two threads at once with the same nodes.
    """
    writer = _Writer()
    writer.write(contents)
    return bytes(writer.out)


class _Writer:
    def __init__(self) -> None:
        self.out = bytearray(MAGIC)
        # A node whose mark is `first` or more is in the stream already: its handle is FIRST_HANDLE + mark - first.
        self.first = self.next = next(_starts)

    def write(self, contents: list[Node]) -> None:
        out = self.out
        stack: list[Iterator[Value | Reset]] = [iter(contents)]
        while stack:
            for node in stack[-1]:
                if node is None:
                    out.append(tc.NULL)
                elif isinstance(node, bytes):
                    out += node
                elif isinstance(node, list):
                    stack.append(chain(node, (_END_MARK,)))
                    break
                elif isinstance(node, Block):
                    out += _pack_i4_of(tc.LONGBLOCK, len(node.data)) if node.long else _SHORT[len(node.data)]
                    out += node.data
                elif node.mark >= self.first:
                    out += _pack_reference(tc.REFERENCE, node.mark - self.first + FIRST_HANDLE)
                elif type(node) is JObject:
                    self._instance(tc.OBJECT, node)
                    stack.append(iter(node.values))
                    break
                elif type(node) is JArray:
                    self._instance(tc.ARRAY, node)
                    items = node.items
                    if isinstance(items, bytes):
                        out += _pack_i4(len(items) // _SIZE[node.desc.raw_name[1]])
                        out += items
                        continue
                    out += _pack_i4(len(items))
                    stack.append(iter(items))
                    break
                elif type(node) is JString:
                    self._string(node)
                elif node is _END_MARK:
                    out.append(tc.END)
                elif type(node) is Reset:
                    out.append(tc.RESET)
                    self.first = self.next
                elif type(node) is JEnum:
                    self._instance(tc.ENUM, node)
                    self._text(node.constant)
                elif type(node) is JClass:
                    self._instance(tc.CLASS, node)
                elif type(node) is ClassDesc:
                    self._class(node)
                else:
                    raise TypeError(f"{type(node).__name__} is no node of a Java stream")
            else:
                stack.pop()

    def _new(self, node: JString | ClassDesc) -> None:
        node.mark = self.next
        self.next += 1

    def _instance(self, tag: int, node: JObject | JArray | JEnum | JClass) -> None:
        """What every instance begins with: its tag and its class."""
        known = node.desc.mark - self.first
        if known >= 0:
            self.out += _pack_instance(tag, tc.REFERENCE, known + FIRST_HANDLE)
        else:
            self.out.append(tag)
            self._class(node.desc)
        node.mark = self.next
        self.next += 1

    def _string(self, node: JString) -> None:
        self._new(node)
        size = len(node.raw)
        self.out += b"\x7c" + _I8.pack(size) if node.long else _pack_string(tc.STRING, size)
        self.out += node.raw

    def _text(self, node: JString) -> None:
        if node.mark >= self.first:
            self.out += _pack_reference(tc.REFERENCE, node.mark - self.first + FIRST_HANDLE)
        else:
            self._string(node)

    def _utf(self, raw: bytes) -> None:
        self.out += _U2.pack(len(raw))
        self.out += raw

    def _class(self, desc: ClassDesc | None) -> None:
        out = self.out
        while desc is not None:
            if desc.mark >= self.first:
                out += _pack_reference(tc.REFERENCE, desc.mark - self.first + FIRST_HANDLE)
                return
            out.append(tc.CLASSDESC if desc.interfaces is None else tc.PROXYDESC)
            if desc.interfaces is None:
                self._utf(desc.raw_name)
                out += _I8.pack(desc.uid)
                self._new(desc)
                out += struct.pack(">BH", desc.flags, len(desc.fields))
                for f in desc.fields:
                    out += f.type.encode("ascii")
                    self._utf(f.name)
                    if f.signature is not None:
                        self._text(f.signature)
            else:
                self._new(desc)
                out += _I4.pack(len(desc.interfaces))
                for name in desc.interfaces:
                    self._utf(name)
            if desc.annotation:
                self.write(desc.annotation)
            out.append(tc.END)
            desc = desc.parent
        out.append(tc.NULL)


class _EndMark(Reset):
    __slots__ = ()


_END_MARK = _EndMark()

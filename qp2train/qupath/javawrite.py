"""The other half of `javastream`: a tree of nodes back to the bytes of a Java stream."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import chain

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
_SIZE = {ord(kind): packed.size for kind, packed in PRIMITIVE.items()}  # of an element, by its typecode


def serialise(contents: list[Node]) -> bytes:
    """A stream that holds `contents`; the exact bytes they were parsed from, if nothing was changed."""
    writer = _Writer()
    writer.write(contents)
    return bytes(writer.out)


class _Writer:
    def __init__(self) -> None:
        self.out = bytearray(MAGIC)
        self.handles: dict[int, int] = {}  # id of a node → its handle

    def write(self, contents: list[Node]) -> None:
        out, handles = self.out, self.handles
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
                    self._block(node)
                elif (handle := handles.get(id(node))) is not None:
                    out += _pack_reference(tc.REFERENCE, handle)
                elif isinstance(node, JObject):
                    out.append(tc.OBJECT)
                    self._class(node.desc)
                    handles[id(node)] = FIRST_HANDLE + len(handles)
                    stack.append(iter(node.values))
                    break
                elif isinstance(node, JArray):
                    out.append(tc.ARRAY)
                    self._class(node.desc)
                    handles[id(node)] = FIRST_HANDLE + len(handles)
                    items = node.items
                    if isinstance(items, bytes):
                        out += _pack_i4(len(items) // _SIZE[node.desc.raw_name[1]])
                        out += items
                        continue
                    out += _pack_i4(len(items))
                    stack.append(iter(items))
                    break
                elif isinstance(node, JString):
                    self._string(node)
                elif node is _END_MARK:
                    out.append(tc.END)
                elif isinstance(node, Reset):
                    out.append(tc.RESET)
                    handles.clear()
                elif isinstance(node, JEnum):
                    out.append(tc.ENUM)
                    self._class(node.desc)
                    self._new(node)
                    self._text(node.constant)
                elif isinstance(node, JClass):
                    out.append(tc.CLASS)
                    self._class(node.desc)
                    self._new(node)
                elif isinstance(node, ClassDesc):
                    self._class(node)
                else:
                    raise TypeError(f"{type(node).__name__} is no node of a Java stream")
            else:
                stack.pop()

    def _new(self, node: object) -> None:
        self.handles[id(node)] = FIRST_HANDLE + len(self.handles)

    def _block(self, block: Block) -> None:
        if block.long:
            self.out += b"\x7a" + _I4.pack(len(block.data))
        else:
            self.out.append(tc.BLOCK)
            self.out.append(len(block.data))
        self.out += block.data

    def _string(self, node: JString) -> None:
        self._new(node)
        size = len(node.raw)
        self.out += b"\x7c" + _I8.pack(size) if node.long else b"\x74" + _U2.pack(size)
        self.out += node.raw

    def _text(self, node: JString) -> None:
        handle = self.handles.get(id(node))
        if handle is None:
            self._string(node)
        else:
            self.out += _REFERENCE.pack(tc.REFERENCE, handle)

    def _utf(self, raw: bytes) -> None:
        self.out += _U2.pack(len(raw))
        self.out += raw

    def _class(self, desc: ClassDesc | None) -> None:
        out = self.out
        while desc is not None:
            handle = self.handles.get(id(desc))
            if handle is not None:
                out += _pack_reference(tc.REFERENCE, handle)
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

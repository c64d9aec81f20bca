"""The nodes of a Java serialisation stream, as `javastream` parses and writes them.

Nodes compare by identity, as Java's references do: a node that occurs twice in a tree is written once and then
referred to. So two equal strings are two nodes, and an empty string is never merged with another.

`mark` belongs to the writer, who notes there which number it gave the node; a table of millions of nodes would take
half of its time.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from qp2train.errors import QuPathFormatError

MAGIC = b"\xac\xed\x00\x05"
FIRST_HANDLE = 0x7E0000

NULL, REFERENCE, CLASSDESC, OBJECT, STRING, ARRAY, CLASS, BLOCK, END, RESET, LONGBLOCK = range(0x70, 0x7B)
LONGSTRING, PROXYDESC, ENUM = 0x7C, 0x7D, 0x7E

PRIMITIVE = {t: struct.Struct(">" + code) for t, code in zip("BCDFIJSZ", "bHdfiqh?", strict=True)}

SERIALIZABLE, WRITE_METHOD, EXTERNALIZABLE, BLOCK_DATA = 0x02, 0x01, 0x04, 0x08

# Java itself has no limit; QuPath's deepest class has four ancestors.
_MAX_ANCESTORS = 64


def decode_utf(raw: bytes) -> str:
    """Text of Java's modified UTF-8: NUL is C0 80, code points above FFFF are two 3-byte surrogates.

    Raises:
        QuPathFormatError: The bytes are no modified UTF-8.
    """
    try:
        if raw.isascii():
            return raw.decode("ascii")
        text = raw.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
        return text.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "surrogatepass")
    except UnicodeDecodeError as error:
        raise QuPathFormatError(f"text {raw[:40]!r} is not modified UTF-8 ({error.reason})") from error


def encode_utf(text: str) -> bytes:
    """The inverse of `decode_utf`."""
    if text.isascii() and "\0" not in text:
        return text.encode("ascii")
    units = text.encode("utf-16-be", "surrogatepass")
    halves = "".join(chr(unit) for (unit,) in struct.iter_unpack(">H", units))
    return halves.encode("utf-8", "surrogatepass").replace(b"\0", b"\xc0\x80")


class JString:
    """A string: its modified UTF-8 bytes, and whether it was written in the long form."""

    __slots__ = ("_text", "long", "mark", "raw")

    def __init__(self, raw: bytes | str, long: bool = False) -> None:
        self.raw = encode_utf(raw) if isinstance(raw, str) else raw
        self.long = long or len(self.raw) > 0xFFFF
        self._text: str | None = None
        self.mark = 0

    @property
    def text(self) -> str:
        if self._text is None:  # kept: a file may refer to one long text from every object
            self._text = decode_utf(self.raw)
        return self._text


class Block:
    """Primitive data written by custom code; `long` remembers the 4-byte length form.

    Blocks have no identity in Java: one node may stand at many places, and is replaced, never changed.
    """

    __slots__ = ("data", "long")

    def __init__(self, data: bytes, long: bool = False) -> None:
        self.data = data
        self.long = long or len(data) > 0xFF


class Reset:
    """The token that empties the handle table."""

    __slots__ = ()
    mark = 0  # has no handle


class Field(NamedTuple):
    """A field of a class: typecode, name (modified UTF-8) and, for objects and arrays, the JVM type."""

    type: str
    name: bytes
    signature: JString | None = None


class Slot(NamedTuple):
    """Where an object keeps one field: which of its values; offset and typecode inside packed primitives."""

    value: int
    offset: int
    type: str


@dataclass(eq=False, slots=True)
class ClassDesc:
    """A class descriptor. `interfaces` is set for a dynamic proxy only, which has no name, uid or fields."""

    raw_name: bytes
    uid: int = 0
    flags: int = 0
    fields: list[Field] = field(default_factory=list)
    annotation: list[Node] = field(default_factory=list)
    parent: ClassDesc | None = None
    interfaces: list[bytes] | None = None
    name: str = ""
    complete: bool = True
    mark: int = 0
    _plan: tuple[int, ...] | None = None
    _slots: dict[str, Slot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.name or decode_utf(self.raw_name)

    def lineage(self) -> list[ClassDesc]:
        """The class and its ancestors, most derived first."""
        chain: list[ClassDesc] = []
        desc: ClassDesc | None = self
        while desc is not None:
            if len(chain) == _MAX_ANCESTORS or not desc.complete:
                raise QuPathFormatError(f"class {self.name} has more than {_MAX_ANCESTORS} ancestors, or is its own")
            chain.append(desc)
            desc = desc.parent
        return chain

    @property
    def plan(self) -> tuple[int, ...]:
        """How an instance is laid out: n > 0 = n bytes of primitives, -n = n references, 0 = contents until the end."""
        if self._plan is None:
            self._plan = self._lay_out()
        return self._plan

    @property
    def slots(self) -> dict[str, Slot]:
        """Field name → place in an instance; a derived class hides its ancestors' fields of equal name."""
        if self._plan is None:
            self._plan = self._lay_out()
        return self._slots

    def _lay_out(self) -> tuple[int, ...]:
        chain = self.lineage()
        if self.flags & EXTERNALIZABLE:
            if not self.flags & BLOCK_DATA:
                raise QuPathFormatError(f"class {self.name} writes without length marks (flags {self.flags:#x})")
            return (0,)  # once for the most derived class, although every ancestor is marked too
        plan: list[int] = []
        index = 0
        for desc in reversed(chain):
            if not desc.flags & SERIALIZABLE:
                continue
            primitives = [f for f in desc.fields if f.type in PRIMITIVE]
            references = desc.fields[len(primitives) :]
            offset = 0
            for f in primitives:
                self._slots[decode_utf(f.name)] = Slot(index, offset, f.type)
                offset += PRIMITIVE[f.type].size
            if offset:
                plan.append(offset)
                index += 1
            for f in references:
                self._slots[decode_utf(f.name)] = Slot(index, 0, "L")
                index += 1
            if references:
                plan.append(-len(references))
            if desc.flags & WRITE_METHOD:
                plan.append(0)
                index += 1
        return tuple(plan)


class JObject:
    """An instance: `values` holds packed primitives (bytes), references (nodes) and contents (lists) in wire order."""

    __slots__ = ("desc", "mark", "values")

    def __init__(self, desc: ClassDesc, values: list[Value]) -> None:
        self.desc = desc
        self.values = values
        self.mark = 0

    def _slot(self, name: str) -> Slot:
        slot = self.desc.slots.get(name)
        if slot is None:
            raise QuPathFormatError(f"a {self.desc.name} without its field {name!r}: not a file QuPath wrote")
        return slot

    def ref(self, name: str) -> Node:
        """The object that field `name` refers to; None for Java's null."""
        slot = self.desc._slots.get(name) or self._slot(name)  # laid out already, as a rule
        value = self.values[slot.value] if slot.type == "L" else b""
        if isinstance(value, bytes | list):
            raise QuPathFormatError(f"field {name!r} of {self.desc.name} is not a reference")
        return value

    def number(self, name: str) -> float:
        """The value of primitive field `name`."""
        slot = self._slot(name)
        packed = self.values[slot.value]
        if not isinstance(packed, bytes):
            raise QuPathFormatError(f"field {name!r} of {self.desc.name} is not a primitive")
        value: float = PRIMITIVE[slot.type].unpack_from(packed, slot.offset)[0]
        return value

    def integer(self, name: str) -> int:
        """The value of primitive field `name`, which must be a whole number."""
        value = self.number(name)
        if not isinstance(value, int):
            raise QuPathFormatError(f"field {name!r} of {self.desc.name} is {value}, not a whole number")
        return value

    @property
    def contents(self) -> list[Node]:
        """What the class's own code wrote (the last list of contents).

        Raises:
            QuPathFormatError: The class has none.
        """
        for value in reversed(self.values):
            if isinstance(value, list):
                return value
        raise QuPathFormatError(f"a {self.desc.name} without data of its own: not a file QuPath wrote")


class JArray:
    """An array: raw big-endian bytes for primitives, else a list of nodes."""

    __slots__ = ("desc", "items", "mark")

    def __init__(self, desc: ClassDesc, items: bytes | list[Node]) -> None:
        self.desc = desc
        self.items = items
        self.mark = 0


class JEnum:
    """A constant of an enum."""

    __slots__ = ("constant", "desc", "mark")

    def __init__(self, desc: ClassDesc, constant: JString) -> None:
        self.desc = desc
        self.constant = constant
        self.mark = 0


class JClass:
    """A class object."""

    __slots__ = ("desc", "mark")

    def __init__(self, desc: ClassDesc) -> None:
        self.desc = desc
        self.mark = 0


Node = JString | JObject | JArray | JEnum | JClass | ClassDesc | Block | Reset | None
Value = bytes | list[Node] | Node

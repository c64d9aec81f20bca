"""Snapshot: many annotations in little memory, decoded when they are looked at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import attrgetter
from typing import Any, Self, overload

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from qp2train.core.annotation import Annotation

# What painting and provenance need of an annotation. 64-bit offsets: outlines of one slide may come to more than 2 GB.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("parent", pa.string()),
        ("kind", pa.string()),
        ("class_name", pa.string()),
        ("name", pa.string()),
        ("locked", pa.bool_()),
        ("source", pa.string()),
        ("geometry", pa.large_binary()),  # WKB
        ("measurements", pa.large_string()),  # JSON
    ]
)
# Decoded at once: 10,000 outlines of 20 vertices are 10 MB as objects.
CHUNK = 10_000
_FIELDS = attrgetter(*SCHEMA.names)
_NO_MEASUREMENTS = "{}"


class Snapshot(Sequence[Annotation]):
    """Annotations as a sequence that cannot change, held as compressed Arrow records.

    An outline of 20 vertices takes 0.3 kB, a fifth of what it takes as an object. Every access decodes anew, and
    nothing decoded is kept: go through it once, rather than by index. Of an annotation it keeps geometry, class,
    identity, parent, kind, name, lock, source and measurements.
    """

    __slots__ = ("_chunks", "_count")
    _chunks: tuple[bytes, ...]
    _count: int

    def __init__(self, annotations: Iterable[Annotation] = ()) -> None:
        if isinstance(annotations, Snapshot):
            self._chunks, self._count = annotations._chunks, annotations._count
            return
        rest, chunks, self._count = iter(annotations), [], 0
        while some := list(islice(rest, CHUNK)):
            chunks.append(_packed(_encoded(some)))
            self._count += len(some)
        self._chunks = tuple(chunks)

    @classmethod
    def of_tables(cls, tables: Iterable[pa.Table]) -> Self:
        """From Arrow tables with the columns of `SCHEMA`, as `tables` gives them.

        Raises:
            KeyError, ValueError, TypeError, pa.ArrowException, ShapelyError: They are damaged, or something else.
        """
        self = cls()
        chunks = []
        for table in tables:
            checked = table.select(SCHEMA.names).cast(SCHEMA)
            for start in range(0, len(checked), CHUNK):
                part = checked.slice(start, CHUNK)
                _check(part)
                chunks.append(_packed(part))
            self._count += len(checked)
        self._chunks = tuple(chunks)
        return self

    @classmethod
    def joined(cls, parts: Sequence[Snapshot]) -> Self:
        """Several as one."""
        self = cls()
        self._chunks = tuple(chunk for part in parts for chunk in part._chunks)
        self._count = sum(map(len, parts))
        return self

    def tables(self) -> Iterator[pa.Table]:
        """Its records, `CHUNK` at a time, with the columns of `SCHEMA`."""
        return map(_unpacked, self._chunks)

    def column(self, name: str) -> list[Any]:
        """One value per annotation: "id", "parent" or any other column of `SCHEMA`."""
        return list(chain.from_iterable(_unpacked(chunk, name)[name].to_pylist() for chunk in self._chunks))

    def geometries(self) -> NDArray[np.object_]:
        """The geometry of each annotation."""
        found = [_shapes(_unpacked(chunk, "geometry")) for chunk in self._chunks]
        return np.concatenate(found) if found else np.empty(0, dtype=object)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Annotation]:
        return chain.from_iterable(map(_decoded, self.tables()))

    @overload
    def __getitem__(self, index: int) -> Annotation: ...

    @overload
    def __getitem__(self, index: slice) -> Snapshot: ...

    def __getitem__(self, index: int | slice) -> Annotation | Snapshot:
        if isinstance(index, slice):
            return Snapshot(list(self)[index])
        if not -self._count <= index < self._count:
            raise IndexError(f"annotation {index} of {self._count}")
        left = index % self._count
        for table in self.tables():
            if left < len(table):
                return next(_decoded(table.slice(left, 1)))
            left -= len(table)
        raise AssertionError("the chunks hold as many as were counted")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return NotImplemented
        if self._count != other._count:
            return False
        mine, theirs = (list(chain.from_iterable(t.to_batches() for t in s.tables())) for s in (self, other))
        return bool(pa.Table.from_batches(mine, SCHEMA).equals(pa.Table.from_batches(theirs, SCHEMA)))

    __hash__ = None  # type: ignore[assignment]  # equality costs a decoding; nobody should look it up

    def __repr__(self) -> str:
        return f"Snapshot({self._count} annotations)"


def _encoded(annotations: Sequence[Annotation]) -> pa.Table:
    columns = dict(zip(SCHEMA.names, map(list, zip(*map(_FIELDS, annotations), strict=True)), strict=True))
    geometries = np.empty(len(annotations), dtype=object)
    geometries[:] = columns["geometry"]
    columns["geometry"] = shapely.to_wkb(geometries)
    columns["measurements"] = [json.dumps(dict(m)) if m else _NO_MEASUREMENTS for m in columns["measurements"]]
    arrays = [_array(columns[f.name], f.type) for f in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:  # half of a surrogate pair, from a damaged GeoJSON, has no UTF-8
        return pa.array([v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in values], kind)


def _decoded(table: pa.Table) -> Iterator[Annotation]:
    rest = [table[f.name].to_pylist() for f in SCHEMA if f.name != "geometry"]
    for geometry, (id, parent, kind, class_name, name, locked, source, measurements) in zip(
        _shapes(table), zip(*rest, strict=True), strict=True
    ):
        yield Annotation(
            geometry,
            class_name,
            kind=kind,
            name=name,
            measurements=json.loads(measurements) if measurements != _NO_MEASUREMENTS else {},
            locked=locked,
            id=id,
            parent=parent,
            source=source,
        )


def _check(table: pa.Table) -> None:
    _shapes(table)
    for text in set(table["measurements"].to_pylist()) - {_NO_MEASUREMENTS}:
        json.loads(text)


@np.errstate(invalid="ignore")  # coordinates that are no numbers are kept as they came
def _shapes(table: pa.Table) -> NDArray[np.object_]:
    found: NDArray[np.object_] = shapely.from_wkb(table["geometry"].to_numpy())
    return found


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, SCHEMA, options=options) as writer:
        writer.write_table(table)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _unpacked(packed: bytes, *names: str) -> pa.Table:
    """The records, or some columns of them: the others are not decompressed."""
    wanted = [SCHEMA.get_field_index(name) for name in names]
    return pa.ipc.open_stream(packed, options=pa.ipc.IpcReadOptions(included_fields=wanted)).read_all()

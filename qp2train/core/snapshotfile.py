"""Snapshots of many slides in one Parquet file, written and read slide by slide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qp2train.core.snapshot import SCHEMA, Snapshot

_ENTRY = pa.field("entry", pa.string())


def write_snapshots(path: Path, snapshots: Mapping[str, Snapshot]) -> None:
    """Write the snapshot of each entry id."""
    with pq.ParquetWriter(path, SCHEMA.append(_ENTRY)) as writer:
        for entry, snapshot in snapshots.items():
            for table in snapshot.tables():
                writer.write_table(table.append_column(_ENTRY, pa.array([entry] * len(table), pa.string())))


def read_snapshots(path: Path) -> dict[str, Snapshot]:
    """Entry id → snapshot; an entry without annotations is not among them.

    Raises:
        OSError, KeyError, ValueError, TypeError, pa.ArrowException, ShapelyError: The file is damaged, or another.
    """
    parts: dict[str, list[Snapshot]] = {}
    with pq.ParquetFile(path) as file:
        for i in range(file.num_row_groups):
            table = file.read_row_group(i)
            for entry in pc.unique(table["entry"]).to_pylist():
                of_entry = table.filter(pc.equal(table["entry"], entry))
                parts.setdefault(str(entry), []).append(Snapshot.of_tables([of_entry]))
    return {entry: Snapshot.joined(some) for entry, some in parts.items()}

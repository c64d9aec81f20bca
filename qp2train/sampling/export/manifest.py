"""Manifest: what each exported patch is, as manifest.csv and manifest.json.

manifest.csv    one line per patch, in the table's order: name, slide, entry, x, y, size (full-resolution px),
                size_px, mpp (of the patch), label, annotated, annotation (id), roi, split, group, patient, weight,
                then where it lies: image, mask, label file or shard
manifest.json   classes, colours, scale, and each slide's name, size, mpp and metadata; not its path
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import shapely

from qp2train.core.labels import BACKGROUND, IGNORE
from qp2train.core.patches import PatchTable
from qp2train.core.snapshot import Snapshot
from qp2train.sampling.export.naming import distinct, patch_name

CSV, JSON = "manifest.csv", "manifest.json"
KIND = "qp2train patches"


def manifest_of(table: PatchTable) -> pd.DataFrame:
    """One row per patch, in the table's order; column `name` is distinct."""
    rows = table.rows.reset_index(drop=True)
    refs = [table.slides[e] for e in rows["entry"]]
    roi = roi_names(table)
    columns = zip(refs, rows["x"], rows["y"], rows["label"], roi, strict=True)
    return pd.DataFrame(
        {
            "name": distinct(patch_name(ref.name, x, y, label, name) for ref, x, y, label, name in columns),
            "slide": [ref.name for ref in refs],
            "entry": rows["entry"],
            "x": rows["x"],
            "y": rows["y"],
            "size": rows["entry"].map({e: table.side_px(e) for e in table.slides}),
            "size_px": table.size_px,
            "mpp": float(table.mpp),
            "label": rows["label"],
            "annotated": rows["annotated"],
            "annotation": rows["annotation"],
            "roi": roi,
            "split": rows["split"],
            "group": rows["group"],
            "patient": [ref.metadata.get("patient", "") for ref in refs],
            "weight": rows["weight"],
        }
    )


def about(table: PatchTable) -> dict[str, Any]:
    """What holds for all patches, as plain data."""
    labels = table.labels
    return {
        "kind": KIND,
        "size_px": table.size_px,
        "mpp": float(table.mpp),
        "values": {BACKGROUND: labels.names[BACKGROUND], **dict(enumerate(labels.classes, start=1)), IGNORE: "ignored"},
        "labels": {**labels.to_dict(), "colors": {name: list(labels.color(name)) for name in labels.classes}},
        "slides": {
            ref.entry: {"name": ref.name, "size": list(ref.size), "mpp": ref.mpp, "metadata": dict(ref.metadata)}
            for ref in table.slides.values()
        },
    }


def write_manifest(folder: Path, table: PatchTable, manifest: pd.DataFrame) -> None:
    """manifest.csv and manifest.json."""
    manifest.to_csv(folder / CSV, index=False)
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    (folder / JSON).write_bytes(orjson.dumps(about(table), option=options))


def roi_names(table: PatchTable) -> list[str]:
    """For each patch the name of its annotation, else of the nearest named one above it, else ""."""
    found = [""] * len(table)
    for entry, rows in table.rows.reset_index(drop=True).groupby("entry", sort=False):
        names = _Names(table.slides[str(entry)].snapshot)
        half = table.side_px(str(entry)) / 2
        for row, x, y, annotation in zip(rows.index, rows["x"], rows["y"], rows["annotation"], strict=True):
            found[int(row)] = names.of(annotation) or names.at(x + half, y + half)
    return found


class _Names:
    """The named annotations of one slide."""

    def __init__(self, drawn: Snapshot) -> None:
        names = np.array([name or "" for name in drawn.column("name")], dtype=object)
        self._by_id: dict[str, tuple[str, str | None]] = {}
        if any(names):
            self._by_id = dict(zip(drawn.column("id"), zip(names, drawn.column("parent"), strict=True), strict=True))
        named = np.flatnonzero(names != "")
        geometries = drawn.geometries()[named] if named.size else np.empty(0, dtype=object)
        small_first = np.argsort(shapely.area(geometries), kind="stable")
        self._names = names[named][small_first]
        self._tree = shapely.STRtree(geometries[small_first])

    def of(self, annotation: str) -> str:
        """Of this annotation, or of the first above it that has one, as the hierarchy says."""
        at: str | None = annotation
        for _ in range(len(self._by_id)):  # a file may hold a circle
            name, at = self._by_id.get(at or "", ("", None))
            if name or at is None:
                return name
        return ""

    def at(self, x: float, y: float) -> str:
        """Of the smallest one round a point."""
        if not len(self._names):
            return ""
        round_it = self._tree.query(shapely.Point(x, y), predicate="within")
        return str(self._names[round_it.min()]) if round_it.size else ""

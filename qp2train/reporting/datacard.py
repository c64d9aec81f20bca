"""The data card: of which patients, slides and annotations a run is made, as plain data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import shapely

from qp2train.core.geometry import Box
from qp2train.core.grouping import patients_of
from qp2train.core.labels import BACKGROUND_NAME, IGNORE
from qp2train.core.patches import SPLITS, PatchTable, SlideRef
from qp2train.sampling.mask import Painter

FORMAT = 1
# Areas are counted on at most this many pixels per slide, a band of them at a time. On a slide of 2 × 2 cm these are
# 5 µm wide, and 0.1 mm² is 4,000 of them.
AREA_PIXELS = 16_000_000
BAND_PIXELS = 2_000_000


def data_card(table: PatchTable) -> dict[str, Any]:
    """Patients, slides, patches and annotated mm² per class and part.

    The area of a class is that of the pixels which training would paint with it, on all slides that have a patch in
    the part: what overlaps counts once, for what lies on top. Slides whose patches are in several parts count in each.

    Args:
        table: All parts of a run.

    Returns:
        Plain data, written as data.json: format, size_px, mpp, grouped_by, shared_patients (in more than one part),
        patients_known (else slides count as patients),
        parts {split: {patients, slides, patches}},
        classes {class: {split: {mm2, patches, objects (annotated areas)}}},
        area_mpp (µm, the coarsest pixel that areas were counted in; null = no slide), rejected {fault: patches}.
    """
    rows = table.rows.assign(split=table.rows["split"].replace("", "all"))
    found = set(rows["split"])
    splits = [s for s in SPLITS if s in found] + sorted(found - set(SPLITS))
    entries = {s: list(dict.fromkeys(rows["entry"][rows["split"] == s])) for s in splits}
    areas = {e: annotated_mm2(table, e) for e in dict.fromkeys(e for part in entries.values() for e in part)}
    objects = {e: Counter(_area_classes(table, e)) for e in areas}
    classes: dict[str, dict[str, dict[str, float]]] = {}
    labels = rows["label"]
    names = [n for n in table.labels.names if n != BACKGROUND_NAME or (labels == n).any() or _any(areas, n)]
    for name in [*names, *([""] if (labels == "").any() else [])]:
        classes[name or "no class"] = {
            s: {
                "mm2": math.fsum(areas[e][0].get(name, 0.0) for e in entries[s]),
                "patches": int(((labels == name) & (rows["split"] == s)).sum()),
                "objects": sum(objects[e][name] for e in entries[s]),
            }
            for s in splits
        }
    of_entry = patients_of(table.slides.values(), table.grouped_by)
    return {
        "format": FORMAT,
        "size_px": table.size_px,
        "mpp": table.mpp,
        "grouped_by": list(table.grouped_by),
        "shared_patients": sum(len(parts) > 1 for parts in _parts(table, entries).values()),
        "patients_known": bool(patients_of(table.slides.values(), table.grouped_by)),
        "parts": {
            s: {
                "patients": len({of_entry.get(e, f"slide {e}") for e in entries[s]}),
                "slides": len(entries[s]),
                "patches": int((rows["split"] == s).sum()),
            }
            for s in splits
        },
        "classes": classes,
        "area_mpp": max((mpp for _, mpp in areas.values()), default=None),
        "rejected": dict(table.rejected),
    }


def annotated_mm2(table: PatchTable, entry: str) -> tuple[dict[str, float], float]:
    """Class → annotated mm² on a slide, and the µm per pixel it was counted at.

    The pixel-centre rule is right on average at any scale, so that many small objects are counted well, too.
    """
    ref, labels = table.slides[entry], table.labels
    box = _drawn(ref) if labels.unannotated == "ignore" else Box(0, 0, *ref.size)
    if box.width <= 0 or box.height <= 0:
        return {}, ref.mpp
    scale = max(1.0, math.sqrt(box.width * box.height / AREA_PIXELS))
    width, height = max(1, round(box.width / scale)), max(1, round(box.height / scale))
    painter = Painter(ref.annotations, labels, slide_size=ref.size)
    counts = np.zeros(IGNORE + 1, dtype=np.int64)
    band, step = max(1, BAND_PIXELS // width), box.height / height
    for top in range(0, height, band):
        rows = min(band, height - top)
        part = painter.paint(Box(box.x, box.y + top * step, box.width, rows * step), (width, rows))
        counts += np.bincount(part.ravel(), minlength=IGNORE + 1)
    px_mm2 = box.width / width * step * ref.mpp**2 / 1e6
    return {n: float(counts[i] * px_mm2) for i, n in enumerate(labels.names) if counts[i]}, step * ref.mpp


def _area_classes(table: PatchTable, entry: str) -> Iterator[str]:
    """The class of each annotated area of a slide."""
    drawn = table.slides[entry].annotations
    for annotation, area in zip(drawn, shapely.area([a.geometry for a in drawn]), strict=True):
        name = table.labels.name_of(annotation.class_name) if area else None
        if name is not None:
            yield name


def _parts(table: PatchTable, entries: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Patient → the parts that have patches of theirs."""
    of_entry = patients_of(table.slides.values(), table.grouped_by)
    found: dict[str, set[str]] = {}
    for split, those in entries.items():
        for entry in those:
            found.setdefault(of_entry.get(entry, f"slide {entry}"), set()).add(split)
    return found


def _drawn(ref: SlideRef) -> Box:
    """The box round all annotations, within the slide."""
    bounds = shapely.bounds(ref.snapshot.geometries())
    bounds = bounds[np.isfinite(bounds).all(axis=1)]
    if not len(bounds):
        return Box(0, 0, 0, 0)
    (left, top), (right, bottom) = np.floor(bounds[:, :2].min(axis=0)), np.ceil(bounds[:, 2:].max(axis=0))
    return Box(float(left), float(top), float(right - left), float(bottom - top)).clipped_to(*ref.size)


def _any(areas: Mapping[str, tuple[Mapping[str, float], float]], name: str) -> bool:
    found: Iterable[Mapping[str, float]] = (mm2 for mm2, _ in areas.values())
    return any(name in mm2 for mm2 in found)

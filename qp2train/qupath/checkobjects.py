"""What may be wrong with the objects of one image: where they lie, what they overlap, whether they are there twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import areal

TINY_PX2 = 1.0
NEARLY_SAME = 0.95  # intersection over union
_LEAST_OVERLAP_PX2 = 1.0
_AT_ONCE = 500  # annotations
_MOST_PAIRS = 100_000  # of annotations that meet; a project has hundreds


@dataclass(frozen=True, slots=True)
class Found:
    """Objects of one kind of finding; `area_px2` where an area says more than a number."""

    kind: str
    ids: tuple[str, ...]
    area_px2: float | None = None
    classes: tuple[str, str] | None = None


def check_objects(objects: Sequence[Annotation], size: tuple[int, int] | None) -> Iterator[Found]:
    """Look at one image's objects.

    Args:
        objects: All of them, full-resolution pixels.
        size: (width, height) of the image; None = unknown, nothing is outside then.
    """
    geometry = np.array([a.geometry for a in objects], dtype=object)
    drawn = ~shapely.is_empty(geometry)
    dimension = shapely.get_dimensions(geometry)
    annotation = np.array([a.kind == "annotation" for a in objects], dtype=bool)

    def found(kind: str, mask: NDArray[np.bool_]) -> Iterator[Found]:
        if mask.any():
            yield Found(kind, tuple(objects[i].id for i in np.flatnonzero(mask).tolist()))

    if size is not None:
        x0, y0, x1, y1 = shapely.bounds(geometry).T
        outside = drawn & ((x1 <= 0) | (y1 <= 0) | (x0 >= size[0]) | (y0 >= size[1]))
        over = drawn & ~outside & ((x0 < 0) | (y0 < 0) | (x1 > size[0]) | (y1 > size[1]))
        yield from found("outside", outside)
        yield from found("over-the-edge", over & annotation)
    yield from found("tiny", annotation & drawn & (dimension == 2) & (shapely.area(geometry) < TINY_PX2))
    yield from found("no-area", annotation & drawn & (dimension < 2))
    yield from found("other-plane", np.array([a.plane.z != 0 or a.plane.t != 0 for a in objects], dtype=bool))
    yield from found("unclassified", annotation & np.array([a.class_name is None for a in objects], dtype=bool))
    twice = _duplicates(objects, geometry, drawn)
    yield from found("duplicate", twice)
    yield from _meeting([a for a, gone in zip(objects, twice, strict=True) if not gone])


def _duplicates(
    objects: Sequence[Annotation], geometry: NDArray[np.object_], drawn: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Objects of a kind, class and source that are there already with the same outline."""
    twice = np.zeros(len(objects), dtype=bool)
    seen: set[tuple[object, ...]] = set()
    outlines = shapely.to_wkb(shapely.normalize(geometry))
    for i in np.flatnonzero(drawn).tolist():
        a = objects[i]
        key = (outlines[i], a.kind, a.class_name, a.source, a.plane)
        twice[i] = key in seen
        seen.add(key)
    return twice


def _meeting(objects: Sequence[Annotation]) -> Iterator[Found]:
    """Annotations of two classes on the same pixels, and nearly equal ones of one class; not those of models."""
    chosen = [
        a
        for a in objects
        if a.kind == "annotation" and a.drawn and not (a.class_name or "").endswith("*") and areal(a.geometry)
    ]
    areas = np.array([areal(a.geometry) for a in chosen], dtype=object)
    if not len(areas):
        return
    tree = shapely.STRtree(areas)
    above = {a.id: a.parent for a in objects}
    nearly: dict[str, None] = {}
    overlap: dict[tuple[str, str], _Overlap] = {}
    met = 0
    for start in range(0, len(areas), _AT_ONCE):
        i, j = tree.query(areas[start : start + _AT_ONCE], predicate="intersects")
        i, j = i[i + start < j] + start, j[i + start < j]
        met += len(i)
        common = shapely.area(shapely.intersection(areas[i], areas[j]))
        union = shapely.area(areas[i]) + shapely.area(areas[j]) - common
        for k in np.flatnonzero(common > _LEAST_OVERLAP_PX2).tolist():
            a, b = chosen[i[k]], chosen[j[k]]
            if a.plane != b.plane:
                continue
            if a.class_name == b.class_name:
                if common[k] > NEARLY_SAME * union[k]:
                    nearly[b.id] = None
            elif a.class_name and b.class_name and not (_is_above(a, b, above) or _is_above(b, a, above)):
                names = (min(a.class_name, b.class_name), max(a.class_name, b.class_name))
                found = overlap.setdefault(names, _Overlap())
                found.area_px2 += float(common[k])
                found.ids.update({a.id: None, b.id: None})
        if met > _MOST_PAIRS:
            yield Found("crowded", tuple(a.id for a in chosen[start + _AT_ONCE :]) or (chosen[-1].id,))
            break
    if nearly:
        yield Found("nearly-duplicate", tuple(nearly))
    for names, found in sorted(overlap.items()):
        yield Found("overlap", tuple(found.ids), found.area_px2, names)


@dataclass
class _Overlap:
    """Of two classes: the area in both, and whose it is."""

    area_px2: float = 0.0
    ids: dict[str, None] = field(default_factory=dict)


def _is_above(a: Annotation, b: Annotation, above: dict[str, str | None]) -> bool:
    """Whether `b` lies under `a` in the hierarchy."""
    parent = b.parent
    for _ in range(len(above)):
        if parent is None or parent == a.id:
            break
        parent = above.get(parent)
    return parent is not None and parent == a.id

"""Class map → polygons that cover exactly its pixels."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize, shapes
from shapely.geometry.base import BaseGeometry
from skimage.measure import label

from qp2train.core.annotation import Annotation
from qp2train.core.labels import BACKGROUND, IGNORE
from qp2train.core.scores import STEPS, ScoreMap
from qp2train.errors import Qp2trainError
from qp2train.infer.touching import separated

log = logging.getLogger(__name__)

# Rows vectorised at a time; objects are joined across bands.
BAND = 512
MEAN_PROBABILITY, AREA = "Mean probability", "Area µm²"


@dataclass
class _Component:
    """A 4-connected set of pixels of one class, perhaps in several bands."""

    value: int
    pixels: int = 0
    probability: float = 0.0
    parts: list[BaseGeometry] = field(default_factory=list)


def vectorise(
    scores: ScoreMap,
    *,
    min_area_um2: float = 0.0,
    simplify_um: float = 0.0,
    separate: Sequence[str] = (),
    waist: float = 0.7,
    kind: Literal["annotation", "detection"] = "annotation",
    band: int = BAND,
) -> list[Annotation]:
    """Turn each 4-connected object of the class map into one annotation; of each class's own, if they overlap.

    Without simplification, painting the annotations gives the class map back, pixel for pixel, holes
    and single pixels included. Background and what was not predicted make no objects.

    Args:
        scores: What `predict` returned.
        min_area_um2: Smaller objects are left out.
        simplify_um: Largest distance that an outline may move (Douglas–Peucker, topology kept); what that
            changes is logged. 0 = exact outlines along pixel edges.
        separate: Classes whose objects are divided where they touch, such as nuclei and glands (before `min_area_um2`).
        waist: Where: at necks narrower than this share of the narrower part's width, 0 < waist < 1 (see
            `touching.separated`).
        kind: What QuPath shows: annotations, each editable, or detections, a faster overlay for many small objects.
        band: Rows worked on at a time; the result does not depend on it.

    Returns:
        Annotations with class, "Mean probability" (0–1) and "Area µm²" of the exact outline; polygons in
        full-resolution pixels, from top to bottom.

    Raises:
        Qp2trainError: A negative area or distance, a waist beyond 0 to 1, or an unknown class.
    """
    if min_area_um2 < 0 or simplify_um < 0 or band < 1:
        raise Qp2trainError(
            f"min_area_um2 and simplify_um must not be negative, and band at least 1, not {min_area_um2}, "
            f"{simplify_um} and {band}"
        )
    unknown = sorted(set(separate) - set(scores.labels.classes))
    if isinstance(separate, str) or unknown or not 0 < waist < 1:
        raise Qp2trainError(
            f"separate must be a list of {', '.join(scores.labels.classes)}, and waist above 0 and below 1, not "
            f"{separate!r} and {waist}"
        )
    sx, sy = scores.scale
    px_um2 = sx * sy * scores.slide_mpp**2
    maps = [scores.layer(name) for name in scores.labels.classes] if scores.overlapping else [scores]
    found = [component for one in maps for component in components(one, band=band)]
    if separate:
        divided = {scores.labels.names.index(name) for name in separate}
        found = [d for c in found for d in (_divided(c, scores, waist) if c.value in divided else [c])]
    kept = [c for c in found if c.pixels * px_um2 >= min_area_um2]
    exact = [_corners(shapely.union_all(c.parts)) if len(c.parts) > 1 else c.parts[0] for c in kept]
    to_slide = (sx, sy, scores.box.x, scores.box.y)
    outlines = [_scaled(g, *to_slide) for g in exact]
    if simplify_um:
        outlines = _simplified(outlines, simplify_um / scores.slide_mpp)
    return [
        Annotation(
            outline,
            scores.labels.names[c.value],
            kind=kind,
            measurements={MEAN_PROBABILITY: round(c.probability / c.pixels / STEPS, 4), AREA: c.pixels * px_um2},
        )
        for c, outline in zip(kept, outlines, strict=True)
    ]


def components(scores: ScoreMap, *, band: int = BAND) -> list[_Component]:
    """The 4-connected objects, their polygons in map pixels, joined over bands of rows."""
    height, _ = scores.shape
    found: dict[int, _Component] = {}
    owner: dict[int, int] = {}  # piece → piece that stands for its object (union-find)
    above: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None
    first_free = 1
    for top in range(0, height, band):
        rows = slice(top, min(top + band, height))
        classes = np.where(scores.classmap[rows] == IGNORE, BACKGROUND, scores.classmap[rows])
        ids = label(classes, background=BACKGROUND, connectivity=1).astype(np.int32)
        for piece, component in _pieces(ids, classes, scores.scores[:, rows], top):
            found[piece + first_free] = component
            owner[piece + first_free] = piece + first_free
        first, last = (np.where(row > 0, row.astype(np.int64) + first_free, 0) for row in (ids[0], ids[-1]))
        if above is not None:
            touching = (above[0] == classes[0]) & (classes[0] != BACKGROUND)
            for a, b in np.unique(np.stack([above[1][touching], first[touching]]), axis=1).T:
                owner[_root(owner, int(b))] = _root(owner, int(a))
        above = classes[-1], last
        first_free += int(ids.max())
    joined: dict[int, list[_Component]] = defaultdict(list)
    for piece in found:
        joined[_root(owner, piece)].append(found[piece])
    return [
        _Component(
            same[0].value,
            sum(c.pixels for c in same),
            sum(c.probability for c in same),
            [part for c in same for part in c.parts],
        )
        for same in joined.values()
    ]


def _divided(component: _Component, scores: ScoreMap, waist: float) -> list[_Component]:
    whole = _corners(shapely.union_all(component.parts)) if len(component.parts) > 1 else component.parts[0]
    parts = separated(whole, waist=waist)
    if len(parts) == 1:
        return [component]
    out = []
    for part in parts:
        left, top, right, bottom = (round(v) for v in part.bounds)
        inside = rasterize([_scaled(part, 1, 1, -left, -top)], (bottom - top, right - left)) > 0
        probability = scores.scores[component.value, top:bottom, left:right][inside].sum(dtype=float)
        out.append(_Component(component.value, int(inside.sum()), float(probability), [part]))
    return out


def _pieces(
    ids: NDArray[np.int32], classes: NDArray[np.uint8], scores: NDArray[np.uint8], top: int
) -> Iterator[tuple[int, _Component]]:
    """(number, component) of each object of one band."""
    count = int(ids.max())
    if count == 0:
        return
    probability = np.take_along_axis(scores, classes[None].astype(np.intp), axis=0)[0]
    flat = ids.ravel()
    pixels = np.bincount(flat, minlength=count + 1)
    sums = np.bincount(flat, weights=probability.ravel(), minlength=count + 1)
    where = np.zeros(count + 1, dtype=np.uint8)
    where[flat] = classes.ravel()
    for geometry, value in shapes(ids, mask=ids > 0, connectivity=4):
        n = int(value)
        rings = [np.add(ring, (0, top)) for ring in geometry["coordinates"]]
        polygon = shapely.Polygon(rings[0], rings[1:])
        yield n, _Component(int(where[n]), int(pixels[n]), float(sums[n]), [polygon])


def _root(owner: dict[int, int], piece: int) -> int:
    while owner[piece] != piece:
        owner[piece] = owner[owner[piece]]
        piece = owner[piece]
    return piece


def _corners(polygon: shapely.Polygon) -> shapely.Polygon:
    """The polygon without the vertices on straight edges that joining bands left."""

    def turns(ring: shapely.LinearRing) -> NDArray[np.float64]:
        xy = np.asarray(ring.coords)[:-1]
        (ax, ay), (bx, by) = (xy - np.roll(xy, 1, axis=0)).T, (np.roll(xy, -1, axis=0) - xy).T
        corners: NDArray[np.float64] = xy[ax * by != ay * bx]
        return corners

    return shapely.Polygon(turns(polygon.exterior), [turns(ring) for ring in polygon.interiors])


def _scaled(geometry: BaseGeometry, sx: float, sy: float, x: float, y: float) -> BaseGeometry:
    return shapely.transform(geometry, lambda xy: xy * (sx, sy) + (x, y))


def _simplified(outlines: list[BaseGeometry], tolerance: float) -> list[BaseGeometry]:
    simple = [shapely.simplify(g, tolerance, preserve_topology=True) for g in outlines]
    before, after = (sum(shapely.get_num_coordinates(g) for g in gs) for gs in (outlines, simple))
    changed = [shapely.symmetric_difference(a, b).area / a.area for a, b in zip(outlines, simple, strict=True)]
    if changed:
        log.info(
            "simplified %d outlines: %d → %d vertices; %.2f %% of the area moved on average, %.2f %% at most",
            len(outlines),
            before,
            after,
            100 * float(np.mean(changed)),
            100 * max(changed),
        )
    return simple

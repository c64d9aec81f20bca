"""Glands: benign crypts side by side like test tubes, and the crowded, irregular ones of a carcinoma.

Neighbouring glands are cells of one Voronoi diagram, shrunk and rounded: so they fill the tissue and never overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from shapely.affinity import scale
from shapely.geometry.base import BaseGeometry

from qp2train.core.geometry import areal
from qp2train.sample.bend import Bend, Wobble, displaced, draw_wobble, largest


@dataclass(frozen=True, slots=True)
class Gland:
    """One gland: its outline with everything inside, and the holes in its epithelium."""

    outline: shapely.Polygon
    lumina: tuple[shapely.Polygon, ...]
    malignant: bool
    content: str  # "empty", "mucin" or "debris"


def benign_glands(
    rng: np.random.Generator,
    size_px: tuple[int, int],
    area: BaseGeometry,
    bend: Bend,
    bed: BaseGeometry,
) -> tuple[Gland, ...]:
    """Draw the crypts of the mucosa in a straight `area`; placed by `bend` and kept inside the `bed`."""
    places = _merged(rng, cells(rng, area, (172, 178), 0.09), 0.42, upright=True)
    uneven, lumen_uneven = draw_wobble(rng, size_px, 70, 4), draw_wobble(rng, size_px, 20, 2.2)
    out = []
    for cell in places:
        if rng.random() < 0.07:
            continue
        inset, rounding = float(rng.uniform(17, 27)), float(rng.uniform(30, 42))
        drawn = largest(cell.buffer(-inset - rounding).buffer(rounding + 30).buffer(-30))
        outline = largest(bend(drawn, uneven).intersection(bed))
        if outline.area < 7_000:
            continue
        height = float(rng.normal(42, 3))
        while (lumen := areal(outline.buffer(-height).buffer(-9).buffer(17).buffer(-8))).area < 250 and height > 20:
            height -= 4
        lumen = areal(displaced(lumen, lumen_uneven).buffer(-3).buffer(3).intersection(outline.buffer(-12)))
        lumina = tuple(p for p in shapely.get_parts(lumen) if p.area > 150)
        out.append(Gland(outline, lumina, False, str(rng.choice(["empty", "mucin"]))))
    return tuple(out)


def malignant_glands(
    rng: np.random.Generator,
    size_px: tuple[int, int],
    area: BaseGeometry,
    bend: Bend,
    bed: BaseGeometry,
) -> tuple[Gland, ...]:
    """Draw the glands of a carcinoma in a straight `area`; placed by `bend` and kept inside the `bed`."""
    places = _merged(rng, cells(rng, area, (205, 190), 0.15), 0.4, upright=False)
    uneven = (draw_wobble(rng, size_px, 105, 11), draw_wobble(rng, size_px, 40, 4))
    ragged = (draw_wobble(rng, size_px, 45, 7), draw_wobble(rng, size_px, 17, 2.4))
    out = []
    for cell in places:
        if rng.random() < 0.08:
            continue
        inset, rounding = float(rng.uniform(13, 25)), float(rng.uniform(12, 28))
        outline = largest(bend(largest(cell.buffer(-inset - rounding).buffer(rounding)), *uneven).intersection(bed))
        if outline.area < 5_000:
            continue
        lumina = _tumour_lumina(rng, outline, ragged)
        content = str(rng.choice(["empty", "mucin", "debris"], p=[0.4, 0.2, 0.4]))
        out.append(Gland(outline, lumina, True, content))
    return tuple(out)


def _tumour_lumina(
    rng: np.random.Generator, outline: shapely.Polygon, ragged: tuple[Wobble, ...]
) -> tuple[shapely.Polygon, ...]:
    """One slit or cleft, or the punched-out holes of a cribriform gland, or none (solid)."""
    kind = rng.random()
    room = outline.buffer(-34)
    if kind < 0.09 or room.is_empty:
        return ()
    if kind < 0.6 and outline.area > 18_000:
        x0, y0, x1, y1 = room.bounds
        holes: list[shapely.Polygon] = []
        space = room.buffer(6)
        shapely.prepare(space)
        for xy, r in zip(rng.uniform((x0, y0), (x1, y1), (150, 2)), rng.uniform(10, 32, 150), strict=True):
            hole = shapely.Point(*xy).buffer(float(r))
            if space.contains(hole) and all(hole.distance(other) > 24 for other in holes):
                holes.append(hole)
        found = [
            largest(displaced(scale(h, 1.15, 0.9), *ragged).buffer(-3).buffer(3).intersection(room.buffer(14)))
            for h in holes
        ]
    else:
        height = float(rng.uniform(32, 48))
        found = [
            largest(displaced(p, *ragged).buffer(-3).buffer(3).intersection(outline.buffer(-20)))
            for p in shapely.get_parts(areal(outline.buffer(-height).buffer(8).buffer(-6)))
        ]
    return tuple(shapely.get_parts(areal(shapely.union_all([f for f in found if f.area > 120]))))


def _merged(rng: np.random.Generator, cells: list[BaseGeometry], share: float, *, upright: bool) -> list[BaseGeometry]:
    """Join about `share` of the cells with a neighbour; `upright` asks for one above or below."""
    tree, used, out = shapely.STRtree(cells), set[int](), list[BaseGeometry]()
    for i, cell in enumerate(cells):
        if i in used:
            continue
        used.add(i)
        if rng.random() < share:
            for j in rng.permutation(tree.query(cell, predicate="intersects")):
                dx, dy = (cells[j].centroid.x - cell.centroid.x, cells[j].centroid.y - cell.centroid.y)
                if (
                    int(j) not in used
                    and cell.intersection(cells[j]).length > 40
                    and (not upright or abs(dy) > abs(dx))
                ):
                    used.add(int(j))
                    cell = cell.union(cells[j])
                    break
        out.append(cell)
    return out


def cells(
    rng: np.random.Generator,
    area: BaseGeometry,
    pitch: tuple[float, float],
    jitter: float,
    clip: BaseGeometry | None = None,
) -> list[BaseGeometry]:
    """Voronoi cells of a jittered brick grid: those whose seed lies in the area, clipped to it (or to `clip`)."""
    if area.is_empty:
        return []
    x0, y0, x1, y1 = area.bounds
    dx, dy = pitch
    columns, rows = np.meshgrid(np.arange(x0 - 2 * dx, x1 + 2 * dx, dx), np.arange(y0 - 2 * dy, y1 + 2 * dy, dy))
    columns = columns + dx / 2 * (np.arange(len(rows)) % 2)[:, None]
    seeds = np.column_stack([columns.ravel(), rows.ravel()]) + rng.normal(0, jitter, (rows.size, 2)) * pitch
    polygons = shapely.get_parts(shapely.voronoi_polygons(shapely.MultiPoint(seeds), ordered=True))
    inside = shapely.contains_xy(area, seeds)
    return [p.intersection(area if clip is None else clip) for p in polygons[inside]]

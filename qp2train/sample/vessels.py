"""Vessels and fat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from shapely.affinity import rotate, scale
from shapely.geometry.base import BaseGeometry

from qp2train.core.geometry import areal
from qp2train.sample.bend import Bend, displaced, draw_wobble, largest
from qp2train.sample.glands import cells


@dataclass(frozen=True, slots=True)
class Vessel:
    """A blood vessel: outer border of its wall, and its lumen."""

    wall: shapely.Polygon
    lumen: shapely.Polygon
    filled: float  # share of the lumen that holds red cells


def draw_vessels(
    rng: np.random.Generator,
    size_px: tuple[int, int],
    area: BaseGeometry,
    taken: BaseGeometry,
    *,
    count: float,
    radii: tuple[float, float],
) -> tuple[Vessel, ...]:
    """Throw ellipses into the free part of the area until `count` stick, or the tries are used up."""
    uneven, out, wanted = draw_wobble(rng, size_px, 40, 3), list[Vessel](), round(count)
    if area.is_empty:
        return ()
    shapely.prepare(free := areal(area.difference(taken)))
    x0, y0, x1, y1 = area.bounds
    for _ in range(wanted * 12):
        if len(out) == wanted:
            break
        r = float(np.exp(rng.uniform(*np.log(radii))))
        shape = rotate(
            scale(shapely.Point(*rng.uniform((x0, y0), (x1, y1))).buffer(r), 1.0, float(rng.uniform(0.5, 0.95))),
            float(rng.uniform(0, 180)),
        )
        wall = largest(displaced(shape, uneven))
        thickness = r * float(rng.choice([0.38, 0.14])) + 2.5
        lumen = largest(wall.buffer(-thickness))
        if not free.contains(wall) or lumen.area < 30 or any(wall.distance(v.wall) < 10 for v in out):
            continue
        out.append(Vessel(wall, lumen, float(rng.choice([0.0, 0.5, 0.95]))))
    return tuple(out)


def draw_fat(
    rng: np.random.Generator,
    size_px: tuple[int, int],
    area: BaseGeometry,
    bend: Bend,
    taken: BaseGeometry,
) -> tuple[shapely.Polygon, ...]:
    """A lobule of adipocytes in the deep part of the area."""
    if area.is_empty:
        return ()
    x0, y0, x1, y1 = area.bounds
    centre = (float(rng.uniform(0.3, 0.7)) * (x1 - x0) + x0, y0 + 0.62 * (y1 - y0))
    lobule = scale(shapely.Point(centre).buffer(1.0), 0.22 * (x1 - x0), 0.34 * (y1 - y0)).intersection(area)
    uneven = draw_wobble(rng, size_px, 45, 3)
    adipocytes = [
        largest(bend(largest(c.buffer(-14).buffer(12.6)), uneven)) for c in cells(rng, lobule, (112, 100), 0.14, area)
    ]
    return tuple(c for c in adipocytes if c.area > 900 and not c.intersects(taken))

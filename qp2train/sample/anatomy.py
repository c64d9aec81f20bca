"""Where things lie in a drawn slide: tissue, glands, lumina, vessels and fat, as polygons in pixels.

The section is laid out straight (bands of mucosa, muscle and submucosa; a carcinoma that grows in from one side),
then turned and bent as a whole by one smooth displacement, so that neighbours never come to overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import shapely
from shapely.affinity import scale
from shapely.geometry.base import BaseGeometry

from qp2train.sample.bend import Bend, draw_wobble, largest
from qp2train.sample.glands import Gland, benign_glands, malignant_glands
from qp2train.sample.vessels import Vessel, draw_fat, draw_vessels


@dataclass(frozen=True, slots=True)
class Anatomy:
    """All geometry of one slide in full-resolution pixels."""

    tissue: BaseGeometry
    muscle: BaseGeometry
    submucosa: BaseGeometry
    desmoplasia: BaseGeometry  # the stroma that the carcinoma draws about itself
    glands: tuple[Gland, ...]
    vessels: tuple[Vessel, ...]
    adipocytes: tuple[shapely.Polygon, ...]
    fat: BaseGeometry
    follicles: tuple[shapely.Polygon, ...]  # lymphocyte aggregates


def draw_anatomy(rng: np.random.Generator, size_px: tuple[int, int]) -> Anatomy:
    """Lay out one section on a slide of size_px = (width, height)."""
    width, height = size_px
    half_a, half_s = width * 0.43, height * 0.415
    angle = float(rng.uniform(-5, 5)) + 180.0 * float(rng.integers(2))
    wobbles = draw_wobble(rng, size_px, 520, 0.022 * min(size_px)), draw_wobble(rng, size_px, 150, 6)
    bend = Bend((width / 2, height / 2), angle, wobbles)
    # Bent, the section may leave the slide: one look at where it comes to lie, then centre and shrink it.
    x0, y0, x1, y1 = bend(scale(_superellipse(3.6), half_a, half_s, origin=(0, 0))).bounds
    bend = replace(bend, centre=(width - (x0 + x1) / 2, height - (y0 + y1) / 2))
    half_a, half_s = half_a * min(1, 0.93 * width / (x1 - x0)), half_s * min(1, 0.92 * height / (y1 - y0))

    outline = scale(_superellipse(3.6), half_a, half_s, origin=(0, 0))
    side = float(rng.choice([-1, 1]))
    depth = half_s * float(rng.uniform(0.05, 0.22))  # lower border of the mucosa
    muscle_px = min(70.0, 0.12 * half_s)
    front = half_a * float(rng.uniform(-0.02, 0.16))  # the carcinoma lies beyond it
    far = 4.0 * max(size_px)
    slant = float(rng.uniform(-0.35, 0.35))
    invaded = outline.intersection(
        shapely.Polygon(
            [(side * (front + slant * y), y) for y in (-far, far)] + [(side * far, far), (side * far, -far)]
        )
    )
    healthy = outline.difference(invaded)
    band = shapely.box(-far, depth, far, depth + muscle_px)
    below = shapely.box(-far, depth + muscle_px, far, far)

    ragged_front = draw_wobble(rng, size_px, 130, 22), draw_wobble(rng, size_px, 45, 7)
    tissue = bend(outline, draw_wobble(rng, size_px, 60, 4), draw_wobble(rng, size_px, 16, 1.6))
    bed = tissue.buffer(-7)
    benign = benign_glands(rng, size_px, healthy.intersection(shapely.box(-far, -far, far, depth - 12)), bend, bed)
    deepest = half_s * float(rng.uniform(0.55, 0.8))
    reach = invaded.intersection(shapely.box(-far, -far, far, deepest))
    free = bed.difference(shapely.union_all([g.outline.buffer(6) for g in benign]))
    glands = benign + malignant_glands(rng, size_px, reach, bend, free)

    desmoplasia = bend(invaded, *ragged_front).intersection(tissue)
    taken = shapely.union_all([g.outline.buffer(8) for g in glands])
    submucosa = bend(outline.intersection(below)).intersection(tissue)
    adipocytes = draw_fat(rng, size_px, healthy.intersection(below).buffer(-30), bend, taken)
    fat = shapely.union_all([c.buffer(4) for c in adipocytes]).buffer(-2) if adipocytes else shapely.Polygon()
    taken = taken.union(fat.buffer(8))
    deep = submucosa.difference(desmoplasia).difference(fat).buffer(-20)
    vessels = draw_vessels(rng, size_px, deep, taken, count=deep.area / 60_000, radii=(22, 70))
    taken = shapely.union_all([taken, *(v.wall.buffer(8) for v in vessels)])
    vessels += draw_vessels(rng, size_px, bed, taken, count=tissue.area / 60_000, radii=(7, 17))
    follicles = tuple(
        largest(bend(shapely.Point(*xy).buffer(float(r))))
        for xy, r in zip(
            np.column_stack([rng.uniform(-half_a, half_a, 3) * 0.8, rng.normal(depth - 10, 50, 3)]),
            rng.uniform(0.05, 0.1, 3) * half_s,
            strict=True,
        )
    )
    return Anatomy(
        tissue=tissue,
        muscle=bend(outline.intersection(band)).intersection(tissue),
        submucosa=submucosa,
        desmoplasia=desmoplasia,
        glands=glands,
        vessels=vessels,
        adipocytes=adipocytes,
        fat=fat,
        follicles=tuple(f for f in follicles if not f.is_empty),
    )


def _superellipse(power: float) -> shapely.Polygon:
    turn = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    c, s = np.cos(turn), np.sin(turn)
    return shapely.Polygon(np.column_stack([np.sign(c) * abs(c) ** (2 / power), np.sign(s) * abs(s) ** (2 / power)]))

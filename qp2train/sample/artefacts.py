"""What goes wrong between the knife and the scanner: pen, fold, blur, air bubble and dust, drawn into optical density.

Each function changes the density (H, W, 3) in place and returns the spoilt area in pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import shapely
from PIL import Image, ImageDraw
from scipy import ndimage
from shapely.affinity import scale
from shapely.geometry.base import BaseGeometry

from qp2train.core.geometry import areal
from qp2train.sample.bend import displaced, draw_wobble, largest
from qp2train.sample.canvas import fill
from qp2train.sample.noise import Floats, enlarged, periodic_texture

_INKS = {"blue": (1.15, 0.62, 0.14), "green": (1.05, 0.28, 0.62)}


def _mask(shape: tuple[int, int], area: BaseGeometry, soft_px: float) -> Floats:
    """1 inside the area, 0 outside, with a soft border; computed at a quarter of the size."""
    raster = Image.new("L", (shape[1] // 4, shape[0] // 4))
    fill(raster, scale(area, 0.25, 0.25, origin=(0, 0)), 255, hole=0)
    soft = ndimage.gaussian_filter(np.asarray(raster, np.float32) / 255, soft_px / 4)
    return enlarged(soft, shape)


def _window(area: BaseGeometry, shape: tuple[int, int], margin: int) -> tuple[slice, slice]:
    x0, y0, x1, y1 = area.bounds
    return (
        slice(max(int(y0) - margin, 0), min(int(y1) + margin, shape[0])),
        slice(max(int(x0) - margin, 0), min(int(x1) + margin, shape[1])),
    )


def _stroke(
    rng: np.random.Generator,
    size_px: tuple[int, int],
    start: tuple[float, float],
    heading: float,
    length: float,
    width: float,
) -> shapely.Polygon:
    """A band that wanders from a start point."""
    turns = heading + np.cumsum(rng.normal(0, 0.13, 14))
    steps = np.column_stack([np.cos(turns), np.sin(turns)]) * length / 14
    line = shapely.LineString(np.vstack([[start], start + np.cumsum(steps, 0)]))
    return largest(displaced(line.buffer(width / 2), draw_wobble(rng, size_px, 60, 3)))


def _darkness(density: Floats, area: shapely.Polygon) -> float:
    """Mean density along an area's outline; -1 for none."""
    if area.is_empty:
        return -1.0
    x, y = shapely.get_coordinates(area.exterior).astype(int).T
    return float(density[np.clip(y, 0, density.shape[0] - 1), np.clip(x, 0, density.shape[1] - 1)].mean())


def pen(density: Floats, tissue: BaseGeometry, rng: np.random.Generator) -> BaseGeometry:
    """A marker stroke on the cover glass, along one side of the tissue, partly over it."""
    height, width = density.shape[:2]
    x0, y0, x1, y1 = tissue.bounds
    left = bool(rng.integers(2))
    start = (x0 + 0.05 * (x1 - x0) if left else x1 - 0.05 * (x1 - x0), y0 + rng.uniform(-0.02, 0.12) * (y1 - y0))
    area = _stroke(rng, (width, height), start, np.pi / 2 + rng.uniform(-0.25, 0.25), 0.45 * (y1 - y0), 0.026 * width)
    streaks = periodic_texture(rng, 512, along=1.6, across=28)
    streaks = streaks[np.arange(height)[:, None] % 512, np.arange(width) % 512]
    ink = _mask((height, width), area, 3) * np.clip(0.85 + 0.13 * streaks, 0.3, 1.3)
    density += ink[..., None] * np.array(_INKS[str(rng.choice(list(_INKS)))], np.float32)
    return area


def fold(density: Floats, tissue: BaseGeometry, rng: np.random.Generator) -> BaseGeometry:
    """A crease where the section lies double: the densities of both layers add."""
    height, width = density.shape[:2]
    x0, y0, x1, y1 = tissue.bounds
    tries = []
    for _ in range(4):
        start = (float(rng.uniform(0.2, 0.8)) * (x1 - x0) + x0, y0 - 10)
        heading = np.pi / 2 + float(rng.uniform(-0.4, 0.4))
        band = _stroke(rng, (width, height), start, heading, 0.36 * (y1 - y0), 0.017 * width)
        tries.append(largest(band.intersection(tissue)))
    area = max(tries, key=lambda band: _darkness(density, band))  # a fold of fat would hardly show
    window = _window(area, (height, width), 12)
    inside = _mask((height, width), area, 2.5)[window]
    over = int(0.02 * width)
    second = np.roll(density, over, axis=1)[window]
    edge = inside * (1 - inside) * 4
    density[window] += (inside[..., None] * (0.85 * second + 0.03)) + 0.18 * edge[..., None]
    return area


def blur(density: Floats, tissue: BaseGeometry, rng: np.random.Generator) -> BaseGeometry:
    """A patch that the scanner's autofocus missed."""
    height, width = density.shape[:2]
    x0, y0, x1, y1 = tissue.bounds
    centre = rng.uniform((x0 + 0.2 * (x1 - x0), y0 + 0.2 * (y1 - y0)), (x1 - 0.2 * (x1 - x0), y1 - 0.2 * (y1 - y0)))
    area = largest(displaced(shapely.Point(*centre).buffer(0.085 * width), draw_wobble(rng, (width, height), 120, 25)))
    window = _window(area, (height, width), 60)
    weight = _mask((height, width), area.buffer(-10), 18)[window][..., None]
    crop = density[window]
    soft = ndimage.gaussian_filter(crop, (5.5, 5.5, 0), truncate=3)
    density[window] = crop + weight * (soft - crop)
    return area


def bubble(density: Floats, tissue: BaseGeometry, rng: np.random.Generator) -> BaseGeometry:
    """The rim of an air bubble under the cover glass: a dark line beside a bright one; inside, colours turn dull."""
    height, width = density.shape[:2]
    x0, _, x1, y1 = tissue.bounds
    corner = np.array([x0 if rng.random() < 0.5 else x1, y1])
    radius = float(rng.uniform(0.11, 0.15)) * width
    area = largest(displaced(shapely.Point(*corner).buffer(radius), draw_wobble(rng, (width, height), 300, 18)))
    rim = areal(area.buffer(9).difference(area.buffer(-12)).intersection(shapely.box(0, 0, width, height)))
    inside = _mask((height, width), area, 5)
    line = inside * (1 - inside) * 4
    glow = _mask((height, width), area.buffer(-7), 5)
    density *= (1 - 0.12 * inside)[..., None]
    density += (0.5 * line - 0.12 * glow * (1 - glow) * 4)[..., None]
    return rim


def dust(density: Floats, tissue: BaseGeometry, rng: np.random.Generator) -> BaseGeometry:
    """A few specks and a hair or two, out of focus; too small to spoil an area, so the one returned is empty."""
    height, width = density.shape[:2]
    raster = Image.new("L", (width // 2, height // 2))
    draw = ImageDraw.Draw(raster)
    for _ in range(max(3, width * height // 700_000)):
        x, y = rng.uniform((0, 0), raster.size)
        shape = shapely.Point(x, y).buffer(float(rng.uniform(1, 2.5)), quad_segs=2).exterior.coords
        draw.polygon(
            [(float(px + rng.normal(0, 0.5)), float(py + rng.normal(0, 0.5))) for px, py in shape],
            fill=int(rng.integers(90, 230)),
        )
    for _ in range(max(1, width * height // 4_000_000)):
        turns = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.16, 30))
        hair = rng.uniform((0, 0), raster.size) + np.cumsum(np.column_stack([np.cos(turns), np.sin(turns)]) * 2.5, 0)
        draw.line(hair.ravel().tolist(), fill=110, width=2)
    specks = enlarged(ndimage.gaussian_filter(np.asarray(raster, np.float32) / 255, 0.8, truncate=3), (height, width))
    where = specks > 0
    density[where] += specks[where][:, None] * np.array([0.9, 0.95, 1.0], np.float32)
    return shapely.Polygon()


Artefact = Callable[[Floats, BaseGeometry, np.random.Generator], BaseGeometry]
ARTEFACTS: dict[str, Artefact] = {"fold": fold, "blur": blur, "bubble": bubble, "dust": dust, "pen": pen}

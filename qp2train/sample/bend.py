"""Bending what was laid out straight: smooth random displacements of polygons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import rotate, translate
from shapely.geometry.base import BaseGeometry

from qp2train.core.geometry import areal
from qp2train.sample.noise import SmoothNoise, smooth_noise


@dataclass(frozen=True, slots=True)
class Wobble:
    """A random displacement: noise for x and for y, times an amplitude in pixels."""

    x: SmoothNoise
    y: SmoothNoise
    amplitude_px: float


@dataclass(frozen=True, slots=True)
class Bend:
    """Straight layout coordinates -> slide pixels: turn, put (0, 0) at `centre`, then displace smoothly."""

    centre: tuple[float, float]
    angle_deg: float
    wobbles: tuple[Wobble, ...]

    def __call__(self, geometry: BaseGeometry, *extra: Wobble) -> BaseGeometry:
        """Place a geometry laid out about (0, 0); `extra` displacements come on top of the common ones."""
        placed = translate(rotate(geometry, self.angle_deg, origin=(0, 0)), *self.centre)
        return displaced(placed, *self.wobbles, *extra)


def displaced(geometry: BaseGeometry, *wobbles: Wobble) -> BaseGeometry:
    """Shift every point by each wobble in turn; what folds over itself is repaired."""

    def shift(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        for wobble in wobbles:
            xy = xy + wobble.amplitude_px * np.column_stack([wobble.x.at(xy), wobble.y.at(xy)])
        return xy

    moved = shapely.transform(shapely.segmentize(geometry, 5), shift)
    return shapely.simplify(shapely.buffer(moved, 0), 0.25)


def draw_wobble(rng: np.random.Generator, size_px: tuple[int, int], scale_px: float, amplitude_px: float) -> Wobble:
    """Draw a displacement that varies over `scale_px` and has `amplitude_px` as its standard deviation."""
    return Wobble(smooth_noise(rng, size_px, scale_px), smooth_noise(rng, size_px, scale_px), amplitude_px)


def largest(geometry: BaseGeometry) -> shapely.Polygon:
    """The largest polygon of an area, its holes filled; empty when there is none."""
    parts = [p for p in shapely.get_parts(areal(geometry)) if not p.is_empty]
    return shapely.Polygon(max(parts, key=lambda p: p.area).exterior) if parts else shapely.Polygon()

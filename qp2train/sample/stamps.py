"""Small pictures drawn once and printed many times: nuclei, red cells, goblet vacuoles.

A slide holds some twenty thousand nuclei; each is one of a few hundred pre-drawn ones, laid over the canvas. The canvas
and the stamps hold stain amounts, float32 (H, W, 3): haematoxylin, eosin, blood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qp2train.sample.noise import Floats

ANGLES = 20  # steps of 9 degrees over half a turn: finer ones cannot be told apart at 0.5 µm/px


@dataclass(frozen=True, slots=True)
class Look:
    """How one sort of cell part is drawn; lengths are half-axes in pixels, amounts of stain where it is densest."""

    length: float
    width: float
    haematoxylin: float
    eosin: float
    blood: float = 0.0
    opacity: float = 1.0
    rim: float = 0.0  # darker border (nuclear membrane), as a share of the amount
    clumps: float = 0.0  # chromatin texture, as a share of the amount
    uneven: float = 0.05  # how far the outline strays from an ellipse
    spread: float = 0.12  # spread of size and of stain between cells
    nucleoli: float = 0.0
    soft_px: float = 1.3


NUCLEUS = {
    "epithelium": Look(9.5, 4.4, 1.05, 0.35, rim=0.25, clumps=0.16),
    "tumour": Look(12.0, 6.2, 1.08, 0.38, rim=0.32, clumps=0.2, uneven=0.07, spread=0.2, nucleoli=0.5),
    "lymphocyte": Look(5.8, 5.4, 1.6, 0.3, rim=0.1, clumps=0.12, spread=0.09),
    "plasma": Look(6.0, 5.6, 1.35, 0.35, rim=0.3, clumps=0.2, spread=0.08),
    "spindle": Look(13.0, 2.9, 0.95, 0.35, rim=0.1, clumps=0.15, uneven=0.1, spread=0.2),
    "muscle": Look(15.0, 3.0, 0.8, 0.5, rim=0.15, clumps=0.15, spread=0.15),
    "endothelium": Look(9.0, 2.4, 1.05, 0.4, clumps=0.1),
    "pyknotic": Look(3.2, 2.8, 1.5, 0.5, uneven=0.08, spread=0.3),
}
PART = {
    "goblet": Look(12.5, 7.6, 0.16, 0.02, opacity=0.85, clumps=0.1, uneven=0.06, spread=0.16, soft_px=2.4),
    "eosinophil": Look(8.0, 7.6, 0.1, 0.75, blood=0.35, opacity=0.8, clumps=0.2, soft_px=2.5),
    "cytoplasm": Look(10.5, 8.6, 0.35, 0.45, opacity=0.6, uneven=0.1, soft_px=4.0),
    "red_cell": Look(6.2, 5.6, 0.0, 0.1, blood=0.72, opacity=0.9, rim=0.3, clumps=0.06, spread=0.1),
}


@dataclass(frozen=True, slots=True)
class Stamps:
    """Drawn variants of one look: `ink` is the stain times the opacity, (ANGLES, N, S, S, 3); `keep` is 1 - opacity."""

    ink: Floats
    keep: Floats

    @property
    def size_px(self) -> int:
        return int(self.ink.shape[2])


def draw_stamps(rng: np.random.Generator, look: Look, *, variants: int = 8) -> Stamps:
    """Draw `variants` of a look at each angle."""
    reach = int(np.ceil(look.length * (1 + 2 * look.spread) + look.soft_px + 1))
    side, n = 2 * reach + 1, ANGLES * variants
    angle = np.repeat(np.arange(ANGLES) * np.pi / ANGLES, variants)[:, None, None]
    y, x = np.indices((side, side), dtype=np.float32) - reach
    shift = rng.uniform(-0.5, 0.5, (2, n, 1, 1))  # printing is to whole pixels, so let centres fall between them
    x, y = x - shift[0], y - shift[1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    size = np.clip(rng.normal(1, look.spread, (2, n, 1, 1)), 1 - 2 * look.spread, 1 + 2 * look.spread)
    turn = np.arctan2(across / look.width, along / look.length)
    bumps = sum(
        np.cos(k * turn + rng.uniform(0, 2 * np.pi, (n, 1, 1))) * rng.normal(0, 2, (n, 1, 1)) / k for k in (2, 3, 4)
    )
    radius = np.hypot(along / (look.length * size[0]), across / (look.width * size[1])) * (1 + look.uneven * bumps)
    inwards = (1 - radius) * look.width  # roughly pixels from the border
    opacity = np.clip(0.5 + inwards / look.soft_px, 0, 1) * look.opacity
    grain = ndimage.gaussian_filter(rng.standard_normal((n, side, side)), (0, 1.1, 1.1)) * 3.5
    amount = 1 + look.clumps * grain + look.rim * np.exp(-((inwards - 1) ** 2) / 1.6) - look.rim * 0.5
    if look.nucleoli:
        where = rng.uniform(-0.45, 0.45, (2, n, 1, 1)) * [[[[look.length]]], [[[look.width]]]]
        spot = np.exp(-((along - where[0]) ** 2 + (across - where[1]) ** 2) / 3.2)
        amount = amount + look.nucleoli * spot * (rng.random((n, 1, 1)) < 0.6)
    amount = np.clip(amount * np.clip(rng.normal(1, look.spread, (n, 1, 1)), 0.6, 1.5), 0.02, None)
    stain = np.array([look.haematoxylin, look.eosin, look.blood])
    ink = (amount * opacity)[..., None] * stain
    shape = (ANGLES, variants, side, side)
    return Stamps(ink.reshape(*shape, 3).astype(np.float32), (1 - opacity).reshape(*shape, 1).astype(np.float32))


def print_stamps(
    canvas: Floats, stamps: Stamps, xy: NDArray[np.float64], angle: NDArray[np.float64], rng: np.random.Generator
) -> None:
    """Lay one stamp over the canvas at each point (N, 2), turned by `angle` (N,) radians; off-canvas parts are cut.

    Stamps whose centre lies off the canvas are left out.
    """
    height, width = canvas.shape[:2]
    side = stamps.size_px
    reach = side // 2
    variant = rng.integers(stamps.ink.shape[1], size=len(xy))
    step = np.round(np.mod(angle, np.pi) * ANGLES / np.pi).astype(int) % ANGLES
    left, top = np.floor(xy).astype(int).T - reach
    inside = (xy[:, 0] >= 0) & (xy[:, 1] >= 0) & (xy[:, 0] < width) & (xy[:, 1] < height)
    for i in np.flatnonzero(inside):
        x, y = int(left[i]), int(top[i])
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
        cut = (step[i], variant[i], slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
        patch = canvas[y0:y1, x0:x1]
        patch *= stamps.keep[cut]
        patch += stamps.ink[cut]


def scattered(rng: np.random.Generator, shape: tuple[int, int], pitch: float) -> NDArray[np.float64]:
    """Points (N, 2) strewn over a picture, one in each cell of a brick grid: random, yet hardly ever overlapping."""
    height, width = shape
    x, y = np.meshgrid(np.arange(-pitch, width + pitch, pitch), np.arange(-pitch, height + pitch, pitch * 0.87))
    x = x + pitch / 2 * (np.arange(len(x)) % 2)[:, None]
    points = np.column_stack([x.ravel(), y.ravel()]) + rng.uniform(-0.36, 0.36, (x.size, 2)) * pitch
    inside = (points >= 0).all(1) & (points < (width, height)).all(1)
    return points[inside]


def along_outline(
    rng: np.random.Generator,
    ring: NDArray[np.float64],
    *,
    pitch: float,
    jitter: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points spaced about `pitch` px along a closed ring (N, 2), and the direction across it at each, in radians."""
    steps = np.hypot(*np.diff(ring, axis=0).T)
    run = np.concatenate([[0], np.cumsum(steps)])
    count = int(run[-1] // pitch)
    if count < 3:
        return np.empty((0, 2)), np.empty(0)
    at = np.mod((np.arange(count) + rng.normal(0, 0.2, count)) * run[-1] / count, run[-1])
    points = np.column_stack([np.interp(at, run, ring[:, k]) for k in (0, 1)])
    # A chord of 12 px rather than the local segment: outlines carry corners of a pixel or two.
    ahead = np.column_stack([np.interp(np.mod(at + 6, run[-1]), run, ring[:, k]) for k in (0, 1)])
    behind = np.column_stack([np.interp(np.mod(at - 6, run[-1]), run, ring[:, k]) for k in (0, 1)])
    tangent = ahead - behind
    tangent /= np.maximum(np.hypot(*tangent.T), 1e-6)[:, None]
    normal = np.column_stack([-tangent[:, 1], tangent[:, 0]])
    return points + normal * rng.normal(0, jitter, count)[:, None], np.arctan2(normal[:, 1], normal[:, 0])

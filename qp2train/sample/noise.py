"""Smooth random fields: everything irregular in a drawn slide comes from here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SmoothNoise:
    """Noise of mean 0 and standard deviation about 1 that varies over `scale_px` pixels.

    One coarse grid answers both at scattered points (`at`) and as a picture (`image`); the two agree to a few
    percent (spline there, bicubic resampling here).
    """

    grid: Floats
    scale_px: float

    def at(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """The field at points (N, 2) in pixels, (x, y)."""
        rows, columns = xy[:, 1] / self.scale_px + 2, xy[:, 0] / self.scale_px + 2
        values: NDArray[np.float64] = ndimage.map_coordinates(
            self.grid, [rows, columns], output=np.float64, order=3, mode="mirror"
        )
        return values

    def image(self, shape: tuple[int, int], *, step: int = 1) -> Floats:
        """The field sampled every `step` pixels: float32 of `shape` (rows, columns) samples."""
        height, width = shape
        box = (2.5, 2.5, 2.5 + width * step / self.scale_px, 2.5 + height * step / self.scale_px)
        picture = Image.fromarray(self.grid).resize((width, height), Image.Resampling.BICUBIC, box=box)
        return np.array(picture, np.float32)


def smooth_noise(rng: np.random.Generator, size_px: tuple[int, int], scale_px: float) -> SmoothNoise:
    """A field over a picture of size_px = (width, height)."""
    width, height = size_px
    cells = (int(np.ceil(height / scale_px)) + 6, int(np.ceil(width / scale_px)) + 6)
    # Interpolation between independent knots averages; 1.35 brings the spread back to about 1.
    return SmoothNoise((rng.standard_normal(cells) * 1.35).astype(np.float32), scale_px)


def periodic_texture(rng: np.random.Generator, size: int, *, along: float, across: float) -> Floats:
    """A square tile of noise that repeats seamlessly, unit spread.

    `along` and `across` are the blur's standard deviations in pixels on the column and the row axis: unequal ones
    make fibres along the columns' axis.
    """
    tile = ndimage.gaussian_filter(rng.standard_normal((size, size)), (across, along), mode="wrap")
    unit: Floats = ((tile - tile.mean()) / tile.std()).astype(np.float32)
    return unit


def tiled(tile: Floats, shape: tuple[int, int]) -> Floats:
    """The periodic tile repeated over a picture of `shape` (rows, columns)."""
    rows, columns = -(-shape[0] // tile.shape[0]), -(-shape[1] // tile.shape[1])
    return np.tile(tile, (rows, columns))[: shape[0], : shape[1]]


def fibres(tile: Floats, potential: Floats, *, stretch: float) -> Floats:
    """Wavy fibres that run along the contour lines of `potential` (H, W), whose values count as pixels across them.

    The tile's rows are looked up by the potential and its columns by a coordinate that runs through the picture, shrunk
    by `stretch` so that threads are long. Where the potential is steep the threads are thin, where it is flat broad.
    """
    rows, columns = np.indices(potential.shape, dtype=np.float32)
    run = (rows * 0.62 + columns * 0.78) / stretch
    out: Floats = ndimage.map_coordinates(tile, [potential, run], output=np.float32, order=1, mode="grid-wrap")
    return out


def enlarged(field: Floats, shape: tuple[int, int]) -> Floats:
    """A coarse field resampled bilinearly to `shape` (rows, columns)."""
    return np.array(Image.fromarray(field).resize(shape[::-1], Image.Resampling.BILINEAR), np.float32)

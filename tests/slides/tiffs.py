"""TIFF files of every kind that the tests need, and ways to damage them."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

APERIO = "Aperio Image Library v10\n{0}x{1} [0,0 {0}x{1}] (256x256) J2K/KDU Q=70|AppMag = 20|MPP = 0.5"


def picture(height: int, width: int, seed: int = 0, *, blob: float = 2) -> np.ndarray:
    """Coloured blobs of about `blob` pixels: smooth enough for JPEG, different everywhere."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = gaussian_filter(noise, (blob, blob, 0))
    return np.clip(128 + smooth / smooth.std() * 50, 0, 255).astype(np.uint8)


def write_slide(
    path: Path,
    array: np.ndarray,
    *,
    levels: tuple[int, ...] = (1, 2, 4),
    tile: int = 128,
    aperio: bool = False,
    **how: Any,
) -> Path:
    """A tiled pyramid of every n-th pixel; `how` as for tifffile's `write`."""
    with tifffile.TiffWriter(path) as tiff:
        for step in levels:
            level = array[::step, ::step]
            tiff.write(
                level,
                tile=(tile, tile),
                resolution=(20_000 / step, 20_000 / step),
                resolutionunit="CENTIMETER",
                subfiletype=int(step > 1),
                description=APERIO.format(level.shape[1], level.shape[0]) if aperio else None,
                metadata=None,
                **{"photometric": "rgb", **how},
            )
    return path


def set_tile(path: Path, page: int, tile: int, *, offset: int | None = None, count: int | None = None) -> None:
    """Let a page say something else of where a tile lies, or how many bytes it has."""
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages[page].tags
        for tag, value in ((tags["TileOffsets"], offset), (tags["TileByteCounts"], count)):
            if value is not None:
                size = tag.dtype_bytes if hasattr(tag, "dtype_bytes") else {3: 2, 4: 4, 16: 8}[int(tag.dtype)]
                with path.open("r+b") as file:
                    file.seek(tag.valueoffset + tile * size)
                    file.write(value.to_bytes(size, "little"))


def tile_bytes(path: Path, page: int, tile: int) -> tuple[int, int]:
    """Where a tile begins, and its bytes."""
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[page].dataoffsets[tile], tiff.pages[page].databytecounts[tile]

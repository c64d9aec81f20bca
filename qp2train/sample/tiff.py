"""Write an image as a pyramidal tiled JPEG TIFF that OpenSlide and QuPath open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray


def write_pyramid(
    path: str | Path,
    image: NDArray[np.uint8],
    *,
    mpp: float = 0.5,
    levels: int = 4,
    tile_px: int = 256,
    quality: int = 80,
) -> Path:
    """Write an RGB image, uint8 (H, W, 3), with `levels` pages, each half as wide and high as the one before.

    JPEG with chroma at half resolution (YCbCr 4:2:0). Pixel size is in the resolution tags (pixels per centimetre),
    where OpenSlide's generic TIFF reader looks. An odd last row or column is dropped on the way down. The same
    image gives the same bytes: no date is written.
    """
    path = Path(path)
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            if level:
                image = _halved(image)
            per_cm = 10_000 / (mpp * 2**level)
            tiff.write(
                image,
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": quality},
                subsampling=(2, 2),
                tile=(tile_px, tile_px),
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
                software="qp2train sample",
            )
    return path


def _halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mean of each 2×2 block, rounded."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    even = image[:height, :width].astype(np.uint16)
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)

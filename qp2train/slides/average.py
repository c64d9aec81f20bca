"""Area averages with exact fractional borders."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_array


def area_average(pixels: NDArray[Any], part: tuple[float, float, float, float], size: tuple[int, int]) -> NDArray[Any]:
    """The part (left, top, right, bottom) of H×W×C pixels, of any type, as `size` = (width, height) pixels.

    Each pixel that comes out is the mean of what it covers, a half covered pixel counting half. Enlarging is
    bilinear for 8-bit colour; other images keep their values.
    """
    (left, top, right, bottom), (width, height) = part, size
    across, down = (right - left) / width, (bottom - top) / height
    if pixels.dtype != np.uint8 or pixels.shape[2] != 3:
        return _weighted(pixels, part, size)
    if max(across, down) <= 1.001:
        # At the same scale, interpolating between two pixels weighs each by how much of it is covered.
        how = Image.Resampling.BILINEAR
    elif all(abs(v - round(v)) < 1e-6 for v in (*part, across, down)):
        how = Image.Resampling.BOX
    else:
        # PIL's BOX takes whole pixels only, and so moves the picture by up to half a pixel.
        return _weighted(pixels, part, size)
    return np.array(Image.fromarray(pixels).resize(size, how, box=part))


def _weighted(pixels: NDArray[Any], part: tuple[float, float, float, float], size: tuple[int, int]) -> NDArray[Any]:
    (left, top, right, bottom), (width, height) = part, size
    rows, columns, channels = pixels.shape
    lower = _shares(top, bottom, height, rows) @ pixels.reshape(rows, columns * channels).astype(np.float32)
    turned = np.ascontiguousarray(lower.reshape(height, columns, channels).transpose(1, 0, 2))
    narrow = _shares(left, right, width, columns) @ turned.reshape(columns, height * channels)
    mean: NDArray[np.float32] = narrow.reshape(width, height, channels).transpose(1, 0, 2)
    whole = mean if pixels.dtype.kind == "f" else np.rint(mean)
    return whole.astype(pixels.dtype, order="C")


def _shares(start: float, stop: float, count: int, length: int) -> csr_array:
    """(count, length): how much of each of `length` pixels lies in each of `count` parts of [start, stop)."""
    edges = np.linspace(start, stop, count + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.floor(low).astype(np.int64) + np.arange(int(np.ceil((stop - start) / count)) + 1)
    share = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None) / (high - low)
    starts = np.arange(0, pixel.size + 1, pixel.shape[1])
    return csr_array(
        (share.astype(np.float32).ravel(), np.minimum(pixel, length - 1).ravel(), starts), shape=(count, length)
    )

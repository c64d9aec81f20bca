"""Overlapping windows → one seamless map, a band of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def window_starts(length: int, size: int, overlap: float) -> list[int]:
    """Where windows of `size` begin so that they cover [0, length), neighbours sharing `overlap` of a side.

    The first begins half an overlap before 0 and the last ends as far behind `length`: the border of the map
    is then seen by the inner part of a window too.
    """
    step = max(1, round(size * (1 - overlap)))
    first = -((size - step) // 2)
    count = max(1, -(-(length - first - (size - step) // 2) // step))
    return [first + i * step for i in range(count)]


def blend_weights(size: int) -> NDArray[np.float32]:
    """(size, size) float32: a cosine bell, 1 in the middle, near 0 at the border and never 0."""
    bell = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    bell = np.maximum(bell, 1e-3)
    weights: NDArray[np.float32] = np.outer(bell, bell).astype(np.float32)
    return weights


class Stitcher:
    """The weighted mean of overlapping windows, kept only as long as a window can still add to it.

    Windows come in rows from top to bottom. After each row, `rows_above(y)` hands out the rows that are
    finished, so memory is one band of window height, whatever the slide's.

    Args:
        channels: C.
        height: Of the map, px.
        width: Of the map, px.
        size: Side of a window, px.
    """

    def __init__(self, channels: int, height: int, width: int, *, size: int) -> None:
        self.height, self.width, self.size = height, width, size
        self._weights = blend_weights(size)
        self._sum = np.zeros((channels, size, width), dtype=np.float32)
        self._weight = np.zeros((size, width), dtype=np.float32)
        self._top = 0

    def add(self, window: NDArray[np.float32], x: int, y: int) -> None:
        """Add a window (C, size, size) whose top-left corner is at map pixel (x, y), which may be negative."""
        x0, x1 = max(x, 0), min(x + self.size, self.width)
        y0, y1 = max(y, self._top), min(y + self.size, self.height)
        if x0 >= x1 or y0 >= y1:
            return
        band, part = slice(y0 - self._top, y1 - self._top), (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
        weights = self._weights[part]
        self._sum[:, band, x0:x1] += window[(slice(None), *part)] * weights
        self._weight[band, x0:x1] += weights

    def rows_above(self, y: int) -> tuple[int, NDArray[np.float32]]:
        """The finished rows above map row `y`: (their first row, (C, rows, W) means; 0 where no window was)."""
        first, last = self._top, min(max(y, self._top), self.height)
        n = last - first
        weight = np.maximum(self._weight[:n], np.float32(1e-12))
        mean = (self._sum[:, :n] / weight).astype(np.float32)
        for buffer in (self._sum, self._weight):
            buffer[..., : self.size - n, :] = buffer[..., n:, :].copy()
            buffer[..., self.size - n :, :] = 0
        self._top = last
        return first, mean

    def bands(self, starts: list[int]) -> Iterator[tuple[int, int]]:
        """(y of a row of windows, row above which all is finished once it was added)."""
        return zip(starts, [*starts[1:], self.height], strict=True)

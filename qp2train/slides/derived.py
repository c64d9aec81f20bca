"""DerivedSlide: a view of a slide as a slide of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from qp2train.core.geometry import Box
from qp2train.core.view import View
from qp2train.slides.slide import RGB, PyramidSlide

WHITE = 255


def seen_as(slide: PyramidSlide, view: View) -> PyramidSlide:
    """The slide as `view` shows it; the slide itself where that is all of it, as it is."""
    return slide if view == View(0, 0, *slide.size) else DerivedSlide(slide, view)


class DerivedSlide(PyramidSlide):
    """A rectangle of a slide, mirrored and turned. All that lies outside of it is white.

    Reading any box at any scale gives what reading the whole, transformed picture would: the box is moved into the
    slide below, read there with its pyramid, and its pixels are turned. Pickles with the slide below.
    """

    def __init__(self, slide: PyramidSlide, view: View) -> None:
        super().__init__(path=slide.path, name=slide.name, mpp=slide.mpp if slide.calibrated else None)
        self._below = slide
        self._view = view
        self._framed = _Framed(slide, Box(view.x, view.y, view.width, view.height))

    @property
    def view(self) -> str:
        return str(self._view)

    @property
    def size(self) -> tuple[int, int]:
        return self._view.size

    @property
    def downsamples(self) -> tuple[float, ...]:
        return self._below.downsamples

    @property
    def associated_images(self) -> Mapping[str, RGB]:
        return self._below.associated_images

    def read(self, box: Box, size: tuple[int, int]) -> RGB:
        width, height = size
        below = (height, width) if self._view.turns % 2 else (width, height)
        return self._view.shown(self._framed.read(self._view.to_file(box), below))

    def close(self) -> None:
        self._below.close()

    def _level_sizes(self) -> tuple[tuple[int, int], ...]:
        width, height = self.size
        return tuple((max(1, round(width / d)), max(1, round(height / d))) for d in self.downsamples)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        (full_w, full_h), (level_w, level_h) = self.size, self.level_sizes[level]
        sx, sy = full_w / level_w, full_h / level_h
        return self.read(Box(x * sx, y * sy, width * sx, height * sy), (width, height))


class _Framed(PyramidSlide):
    """A slide of which only a rectangle is to be seen, in the slide's own coordinates."""

    def __init__(self, slide: PyramidSlide, rectangle: Box) -> None:
        super().__init__(path=slide.path, name=slide.name, mpp=None)
        self._below = slide
        self._rectangle = rectangle

    def _level_sizes(self) -> tuple[tuple[int, int], ...]:
        return self._below._level_sizes()

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        (full_w, full_h), (level_w, level_h) = self.size, self._level_sizes()[level]
        sx, sy, seen = level_w / full_w, level_h / full_h, self._rectangle
        columns = _share(x, width, seen.x * sx, seen.right * sx)
        rows = _share(y, height, seen.y * sy, seen.bottom * sy)
        if not (columns.any() and rows.any()):
            return np.full((height, width, 3), WHITE, dtype=np.uint8)
        pixels = self._below._read_level(level, x, y, width, height)
        if columns.all() and rows.all() and min(columns.min(), rows.min()) == 1:
            return pixels
        # In a coarse level the edge runs through pixels: those are white in part.
        share = (rows[:, None] * columns)[..., None]
        mixed: RGB = np.rint(WHITE - (WHITE - pixels.astype(np.float32)) * share).astype(np.uint8)
        return mixed


def _share(start: int, count: int, low: float, high: float) -> NDArray[np.float32]:
    """How much of each of `count` pixels from `start` on lies in [low, high)."""
    pixel = start + np.arange(count)
    share: NDArray[np.float32] = np.clip(np.minimum(pixel + 1, high) - np.maximum(pixel, low), 0, 1).astype(np.float32)
    return share

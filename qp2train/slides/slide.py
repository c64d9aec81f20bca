"""Slide: what every reader offers, and ArraySlide, an array as a slide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from qp2train.core.geometry import Box
from qp2train.errors import MissingCalibrationError
from qp2train.slides.average import area_average

RGB = NDArray[np.uint8]
# Source pixels read at once; 64 megapixels are 190 MB.
STRIP_PX = 1 << 26


class Slide(Protocol):
    """A pyramidal RGB image. Coordinates are full-resolution pixels, (x, y), corners at integers."""

    name: str
    path: str

    @property
    def view(self) -> str:
        """What of the file at `path` this slide shows, "" = all of it: `open_slide(path, view=view)` opens it again."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in full-resolution pixels."""

    @property
    def mpp(self) -> float:
        """µm per full-resolution pixel. Raises MissingCalibrationError when nobody said."""

    @property
    def downsamples(self) -> tuple[float, ...]:
        """Downsample of each stored level, the first is 1."""

    @property
    def associated_images(self) -> Mapping[str, RGB]:
        """Label, macro, thumbnail …: name → H×W×3 uint8."""

    def read(self, box: Box, size: tuple[int, int]) -> RGB:
        """The pixels of `box`, area-averaged to `size` = (width, height).

        Returns an array (height, width, 3), uint8. What lies beyond the slide's border, and what the
        scanner left empty, is white.
        """

    def thumbnail(self, max_size: int = 1024) -> RGB:
        """The whole slide, its longer side at most `max_size` pixels, never enlarged."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PyramidSlide:
    """The arithmetic that all readers share: choose a level, read it, average it to the asked size."""

    name: str
    path: str

    def __init__(self, *, path: str, name: str, mpp: float | None) -> None:
        self.path = path
        self.name = name
        self._mpp = mpp

    @property
    def view(self) -> str:
        return ""

    @property
    def bounds(self) -> tuple[int, int, int, int] | None:
        """(x, y, width, height) of what is not empty, where the file says so."""
        return None

    @property
    def properties(self) -> Mapping[str, str]:
        """What the file says of itself, by OpenSlide's names; empty where OpenSlide does not read it."""
        return {}

    @property
    def size(self) -> tuple[int, int]:
        return self._level_sizes()[0]

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each stored level, in its own pixels."""
        return self._level_sizes()

    @property
    def downsamples(self) -> tuple[float, ...]:
        # Levels are rounded up or down to whole pixels, so the mean of both axes is the best estimate.
        return tuple(sum(self._scale(level)) / 2 for level in range(len(self._level_sizes())))

    @property
    def mpp(self) -> float:
        if self._mpp is None:
            raise MissingCalibrationError(
                f"{self.name}: neither the file nor the project says how many µm a pixel is wide. "
                "Set the pixel size in QuPath (Image tab), or give it: open_slide(path, mpp=0.5); for a folder of "
                "slides, in a column 'mpp' of its metadata.csv."
            )
        return self._mpp

    @property
    def calibrated(self) -> bool:
        """Whether µm per pixel are known."""
        return self._mpp is not None

    @property
    def associated_images(self) -> Mapping[str, RGB]:
        return {}

    def read(self, box: Box, size: tuple[int, int]) -> RGB:
        width, height = size
        downsample = min(box.width / width, box.height / height)
        level = self._level_for(downsample)
        sx, sy = self._scale(level)
        # The box in pixels of the level; whole level pixels round it are read, then averaged exactly.
        x0, y0, x1, y1 = box.x / sx, box.y / sy, box.right / sx, box.bottom / sy
        left, top = math.floor(x0 + 1e-6), math.floor(y0 + 1e-6)
        right, bottom = math.ceil(x1 - 1e-6), math.ceil(y1 - 1e-6)
        if (right - left) * (bottom - top) > STRIP_PX and height > 1:
            return self._in_strips(box, size)
        pixels = self._read_level(level, left, top, max(right - left, 1), max(bottom - top, 1))
        if pixels.shape[:2] == (height, width) and _whole(x0, y0, x1, y1):
            return pixels
        part = (max(x0 - left, 0), max(y0 - top, 0), min(x1, right) - left, min(y1, bottom) - top)
        return area_average(pixels, part, size)

    def _in_strips(self, box: Box, size: tuple[int, int]) -> RGB:
        """Read the upper and lower half apart: the overview of a slide without a pyramid must not fill the memory."""
        width, height = size
        upper = height // 2
        middle = box.height * upper / height
        return np.concatenate(
            [
                self.read(Box(box.x, box.y, box.width, middle), (width, upper)),
                self.read(Box(box.x, box.y + middle, box.width, box.height - middle), (width, height - upper)),
            ]
        )

    def read_mpp(self, x: float, y: float, size: tuple[int, int], *, mpp: float) -> RGB:
        """`size` = (width, height) pixels at `mpp`, with the top-left corner at (x, y)."""
        scale = mpp / self.mpp
        return self.read(Box(x, y, size[0] * scale, size[1] * scale), size)

    def thumbnail(self, max_size: int = 1024) -> RGB:
        """The whole slide, its longer side at most `max_size` pixels, never enlarged."""
        width, height = self.size
        scale = max(1.0, max(width, height) / max_size)
        return self.read(Box(0, 0, width, height), (max(1, round(width / scale)), max(1, round(height / scale))))

    def close(self) -> None:
        """Release file handles. The slide can not be read afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        width, height = self.size
        scale = f"{self._mpp:.4g} µm/px" if self._mpp is not None else "uncalibrated"
        return f"{type(self).__name__}({self.name!r}, {width}×{height}, {scale})"

    def _level_for(self, downsample: float) -> int:
        """The coarsest level that is at least as fine as `downsample`."""
        fine_enough = [i for i, d in enumerate(self.downsamples) if d <= downsample * 1.001]
        return max(fine_enough, key=lambda i: self.downsamples[i], default=0)

    def _scale(self, level: int) -> tuple[float, float]:
        """Full-resolution pixels per pixel of a level, across and down."""
        (full_w, full_h), (level_w, level_h) = self.size, self._level_sizes()[level]
        return full_w / level_w, full_h / level_h

    def _level_sizes(self) -> tuple[tuple[int, int], ...]:
        raise NotImplementedError

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        """Pixels of one level, in the level's own coordinates; white beyond its border."""
        raise NotImplementedError


class ArraySlide(PyramidSlide):
    """An H×W×3 uint8 array as a slide of one level: for tests, and for images from elsewhere."""

    def __init__(self, array: RGB, *, mpp: float | None = None, name: str = "array") -> None:
        super().__init__(path=name, name=name, mpp=mpp)
        self._array = np.ascontiguousarray(array, dtype=np.uint8)

    def _level_sizes(self) -> tuple[tuple[int, int], ...]:
        height, width = self._array.shape[:2]
        return ((width, height),)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        out = np.full((height, width, 3), 255, dtype=np.uint8)
        inside = Box(x, y, width, height).clipped_to(*self.size)
        x0, y0, x1, y1 = int(inside.x), int(inside.y), int(inside.right), int(inside.bottom)
        if x1 > x0 and y1 > y0:
            out[y0 - y : y1 - y, x0 - x : x1 - x] = self._array[y0:y1, x0:x1]
        return out


def _whole(*values: float) -> bool:
    return all(abs(v - round(v)) < 1e-6 for v in values)

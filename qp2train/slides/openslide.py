"""The OpenSlide door: every format that OpenSlide reads."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from qp2train.errors import UnreadableSlideError
from qp2train.slides.slide import RGB, PyramidSlide

WHITE = (255, 255, 255)
# OpenSlide's own tiles, of all slides of the process together.
CACHE_BYTES = 64 << 20
# Handles of a parent process. Closing one here would move the parent's file position, too.
_INHERITED: list[openslide.OpenSlide] = []


class OpenSlideSlide(PyramidSlide):
    """A slide read by OpenSlide. Pickles as its path: each process opens its own handle."""

    def __init__(self, path: Path, *, mpp: float | None = None) -> None:
        super().__init__(path=str(path), name=path.name, mpp=mpp)
        self._asked_mpp = mpp
        self._opened: tuple[int, openslide.OpenSlide] | None = None  # by which process, and its handle
        self._closed = False
        self._properties: Mapping[str, str] = dict(self._handle.properties)
        self._sizes = tuple((int(w), int(h)) for w, h in self._handle.level_dimensions)
        if min(map(min, self._sizes)) < 1:
            raise UnreadableSlideError(f"{path}: one of its levels has no pixels; copy it again from the scanner")
        if mpp is None:
            self._mpp = _stored_mpp(self._properties)

    @property
    def _handle(self) -> openslide.OpenSlide:
        # A forked process would move the file position under its parent's reads, so it opens a handle of its own.
        opened = self._opened
        if opened is not None and opened[0] == os.getpid():
            return opened[1]
        if self._closed:
            raise UnreadableSlideError(f"{self.path}: the slide was closed")
        self._let_go()
        try:
            handle = openslide.OpenSlide(self.path)
        except openslide.OpenSlideError as error:
            raise UnreadableSlideError(f"{self.path}: OpenSlide cannot open it: {error}") from error
        handle.set_cache(_cache_of(os.getpid()))
        self._opened = os.getpid(), handle
        return handle

    def _let_go(self) -> None:
        """Not closed: another thread may be reading, and the last to hold a handle frees it."""
        if self._opened is not None and self._opened[0] != os.getpid():
            _INHERITED.append(self._opened[1])
        self._opened = None

    @property
    def properties(self) -> Mapping[str, str]:
        return self._properties

    @property
    def bounds(self) -> tuple[int, int, int, int] | None:
        return stored_bounds(self._properties)

    @property
    def associated_images(self) -> Mapping[str, RGB]:
        return {name: on_white(image) for name, image in self._handle.associated_images.items()}

    def close(self) -> None:
        self._closed = True
        self._let_go()

    def __reduce__(self) -> tuple[object, ...]:
        return (_reopen, (self.path, self._asked_mpp))

    def _level_sizes(self) -> tuple[tuple[int, int], ...]:
        return self._sizes

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        (full_w, full_h), (level_w, level_h) = self._sizes[0], self._sizes[level]
        # OpenSlide wants level-0 coordinates; whole level pixels, so that it does not resample.
        corner = (round(x * full_w / level_w), round(y * full_h / level_h))
        try:
            region = self._handle.read_region(corner, level, (width, height))
        except openslide.OpenSlideError as error:
            self._let_go()  # OpenSlide's handle answers nothing any more after an error; other tiles may be whole
            raise UnreadableSlideError(
                f"{self.path}: cannot read {width}×{height} px at ({corner[0]}, {corner[1]}), level {level}: {error}. "
                "The file is damaged or incomplete; copy it again from the scanner."
            ) from error
        return on_white(region)


def stored_bounds(properties: Mapping[str, str]) -> tuple[int, int, int, int] | None:
    """(x, y, width, height) of the part that is not empty; None unless all four are given, as in QuPath.

    Source: qupath.lib.images.servers.openslide.OpenslideImageServer.
    """
    try:
        x, y = int(properties[openslide.PROPERTY_NAME_BOUNDS_X]), int(properties[openslide.PROPERTY_NAME_BOUNDS_Y])
        width = int(properties[openslide.PROPERTY_NAME_BOUNDS_WIDTH])
        height = int(properties[openslide.PROPERTY_NAME_BOUNDS_HEIGHT])
    except (KeyError, ValueError):
        return None
    return (x, y, width, height) if min(width, height) > 0 else None


def _reopen(path: str, mpp: float | None) -> OpenSlideSlide:
    return OpenSlideSlide(Path(path), mpp=mpp)


def _stored_mpp(properties: Mapping[str, str]) -> float | None:
    values = [properties.get(openslide.PROPERTY_NAME_MPP_X), properties.get(openslide.PROPERTY_NAME_MPP_Y)]
    numbers = [float(v) for v in values if v is not None]
    return sum(numbers) / len(numbers) if numbers and min(numbers) > 0 else None


def on_white(image: Image.Image) -> RGB:
    """H×W×3, what is transparent on white."""
    if image.mode != "RGBA":
        return np.array(image.convert("RGB"))
    rgba = np.asarray(image)
    if rgba[..., 3].min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    paper = Image.new("RGB", image.size, WHITE)
    paper.paste(image, mask=image.getchannel("A"))
    return np.array(paper)


@functools.lru_cache(maxsize=1)
def _cache_of(process: int) -> openslide.OpenSlideCache:
    return openslide.OpenSlideCache(CACHE_BYTES)

"""ChannelSlide: fluorescence and other images whose channels are not red, green and blue."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qp2train.core.geometry import Box
from qp2train.errors import SlideError, SlideNotFoundError, UnreadableSlideError
from qp2train.slides.slide import PyramidSlide
from qp2train.slides.tiff import DAMAGE, File, Level, Missing, level_of, open_tiff
from qp2train.slides.tiffslide import check_one_file, ome_pixels, stored_mpp

PLANES = "TZC"  # what a plane is counted by
PAGES = ("I", "Q")  # tifffile's names for pages of which the file says nothing: channels, if it has no others


class ChannelSlide:
    """A pyramidal image of any number of channels, z-slices and time points, of any number type.

    Coordinates as in `Slide`. Pickles as its path.
    """

    def __init__(self, path: str, planes: dict[tuple[int, int, int], _Plane], channels: tuple[str, ...]) -> None:
        self.path, self.name = path, Path(path).name
        self._planes, self._channels = planes, channels
        self._first = next(iter(planes.values()))

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels' names."""
        return self._channels

    @property
    def depth(self) -> int:
        """Number of z-slices."""
        return 1 + max(z for _, z, _ in self._planes)

    @property
    def times(self) -> int:
        """Number of time points."""
        return 1 + max(t for t, _, _ in self._planes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers."""
        return self._first.dtype

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in full-resolution pixels."""
        return self._first.size

    @property
    def downsamples(self) -> tuple[float, ...]:
        """Downsample of each stored level, the first is 1."""
        return self._first.downsamples

    @property
    def mpp(self) -> float:
        """µm per full-resolution pixel. Raises MissingCalibrationError when nobody said."""
        return self._first.mpp

    def read(
        self, box: Box, size: tuple[int, int], *, channels: Sequence[str | int] | None = None, z: int = 0, t: int = 0
    ) -> NDArray[Any]:
        """The pixels of `box`, area-averaged to `size` = (width, height), as an array (channels, height, width).

        Args:
            box: In full-resolution pixels. What lies beyond the border is 0.
            size: (width, height) of what is returned.
            channels: Names or numbers of the channels wanted, in that order; None = all.
            z: Which z-slice.
            t: Which time point.

        Raises:
            SlideError: There is no such channel or plane.
            UnreadableSlideError: The file is damaged there.
        """
        wanted = range(len(self._channels)) if channels is None else [self._number(c) for c in channels]
        if (t, z, 0) not in self._planes:
            raise SlideError(f"{self.name} has {self.depth} z-slices and {self.times} time points, no z={z}, t={t}")
        return np.stack([self._planes[t, z, c].read(box, size)[..., 0] for c in wanted])

    def close(self) -> None:
        """Release the file. The slide can not be read afterwards."""
        self._first.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return (_reopen, (self.path, self._first.asked_mpp))

    def __repr__(self) -> str:
        width, height = self.size
        return f"ChannelSlide({self.name!r}, {width}×{height}, {', '.join(self._channels)}, {self.dtype})"

    def _number(self, channel: str | int) -> int:
        if isinstance(channel, str):
            if channel in self._channels:
                return self._channels.index(channel)
        elif 0 <= channel < len(self._channels):
            return channel
        raise SlideError(f"{self.name} has no channel {channel!r}; it has {', '.join(self._channels)}")


class _Plane(PyramidSlide):
    """One channel of one z-slice and time point: pixels are H×W×1."""

    def __init__(self, file: File, levels: list[Level], sample: int, *, asked: float | None, stored: float | None):
        super().__init__(path=file.path, name=Path(file.path).name, mpp=stored if asked is None else asked)
        self._file, self._levels, self._sample, self.asked_mpp = file, levels, sample, asked

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._levels[0].dtype

    def close(self) -> None:
        self._file.close()

    def _level_sizes(self) -> tuple[tuple[int, int], ...]:
        return tuple(level.size for level in self._levels)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[Any]:
        try:
            pixels = self._levels[level].pixels(self._file, x, y, width, height)
        except Missing as error:
            raise UnreadableSlideError(f"{self.path}: tile {error} is not in the file; copy it again") from error
        return np.ascontiguousarray(pixels[..., self._sample : self._sample + 1])


def open_channels(path: str | os.PathLike[str], *, mpp: float | None = None) -> ChannelSlide:
    """Open a TIFF of any number of channels (OME-TIFF, QPTIFF, ImageJ), such as fluorescence.

    Args:
        path: The image file.
        mpp: µm per full-resolution pixel; overrides what the file says.

    Raises:
        SlideNotFoundError: There is no such file.
        UnreadableSlideError: It is no TIFF, is damaged, or is compressed in a way that is not read here.
        SlideError: `mpp` is nonsense.
    """
    file = Path(path)
    if not file.is_file():
        raise SlideNotFoundError(f"there is no slide at {file}")
    if mpp is not None and not (np.isfinite(mpp) and mpp > 0):
        raise SlideError(f"mpp must be a positive number of µm per pixel, not {mpp!r}")
    with open_tiff(file) as tiff:
        try:
            return _of_series(tiff, file, mpp)
        except DAMAGE as error:
            raise UnreadableSlideError(f"{file}: damaged TIFF: {error}") from error


def _of_series(tiff: Any, file: Path, mpp: float | None) -> ChannelSlide:
    series = tiff.series[0]
    axes = [*series.axes]
    if "C" not in axes and sum(axis in PAGES for axis in axes) == 1:
        axes = ["C" if axis in PAGES else axis for axis in axes]
    outer = [(a, n) for a, n in zip(axes, series.shape, strict=True) if a not in "YXS"]
    other = [f"{n} × {a}" for a, n in outer if a not in PLANES and n > 1]
    samples = series.shape[series.axes.index("S")] if "S" in series.axes else 1
    counts = dict(outer)
    shape = [n for _, n in outer]
    pages = int(np.prod(shape))
    if other or any(len(level.pages) != pages for level in series.levels):
        raise UnreadableSlideError(f"{file}: its planes ({series.axes}, {series.shape}) are stored in an unknown way")
    check_one_file(series, file)
    stored, handle = stored_mpp(tiff), File(str(file))
    planes: dict[tuple[int, int, int], _Plane] = {}
    for number in range(pages):
        at = dict(zip(counts, np.unravel_index(number, shape), strict=True)) if shape else {}
        t, z, c = (int(at.get(axis, 0)) for axis in PLANES)
        for sample in range(samples):
            levels = [_level(level.pages[number], sample, file) for level in series.levels]
            inner = sample if levels[0].samples > 1 else 0
            planes[t, z, c * samples + sample] = _Plane(handle, levels, inner, asked=mpp, stored=stored)
    return ChannelSlide(str(file), planes, _names(tiff, series, counts.get("C", 1) * samples))


def _level(page: Any, sample: int, file: Path) -> Level:
    level = level_of(page, plane=sample, paper=0) if _apart(page) else level_of(page, paper=0)
    if level is None:
        raise UnreadableSlideError(f"{file}: TIFF of a kind that is not read here ({page.keyframe.compression!s})")
    return level


def _apart(page: Any) -> bool:
    return int(page.keyframe.planarconfig) == 2 and page.keyframe.samplesperpixel > 1


def _names(tiff: Any, series: Any, count: int) -> tuple[str, ...]:
    """What OME or QPTIFF call the channels; else "Channel 1" and so on, as QuPath does."""
    pixels = ome_pixels(tiff)
    if pixels is not None:
        found = [element.get("Name") or "" for element in pixels.findall("{*}Channel")]
    elif tiff.is_qpi:
        found = [_tag(page.description, "Name") for page in series.pages]
    else:
        found = list((tiff.imagej_metadata or {}).get("Labels", []))
    named = found if len(found) == count else [""] * count
    names = [name or f"Channel {i + 1}" for i, name in enumerate(named)]
    times = Counter(names)
    return tuple(n if times[n] == 1 else f"{n} ({i + 1})" for i, n in enumerate(names))


def _tag(xml: str, name: str) -> str:
    start, end = xml.find(f"<{name}>"), xml.find(f"</{name}>")
    return xml[start + len(name) + 2 : end].strip() if 0 <= start < end else ""


def _reopen(path: str, mpp: float | None) -> ChannelSlide:
    return open_channels(path, mpp=mpp)

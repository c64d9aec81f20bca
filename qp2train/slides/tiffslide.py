"""Colour TIFF files that OpenSlide refuses, such as OME-TIFF and QPTIFF: tifffile finds the levels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from qp2train.errors import UnreadableSlideError
from qp2train.slides.slide import RGB, PyramidSlide
from qp2train.slides.tiff import DAMAGE, File, Level, Missing, level_of, open_tiff

AXES = {"C": "channels", "Z": "z-slices", "T": "time points", "Q": "images", "I": "images", "R": "images"}
LARGEST_UM = 20.0  # 72 to 600 dpi, 42 to 353 µm, are what programs write that know of no microscope
PER_CM, PER_INCH = 1e4, 2.54e4
UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "pm": 1e-6, "m": 1e6}
_OME = re.compile(r"<(?:\w+:)?OME\b")


class TiffSlide(PyramidSlide):
    """An 8-bit colour or grey TIFF by its own tiles or strips. Pickles as its path."""

    def __init__(self, file: Path, levels: list[Level], *, asked: float | None, stored: float | None) -> None:
        super().__init__(path=str(file), name=file.name, mpp=stored if asked is None else asked)
        self._levels, self._asked, self._file = levels, asked, File(str(file))

    def close(self) -> None:
        self._file.close()

    def __reduce__(self) -> tuple[object, ...]:
        return (_reopen, (self.path, self._asked))

    def _level_sizes(self) -> tuple[tuple[int, int], ...]:
        return tuple(level.size for level in self._levels)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        try:
            pixels = self._levels[level].pixels(self._file, x, y, width, height)
        except Missing as error:
            raise UnreadableSlideError(f"{self.path}: tile {error} is not in the file; copy it again") from error
        return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def tiff_slide(file: Path, *, mpp: float | None) -> TiffSlide | None:
    """The file's first image as a slide; None where another reader must try.

    Raises:
        UnreadableSlideError: It is damaged, or has channels or planes, which only `open_channels` reads.
    """
    with open_tiff(file) as tiff:
        try:
            series = tiff.series[0]
            planes = [f"{n} {AXES[a]}" for a, n in zip(series.axes, series.shape, strict=True) if a in AXES and n > 1]
            if planes or series.dtype != np.uint8:
                raise UnreadableSlideError(
                    f"{file} has {' and '.join(planes) or f'pixels of type {series.dtype}'}; pictures to "
                    "train on are 8-bit colour or grey. qp2train.open_channels(path) reads it as channels × height × "
                    "width"
                )
            check_one_file(series, file)
            levels = [level_of(level.pages[0]) for level in series.levels]
            stored = stored_mpp(tiff)
        except DAMAGE as error:
            raise UnreadableSlideError(f"{file}: damaged TIFF: {error}") from error
    usable = [level for level in levels if level is not None and level.samples in (1, 3)]
    grey_or_rgb = series.keyframe.photometric in (
        tifffile.PHOTOMETRIC.RGB,
        tifffile.PHOTOMETRIC.YCBCR,
        tifffile.PHOTOMETRIC.MINISBLACK,
    )
    apart = "S" in series.axes and not series.axes.endswith("YXS")  # PIL puts planes of red, green and blue together
    whole_bytes = series.keyframe.bitspersample == 8  # fewer bits would be shown dark; PIL widens them
    if apart or not whole_bytes or not grey_or_rgb or len(usable) < len(levels):
        return None
    return TiffSlide(file, usable, asked=mpp, stored=stored)


def check_one_file(series: Any, file: Path) -> None:
    """Refuse an image of which parts lie in other files: OME-TIFF may name them.

    Raises:
        UnreadableSlideError: With the other file's name.
    """
    for page in (page for level in series.levels for page in level.pages):
        if page is not None and page.parent.filehandle.path != str(file.absolute()):
            raise UnreadableSlideError(
                f"{file}: a part of the image lies in {page.parent.filehandle.name}; such sets of files are not read"
            )


def stored_mpp(tiff: tifffile.TiffFile) -> float | None:
    """µm per pixel, as OME's metadata or the resolution tags give it."""
    pixels = ome_pixels(tiff)
    if pixels is not None:
        unit = UM.get(pixels.get("PhysicalSizeXUnit", "µm"))
        size = _positive(pixels.get("PhysicalSizeX"))
        return size * unit if size and unit else None
    page: Any = tiff.pages[0]
    unit_tag, resolution = page.tags.get("ResolutionUnit"), page.tags.get("XResolution")
    per = {2: PER_INCH, 3: PER_CM}.get(int(unit_tag.value) if unit_tag else 0)
    if per is None or resolution is None:
        return None
    above, below = resolution.value
    mpp = per * below / above if above and below else None
    return mpp if mpp is not None and mpp < LARGEST_UM else None


def ome_pixels(tiff: tifffile.TiffFile) -> ElementTree.Element | None:
    """The `Pixels` element of the first image of OME's XML."""
    text = tiff.ome_metadata if tiff.is_ome else None
    if not text or not _OME.search(text):
        return None
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None
    return root.find("{*}Image/{*}Pixels")


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if np.isfinite(value) and value > 0 else None


def _reopen(path: str, mpp: float | None) -> TiffSlide | None:
    return tiff_slide(Path(path), mpp=mpp)

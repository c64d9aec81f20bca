"""The fast door: tiled TIFF and SVS files without OpenSlide's detours, checked against OpenSlide when opened."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qp2train.errors import UnreadableSlideError
from qp2train.slides.openslide import OpenSlideSlide
from qp2train.slides.slide import RGB, PyramidSlide
from qp2train.slides.tiff import DAMAGE, File, Level, Missing, level_of, open_tiff, pages_of
from qp2train.slides.tiffslide import stored_mpp

log = logging.getLogger(__name__)

Size = tuple[int, int]
Ratio = tuple[float, float]

# OpenSlide's drivers that show a file's tiles as they lie in it; others move, overlap or crop them.
PLAIN_VENDORS = frozenset({"aperio", "generic-tiff"})
SHRUNK = (2, 4, 8)  # what JPEG can be decoded smaller by
SAMPLE_PX = 64
ALIKE = 4.0  # grey levels between the mean colours of a region decoded in two ways
SAMPLES = 4  # regions of each level that are compared
# A level that is not an exact fraction of the slide is resampled by OpenSlide nearly everywhere; where it would move a
# level's pixels by less than this, the two are comparable but for rounding.
COMPARABLE = 0.002


class TiledSlide(PyramidSlide):
    """An RGB TIFF whose tiles are decoded directly, at a half to a quarter of OpenSlide's time.

    OpenSlide stays behind it for what only it knows (associated images, properties), for levels of another kind and for
    tiles that are missing or damaged. Pickles as its path.
    """

    def __init__(
        self, behind: OpenSlideSlide, levels: dict[Size, Level], *, mpp: float | None, scaled_decode: bool = False
    ) -> None:
        super().__init__(path=behind.path, name=behind.name, mpp=mpp)
        self._behind, self._file, self._scaled_decode = behind, File(behind.path), scaled_decode
        sizes = sorted({*behind.level_sizes, *levels}, reverse=True)
        self._levels = [(size, levels.get(size), _ratio(behind.size, size)) for size in sizes]
        if scaled_decode:
            self._levels += self._between()
            self._levels.sort(key=lambda item: item[2])
        self._sizes = tuple(size for size, _, _ in self._levels)

    def _between(self) -> list[tuple[Size, Level | None, Ratio]]:
        """Levels that the file has not, by decoding the next larger one's tiles smaller."""
        made: list[tuple[Size, Level | None, Ratio]] = []
        ends = [ratio[0] for _, _, ratio in self._levels[1:]] + [np.inf]
        for (_, level, (across, down)), end in zip(self._levels, ends, strict=True):
            for factor in SHRUNK:
                small = level.shrunken(factor) if level is not None and across * factor < end * 0.999 else None
                if small is not None and level is not None and self._looks_alike(level, small):
                    made.append((small.size, small, (across * factor, down * factor)))
        return made

    def _looks_alike(self, level: Level, small: Level) -> bool:
        """Whether a region decoded smaller has the mean colours of the whole one: another decoder may know others."""
        factor = small.shrunk
        side = min(SAMPLE_PX, *(length // factor for length in level.size))
        x, y = ((length // factor - side) // 2 for length in level.size)
        try:
            exact = level.pixels(self._file, x * factor, y * factor, side * factor, side * factor)
            made = small.pixels(self._file, x, y, side, side)
        except (Missing, UnreadableSlideError):
            return False
        return bool(np.abs(exact.mean(axis=(0, 1)) - made.mean(axis=(0, 1))).max() < ALIKE)

    @property
    def bounds(self) -> tuple[int, int, int, int] | None:
        return self._behind.bounds

    @property
    def properties(self) -> Mapping[str, str]:
        return self._behind.properties

    @property
    def associated_images(self) -> Mapping[str, RGB]:
        return self._behind.associated_images

    def close(self) -> None:
        self._file.close()
        self._behind.close()

    def __reduce__(self) -> tuple[object, ...]:
        return (fast, (self._behind, self._scaled_decode))

    def _level_sizes(self) -> tuple[tuple[int, int], ...]:
        return self._sizes

    def _scale(self, level: int) -> tuple[float, float]:
        return self._levels[level][2]

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        size, here, _ = self._levels[level]
        if here is not None:
            try:
                return here.pixels(self._file, x, y, width, height)
            except (Missing, UnreadableSlideError) as error:
                # OpenSlide has rules for missing tiles, and its own words for damaged ones.
                if size not in self._behind.level_sizes:
                    raise UnreadableSlideError(f"{self.path}: no tile {error} at {size[0]} × {size[1]} px") from error
        return self._behind._read_level(self._behind.level_sizes.index(size), x, y, width, height)


def fast(slide: OpenSlideSlide, scaled_decode: bool = False) -> TiledSlide | OpenSlideSlide:
    """The slide through its own tiles where these give OpenSlide's pixels, else the slide as it is.

    With `scaled_decode`, resolutions that the file does not hold are made while JPEG tiles are decoded.
    """
    if slide.properties.get("openslide.vendor") not in PLAIN_VENDORS:
        return slide
    try:
        levels, stored = _matching_levels(slide)
    except (UnreadableSlideError, *DAMAGE) as error:
        log.info("%s: read by OpenSlide; tifffile cannot: %s", slide.name, error)
        return slide
    for number, size in enumerate(slide.level_sizes):
        if size in levels and not _same_pixels(slide, number, levels[size]):
            log.warning("%s: read by OpenSlide: its pixels are not those of the file's tiles", slide.name)
            return slide
    if slide.size not in levels:
        log.info("%s: read by OpenSlide: its tiles are of a kind that is not decoded here", slide.name)
        return slide
    return TiledSlide(slide, levels, mpp=slide.mpp if slide.calibrated else stored, scaled_decode=scaled_decode)


def _matching_levels(slide: OpenSlideSlide) -> tuple[dict[Size, Level], float | None]:
    """The tiled pages of OpenSlide's levels, and µm per pixel; of an OME-TIFF what OpenSlide does not look for, too."""
    found: dict[Size, Level] = {}
    with open_tiff(Path(slide.path)) as tiff:
        wanted, stored = {*slide.level_sizes}, None
        # An OME-TIFF may begin with a picture of the label: then what its series say is not of the slide.
        if tiff.is_ome and tiff.series[0].keyframe is tiff.pages[0]:
            stored = stored_mpp(tiff)
            wanted |= {(level.keyframe.imagewidth, level.keyframe.imagelength) for level in tiff.series[0].levels}
        first = tiff.pages[0]
        marked = slide.properties["openslide.vendor"] == "generic-tiff"  # that reader wants its levels marked
        for page in pages_of(tiff):
            size = (page.imagewidth, page.imagelength)
            if page.is_tiled and size in wanted and size not in found and (not marked or _is_level(page, first)):
                level = level_of(page)
                if level is not None and level.samples == 3 and level.dtype == np.uint8:
                    found[size] = level
    return found, stored


def _is_level(page: Any, first: Any) -> bool:
    """Whether a page is the slide, or marked as a smaller form of it: other pictures may have the same size."""
    return page is first or bool(page.is_reduced) or page.parent is not first.parent


def _same_pixels(slide: OpenSlideSlide, number: int, level: Level) -> bool:
    """Whether sample regions, spread over the level, are as OpenSlide reads them."""
    file = File(slide.path)
    try:
        for x, y, exact in _samples(slide, number):
            try:
                ours = level.pixels(file, x, y, SAMPLE_PX, SAMPLE_PX)
                theirs = slide._read_level(number, x, y, SAMPLE_PX, SAMPLE_PX)
            except (Missing, UnreadableSlideError):
                continue  # what is wrong there is said when that part is asked for
            difference = np.abs(ours.astype(np.int16) - theirs)
            if difference.max() > (0 if exact else 1):
                return False
    finally:
        file.close()
    return True


def _samples(slide: OpenSlideSlide, number: int) -> Iterator[tuple[int, int, bool]]:
    """Corners of regions along the level's diagonal, and whether OpenSlide reads them without resampling."""
    width, height = slide.level_sizes[number]
    for i in range(SAMPLES):
        share = i / (SAMPLES - 1)
        x, x_off = _near(slide, number, 0, round(share * (width - SAMPLE_PX)))
        y, y_off = _near(slide, number, 1, round(share * (height - SAMPLE_PX)))
        if max(x_off, y_off) < COMPARABLE:
            yield x, y, max(x_off, y_off) < 1e-9


def _near(slide: OpenSlideSlide, number: int, axis: int, wanted: int) -> tuple[int, float]:
    """The place nearest to `wanted` that OpenSlide reads best, and by how much it moves the pixels there."""
    ratio = slide.size[axis] / slide.level_sizes[number][axis]
    places = np.array(sorted(range(max(wanted - SAMPLE_PX, 0), max(wanted, 0) + 1), key=lambda p: abs(p - wanted)))
    moved = np.abs(np.rint(places * ratio) / slide.downsamples[number] - places)
    best = int(np.flatnonzero(moved <= max(moved.min(), 1e-9))[0])
    return int(places[best]), float(moved[best])


def _ratio(full: Size, size: Size) -> Ratio:
    return full[0] / size[0], full[1] / size[1]

"""Which reader opens a file, and what of the file is shown."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide

from qp2train.core.view import View
from qp2train.errors import SlideError, SlideNotFoundError, UnreadableSlideError
from qp2train.slides.derived import seen_as
from qp2train.slides.openslide import OpenSlideSlide
from qp2train.slides.plain import PLAIN_FORMATS, plain_image
from qp2train.slides.slide import PyramidSlide
from qp2train.slides.tiff import check_tile_sizes
from qp2train.slides.tiffslide import tiff_slide
from qp2train.slides.tiled import fast

log = logging.getLogger(__name__)

TIFF_FORMATS = frozenset({".tif", ".tiff", ".qptiff", ".btf", ".tf8", ".svs"})
# (width, height) and (x, y, width, height) of what is not empty → the view
Shown = Callable[[tuple[int, int], tuple[int, int, int, int] | None], View]


def open_slide(
    path: str | os.PathLike[str], *, mpp: float | None = None, view: str | None = None, scaled_decode: bool = False
) -> PyramidSlide:
    """Open a slide, or a plain PNG, JPEG or TIFF image.

    Tiled TIFF and SVS files are decoded directly, after a comparison with OpenSlide; other slides are read by
    OpenSlide, TIFF files that it refuses (OME-TIFF, QPTIFF) by tifffile. `open_channels` opens fluorescence.

    Some files (MIRAX, Leica, Ventana …) say which part of them is not empty. QuPath shows that part only, and counts
    pixels from its corner; so do we, lest a GeoJSON file that QuPath wrote lie beside the tissue. `view=""` opens
    such a file whole.

    Args:
        path: The image file.
        mpp: µm per full-resolution pixel; overrides what the file says.
        view: The `view` of an opened slide, to open it again; "" = the whole file.
        scaled_decode: Of JPEG tiles read at less than half their resolution decode only what is needed for it, which
            takes half the time or less. Pixels then differ from the exact mean, mostly by less than 1 grey level
            (docs/results.md).

    Raises:
        SlideNotFoundError: There is no such file.
        UnreadableSlideError: No reader understands the file, or it is damaged.
        SlideError: `mpp` or `view` is nonsense.
    """
    if view is None:
        return open_image(
            path,
            mpp=mpp,
            as_shown=lambda size, bounds: View(*(bounds or (0, 0, *size))),
            scaled_decode=scaled_decode,
        )
    parsed = View.parse(view) if view else None
    return open_image(path, mpp=mpp, as_shown=lambda size, _: parsed or View(0, 0, *size), scaled_decode=scaled_decode)


def open_image(
    path: str | os.PathLike[str], *, mpp: float | None, as_shown: Shown, scaled_decode: bool = False
) -> PyramidSlide:
    """As `open_slide`; `as_shown` decides on the view once the file's size, and what of it is not empty, are known."""
    slide = _whole(path, mpp=mpp, scaled_decode=scaled_decode)
    return seen_as(slide, as_shown(slide.size, slide.bounds))


def _whole(path: str | os.PathLike[str], *, mpp: float | None, scaled_decode: bool) -> PyramidSlide:
    file = Path(path)
    if not file.is_file():
        raise SlideNotFoundError(f"there is no slide at {file}")
    if mpp is not None and not (np.isfinite(mpp) and mpp > 0):
        raise SlideError(f"mpp must be a positive number of µm per pixel, not {mpp!r}")
    if openslide.OpenSlide.detect_format(str(file)) is not None:
        check_tile_sizes(file)
        return fast(OpenSlideSlide(file, mpp=mpp), scaled_decode)
    if file.suffix.lower() in TIFF_FORMATS:
        slide = tiff_slide(file, mpp=mpp)
        if slide is not None:
            return slide
    if file.suffix.lower() in PLAIN_FORMATS:
        return plain_image(file, mpp=mpp)
    raise UnreadableSlideError(f"{file}: OpenSlide does not know this format, and it is no plain PNG, JPEG or TIFF")

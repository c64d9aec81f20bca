"""Where the tissue is: a mask at low resolution, so that glass costs no time, and its outlines."""

from __future__ import annotations

import logging

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label
from skimage.morphology import closing, dilation, disk, remove_small_objects
from skimage.segmentation import clear_border

from qp2train.core.geometry import Box
from qp2train.errors import SlideError
from qp2train.slides.artefacts import folds as folds_of
from qp2train.slides.artefacts import ink
from qp2train.slides.slide import RGB, Slide

log = logging.getLogger(__name__)

# Glass, even when greyish, is less saturated than this; stained tissue is more. Guards Otsu on slides
# that are all tissue or all glass, where its threshold means nothing.
LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 0.04, 0.12
# The halo of a pen stroke, too thin to be told by its hue.
INK_HALO_UM = 30.0
# Pixels of the overview on which outlines are found; 32 mm × 32 mm at 8 µm. Larger slides are looked at more coarsely.
OVERVIEW_PX = 1 << 24


def tissue_mask(
    thumbnail: RGB, *, min_area_px: int = 64, pen: bool = False, folds: bool = False, mpp: float = 10.0
) -> NDArray[np.bool_]:
    """Tissue on an overview picture, by Otsu's threshold of the smoothed saturation.

    Args:
        thumbnail: H×W×3 uint8, a picture of the whole slide at 5–20 µm per pixel.
        min_area_px: Smaller islands are dust, smaller holes are filled; in pixels of the thumbnail.
        pen: Leave out what a pen has marked (`qp2train.slides.artefacts.ink`), which counts as tissue otherwise.
        folds: Leave out folds of the section (`qp2train.slides.artefacts.folds`).
        mpp: µm per pixel of the thumbnail, which `pen` and `folds` go by.

    Returns:
        H×W bool, True on tissue. Fat and wide lumina larger than `min_area_px` count as glass.
    """
    saturation = gaussian(_saturation(thumbnail), sigma=1)
    marked = dilation(ink(thumbnail, mpp=mpp), disk(round(INK_HALO_UM / mpp))) if pen else np.zeros((), dtype=bool)
    judged = saturation[~marked] if marked.any() else saturation
    otsu = threshold_otsu(judged) if judged.size and np.ptp(judged) > 0 else 0.0
    mask = (saturation > np.clip(otsu, LOWEST_THRESHOLD, HIGHEST_THRESHOLD)) & ~marked
    mask = closing(mask, disk(3))
    holes = clear_border(label(~mask, connectivity=1)) > 0  # a corner of glass is no hole
    mask = (mask | (holes & ~remove_small_objects(holes, max_size=min_area_px))) & ~marked
    if folds:
        mask &= ~folds_of(thumbnail, mask, mpp=mpp)
    result: NDArray[np.bool_] = remove_small_objects(mask, max_size=min_area_px)
    return result


def tissue_regions(
    slide: Slide, *, mpp: float = 8.0, min_area_um2: float = 50_000.0, pen: bool = False, folds: bool = False
) -> list[shapely.Polygon]:
    """The outlines of the pieces of tissue on a slide.

    Args:
        slide: An opened slide, stained for bright field.
        mpp: µm per pixel of the overview on which tissue is looked for; the outlines follow its pixels' edges.
            Slides larger than 16 million such pixels are looked at more coarsely, and the log says so.
        min_area_um2: Smaller pieces are left out, smaller holes filled.
        pen: Leave out what a pen has marked.
        folds: Leave out folds of the section.

    Returns:
        A polygon, with holes, for each piece, from top to bottom; full-resolution pixels. Pieces that only touch at a
        corner are two. Empty if there is no tissue.

    Raises:
        MissingCalibrationError: The slide's pixel size is not known.
        SlideError: The slide cannot be read, or `mpp` or `min_area_um2` is no number that can be used.
    """
    if not (np.isfinite(mpp) and mpp > 0 and np.isfinite(min_area_um2) and min_area_um2 >= 0):
        raise SlideError(
            f"mpp must be a positive number, and min_area_um2 not negative, not {mpp!r} and {min_area_um2!r}"
        )
    width, height = slide.size
    asked = max(mpp, slide.mpp)
    used = max(asked, slide.mpp * (width * height / OVERVIEW_PX) ** 0.5)
    if used > asked:
        log.warning("%s is large: tissue is looked for at %.3g µm per pixel instead of %.3g", slide.name, used, asked)
    size = max(1, round(width * slide.mpp / used)), max(1, round(height * slide.mpp / used))
    overview = slide.read(Box(0, 0, width, height), size)
    mask = tissue_mask(overview, min_area_px=round(min_area_um2 / used**2), pen=pen, folds=folds, mpp=used)
    to_slide = np.array([width / size[0], height / size[1]])
    return [
        shapely.Polygon(*(rings[:1]), rings[1:])
        for geometry, _ in shapes(mask.astype(np.uint8), mask=mask, connectivity=4)
        if (rings := [np.array(ring) * to_slide for ring in geometry["coordinates"]])
    ]


def _saturation(picture: RGB) -> NDArray[np.float32]:
    """As of HSV, in [0, 1]; of float32, which for a large overview needs a sixth of the memory."""
    red, green, blue = np.moveaxis(picture, 2, 0)
    most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    saturation: NDArray[np.float32] = (most - least) / np.maximum(most, 1).astype(np.float32)
    return saturation

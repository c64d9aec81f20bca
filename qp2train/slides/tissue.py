"""Where the tissue is: a mask at low resolution, so that glass costs no time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2hsv
from skimage.filters import gaussian, threshold_otsu
from skimage.morphology import closing, disk, remove_small_holes, remove_small_objects

from qp2train.slides.slide import RGB

# Glass, even when greyish, is less saturated than this; stained tissue is more. Guards Otsu on slides
# that are all tissue or all glass, where its threshold means nothing.
LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 0.04, 0.12


def tissue_mask(thumbnail: RGB, *, min_area_px: int = 64) -> NDArray[np.bool_]:
    """Tissue on an overview picture, by Otsu's threshold of the smoothed saturation.

    Args:
        thumbnail: H×W×3 uint8, a picture of the whole slide at 5–20 µm per pixel.
        min_area_px: Smaller islands are dust, smaller holes are filled; in pixels of the thumbnail.

    Returns:
        H×W bool, True on tissue. Fat and wide lumina larger than `min_area_px` count as glass.
    """
    saturation = gaussian(rgb2hsv(thumbnail)[..., 1], sigma=1)
    otsu = threshold_otsu(saturation) if np.ptp(saturation) > 0 else 0.0
    mask = saturation > np.clip(otsu, LOWEST_THRESHOLD, HIGHEST_THRESHOLD)
    mask = closing(mask, disk(3))
    mask = remove_small_holes(mask, max_size=min_area_px)
    result: NDArray[np.bool_] = remove_small_objects(mask, max_size=min_area_px)
    return result

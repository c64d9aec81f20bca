"""What is on a slide and teaches nothing: ink of a pen, and folds of the section."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.filters import gaussian, threshold_otsu
from skimage.morphology import dilation, disk, opening

from qp2train.slides.slide import RGB

Mask = NDArray[np.bool_]

# The side of a pen stroke's core, at least; clumps of pigment, blood or nuclei of one ink's hue are smaller.
INK_UM = 24.0
# A fold is twice as dense as the tissue beside it; 1.5 leaves room for the tissue's own unevenness.
FOLD_RATIO, FOLD_MARGIN_UM = 1.5, 16.0
# Smaller folds than this cannot be told from dense nuclei; broader ones are no bands but dense tissue.
FOLD_WIDTHS_UM = (24.0, 300.0)


def density(picture: RGB) -> NDArray[np.float32]:
    """Optical density per channel, log10, of an H×W×3 uint8 picture; 0 = white, 2.4 = black."""
    table = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
    found: NDArray[np.float32] = table[picture]
    return found


def ink(picture: RGB, *, mpp: float) -> Mask:
    """Where a pen has marked the glass: blue, green, red or black, in areas that no cell or pigment fills.

    Judged by ratios of optical densities, which stay the same where the ink is thin. Eosin, haematoxylin and blood
    let the most green through of all stains' complements: their density is highest in green (haematoxylin of
    immunostains: nearly so), DAB's in blue. Ink that shows a stain's own hue (violet, pink, brown), thin black ink and
    ink on slides with special blue or green stains (Alcian blue, Masson's trichrome) is not told apart.

    Args:
        picture: H×W×3 uint8, best at 4–10 µm per pixel.
        mpp: µm per pixel.

    Returns:
        H×W bool, True on ink.
    """
    red, green, blue = np.moveaxis(density(picture), 2, 0)
    blue_ink = (red > 0.2) & (red > 1.6 * green) & (green > blue)
    green_ink = (red > 0.2) & (green < 0.75 * red) & (green < 0.75 * blue)
    red_ink = (green > 0.6) & (red < 0.25 * green) & (blue > 0.8 * green)
    darkest, palest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    black_ink = (palest > 0.65) & (darkest < 1.35 * palest)
    found = blue_ink | green_ink | red_ink | black_ink
    core = opening(found, np.ones((side := max(1, round(INK_UM / mpp)), side), dtype=bool))
    return np.asarray(dilation(core, np.ones((3, 3), dtype=bool)) if core.any() else core, dtype=bool)

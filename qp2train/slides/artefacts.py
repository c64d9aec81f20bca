"""What is on a slide and teaches nothing: ink of a pen, and folds of the section."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from skimage.filters import gaussian
from skimage.measure import label, regionprops
from skimage.morphology import dilation, disk, opening

from qp2train.slides.slide import RGB

Mask = NDArray[np.bool_]

# The side of a pen stroke's core, at least; clumps of pigment, blood or nuclei of one ink's hue are smaller.
INK_UM = 24.0
# A fold is twice as dense as the tissue about it (Gaussian, σ); 1.5 leaves room for that tissue's own unevenness.
# SAME_HUE: by how much of it the ratio may differ between red and green light.
FOLD_RATIO, SAME_HUE, NEIGHBOURHOOD_UM = 1.5, 0.3, (500.0, 100.0)
# Optical density below which nothing is a fold: doubled fat or mucus, beside fat or mucus, is pale.
LEAST_FOLD = 0.35
# Narrower areas cannot be told from rows of nuclei; broader ones, and those as long as broad, are dense tissue.
FOLD_WIDTHS_UM, LEAST_ASPECT = (24.0, 150.0), 4.0
FOLD_MARGIN_UM = 16.0


def density(picture: RGB) -> NDArray[np.float32]:
    """Optical density per channel, log10, of an H×W×3 uint8 picture; 0 = white, 2.4 = black."""
    table = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
    found: NDArray[np.float32] = table[picture]
    return found


def ink(picture: RGB, *, mpp: float) -> Mask:
    """Where a pen has marked the glass: blue, green, red or black, in areas that no cell or pigment fills.

    Judged by ratios of the channels' optical densities, which stay the same where the ink is thin. Eosin, haematoxylin
    and blood are densest in green (haematoxylin of immunostains nearly so), DAB in blue; blue and green ink are densest
    in red, and green ink least in green; red ink is nearly as dense in blue as in green. Ink of a stain's own hue
    (violet, pink, brown) and thin black ink are not found; special stains of an ink's hue (Alcian blue, trichrome) are
    taken for ink.

    Args:
        picture: H×W×3 uint8, best at 4–10 µm per pixel.
        mpp: µm per pixel.

    Returns:
        H×W bool, True on ink.
    """
    red, green, blue = np.moveaxis(density(picture), 2, 0)
    # Over tissue densities add, so that the ratio falls; what exceeds any haematoxylin is then the ink's.
    blue_ink = (red > 0.2) & ((red > 1.6 * green) | (red > 1.1 * green + 0.2)) & (green > blue)
    green_ink = (red > 0.2) & (green < 0.75 * red) & (green < 0.75 * blue)
    red_ink = (green > 0.6) & (red < 0.25 * green) & (blue > 0.72 * green)
    darkest, palest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    black_ink = (palest > 0.65) & (darkest < 1.35 * palest)
    found = blue_ink | green_ink | red_ink | black_ink
    core = opening(found, np.ones((side := max(1, round(INK_UM / mpp)), side), dtype=bool))
    return np.asarray(dilation(core, np.ones((3, 3), dtype=bool)) if core.any() else core, dtype=bool)


def folds(picture: RGB, tissue: Mask, *, mpp: float) -> Mask:
    """Where the section lies double: dark, strongly coloured bands of the hue of the tissue beside them.

    Folds are at once darker and more saturated than the tissue about them (Kothari et al. 2013, J Pathol Inform 4:22,
    who threshold the difference of both). Here that is said by density, which two layers double: in every channel at
    least 1.5 times that of the tissue round it, and nearly as much in one as in the other, lest epidermis beside
    dermis, or lymphocytes beside glands, count as folds. Of these areas bands stay, longer than broad, 24 to 150 µm
    wide.

    Args:
        picture: H×W×3 uint8, at 5–20 µm per pixel.
        tissue: H×W bool.
        mpp: µm per pixel.

    Returns:
        H×W bool, True on folds, with a margin of 16 µm for their soft edge. A fold that fills most of its
        neighbourhood, or whose layers are of different tissue, is not found; a dark band that is none may be (keratin,
        a strand of lymphocytes): look at what is left out.
    """
    dense = gaussian(density(picture), 0.5, channel_axis=2)
    wide = _ratio(dense, tissue, sigma=NEIGHBOURHOOD_UM[0] / mpp)
    suspect = tissue & (wide > FOLD_RATIO).all(axis=2) & (dense.max(axis=2) > LEAST_FOLD)
    beside = _ratio(dense, tissue & ~suspect, sigma=NEIGHBOURHOOD_UM[1] / mpp)
    red, green = beside[..., 0], beside[..., 1]
    double = suspect & (np.minimum(red, green) > FOLD_RATIO) & (np.abs(red - green) < SAME_HUE * np.minimum(red, green))
    narrowest, broadest = FOLD_WIDTHS_UM
    double = opening(double, disk(round(narrowest / 2 / mpp)))
    depth = distance_transform_edt(double)
    found = np.zeros_like(double)
    for region in regionprops(label(double)):
        half = float(depth[region.slice][region.image].max())
        straight = region.axis_major_length >= LEAST_ASPECT / 2 * region.axis_minor_length
        if straight and 2 * half * mpp <= broadest and region.area >= LEAST_ASPECT * np.pi * half**2:
            found[region.slice] |= region.image
    return np.asarray(dilation(found, disk(round(FOLD_MARGIN_UM / mpp))) & tissue, dtype=bool)


def _ratio(dense: NDArray[np.float32], among: Mask, *, sigma: float) -> NDArray[np.float32]:
    """Density by the mean density of `among` in the neighbourhood; 0 where there is none of it."""
    weight = gaussian(among.astype(np.float32), sigma)[..., None]
    total = gaussian(dense * among[..., None], sigma, channel_axis=2)
    ratio: NDArray[np.float32] = np.where(weight > 1e-3, dense * weight / np.maximum(total, 1e-6), 0)
    return ratio

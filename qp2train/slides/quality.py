"""Pictures that teach nothing: blank, out of focus, marked with a pen, or seen before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from skimage.filters import gaussian
from skimage.transform import resize_local_mean

from qp2train.slides.artefacts import ink
from qp2train.slides.average import area_average
from qp2train.slides.slide import RGB

# µm per pixel at which colour is judged (single cells vanish, a pen stroke does not), and the finest for focus.
COLOUR_MPP, FOCUS_MPP = 4.0, 0.5
# Differences between the channels of stained tissue; glass, also greyish or warm, stays below. In grey levels.
LEAST_CHROMA = 14
# Shares of a picture: less tissue than this is blank, more ink than this is a pen mark.
LEAST_TISSUE, MOST_INK = 0.05, 0.03
# µm: structures as fine as this fade first when the focus is lost.
FINE_UM, LEAST_SCALE_PX = 0.6, 0.7
# Below this it is lost; coarse pixels, which show coarser structures, must show more of them.
LEAST_FOCUS = 0.15
# Grey levels: what varies less than this shows nothing.
FLAT = 1.5

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def faults(picture: RGB, *, mpp: float) -> frozenset[str]:
    """What makes a picture useless for training, if anything.

    "blank": less than 5 % of it is coloured, as stained tissue is. "pen": more than 3 % of it is ink (see
    `qp2train.slides.artefacts.ink`). "blur": the finest structures of its tissue have lost their contrast; not judged
    where tissue is less than 5 %. Focus that is lost by less than a pixel of the picture does it no harm, and is not
    found. Thresholds were set on the data named in docs/results.md.

    Args:
        picture: H×W×3 uint8, of any size.
        mpp: µm per pixel.

    Returns:
        Some of "blank", "blur", "pen"; empty = nothing is wrong.
    """
    small = _reduced(picture, COLOUR_MPP / mpp)
    marked = ink(small, mpp=max(COLOUR_MPP, mpp))
    tissue = (_chroma(small) >= LEAST_CHROMA) & ~marked
    found = set()
    if marked.mean() > MOST_INK:
        found.add("pen")
    if tissue.mean() < LEAST_TISSUE:
        found.add("blank")
    elif focus(picture, mpp=mpp) < LEAST_FOCUS * max(1.0, LEAST_SCALE_PX * mpp / FINE_UM) ** 0.5:
        found.add("blur")
    return frozenset(found)


def focus(picture: RGB, *, mpp: float) -> float:
    """Contrast of the tissue's finest structures, as a share of that of structures a few times larger.

    The mean absolute difference between two Gaussian scales, fine (0.3 and 0.6 µm, but not below a third of a
    pixel), by that of coarse ones (0.6 and 2.4 µm). Of the tissue only; stain, contrast and the picture's size do not
    count. Real patches in focus have 0.17 to 0.6; 1 where there is no tissue.
    """
    pixels = _reduced(picture, FOCUS_MPP / mpp)
    mpp = mpp * picture.shape[1] / pixels.shape[1]
    scale = max(LEAST_SCALE_PX, FINE_UM / mpp)
    grey = pixels @ _LUMA
    finest, fine, coarse = (gaussian(grey, s, preserve_range=True) for s in (scale / 2, scale, 4 * scale))
    tissue = _chroma(pixels) >= LEAST_CHROMA
    large = np.abs(fine - coarse)[tissue].sum()
    return float(np.abs(finest - fine)[tissue].sum() / large) if large > 0 else 1.0


class Duplicates:
    """Remembers pictures, by 63 + 255 bits each, and finds those that are nearly the same.

    Nearly the same: compressed again, a little brighter, or moved by up to 5 % of the side; not turned or mirrored.
    Source: perceptual hash (signs of the lowest coefficients of the cosine transform), taken of the middle 8/9 of what
    is remembered, and of the new picture at 25 positions. Pictures that show nothing are all the same.
    """

    def __init__(self) -> None:
        self._coarse = np.empty(1024, dtype=np.uint64)
        self._fine = np.empty((1024, 4), dtype=np.uint64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def seen(self, picture: RGB) -> bool:
        """Whether a picture nearly the same came before. If none did, this one is remembered."""
        coarse, fine = _hashes(picture)
        if self._known(coarse, fine):
            return True
        if self._count == len(self._coarse):
            self._coarse, self._fine = (np.concatenate([a, np.empty_like(a)]) for a in (self._coarse, self._fine))
        middle = len(coarse) // 2
        self._coarse[self._count], self._fine[self._count] = coarse[middle], fine[middle]
        self._count += 1
        return False

    def _known(self, coarse: NDArray[np.uint64], fine: NDArray[np.uint64]) -> bool:
        # The coarse hash forgives more, so every other position is enough to find the few that are compared in full.
        known = self._coarse[: self._count]
        near = np.zeros(self._count, dtype=bool)
        for one in coarse.reshape(_SHIFTS, _SHIFTS)[::2, ::2].ravel():
            near |= np.bitwise_count(known ^ one) <= MOST_COARSE
        candidates = self._fine[: self._count][near]
        different = np.bitwise_count(candidates[:, None] ^ fine[None]).sum(axis=2)
        return bool((different <= MOST_FINE).any())


# Positions per axis at which a picture is compared, and the sides, in pixels, of its reduced copy and of a hash's part.
_SHIFTS = 5
_PART_PX = 32
# Bits that may differ. Of 240 real patches all are found again when moved by 4 % of their side, a quarter when moved by
# 10 %, none when moved by 20 %; of 263 neighbouring patches of the same tissue none is taken for another.
MOST_COARSE, MOST_FINE = 14, 64


def _hashes(picture: RGB) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """(25,) and (25, 4): the hashes of the picture's parts, row by row; the middle one is the twelfth."""
    side = _PART_PX + _SHIFTS - 1
    small = resize_local_mean(picture.astype(np.float32) @ _LUMA, (side, side), preserve_range=True)
    if small.std() < FLAT:
        small = np.zeros_like(small)
    parts = np.lib.stride_tricks.sliding_window_view(small, (_PART_PX, _PART_PX)).reshape(-1, _PART_PX, _PART_PX)
    waves = dctn(parts, axes=(1, 2), norm="ortho")
    return _bits(waves[:, :8, :8])[:, 0], _bits(waves[:, :16, :16])


def _bits(waves: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Whether each coefficient, but for the mean, is above their median: (N, K, K) -> (N, ⌈K²/64⌉)."""
    flat = waves.reshape(len(waves), -1).copy()
    flat[:, 0] = -np.inf
    above = flat > np.median(flat[:, 1:], axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(np.uint64)


def _chroma(picture: RGB) -> NDArray[np.uint8]:
    """How much the strongest channel exceeds the weakest."""
    red, green, blue = np.moveaxis(picture, 2, 0)
    chroma: NDArray[np.uint8] = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return chroma


def _reduced(picture: RGB, by: float) -> RGB:
    """Means of n × n pixels, n the whole number next to `by`; what is left over at the right and bottom is cut off."""
    height, width = picture.shape[:2]
    n = min(max(1, round(by)), height, width)
    size = width // n, height // n
    return area_average(picture, (0, 0, n * size[0], n * size[1]), size) if n > 1 else picture

"""ColourModel: prompts answered by colour alone, without any training, so that they do something on day one."""

from __future__ import annotations

import logging
import math
import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, maximum
from skimage.color import rgb2lab
from skimage.filters import gaussian
from skimage.measure import label as numbered
from skimage.segmentation import random_walker
from skimage.transform import resize

from qp2train.core.clicks import BitMask
from qp2train.refine.prompts import Candidate, Pixels, Prompt, check_image

log = logging.getLogger(__name__)

# The walk is on a picture of this side at most: 0.07 s of CPU for a square, 0.4 s at twice the side.
SIDE = 160
# Radius of a click, in pixels of that picture.
CLICK_PX = 2
# How far from an earlier mask's outline its inside is believed, as a share of the square root of its area.
BELIEVED = 0.12
# The part of a box that is taken for the object, in half its size.
MIDDLE = 0.15
# How far round a click that contradicts the mask it is not believed, in distances from the click to its outline.
DOUBTED = 2.0
# How much a step of colour hinders the walk.
BETA = 130.0
OBJECT, REST = 1, 2


class ColourModel:
    """A training-free fallback: it knows colours, not tissue. A model trained on your annotations is better.

    Method: random walks from the prompts over the smoothed picture (Grady 2006, by scikit-image). A pixel is of the
    object when a walker from there reaches what belongs to it before it reaches what does not: clicks, the outside of
    the box, what is far outside an earlier mask, and without any of these the view's border.
    """

    id = "colour-fallback"

    def __init__(self) -> None:
        log.warning("no trained model: prompts are answered by colour alone")

    def encode(self, image: Pixels) -> ColourView:
        """Look at a view: (H, W, 3) uint8, RGB in [0, 255].

        Raises:
            PromptError: It is no such array.
        """
        check_image(image)
        return ColourView(image)


class ColourView:
    """A view's colours, small and smooth.

    Args:
        image: (H, W, 3) uint8.
    """

    def __init__(self, image: Pixels) -> None:
        self._size = image.shape[0], image.shape[1]
        scale = min(1.0, SIDE / max(self._size))
        height, width = (max(2, round(n * scale)) for n in self._size)
        small = resize(image / 255.0, (height, width), order=1, anti_aliasing=True)
        self._colours = gaussian(rgb2lab(small), sigma=1, channel_axis=-1)

    def predict(self, prompt: Prompt) -> list[Candidate]:
        """One candidate. Its `iou` is what one would expect if the walk's probabilities were right.

        Raises:
            PromptError: The mask is not of the view's size.
        """
        seeds = self._seeds(prompt.within(*self._size))
        if not (seeds == OBJECT).any():
            return [Candidate(np.zeros(self._size, np.bool_), 0.0)]
        probability = self._walked(seeds)
        kept = _touching(probability > 0.5, seeds == OBJECT)
        sure = probability[kept].sum()
        iou = float(sure / max(kept.sum() + np.where(kept, 0, probability).sum(), 1e-9))
        full = resize(np.where(kept, probability, np.minimum(probability, 0.49)), self._size, order=1)
        return [Candidate(np.asarray(full > 0.5, np.bool_), min(iou, 1.0))]

    def _walked(self, seeds: NDArray[np.int32]) -> NDArray[np.float64]:
        if not (seeds == REST).any():
            return np.ones(seeds.shape)
        if not (seeds == 0).any():
            return np.asarray(seeds == OBJECT, np.float64)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="skimage.*|scipy.*")  # which solver it takes
            # Solved directly: iterating is no faster at this size, and does not end on noise.
            found = random_walker(self._colours, seeds, beta=BETA, mode="bf", channel_axis=-1, return_full_prob=True)
        return np.asarray(found[0], np.float64)

    def _seeds(self, prompt: Prompt) -> NDArray[np.int32]:
        """(h, w): 1 = surely of the object, 2 = surely not, 0 = asked. Clicks win over masks, masks over boxes."""
        height, width = self._colours.shape[:2]
        seeds = np.zeros((height, width), np.int32)
        mask = np.zeros(self._size, np.bool_) if prompt.mask is None else prompt.mask
        sy, sx = height / self._size[0], width / self._size[1]
        y, x = np.mgrid[:height, :width] + 0.5
        if prompt.box is not None:
            left, right = np.clip(prompt.box[::2], 0, self._size[1])
            top, bottom = np.clip(prompt.box[1::2], 0, self._size[0])
            outside = (x < left * sx) | (x > right * sx) | (y < top * sy) | (y > bottom * sy)
            seeds[outside] = REST
            if 1 not in prompt.labels and not mask.any():
                off = np.hypot(
                    (x / sx - (left + right) / 2) / (right - left), (y / sy - (top + bottom) / 2) / (bottom - top)
                )
                seeds[off <= max(MIDDLE, off.min())] = OBJECT
        if mask.any():
            self._seed_mask(seeds, mask, prompt)
        for (px, py), label in zip(prompt.points, prompt.labels, strict=True):  # of two on one spot the later counts
            off = np.hypot(x - px * sx, y - py * sy)
            seeds[off <= max(CLICK_PX, off.min())] = OBJECT if label else REST
        if not (seeds == REST).any():
            border = np.ones_like(seeds, np.bool_)
            border[1:-1, 1:-1] = False
            seeds[border & (seeds == 0)] = REST
        return seeds

    def _seed_mask(self, seeds: NDArray[np.int32], mask: BitMask, prompt: Prompt) -> None:
        """Believe the mask away from its outline, but not round clicks that contradict it."""
        height, width = seeds.shape
        share = resize(mask.astype(np.float64), seeds.shape, order=1, anti_aliasing=True)
        small = share >= min(0.5, share.max())
        believed = _believed(small)
        y, x = np.mgrid[:height, :width]
        for (px, py), given in zip(prompt.points, prompt.labels, strict=True):
            column, row = math.floor(px * width / self._size[1]), math.floor(py * height / self._size[0])
            if small[row, column] != given:
                depth = distance_transform_edt(np.pad(small != given, 1))[row + 1, column + 1]
                believed[np.hypot(x - column, y - row) <= DOUBTED * depth] = 0
        seeds[believed > 0] = believed[believed > 0]


def _touching(mask: BitMask, seeds: BitMask) -> BitMask:
    """The connected parts of a mask that hold a seed."""
    parts = numbered(mask, connectivity=1)
    wanted = np.unique(parts[seeds & mask])
    return np.asarray(np.isin(parts, wanted[wanted > 0]), np.bool_)


def _believed(mask: BitMask) -> NDArray[np.int32]:
    """(h, w): 1 = well inside of a mask, 2 = well outside, 0 = near its outline. No part is too thin for an inside."""
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    parts = numbered(mask, connectivity=1)
    deepest = np.asarray(maximum(depth, parts, np.arange(parts.max() + 1)))
    margins = BELIEVED * np.sqrt(np.bincount(parts.ravel()))
    margins[0] = 0
    believed = np.where(mask & (depth > np.minimum(margins, deepest / 2)[parts]), OBJECT, 0).astype(np.int32)
    if not mask.all():
        believed[distance_transform_edt(~mask) > max(1.0, np.minimum(margins, deepest).max())] = REST
    return believed

"""Stain normalisation: a slide as if it had been stained and scanned like a reference.

What is estimated belongs to a slide, not to a patch: a patch of stroma alone has hardly any haematoxylin, and would be
coloured as if it had. A few windows of tissue all over the slide are looked at once, when it is first read.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from qp2train.core.geometry import Box
from qp2train.errors import SlideError
from qp2train.slides.slide import RGB, PyramidSlide, Slide
from qp2train.slides.tissue import tissue_mask

log = logging.getLogger(__name__)

Stain = Literal["macenko", "reinhard"]
Floats = NDArray[np.float32]

# Windows that are looked at, their side, and at how many µm per pixel: fine enough that a nucleus is not mixed
# with what surrounds it.
WINDOWS, WINDOW_PX, WINDOW_MPP = 24, 192, 1.0
OVERVIEW_PX, OVERVIEW_MPP = 1024, 4.0
# A window is looked at if so much of it is tissue; a pixel is black if no colour is brighter than this.
HALF, BLACK = 0.5, 40
# With fewer pixels of tissue nothing can be said of a slide's stain.
FEWEST = 2000

# Optical density below which a pixel is glass, and the percentile of angles taken as a pure stain (Macenko 2009). The
# mean of the colours is looked at, not the least: pure eosin takes hardly any red light.
GLASS, PERCENTILE = 0.15, 1.0
# Optical densities (R, G, B) of pure haematoxylin and eosin, and their 99th percentiles: Macenko's reference slide.
PURE = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]], dtype=np.float32)
STRENGTH = np.array([1.9705, 1.0308], dtype=np.float32)
# Two stains whose directions are closer than this (radians) are one; on slides of haematoxylin and eosin it is 0.3–0.7.
# Noise can feign two, however: a slide of one stain alone is not for Macenko.
APART = 0.15

# RGB → cone responses, and these → lightness and two opponent colours (Reinhard 2001, Ruderman 1998).
TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]], dtype=np.float32)
TO_LAB = np.diag([1 / math.sqrt(3), 1 / math.sqrt(6), 1 / math.sqrt(2)]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])
TO_LAB = TO_LAB.astype(np.float32)
# Mean and standard deviation of the tissue of TCGA-A2-A3XS-DX1, a usual reference (Amgad et al. 2019).
MEAN = np.array([8.74108109, -0.12440419, 0.0444982], dtype=np.float32)
SPREAD = np.array([0.6135447, 0.10989545, 0.0286032], dtype=np.float32)


class Transform(Protocol):
    """How pixels are recoloured: H×W×3 uint8 → the same shape, uint8."""

    def __call__(self, pixels: RGB) -> RGB: ...


@dataclass(frozen=True)
class Macenko:
    """Optical densities are taken apart into two stains, and put together with those of the reference.

    Args:
        mixing: 3×3: optical densities of the slide @ mixing = those of the reference.

    Source: Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009.
    """

    mixing: Floats

    @classmethod
    def of(cls, tissue: RGB) -> Macenko | None:
        """Of N×3 pixels of tissue; None if two stains cannot be told apart in them."""
        density = _density(tissue)
        density = density[density.mean(axis=1) > GLASS]
        if len(density) < FEWEST:
            return None
        plane = np.linalg.eigh(np.cov(density.T))[1][:, [2, 1]]
        plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
        on_plane = density @ plane
        angles = np.arctan2(on_plane[:, 1], on_plane[:, 0])
        low, high = np.percentile(angles, [PERCENTILE, 100 - PERCENTILE])
        if high - low < APART:
            return None
        stains = np.stack([plane @ [math.cos(a), math.sin(a)] for a in (low, high)])
        if stains[0, 0] < stains[1, 0]:
            stains = stains[::-1]  # haematoxylin, blue, takes more of the red light
        apart = np.linalg.pinv(stains)  # densities → amounts of each stain
        strength = np.percentile(density @ apart, 99, axis=0)
        if (strength <= 0).any():
            return None
        return cls((apart @ np.diag(STRENGTH / strength) @ PURE).astype(np.float32))

    def __call__(self, pixels: RGB) -> RGB:
        density = cv2.transform(_density(pixels), self.mixing.T)
        return _bytes(256 * np.exp(-density) - 1)


@dataclass(frozen=True)
class Reinhard:
    """Lightness and two opponent colours get the mean and the spread of the reference.

    Args:
        mean: Of the slide's tissue, (3,).
        spread: Its standard deviation, (3,).

    Source: Reinhard et al., "Color transfer between images", IEEE Computer Graphics and Applications 21 (2001).
    """

    mean: Floats
    spread: Floats

    @classmethod
    def of(cls, tissue: RGB) -> Reinhard | None:
        """Of N×3 pixels of tissue; None if they are all alike, or too few."""
        if len(tissue) < FEWEST:
            return None
        lab = _opponent(tissue[None])[0]
        mean, spread = lab.mean(axis=0), lab.std(axis=0)
        return cls(mean, spread) if (spread > 1e-4).all() else None

    def __call__(self, pixels: RGB) -> RGB:
        scale = SPREAD / self.spread
        back = np.linalg.inv(TO_LAB).astype(np.float32)
        lms = np.exp(cv2.transform(_opponent(pixels), back * scale) + back @ (MEAN - scale * self.mean))
        moved = cv2.transform(lms, np.linalg.inv(TO_LMS).astype(np.float32)) - 1
        # Glass is no tissue: the whiter a pixel was, the less it changes.
        share = np.minimum(_density(pixels).mean(axis=2, keepdims=True) / GLASS, 1)
        return _bytes(share * moved + (1 - share) * pixels)


METHODS: Mapping[str, type[Macenko | Reinhard]] = {"macenko": Macenko, "reinhard": Reinhard}


class NormalisedSlide(PyramidSlide):
    """A slide in the colours of the reference. Where its stain cannot be estimated it is left as it is, with a warning.

    Args:
        slide: The slide, with a known pixel size.
        stain: How: "macenko" or "reinhard".

    Raises:
        SlideError: There is no such way.
        MissingCalibrationError: The slide's pixel size is not known.
    """

    def __init__(self, slide: Slide, stain: Stain) -> None:
        if stain not in METHODS:
            raise SlideError(f"stain must be one of {', '.join(METHODS)}, not {stain!r}")
        super().__init__(path=slide.path, name=slide.name, mpp=slide.mpp)
        self._below, self.stain = slide, stain

    @cached_property
    def transform(self) -> Transform | None:
        """What the pixels go through, estimated on first use; None = nothing."""
        found = METHODS[self.stain].of(tissue_pixels(self._below))
        if found is None:
            log.warning(
                "%s: too little stained tissue to estimate its stain (%s); its colours stay as they are",
                self.name,
                self.stain,
            )
        return found

    @property
    def view(self) -> str:
        return self._below.view

    @property
    def size(self) -> tuple[int, int]:
        return self._below.size

    @property
    def downsamples(self) -> tuple[float, ...]:
        return self._below.downsamples

    @property
    def associated_images(self) -> Mapping[str, RGB]:
        return self._below.associated_images

    def read(self, box: Box, size: tuple[int, int]) -> RGB:
        pixels = self._below.read(box, size)
        return pixels if self.transform is None else self.transform(pixels)

    def close(self) -> None:
        self._below.close()


def normalised(slide: Slide, stain: Stain | None) -> Slide:
    """The slide in the colours of the reference; itself for None."""
    return slide if stain is None else NormalisedSlide(slide, stain)


def tissue_pixels(slide: Slide) -> RGB:
    """(N, 3) uint8: pixels of tissue in a few windows all over the slide; the same ones every time.

    Lumina, glass, pen marks and what is black (a scanner's fill, ink) are left out. The windows lie on a grid, so that
    no pixel of a small slide is counted twice.
    """
    side, found = WINDOW_PX * max(1.0, WINDOW_MPP / slide.mpp), []
    for box in _windows(slide, side):
        size = (max(1, round(box.width / side * WINDOW_PX)), max(1, round(box.height / side * WINDOW_PX)))
        pixels = slide.read(box, size).reshape(-1, 3)
        found.append(pixels[(_density(pixels).mean(axis=1) > GLASS) & (pixels.max(axis=1) > BLACK)])
    return np.concatenate(found) if found else np.empty((0, 3), np.uint8)


def _windows(slide: Slide, side: float) -> list[Box]:
    """Up to `WINDOWS` squares of this side, evenly among those with the most tissue; cut off at the slide's border."""
    width, height = slide.size
    # Not finer than needed: marks are looked for by their halo in µm.
    overview = slide.thumbnail(max(1, min(OVERVIEW_PX, round(max(width, height) * slide.mpp / OVERVIEW_MPP))))
    scale = width / overview.shape[1]
    mask = tissue_mask(overview, min_area_px=16, pen=True, mpp=slide.mpp * scale) & (overview.max(axis=2) > BLACK)
    across = math.ceil(width / side)
    row, column = (((np.arange(n) + 0.5) * scale / side).astype(int) for n in mask.shape)
    square = (row[:, None] * across + np.minimum(column, across - 1)).ravel()
    tissue = np.bincount(square, weights=mask.ravel()) / np.maximum(np.bincount(square), 1)
    if tissue.max() == 0:
        return []
    candidates = np.flatnonzero(tissue >= min(HALF, tissue.max()))
    chosen = np.unique(np.linspace(0, len(candidates) - 1, WINDOWS).round().astype(int))
    corners = [(float(i % across) * side, float(i // across) * side) for i in candidates[chosen]]
    return [Box(x, y, min(side, width - x), min(side, height - y)) for x, y in corners]


# Optical density of each grey level; one is added, lest black have none.
_DENSITY = -np.log((np.arange(256) + 1) / 256).astype(np.float32)


def _density(pixels: RGB) -> Floats:
    density: Floats = _DENSITY[pixels]
    return density


def _opponent(pixels: RGB) -> Floats:
    lms = cv2.transform(pixels.astype(np.float32) + 1, TO_LMS)
    return np.asarray(cv2.transform(np.log(lms), TO_LAB), np.float32)


def _bytes(values: Floats) -> RGB:
    pixels: RGB = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels

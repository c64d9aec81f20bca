"""Stains and scanners: how amounts of dye become colours, which differs between laboratories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qp2train.sample.noise import Floats, periodic_texture, smooth_noise, tiled

Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Stain:
    """One laboratory's staining and scanner.

    The dye vectors are optical densities in (r, g, b) of one unit of dye, near those of Ruifrok and Johnston
    (Anal Quant Cytol Histol 2001), from which real batches stray.
    """

    name: str
    haematoxylin: Colour = (0.66, 0.74, 0.36)
    eosin: Colour = (0.10, 0.78, 0.34)
    blood: Colour = (0.16, 0.95, 0.66)
    haematoxylin_gain: float = 1.0
    eosin_gain: float = 1.0
    background: Colour = (243, 242, 244)
    gamma: float = 1.0
    blur_px: float = 0.65
    noise: float = 1.6


STAINS = (
    Stain("batch-A", background=(244, 242, 245)),
    Stain(
        "batch-B",
        haematoxylin=(0.74, 0.72, 0.30),
        eosin=(0.07, 0.80, 0.24),
        haematoxylin_gain=0.88,
        eosin_gain=0.82,
        background=(240, 241, 246),
        blur_px=0.9,
    ),
    Stain(
        "batch-C",
        haematoxylin=(0.64, 0.75, 0.40),
        eosin=(0.12, 0.77, 0.41),
        haematoxylin_gain=1.03,
        eosin_gain=1.06,
        background=(246, 243, 238),
        blur_px=0.75,
        noise=2.2,
    ),
)


def developed(canvas: Floats, stain: Stain) -> Floats:
    """Optical density, float32 (H, W, 3) in (r, g, b), of stain amounts (H, W, 3)."""
    dyes = (
        np.multiply(stain.haematoxylin, stain.haematoxylin_gain),
        np.multiply(stain.eosin, stain.eosin_gain),
        np.array(stain.blood),
    )
    density = np.empty_like(canvas)
    # Not canvas @ dyes: BLAS rounds differently from machine to machine.
    for channel in range(3):
        plane = canvas[..., 0] * np.float32(dyes[0][channel])
        for layer in (1, 2):
            plane += canvas[..., layer] * np.float32(dyes[layer][channel])
        density[..., channel] = plane
    return density


def scanned(density: Floats, stain: Stain, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What the scanner's camera sees of an optical density: uint8 (H, W, 3) RGB."""
    height, width = density.shape[:2]
    light = np.exp(-density * stain.gamma)
    shade = 1 + 0.006 * smooth_noise(rng, (width, height), 900).image((height, width))
    noise = tiled(periodic_texture(rng, 397, along=0.6, across=0.6), (height, width)) * stain.noise
    for channel in range(3):
        plane = ndimage.gaussian_filter(light[..., channel], stain.blur_px, truncate=3)
        light[..., channel] = plane * (shade * stain.background[channel]) + noise
    np.clip(light, 0, 255, out=light)
    seen: NDArray[np.uint8] = light.astype(np.uint8)
    return seen

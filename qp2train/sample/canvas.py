"""From polygons to amounts of stain: the canvas (H, W, 3) of haematoxylin, eosin and blood."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from shapely.affinity import scale, translate
from shapely.geometry.base import BaseGeometry

from qp2train.core.geometry import areal
from qp2train.sample.anatomy import Anatomy
from qp2train.sample.noise import Floats, enlarged, fibres, periodic_texture, smooth_noise, tiled

COARSE = 2  # textures are made at this step and enlarged: a quarter of the work, and optics blur that much anyway


class Layer(IntEnum):
    """What a pixel is made of."""

    GLASS = 0
    PROPRIA = 1
    MUSCLE = 2
    SUBMUCOSA = 3
    DESMOPLASIA = 4
    EPITHELIUM = 5
    TUMOUR = 6
    LUMEN = 7
    MUCIN = 8
    DEBRIS = 9
    MEMBRANE = 10  # about fat cells, under glands, and the apical border of their cells
    FAT = 11
    WALL = 12
    BLOOD = 13
    FOLLICLE = 14


# Haematoxylin, eosin, blood; how much fibres and fine grain modulate them.
_MAKE_UP = {
    Layer.GLASS: (0.0, 0.0, 0.0, 0.0, 0.0),
    Layer.PROPRIA: (0.10, 0.33, 0.0, 0.34, 0.20),
    Layer.MUSCLE: (0.12, 0.66, 0.0, 0.20, 0.06),
    Layer.SUBMUCOSA: (0.04, 0.40, 0.0, 0.62, 0.16),
    Layer.DESMOPLASIA: (0.13, 0.36, 0.0, 0.42, 0.16),
    Layer.EPITHELIUM: (0.20, 0.38, 0.0, 0.0, 0.16),
    Layer.TUMOUR: (0.27, 0.42, 0.0, 0.0, 0.18),
    Layer.LUMEN: (0.015, 0.015, 0.0, 0.0, 0.3),
    Layer.MUCIN: (0.13, 0.035, 0.0, 0.9, 0.2),
    Layer.DEBRIS: (0.16, 0.50, 0.05, 0.25, 0.55),
    Layer.MEMBRANE: (0.12, 0.52, 0.0, 0.0, 0.10),
    Layer.FAT: (0.01, 0.015, 0.0, 0.0, 0.0),
    Layer.WALL: (0.12, 0.58, 0.0, 0.22, 0.06),
    Layer.BLOOD: (0.01, 0.10, 0.02, 0.0, 0.2),
    Layer.FOLLICLE: (0.14, 0.32, 0.0, 0.34, 0.20),
}


def fill(raster: Image.Image, geometry: BaseGeometry, value: int, *, hole: int | None = None) -> None:
    """Paint an area into an 8-bit picture; its holes get the value `hole`, or are painted over when that is None."""
    draw = ImageDraw.Draw(raster)
    for polygon in shapely.get_parts(areal(geometry)):
        if not polygon.is_empty:
            draw.polygon(shapely.get_coordinates(polygon.exterior).ravel().tolist(), fill=value)
            for ring in polygon.interiors if hole is not None else ():
                draw.polygon(shapely.get_coordinates(ring).ravel().tolist(), fill=hole)


def layers(anatomy: Anatomy, size_px: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The material of each pixel, uint8 (H, W) of `Layer`."""
    raster = Image.new("L", size_px, Layer.GLASS)

    def paint(areas: Iterable[BaseGeometry], layer: Layer) -> None:
        for area in areas:
            fill(raster, area, int(layer))

    paint([anatomy.tissue], Layer.PROPRIA)
    paint([anatomy.submucosa], Layer.SUBMUCOSA)
    paint([anatomy.muscle], Layer.MUSCLE)
    paint([anatomy.desmoplasia], Layer.DESMOPLASIA)
    paint((f.intersection(anatomy.tissue) for f in anatomy.follicles), Layer.FOLLICLE)
    paint([anatomy.fat], Layer.MEMBRANE)
    paint(anatomy.adipocytes, Layer.FAT)
    for gland in anatomy.glands:
        if rng.random() < (0.3 if gland.malignant else 0.1):  # shrinkage tears a crescent open beside some glands
            gap = translate(gland.outline.buffer(2), *rng.uniform(-5, 5, 2))
            paint([gap.intersection(anatomy.tissue.buffer(-8))], Layer.LUMEN)
    contents = {"empty": Layer.LUMEN, "mucin": Layer.MUCIN, "debris": Layer.DEBRIS}
    for gland in anatomy.glands:
        if not gland.malignant:
            paint([gland.outline.buffer(1.6)], Layer.MEMBRANE)
        paint([gland.outline], Layer.TUMOUR if gland.malignant else Layer.EPITHELIUM)
        paint((p.buffer(2.5) for p in gland.lumina), Layer.MEMBRANE)
        paint(gland.lumina, contents[gland.content])
        if gland.content == "debris":  # necrosis shrinks away from the wall
            paint((p.difference(p.buffer(-4)) for p in gland.lumina), Layer.LUMEN)
            for lumen in gland.lumina:
                paint([lumen.buffer(-5)], Layer.DEBRIS)
    paint((v.wall for v in anatomy.vessels), Layer.WALL)
    paint((v.lumen for v in anatomy.vessels), Layer.BLOOD)
    return np.asarray(raster)


def fibre_potential(anatomy: Anatomy, size_px: tuple[int, int], rng: np.random.Generator) -> Floats:
    """A field (H / COARSE, W / COARSE) whose contour lines the fibres follow: about glands, elsewhere in wavy bands."""
    width, height = size_px
    shape = (height // 8, width // 8)
    obstacles = Image.new("L", shape[::-1], 1)
    for gland in anatomy.glands:
        fill(obstacles, scale(gland.outline, 1 / 8, 1 / 8, origin=(0, 0)), 0)
    away = (ndimage.distance_transform_edt(np.asarray(obstacles)) * 8).astype(np.float32)
    near = 0.8 * np.exp(-away / 28)
    waves = sum(smooth_noise(rng, size_px, at).image(shape, step=8) * by for at, by in ((330, 75), (95, 13), (30, 3)))
    level = np.arange(shape[0], dtype=np.float32)[:, None] * 8 * 0.8
    field = near * away * 1.5 + (1 - near) * (level + waves)
    field = ndimage.gaussian_filter(field, 1.2).astype(np.float32)
    return enlarged(field, (height // COARSE, width // COARSE))


def base_coat(label: NDArray[np.uint8], potential: Floats, rng: np.random.Generator) -> Floats:
    """Stain amounts of everything but the nuclei, float32 (H, W, 3)."""
    height, width = shape = (label.shape[0], label.shape[1])
    coarse = label[::COARSE, ::COARSE][: height // COARSE, : width // COARSE]
    table = np.array([_MAKE_UP[layer] for layer in Layer], np.float32)
    threads = fibres(periodic_texture(rng, 512, along=9, across=1.3), potential / np.float32(1.7), stretch=1.5)
    threads += 0.8 * fibres(periodic_texture(rng, 512, along=7, across=2.0), potential / np.float32(4), stretch=2.6)
    threads *= np.float32(0.75)
    grain = tiled(periodic_texture(rng, 509, along=1.4, across=1.4), coarse.shape)
    cloud = smooth_noise(rng, (width, height), 34).image(coarse.shape, step=COARSE)
    varied = 1 + threads * table[:, 3][coarse] + (grain + np.float32(0.5) * cloud) * table[:, 4][coarse]
    modulation = enlarged(np.clip(varied, 0.06, 2.2).astype(np.float32), shape)
    thickness = 1 + 0.09 * smooth_noise(rng, (width, height), 700).image((height // 16, width // 16), step=16)
    modulation *= enlarged(thickness, shape)
    canvas = np.empty((*shape, 3), np.float32)
    for stain in range(3):
        flat = ndimage.uniform_filter(table[:, stain][label], 3)  # soft borders between materials
        canvas[..., stain] = flat * modulation
    return canvas

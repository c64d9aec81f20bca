"""Tissue: as many patches from every slide, wherever there is tissue, annotated or not."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from qp2train.sampling.drawn import MORE, TRIES
from qp2train.sampling.site import Floats, Row, Site, Sites
from qp2train.slides.tissue import tissue_mask

log = logging.getLogger(__name__)

# The overview on which tissue is looked for: 10 µm per pixel, but no more than 2048 pixels.
OVERVIEW_MPP, OVERVIEW_PX = 10.0, 2048

Mask = NDArray[np.bool_]


def on_tissue(sites: Sites, *, count: int, rng: np.random.Generator) -> list[Row]:
    """Patches whose centres are uniformly drawn points of tissue; `count` of them, in equal parts from each slide.

    Slides without tissue are named in the log, and the others share their part.
    """
    masks = {i: mask for i, site in sites.some(range(len(sites))) if (mask := tissue_of(site)).any()}
    bare = [ref.name for i, ref in enumerate(sites.refs) if i not in masks]
    if bare:
        log.warning("no tissue found on %d of %d slides: %s", len(bare), len(sites), ", ".join(bare))
    rows: list[Row] = []
    some = len(masks)
    for k, (i, site) in enumerate(sites.some(list(masks))):
        wanted = count * (k + 1) // some - count * k // some
        found = scatter(site, masks.pop(i), wanted, rng)
        if len(found) < wanted:
            log.warning("%s: %d of %d patches; the rest found no good place", site.ref.name, len(found), wanted)
        rows += found
    return rows


def tissue_of(site: Site) -> Mask:
    """The tissue of a slide, on its overview."""
    pixels = max(site.ref.size) * site.ref.mpp / OVERVIEW_MPP
    return tissue_mask(site.slide.thumbnail(int(np.clip(pixels, OVERVIEW_PX // 8, OVERVIEW_PX))))


def scatter(site: Site, mask: Mask, count: int, rng: np.random.Generator) -> list[Row]:
    """Patches round uniformly drawn points of a mask of the whole slide."""
    if not mask.any():
        return []
    found: list[Row] = []
    tried = 0
    while len(found) < count and tried < count * TRIES:
        points = _points(site, mask, int(np.ceil((count - len(found)) * (MORE if tried else 1))), rng)
        tried += len(points)
        found += [row for row in site.place(points) if row is not None]
    return found[:count]


def _points(site: Site, mask: Mask, count: int, rng: np.random.Generator) -> Floats:
    cells = rng.choice(np.flatnonzero(mask), count)
    height, width = mask.shape
    pixel = np.stack([cells % width, cells // width], axis=1) + rng.uniform(0, 1, (count, 2))
    points: Floats = pixel * np.divide(site.ref.size, (width, height))
    return points

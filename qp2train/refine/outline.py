"""Masks of a view ↔ outlines on the slide, exactly along pixel edges."""

from __future__ import annotations

import numpy as np
import shapely
from rasterio.features import rasterize, shapes
from rasterio.transform import Affine
from shapely.geometry.base import BaseGeometry

from qp2train.core.clicks import BitMask
from qp2train.core.geometry import Box


def outline_of(mask: BitMask, box: Box) -> shapely.Polygon | shapely.MultiPolygon:
    """The outline of a mask, with its holes and all its parts, in full-resolution pixels.

    Args:
        mask: (H, W) bool.
        box: What the mask covers.

    Returns:
        A Polygon, of several 4-connected parts a MultiPolygon, of an empty mask an empty Polygon.
    """
    transform = _transform(mask.shape, box)
    found = shapes(mask.astype(np.uint8), mask=mask, connectivity=4, transform=transform)
    parts = [shapely.Polygon(g["coordinates"][0], g["coordinates"][1:]) for g, _ in found]
    if len(parts) == 1:
        return parts[0]
    return shapely.MultiPolygon(parts) if parts else shapely.Polygon()


def mask_of(geometry: BaseGeometry, box: Box, size: tuple[int, int]) -> BitMask:
    """The pixels of a view whose centres lie inside of a geometry: `outline_of`, the other way round.

    Args:
        geometry: In full-resolution pixels.
        box: What the view covers.
        size: (width, height) of the view.

    Returns:
        (height, width) bool.
    """
    shape = size[1], size[0]
    if geometry.is_empty:
        return np.zeros(shape, np.bool_)
    painted = rasterize([geometry], out_shape=shape, transform=_transform(shape, box), dtype=np.uint8)
    return np.asarray(painted > 0, np.bool_)


def _transform(shape: tuple[int, ...], box: Box) -> Affine:
    return Affine(box.width / shape[1], 0, box.x, 0, box.height / shape[0], box.y)

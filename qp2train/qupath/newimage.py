"""What a project stores of an image that is added to it: read from the slide, or given by the caller."""

from __future__ import annotations

import io
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from qp2train.errors import ProjectError
from qp2train.qupath.pathobject import argb
from qp2train.qupath.uris import path_to_uri
from qp2train.slides import open_slide
from qp2train.slides.slide import PyramidSlide

OPENSLIDE = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"
IMAGEJ = "qupath.imagej.images.servers.ImageJServerBuilder"  # plain images
# qupath.lib.gui's size of a thumbnail; it is never enlarged
THUMBNAIL_PX = (1000, 600)


Level = tuple[float, int, int]


@dataclass(frozen=True, slots=True)
class Facts:
    """What QuPath would find out about an image by opening it.

    Args:
        width: Full-resolution px, of the part that QuPath shows.
        height: Full-resolution px.
        levels: (downsample, width, height) of every level, in the level's own px.
        mpp: µm per px (x, y); None = the file does not say.
        magnification: Of the objective; None = the file does not say.
        tile_px: (width, height) of the file's tiles.
        thumbnail: A JPEG.
        openslide: OpenSlide reads it; otherwise it is a plain image for ImageJ.
    """

    width: int
    height: int
    levels: tuple[Level, ...] = ()
    mpp: tuple[float, float] | None = None
    magnification: float | None = None
    tile_px: tuple[int, int] = (256, 256)
    thumbnail: bytes | None = None
    openslide: bool = True


def facts(path: Path) -> Facts:
    """Open a slide and read what a project stores of it.

    Raises:
        SlideNotFoundError: There is no such file.
        UnreadableSlideError: It cannot be read.
    """
    with open_slide(path, view="") as whole:
        properties = whole.properties
        levels = tuple(_level(whole.size, size) for size in whole.level_sizes)
    x, y, power, tile_w, tile_h = (
        _positive(properties.get(f"openslide.{name}"))
        for name in ("mpp-x", "mpp-y", "objective-power", "level[0].tile-width", "level[0].tile-height")
    )
    with open_slide(path) as slide:
        width, height = slide.size
        if slide.view:  # a part of the file
            levels = tuple((d, int(width / d), int(height / d)) for d, _, _ in levels)
        return Facts(
            width,
            height,
            levels,
            mpp=None if x is None or y is None else (x, y),
            magnification=power,
            tile_px=(int(tile_w or 256), int(tile_h or 256)) if properties else (width, height),
            thumbnail=_thumbnail(slide),
            openslide=bool(properties),
        )


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _level(full: tuple[int, int], size: tuple[int, int]) -> Level:
    """Whole downsamples are meant where the level's size is off by rounding only: 2967 px become 741 by 4."""
    (full_w, full_h), (width, height) = full, size
    mean = (full_w / width + full_h / height) / 2
    whole = max(round(mean), 1)
    rounded = abs(full_w / whole - width) < 2 and abs(full_h / whole - height) < 2
    return float(whole) if rounded else mean, width, height


def _thumbnail(slide: PyramidSlide) -> bytes:
    (width, height), (most_w, most_h) = slide.size, THUMBNAIL_PX
    scale = max(1.0, width / most_w, height / most_h)
    small = slide.thumbnail(max(1, math.floor(max(width, height) / scale)))
    out = io.BytesIO()
    Image.fromarray(small).save(out, "JPEG", quality=85)
    return out.getvalue()


def image_item(
    path: Path,
    *,
    size: tuple[int | None, int | None],
    downsamples: Sequence[float] | None,
    mpp: float | tuple[float, float] | None,
    magnification: float | None,
    tile_px: tuple[int, int] | None,
    name: str | None,
) -> tuple[dict[str, Any], bytes | None]:
    """An entry of project.qpproj, and a thumbnail if the file was opened; see `Project.add_image`.

    Raises:
        SlideError: The file has to be opened, and cannot be.
        ProjectError: Half a size.
    """
    width, height = size
    if (width is None) != (height is None):
        raise ProjectError(f"width={width}, height={height}: give both, or neither to take them from {path}")
    found = facts(path) if width is None or height is None else Facts(width, height)
    given = (mpp, mpp) if isinstance(mpp, int | float) else mpp
    name = name or path.name
    builder = image_builder(
        path_to_uri(path),
        name=name,
        width=found.width,
        height=found.height,
        downsamples=downsamples or [downsample for downsample, *_ in found.levels] or [1.0],
        level_px=None if downsamples else [(w, h) for _, w, h in found.levels],
        mpp=given or found.mpp,
        magnification=magnification or found.magnification,
        tile_px=tile_px or found.tile_px,
        provider=OPENSLIDE if found.openslide else IMAGEJ,
    )
    item = {
        "serverBuilder": builder,
        "entryID": 0,
        "randomizedName": str(uuid.uuid4()),
        "imageName": name,
        "metadata": {},
        "tags": [],
    }
    return item, found.thumbnail


def image_builder(
    uri: str,
    *,
    name: str,
    width: int,
    height: int,
    downsamples: Sequence[float],
    mpp: tuple[float, float] | None,
    magnification: float | None,
    tile_px: tuple[int, int],
    level_px: Sequence[tuple[int, int]] | None = None,
    provider: str = OPENSLIDE,
) -> dict[str, Any]:
    """A serverBuilder as QuPath 0.6 writes it for a brightfield slide.

    Args:
        uri: The slide.
        name: Its shown name.
        width: Full-resolution px.
        height: Full-resolution px.
        downsamples: Of every level, the first 1.0.
        mpp: µm per px (x, y); None = uncalibrated.
        magnification: Of the objective.
        tile_px: Preferred tile (width, height).
        level_px: (width, height) of every level; None = rounded down.
        provider: QuPath's class of the reader.
    """
    if not downsamples or downsamples[0] != 1:
        raise ProjectError(f"downsamples={list(downsamples)}: the first level must be 1.0")
    sizes = level_px or [(int(width / d), int(height / d)) for d in downsamples]
    unit = "px" if mpp is None else "µm"
    x, y = mpp or (1.0, 1.0)
    channels = (("Red", (255, 0, 0)), ("Green", (0, 255, 0)), ("Blue", (0, 0, 255)))
    metadata: dict[str, Any] = {
        "name": name,
        "width": width,
        "height": height,
        "sizeZ": 1,
        "sizeT": 1,
        "channelType": "DEFAULT",
        "isRGB": True,
        "pixelType": "UINT8",
        "levels": [
            {"downsample": float(d), "width": w, "height": h} for d, (w, h) in zip(downsamples, sizes, strict=True)
        ],
        "channels": [{"name": channel, "color": argb(color)} for channel, color in channels],
        "pixelCalibration": {
            "pixelWidth": {"value": float(x), "unit": unit},
            "pixelHeight": {"value": float(y), "unit": unit},
            "zSpacing": {"value": 1.0, "unit": "z-slice"},
            "timeUnit": "SECONDS",
            "timepoints": [],
        },
    }
    if magnification is not None:
        metadata["magnification"] = float(magnification)
    metadata["preferredTileWidth"], metadata["preferredTileHeight"] = tile_px
    return {
        "builderType": "uri",
        "providerClassName": provider,
        "uri": uri,
        "args": [],
        "metadata": metadata,
    }

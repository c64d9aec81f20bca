"""Images that somebody sent: base64 → pixels, without trusting a byte of them."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib

import numpy as np
from fastapi import HTTPException
from PIL import Image

from qp2train.core.clicks import BitMask
from qp2train.refine.prompts import Pixels

_FORMATS = ("PNG", "JPEG")
# What Pillow raises for damaged files of these formats: what there was in 100,000 damaged ones, and their kin.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error)
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # a warning is an error where it is told to be


def read_image(text: str, *, max_px: int) -> Pixels:
    """An image as RGB (H, W, 3) uint8: of 16 bits the upper 8, transparent parts on white.

    Args:
        text: Base64 of a PNG or JPEG file.
        max_px: More pixels are refused before anything is decoded.

    Raises:
        HTTPException: 413 = too many pixels, 422 = no image, or a damaged one.
    """
    image = _opened(text, "b64img", max_px)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        image = Image.new("RGBA", clear.size, "white")
        image.alpha_composite(clear)
    return np.array(_eight_bit(image).convert("RGB"))


def read_mask(text: str, size: tuple[int, int], *, max_px: int) -> BitMask:
    """A mask: what is at least half as bright as its brightest pixel; where it is transparent there is nothing.

    Args:
        text: Base64 of a PNG or JPEG file.
        size: (height, width) that it must have.
        max_px: More pixels are refused before anything is decoded.

    Returns:
        (H, W) bool.

    Raises:
        HTTPException: As `read_image`; 422 also if the size is another.
    """
    image = _opened(text, "b64mask", max_px)
    if (image.height, image.width) != size:
        said = f"b64mask is {image.width}×{image.height} px, the image {size[1]}×{size[0]}: they must be of one size"
        raise HTTPException(422, said)
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    opaque = np.array(image.getchannel("A")) > 0 if "A" in image.getbands() else True
    grey = np.array(_eight_bit(image).convert("L")).astype(np.int32)
    return np.asarray((2 * grey >= max(int(grey.max()), 1)) & opaque, np.bool_)


def _opened(text: str, field: str, max_px: int) -> Image.Image:
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise HTTPException(422, f"{field} is not base64: {error}") from error
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > max_px:
            raise _too_large(field, f"{image.width}×{image.height}", max_px)
        image.load()
    except _BOMBS as error:
        raise _too_large(field, "far too many", max_px) from error
    except (*_DAMAGED, zlib.error) as error:
        said = "damaged" if data.startswith((b"\x89PNG", b"\xff\xd8")) else "no PNG or JPEG file"
        raise HTTPException(422, f"{field} is {said}: {str(error)[:200] or type(error).__name__}") from error
    return image


def _too_large(field: str, size: str, max_px: int) -> HTTPException:
    return HTTPException(413, f"{field} has {size} pixels; this server takes {max_px:,} at most: send a smaller view")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pillow clips 16-bit greys to 255 instead of taking their upper half."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.array(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    return image

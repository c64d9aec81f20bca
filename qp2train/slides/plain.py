"""Plain PNG, JPEG, BMP and simple TIFF images, held in memory whole."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from qp2train.errors import UnreadableSlideError
from qp2train.slides.openslide import on_white
from qp2train.slides.slide import ArraySlide

PLAIN_FORMATS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
# A plain image is held in memory whole: half a GB. PIL refuses twice its MAX_IMAGE_PIXELS.
MAX_PLAIN_PIXELS = 178_956_970


def plain_image(file: Path, *, mpp: float | None) -> ArraySlide:
    """The image as a slide of one level.

    Raises:
        UnreadableSlideError: It is too large, damaged, or no flat 8-bit picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's, of large images and of odd metadata
            with Image.open(file) as image:
                _check_plain(image, file)
                pixels = on_white(image if image.mode == "RGBA" else image.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise UnreadableSlideError(
            f"{file} has more than {MAX_PLAIN_PIXELS / 1e6:.0f} megapixels, too many for a plain image; convert it to "
            "a tiled pyramidal TIFF (for example: vips tiffsave --tile --pyramid)"
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise UnreadableSlideError(f"{file}: neither OpenSlide nor PIL can read it: {error}") from error
    slide = ArraySlide(pixels, mpp=mpp, name=file.name)
    slide.path = str(file)
    return slide


def _check_plain(image: Image.Image, file: Path) -> None:
    """Refuse what would be shown, but wrongly: PIL cuts more than 8 bits off."""
    if image.mode[0] in "IF":
        raise UnreadableSlideError(
            f"{file} has more than 8 bits per pixel (fluorescence?); qp2train reads 8-bit RGB and grey images"
        )

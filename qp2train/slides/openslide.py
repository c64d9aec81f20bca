"""The OpenSlide door: every format that OpenSlide reads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from qp2train.errors import SlideError, SlideNotFoundError, UnreadableSlideError
from qp2train.slides.slide import RGB, ArraySlide, PyramidSlide

WHITE = (255, 255, 255)
PLAIN_FORMATS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
# A plain image is held in memory whole: half a GB. PIL refuses twice its MAX_IMAGE_PIXELS.
MAX_PLAIN_PIXELS = 178_956_970


def open_slide(path: str | os.PathLike[str], *, mpp: float | None = None) -> PyramidSlide:
    """Open a slide, or a plain PNG, JPEG or TIFF image.

    Args:
        path: The image file.
        mpp: µm per full-resolution pixel; overrides what the file says.

    Raises:
        SlideNotFoundError: There is no such file.
        UnreadableSlideError: No reader understands the file, or it is damaged.
    """
    file = Path(path)
    if not file.is_file():
        raise SlideNotFoundError(f"there is no slide at {file}")
    if mpp is not None and not (np.isfinite(mpp) and mpp > 0):
        raise SlideError(f"mpp must be a positive number of µm per pixel, not {mpp!r}")
    if openslide.OpenSlide.detect_format(str(file)) is not None:
        return OpenSlideSlide(file, mpp=mpp)
    if file.suffix.lower() in PLAIN_FORMATS:
        return _plain_image(file, mpp=mpp)
    raise UnreadableSlideError(f"{file}: OpenSlide does not know this format, and it is no plain PNG, JPEG or TIFF")


class OpenSlideSlide(PyramidSlide):
    """A slide read by OpenSlide. Pickles as its path: each process opens its own handle."""

    def __init__(self, path: Path, *, mpp: float | None = None) -> None:
        super().__init__(path=str(path), name=path.name, mpp=mpp)
        self._asked_mpp = mpp
        try:
            self._handle = openslide.OpenSlide(str(path))
        except openslide.OpenSlideError as error:
            raise UnreadableSlideError(f"{path}: OpenSlide cannot open it: {error}") from error
        self._sizes = tuple((int(w), int(h)) for w, h in self._handle.level_dimensions)
        if mpp is None:
            self._mpp = _stored_mpp(self._handle.properties)

    @property
    def properties(self) -> Mapping[str, str]:
        """OpenSlide's properties of the file."""
        return dict(self._handle.properties)

    @property
    def associated_images(self) -> Mapping[str, RGB]:
        return {name: _on_white(image) for name, image in self._handle.associated_images.items()}

    def close(self) -> None:
        self._handle.close()

    def __reduce__(self) -> tuple[object, ...]:
        return (_reopen, (self.path, self._asked_mpp))

    def _level_sizes(self) -> tuple[tuple[int, int], ...]:
        return self._sizes

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        (full_w, full_h), (level_w, level_h) = self._sizes[0], self._sizes[level]
        # OpenSlide wants level-0 coordinates; whole level pixels, so that it does not resample.
        corner = (round(x * full_w / level_w), round(y * full_h / level_h))
        try:
            region = self._handle.read_region(corner, level, (width, height))
        except openslide.OpenSlideError as error:
            raise UnreadableSlideError(
                f"{self.path}: cannot read {width}×{height} px at ({corner[0]}, {corner[1]}), level {level}: {error}. "
                "The file is damaged or incomplete; copy it again from the scanner."
            ) from error
        return _on_white(region)


def _reopen(path: str, mpp: float | None) -> OpenSlideSlide:
    return OpenSlideSlide(Path(path), mpp=mpp)


def _stored_mpp(properties: Mapping[str, str]) -> float | None:
    values = [properties.get(openslide.PROPERTY_NAME_MPP_X), properties.get(openslide.PROPERTY_NAME_MPP_Y)]
    numbers = [float(v) for v in values if v is not None]
    return sum(numbers) / len(numbers) if numbers and min(numbers) > 0 else None


def _on_white(image: Image.Image) -> RGB:
    if image.mode != "RGBA":
        return np.array(image.convert("RGB"))
    rgba = np.asarray(image)
    if rgba[..., 3].min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    paper = Image.new("RGB", image.size, WHITE)
    paper.paste(image, mask=image.getchannel("A"))
    return np.array(paper)


def _plain_image(file: Path, *, mpp: float | None) -> ArraySlide:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's, of large images and of odd metadata
            with Image.open(file) as image:
                pixels = _on_white(image if image.mode == "RGBA" else image.convert("RGB"))
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

"""The OpenSlide door: every format that OpenSlide reads."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from qp2train.core.view import View
from qp2train.errors import SlideError, SlideNotFoundError, UnreadableSlideError
from qp2train.slides.derived import seen_as
from qp2train.slides.slide import RGB, ArraySlide, PyramidSlide

WHITE = (255, 255, 255)
PLAIN_FORMATS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
IMAGE_DESCRIPTION = 270  # TIFF's number of it
# A plain image is held in memory whole: half a GB. PIL refuses twice its MAX_IMAGE_PIXELS.
MAX_PLAIN_PIXELS = 178_956_970


# (width, height) and (x, y, width, height) of what is not empty → the view
Shown = Callable[[tuple[int, int], tuple[int, int, int, int] | None], View]


def open_slide(path: str | os.PathLike[str], *, mpp: float | None = None, view: str | None = None) -> PyramidSlide:
    """Open a slide, or a plain PNG, JPEG or TIFF image.

    Some files (MIRAX, Leica, Ventana …) say which part of them is not empty. QuPath shows that part only, and counts
    pixels from its corner; so do we, lest a GeoJSON file that QuPath wrote lie beside the tissue. `view=""` opens
    such a file whole.

    Args:
        path: The image file.
        mpp: µm per full-resolution pixel; overrides what the file says.
        view: The `view` of an opened slide, to open it again; "" = the whole file.

    Raises:
        SlideNotFoundError: There is no such file.
        UnreadableSlideError: No reader understands the file, or it is damaged.
        SlideError: `mpp` or `view` is nonsense.
    """
    if view is None:
        return open_image(path, mpp=mpp, as_shown=lambda size, bounds: View(*(bounds or (0, 0, *size))))
    parsed = View.parse(view) if view else None
    return open_image(path, mpp=mpp, as_shown=lambda size, _: parsed or View(0, 0, *size))


def open_image(path: str | os.PathLike[str], *, mpp: float | None, as_shown: Shown) -> PyramidSlide:
    """As `open_slide`; `as_shown` decides on the view once the file's size, and what of it is not empty, are known."""
    slide = _whole(path, mpp=mpp)
    bounds = slide.bounds if isinstance(slide, OpenSlideSlide) else None
    return seen_as(slide, as_shown(slide.size, bounds))


def _whole(path: str | os.PathLike[str], *, mpp: float | None) -> PyramidSlide:
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
    def bounds(self) -> tuple[int, int, int, int] | None:
        """(x, y, width, height) of what is not empty, where the file says so."""
        return stored_bounds(self._handle.properties)

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


def stored_bounds(properties: Mapping[str, str]) -> tuple[int, int, int, int] | None:
    """(x, y, width, height) of the part that is not empty; None unless all four are given, as in QuPath.

    Source: qupath.lib.images.servers.openslide.OpenslideImageServer.
    """
    try:
        x, y = int(properties[openslide.PROPERTY_NAME_BOUNDS_X]), int(properties[openslide.PROPERTY_NAME_BOUNDS_Y])
        width = int(properties[openslide.PROPERTY_NAME_BOUNDS_WIDTH])
        height = int(properties[openslide.PROPERTY_NAME_BOUNDS_HEIGHT])
    except (KeyError, ValueError):
        return None
    return (x, y, width, height) if min(width, height) > 0 else None


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


def _check_plain(image: Image.Image, file: Path) -> None:
    """Refuse what would be shown, but wrongly: PIL cuts more than 8 bits off, and shows the first image of a stack."""
    if image.mode[0] in "IF":
        raise UnreadableSlideError(
            f"{file} has more than 8 bits per pixel (fluorescence?); qp2train reads 8-bit RGB and grey images"
        )
    said = str(getattr(image, "tag_v2", {}).get(IMAGE_DESCRIPTION, ""))
    stack = re.match(r"ImageJ=.*?^images=(\d+)", said, re.DOTALL | re.MULTILINE)
    if stack and int(stack[1]) > 1:
        raise UnreadableSlideError(
            f"{file} is an ImageJ stack of {stack[1][:9]} images (channels, slices or times); qp2train reads flat RGB "
            "and grey images"
        )


def _plain_image(file: Path, *, mpp: float | None) -> ArraySlide:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's, of large images and of odd metadata
            with Image.open(file) as image:
                _check_plain(image, file)
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

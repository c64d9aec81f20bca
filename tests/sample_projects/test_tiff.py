"""The pyramid as OpenSlide sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from qp2train.sample.tiff import write_pyramid


@pytest.fixture
def image() -> np.ndarray:
    y, x = np.indices((500, 613))
    return np.stack([x // 3, y // 3, (x + y) // 6], axis=-1).astype(np.uint8)


def test_openslide_reads_levels_and_pixel_size(tmp_path: Path, image: np.ndarray) -> None:
    with openslide.OpenSlide(write_pyramid(tmp_path / "a.tiff", image, mpp=0.5)) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((613, 500), (306, 250), (153, 125), (76, 62))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5)


def test_pixels_come_back_as_jpeg_leaves_them(tmp_path: Path, image: np.ndarray) -> None:
    path = write_pyramid(tmp_path / "a.tiff", image)
    with openslide.OpenSlide(path) as slide:
        full = np.asarray(slide.read_region((0, 0), 0, (613, 500)).convert("RGB")).astype(int)
        small = np.asarray(slide.read_region((0, 0), 1, (306, 250)).convert("RGB")).astype(int)
    assert np.abs(full - image).mean() < 2
    assert np.abs(small - image[::2, ::2][:250, :306]).mean() < 2
    assert np.abs(full - tifffile.imread(path)).max() <= 4  # two JPEG decoders, chroma interpolated alike


def test_tags_say_tiled_jpeg_and_reduced(tmp_path: Path, image: np.ndarray) -> None:
    with tifffile.TiffFile(write_pyramid(tmp_path / "a.tiff", image)) as tiff:
        assert [page.subfiletype for page in tiff.pages] == [0, 1, 1, 1]
        page = tiff.pages[0]
        assert (page.tilewidth, page.tilelength) == (256, 256)
        assert page.compression == tifffile.COMPRESSION.JPEG
        assert page.tags["YCbCrSubSampling"].value == (2, 2)


def test_same_image_same_bytes(tmp_path: Path, image: np.ndarray) -> None:
    one, two = (write_pyramid(tmp_path / name, image).read_bytes() for name in ("a.tiff", "b.tiff"))
    assert one == two

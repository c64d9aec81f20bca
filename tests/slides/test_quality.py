"""Blank, blurred and marked pictures are refused, real ones are not; a picture seen before is known again."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.filters import gaussian

from qp2train import Box, open_slide
from qp2train.slides.quality import Duplicates, faults
from qp2train.slides.tissue import tissue_mask

GLASS, EOSIN, NUCLEUS, DAB = (243, 242, 244), (226, 160, 200), (92, 62, 132), (122, 74, 42)
# As an overview shows markers on glass, and as they look over tissue.
INKS = {"blue": (30, 90, 200), "green": (40, 140, 70), "red": (215, 25, 40), "black": (25, 25, 28)}
MPP = 0.62


def tissue(seed: int = 0, *, nuclei: tuple[int, int, int] = NUCLEUS, size: int = 256) -> np.ndarray:
    """Nuclei of 5 µm on eosin, with fibres and noise, in focus."""
    rng = np.random.default_rng(seed)
    fibres = gaussian(rng.normal(0, 1, (size, size)), (0.7, 4))
    picture = EOSIN + 25 * (fibres / fibres.std())[..., None] * (0.4, 1, 0.6)
    yy, xx = np.mgrid[:size, :size]
    for x, y in rng.uniform(0, size, (size * size // 500, 2)):
        picture[(xx - x) ** 2 + (yy - y) ** 2 < 16] = nuclei
    picture = gaussian(picture, 0.6, channel_axis=2) + rng.normal(0, 3, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def glass(size: int = 256) -> np.ndarray:
    return np.clip(GLASS + np.random.default_rng(0).normal(0, 2, (size, size, 3)), 0, 255).astype(np.uint8)


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    return np.clip(gaussian(picture.astype(float), sigma, channel_axis=2) + 0.5, 0, 255).astype(np.uint8)


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def stroke(picture: np.ndarray, ink: str, width: int) -> np.ndarray:
    """A stroke across the picture: as much of the light goes through as through ink and through what is below."""
    marked = picture.astype(float)
    marked[:, 60 : 60 + width] *= np.divide(INKS[ink], 255)
    return marked.astype(np.uint8)


def real(folder: Path, size: int, mpp: float, most: int = 12) -> Iterator[np.ndarray]:
    """Patches of the slides of a folder, evenly drawn of their tissue."""
    for path in sorted(folder.glob("*.tiff")):
        with open_slide(path) as slide:
            overview = slide.thumbnail(600)
            scale, side = slide.size[0] / overview.shape[1], size * mpp / slide.mpp
            ys, xs = np.nonzero(tissue_mask(overview))
            for i in np.linspace(0, len(xs) - 1, most).astype(int):
                yield slide.read(Box(xs[i] * scale - side / 2, ys[i] * scale - side / 2, side, side), (size, size))


def test_tissue_in_focus_has_no_fault():
    assert faults(tissue(), mpp=MPP) == frozenset()


@pytest.mark.parametrize("nuclei", [(130, 140, 175), DAB, (70, 40, 90)], ids=["immuno", "DAB", "dark"])
def test_other_stains_are_no_ink(nuclei):
    picture = tissue(nuclei=nuclei)
    picture[:, 100:180] = np.clip(np.array(nuclei) + np.random.default_rng(0).normal(0, 8, (256, 80, 3)), 0, 255)
    assert "pen" not in faults(picture, mpp=MPP)


def test_glass_is_blank_also_when_grey_or_black():
    assert faults(glass(), mpp=MPP) == {"blank"}
    for level in (255, 225, 120):
        assert faults(np.full((64, 64, 3), level, np.uint8), mpp=MPP) == {"blank"}
    assert "blank" in faults(np.zeros((64, 64, 3), np.uint8), mpp=MPP)


@pytest.mark.parametrize(("rows", "expected"), [(8, {"blank"}), (32, set())])
def test_a_rim_of_tissue_of_three_percent_is_blank_one_of_twelve_is_not(rows, expected):
    picture = glass()
    picture[:rows] = tissue()[:rows]
    assert faults(picture, mpp=MPP) == expected


@pytest.mark.parametrize("size", [64, 256, 400])
def test_lost_focus_is_found_at_any_size(size):
    picture = tissue(size=size)
    assert faults(picture, mpp=MPP) == frozenset()
    assert faults(blurred(picture, 4), mpp=MPP) == {"blur"}
    assert faults(jpeg(blurred(picture, 4), 80), mpp=MPP) == {"blur"}


def test_focus_is_judged_on_tissue_not_on_the_glass_beside_it():
    picture = glass()
    picture[:, :90] = tissue()[:, :90]
    assert faults(picture, mpp=MPP) == frozenset()
    assert faults(blurred(picture, 4), mpp=MPP) == {"blur"}


def test_a_loss_of_focus_finer_than_the_pixels_does_no_harm():
    picture = blurred(tissue(size=512), 1.5)
    coarse = picture.reshape(128, 4, 128, 4, 3).mean(axis=(1, 3)).astype(np.uint8)
    assert "blur" not in faults(coarse, mpp=4 * MPP)


@pytest.mark.parametrize("ink", INKS)
def test_a_pen_on_glass_and_over_tissue(ink):
    assert faults(stroke(glass(), ink, 80), mpp=MPP) - {"blank", "blur"} == {"pen"}
    assert "pen" in faults(stroke(tissue(), ink, 80), mpp=MPP)


def test_specks_of_ink_are_no_pen_mark():
    picture = tissue()
    picture[100:110, 100:110] = INKS["green"]
    assert faults(picture, mpp=MPP) == frozenset()


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (3, 200)])
@pytest.mark.parametrize("mpp", [0.1, 0.5, 50.0])
def test_pictures_of_any_shape_and_scale(shape, mpp):
    picture = np.full((*shape, 3), EOSIN, np.uint8)
    assert faults(picture, mpp=mpp) <= {"blank", "blur", "pen"}
    known = Duplicates()
    assert [known.seen(picture), known.seen(picture)] == [False, True]


@pytest.mark.parametrize(("size", "mpp"), [(256, 0.62), (128, 0.5), (256, 1.24)])
def test_real_tissue_is_kept_and_its_blurred_copy_refused(shared_data, size, mpp):
    pictures = list(real(shared_data / "glas" / "slides", size, mpp))
    assert len(pictures) == 60
    assert [sorted(found) for p in pictures if (found := faults(p, mpp=mpp) - {"blank"})] == []
    lost = [faults(blurred(p, 4 * 0.62 / mpp), mpp=mpp) for p in pictures if not faults(p, mpp=mpp)]
    assert sum("blur" in found for found in lost) == len(lost) > 55


def test_real_nuclei_tiles_are_kept(shared_data):
    tiles = [np.asarray(Image.open(p).convert("RGB")) for p in sorted((shared_data / "nuclei/images").glob("*.png"))]
    assert len(tiles) == 107
    assert [sorted(faults(t, mpp=0.25)) for t in tiles] == [[]] * 107


def test_the_same_picture_is_known_again():
    known = Duplicates()
    assert not known.seen(tissue(0))
    assert known.seen(tissue(0))
    assert known.seen(jpeg(tissue(0), 60))
    assert known.seen((tissue(0) * 0.9 + 8).astype(np.uint8))
    assert len(known) == 1


def test_another_place_of_the_same_tissue_is_not_known():
    known = Duplicates()
    assert [known.seen(tissue(seed, size=128)) for seed in range(30)] == [False] * 30
    assert len(known) == 30


def test_moved_a_little_it_is_known_moved_a_quarter_it_is_not():
    large = tissue(size=384)
    known = Duplicates()
    assert not known.seen(large[50:306, 50:306])
    for dx, dy in ((10, 0), (0, -10), (7, 7), (-7, 7)):
        assert known.seen(large[50 + dy : 306 + dy, 50 + dx : 306 + dx])
    assert not known.seen(large[50:306, 114:370])


def test_mirrored_it_is_another():
    known = Duplicates()
    assert not known.seen(tissue())
    assert not known.seen(tissue()[:, ::-1])


def test_pictures_that_show_nothing_are_all_the_same():
    known = Duplicates()
    assert not known.seen(glass())
    assert known.seen(np.full((64, 64, 3), 255, np.uint8))
    assert not known.seen(tissue())


def test_more_pictures_than_there_was_room_for():
    known = Duplicates()
    pictures = [tissue(seed, size=32) for seed in range(4)]
    rng = np.random.default_rng(0)
    for picture in pictures:
        known.seen(picture)
    for _ in range(1100):
        known.seen(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8))
    assert len(known) == 1104
    assert all(known.seen(picture) for picture in pictures)


def test_real_neighbours_are_different_and_real_copies_the_same(shared_data):
    with open_slide(shared_data / "glas" / "slides" / "p02.tiff") as slide:
        known, places = Duplicates(), [(300 + 256 * i, 300 + 256 * j) for i in range(3) for j in range(2)]
        for x, y in places:
            assert not known.seen(slide.read(Box(x, y, 256, 256), (256, 256))), (x, y)
        for x, y in places:
            assert known.seen(slide.read(Box(x + 8, y - 6, 256, 256), (256, 256))), (x, y)

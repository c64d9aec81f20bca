import numpy as np
import pytest
from PIL import Image

from qp2train import open_slide
from qp2train.slides.tissue import tissue_mask

GLASS, PINK = (242, 241, 243), (220, 150, 190)


def picture(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (120, 160)) -> np.ndarray:
    """Pink boxes (x0, y0, x1, y1) on noisy glass."""
    image = np.empty((*shape, 3))
    image[:] = GLASS
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = PINK
    return np.clip(image + np.random.default_rng(0).normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def test_the_tissue_and_nothing_else():
    mask = tissue_mask(picture((30, 20, 110, 90)))
    assert mask.shape == (120, 160)
    assert mask.dtype == bool
    assert mask[25:85, 35:105].all()
    assert not mask[:, :20].any()
    assert not mask[100:].any()
    assert mask.sum() == pytest.approx(80 * 70, rel=0.08)


def test_dust_is_left_out_and_small_holes_are_filled():
    image = picture((30, 20, 110, 90), (5, 5, 9, 9))
    image[50:54, 60:64] = GLASS
    mask = tissue_mask(image)
    assert not mask[:12, :12].any()
    assert mask[50:54, 60:64].all()


def test_wide_lumina_stay_glass():
    image = picture((30, 20, 110, 90))
    image[40:70, 50:90] = GLASS
    assert not tissue_mask(image)[48:62, 58:82].any()


def test_pure_glass_has_no_tissue():
    assert not tissue_mask(picture()).any()
    assert not tissue_mask(np.full((50, 50, 3), 255, np.uint8)).any()
    assert not tissue_mask(np.full((50, 50, 3), 230, np.uint8)).any()


def test_a_picture_that_is_all_tissue():
    assert tissue_mask(picture((0, 0, 160, 120))).all()
    assert tissue_mask(np.full((50, 50, 3), PINK, np.uint8)).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 3)])
def test_tiny_pictures(shape):
    assert tissue_mask(np.full((*shape, 3), 255, np.uint8)).shape == shape


def test_real_slides_tissue_is_where_the_fields_are(shared_data):
    """The fields of these slides lie on white: tissue is in them, and there is none outside."""
    folder = shared_data / "glas"
    for path in sorted((folder / "slides").glob("*.tif*")):
        valid = next((folder / "groundtruth").glob(f"*{path.stem.split('.')[0]}*valid*"), None)
        if valid is None:
            pytest.skip(f"no mask of the fields of {path.name}")
        with open_slide(path) as slide:
            overview = slide.thumbnail(1000)
        fields = np.asarray(Image.open(valid).resize(overview.shape[1::-1], Image.Resampling.NEAREST)) > 0
        mask = tissue_mask(overview)
        assert (mask & fields).sum() / fields.sum() > 0.8, path.name
        assert (mask & ~fields).sum() / mask.sum() < 0.05, path.name

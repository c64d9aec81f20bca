import cv2
import numpy as np
import pytest

from qp2train.errors import Qp2trainError
from qp2train.learn.augment import Augmentation, _geometry, apply

STRENGTHS = ["none", "flips", "medium", "strong"]


def patch(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture that is its mask: white where 1, black where 0, in large blots."""
    rng = np.random.default_rng(3)
    mask = (cv2.GaussianBlur(rng.random((side, side)), (0, 0), 9) > 0.5).astype(np.uint8)
    return np.repeat(255 * mask[..., None], 3, axis=2), mask


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("size", [64, 65, 33])
def test_what_comes_out_is_as_large_as_asked(strength, size):
    augmentation = Augmentation(size, strength)
    image, mask = apply(augmentation.compose(), *patch(augmentation.read_px), seed=1)
    assert image.shape == (size, size, 3)
    assert mask.shape == (size, size)
    assert image.dtype == mask.dtype == np.uint8


@pytest.mark.parametrize("strength", STRENGTHS)
def test_same_seed_same_result_also_in_another_pipeline_and_out_of_order(strength):
    augmentation = Augmentation(64, strength)
    one, other = augmentation.compose(), augmentation.compose()
    pair = patch(augmentation.read_px)
    first = [apply(one, *pair, seed=s) for s in range(6)]
    again = [apply(other, *pair, seed=s) for s in reversed(range(6))][::-1]
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a[0], b[0])
        assert np.array_equal(a[1], b[1])
    if strength != "none":
        assert len({a[0].tobytes() for a in first}) > 1


def test_none_changes_nothing():
    image, mask = patch(40)
    out = apply(Augmentation(40, "none").compose(), image, mask, seed=5)
    assert np.array_equal(out[0], image)
    assert np.array_equal(out[1], mask)


def test_flips_are_the_eight_symmetries_of_the_square():
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), rng.integers(0, 3, (9, 9)).astype(np.uint8)
    allowed = {
        (np.rot90(i, k).tobytes(), np.rot90(m, k).tobytes())
        for i, m in ((image, mask), (image[:, ::-1], mask[:, ::-1]))
        for k in range(4)
    }
    transform = Augmentation(9, "flips").compose()
    seen = {tuple(a.tobytes() for a in apply(transform, image, mask, seed=s)) for s in range(100)}
    assert seen == allowed


@pytest.mark.parametrize("size", [64, 65])
def test_picture_and_mask_stay_aligned(size):
    """The geometry alone, on a picture that is its mask: they differ along the outlines at most."""
    import albumentations as A

    augmentation = Augmentation(size, "medium")
    transform = A.Compose([*_geometry(size)])
    for seed in range(30):
        image, mask = apply(transform, *patch(augmentation.read_px), seed=seed)
        white = image[..., 0] > 127
        # Both are interpolated twice, the mask by the nearest pixel: they differ along the outlines only.
        assert (white == (mask == 1)).mean() > 0.98
        shifted = [
            (np.roll(white, by, axis)[2:-2, 2:-2] == (mask == 1)[2:-2, 2:-2]).mean()
            for by in (-2, 2)
            for axis in (0, 1)
        ]
        assert max(shifted) < (white == (mask == 1))[2:-2, 2:-2].mean()


@pytest.mark.parametrize("strength", ["medium", "strong"])
def test_no_class_is_made_up(strength):
    augmentation = Augmentation(48, strength)
    image, mask = patch(augmentation.read_px)
    mask = np.where(mask == 1, 7, 200).astype(np.uint8)
    transform = augmentation.compose()
    values = {int(v) for s in range(40) for v in np.unique(apply(transform, image, mask, seed=s)[1])}
    assert values <= {7, 200, 255}


@pytest.mark.parametrize("strength", STRENGTHS)
def test_what_was_read_is_not_written_on(strength):
    augmentation = Augmentation(48, strength)
    image, mask = patch(augmentation.read_px)
    kept = image.copy(), mask.copy()
    transform = augmentation.compose()
    for seed in range(40):
        apply(transform, image, mask, seed=seed)
    assert np.array_equal(image, kept[0])
    assert np.array_equal(mask, kept[1])


def test_a_rotated_patch_is_read_larger_so_that_its_corners_are_real():
    assert Augmentation(100, "none").read_px == Augmentation(100, "flips").read_px == 100
    assert Augmentation(100, "medium").read_px == 140


def test_an_unknown_strength_names_the_known():
    with pytest.raises(Qp2trainError, match=r"none, flips, medium, strong, not 'wild'"):
        Augmentation(64, "wild")


def test_the_global_generators_are_left_alone():
    import random

    np.random.seed(5)
    random.seed(5)
    before = np.random.get_state()[1].tolist(), random.getstate()
    apply(Augmentation(32, "strong").compose(), *patch(45), seed=1)
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before

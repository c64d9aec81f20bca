"""Augmentation: what another slide, scanner or stain could have looked like (albumentations)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from qp2train.core.labels import IGNORE
from qp2train.errors import Qp2trainError

Strength = Literal["none", "flips", "medium", "strong"]

# A patch is read this much larger than it is used, so that a rotated or shifted one has no made-up corners.
CONTEXT = 1.4


@dataclass(frozen=True)
class Augmentation:
    """A seeded augmentation of one patch and its mask.

    Args:
        size_px: Side of what comes out.
        strength: "none"; "flips" (and quarter turns); "medium": also rotation, scale, elastic deformation,
            stain (optical density, haematoxylin and eosin), hue, brightness, sharpness and noise; "strong":
            wider ranges of stain and sharpness, for few patients.
    """

    size_px: int
    strength: Strength = "medium"

    def __post_init__(self) -> None:
        if self.strength not in get_args(Strength):
            raise Qp2trainError(f"augment must be one of {', '.join(get_args(Strength))}, not {self.strength!r}")

    @property
    def read_px(self) -> int:
        """The side of the patch to read, in patch pixels: `size_px`, or more if it will be turned."""
        if self.strength in ("none", "flips"):
            return self.size_px
        return self.size_px + 2 * round(self.size_px * (CONTEXT - 1) / 2)  # whole pixels on each side

    def compose(self) -> A.Compose:
        """The transforms. `fill_mask` is the ignore value: a made-up corner costs nothing."""
        if self.strength == "none":
            return A.Compose([])
        if self.strength == "flips":
            return A.Compose([A.D4(p=1)])
        wide = self.strength == "strong"
        return A.Compose([*_geometry(self.size_px), *_stain(wide=wide), *_optics(wide=wide)])


def apply(
    transform: A.Compose, image: NDArray[np.uint8], mask: NDArray[np.uint8], *, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One augmented (image H×W×3, mask H×W), both uint8. The same seed gives the same result in any process.

    A mask may be several, (C, H, W).
    """
    if not transform.transforms:
        return image, mask
    transform.set_random_seed(seed)
    if mask.ndim == 3:
        several = transform(image=image, masks=list(mask))
        return several["image"], np.stack(several["masks"])
    out = transform(image=image, mask=mask)
    return out["image"], out["mask"]


def _geometry(size: int) -> Sequence[A.BasicTransform]:
    return (
        A.D4(p=1),
        A.Affine(
            scale=(0.75, 1.35),
            rotate=(-45, 45),
            shear=(-8, 8),
            border_mode=cv2.BORDER_REFLECT_101,
            fill_mask=IGNORE,
            p=0.7,
        ),
        A.ElasticTransform(alpha=40, sigma=6, border_mode=cv2.BORDER_REFLECT_101, p=0.25),
        A.CenterCrop(size, size),
    )


def _stain(*, wide: bool) -> Sequence[A.BasicTransform]:
    """Gamma g multiplies the optical density by g: a thicker section, a longer bath. Both sides equally often."""
    low, high = (40, 250) if wide else (60, 170)
    return (
        A.OneOf([A.RandomGamma((low, 100), p=1), A.RandomGamma((100, high), p=1)], p=0.8 if wide else 0.5),
        A.HEStain(
            method="random_preset",
            intensity_scale_range=(0.75, 1.25),
            intensity_shift_range=(-0.05, 0.05),
            augment_background=True,
            p=0.2,
        ),
        A.HueSaturationValue(8, 15, 8, p=0.5),
        A.RandomBrightnessContrast(0.1, 0.1, p=0.5),
    )


def _optics(*, wide: bool) -> Sequence[A.BasicTransform]:
    """Scanners differ in sharpness as much as in colour; some sharpen what they save."""
    focus = A.OneOf(
        [
            A.GaussianBlur(sigma_limit=(0.3, 1.5 if wide else 1.2), blur_limit=0),
            A.Sharpen(alpha=(0.1, 0.6 if wide else 0.4)),
            A.Downscale(scale_range=(0.5, 0.9)),
        ],
        p=0.5 if wide else 0.25,
    )
    return focus, A.GaussNoise(std_range=(0.01, 0.05), p=0.25)

"""Masks laid over pictures, for the report."""

from __future__ import annotations

import io
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qp2train.core.labels import LabelMap
from qp2train.report.figures import Picture, outlined

Value = TypeVar("Value", np.uint8, np.float32)

GAP_PX = 8
WHITE = 255


def beside(left: Picture, *others: Picture) -> Picture:
    """Pictures of one height side by side, on white."""
    gap = np.full((left.shape[0], GAP_PX, 3), WHITE, dtype=np.uint8)
    parts = [left]
    for other in others:
        parts += [gap, other]
    return np.concatenate(parts, axis=1)


def truth_and_prediction(
    picture: Picture, truth: Picture, predicted: Picture | None, labels: LabelMap, *, alpha: float = 0.25
) -> Picture:
    """The picture with the annotation, and beside it with the prediction.

    Args:
        picture: H×W×3 uint8.
        truth: H×W uint8, as `Painter` paints it; what is ignored is greyed out.
        predicted: H×W uint8; None = there is none.
        labels: Classes and colours.
        alpha: Opacity of the areas.
    """
    left = outlined(picture, truth, labels, alpha=alpha)
    return left if predicted is None else beside(left, outlined(picture, predicted, labels, alpha=alpha))


def heated(picture: Picture, heat: NDArray[np.float32], color: tuple[int, int, int], *, alpha: float = 0.65) -> Picture:
    """The picture, the more tinted the hotter.

    Args:
        picture: H×W×3 uint8.
        heat: H×W, 0–1.
        color: The tint.
        alpha: Its opacity where the heat is 1.
    """
    strength = alpha * heat[..., None]
    return np.asarray(((1 - strength) * picture + strength * np.array(color)).round(), dtype=np.uint8)


def nearest(mask: NDArray[Value], size: tuple[int, int]) -> NDArray[Value]:
    """A mask or map in another size (width, height), each pixel the nearest one's value."""
    rows = ((np.arange(size[1]) + 0.5) * mask.shape[0] / size[1]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) * mask.shape[1] / size[0]).astype(int)
    resized: NDArray[Value] = mask[rows[:, None], columns[None, :]]
    return resized


def jpeg(picture: Picture, *, quality: int = 85) -> bytes:
    """The picture as a file. Colours are kept at full resolution: thin outlines are coloured."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()

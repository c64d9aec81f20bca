"""Prompt and PromptModel: what a human points at, and what answers with masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qp2train.core.clicks import BitMask
from qp2train.errors import PromptError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Prompt:
    """Clicks, a box, an earlier mask, or several of them, in pixels of a view, corners at integers.

    Args:
        points: (x, y) of each click, in the order of clicking. Clicks outside of the view have no effect.
        labels: Of each click, 1 = this belongs to the object, 0 = this does not.
        box: (left, top, right, bottom) round the object; it may leave the view.
        mask: (H, W) bool, the object as it was outlined so far; without any pixel it says nothing.

    Raises:
        PromptError: Nothing is prompted, a number is not finite, a label is missing or neither 0 nor 1, or a box is
            empty.
    """

    points: Sequence[tuple[float, float]] = ()
    labels: Sequence[int] = ()
    box: tuple[float, float, float, float] | None = None
    mask: BitMask | None = None

    def __post_init__(self) -> None:
        if len(self.points) != len(self.labels):
            raise PromptError(
                f"each click needs a label: there are {len(self.points)} points, {len(self.labels)} labels"
            )
        if wrong := [label for label in self.labels if label not in (0, 1)]:
            raise PromptError(f"a click's label is 1 (belongs to the object) or 0 (does not), not {wrong[0]!r}")
        object.__setattr__(self, "labels", tuple(map(int, self.labels)))
        object.__setattr__(
            self, "points", tuple(_numbers(p, "a click is two finite numbers (x, y)", 2) for p in self.points)
        )
        if self.box is not None:
            said = "a box is four finite numbers (left, top, right, bottom)"
            object.__setattr__(self, "box", _numbers(self.box, said, 4))
            self._check_box(self.box)
        if self.mask is not None and (self.mask.ndim != 2 or self.mask.dtype != np.bool_):
            raise PromptError(f"a mask is a bool array (H, W), not {self.mask.dtype} {self.mask.shape}")
        if not self.points and self.box is None and self.mask is None:
            raise PromptError("nothing is prompted: give points, a box or a mask")

    def within(self, height: int, width: int) -> Prompt:
        """The prompt as it counts in a view of this size: without clicks, and without a box, beyond it.

        Its mask is empty if it has none.

        Raises:
            PromptError: The mask is of another size.
        """
        if self.mask is not None and self.mask.shape != (height, width):
            raise PromptError(f"the mask is {self.mask.shape[1]}×{self.mask.shape[0]}, the view {width}×{height}")
        clicks = [
            (point, label)
            for point, label in zip(self.points, self.labels, strict=True)
            if 0 <= point[0] < width and 0 <= point[1] < height
        ]
        mask = np.zeros((height, width), np.bool_) if self.mask is None else self.mask
        box = self.box
        if box is not None and not (box[0] < width and box[1] < height and box[2] > 0 and box[3] > 0):
            box = None
        return Prompt([p for p, _ in clicks], [label for _, label in clicks], box, mask)

    @staticmethod
    def _check_box(box: tuple[float, float, float, float]) -> None:
        if box[2] <= box[0] or box[3] <= box[1]:
            raise PromptError(f"the box {box!r} is empty: it is (left, top, right, bottom)")


@dataclass(frozen=True, eq=False)
class Candidate:
    """One answer to a prompt.

    Args:
        mask: (H, W) bool, of the view's size.
        iou: How well it fits the meant object, as the model thinks, 0–1.
    """

    mask: BitMask
    iou: float


class EncodedView(Protocol):
    """A picture that a model has looked at: prompts are answered cheaply, as often as asked."""

    def predict(self, prompt: Prompt) -> list[Candidate]:
        """What the prompt may mean, the best first; a mask may be empty."""


class PromptModel(Protocol):
    """What answers prompts: expensive once per view, cheap per prompt."""

    @property
    def id(self) -> str:
        """What is kept with the objects that it makes."""

    def encode(self, image: Pixels) -> EncodedView:
        """Look at a view: (H, W, 3) uint8, RGB in [0, 255]."""


def check_image(image: Pixels) -> None:
    """Refuse what is no picture of a view.

    Raises:
        PromptError: Another type or shape, or no pixel.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise PromptError(f"a view is a uint8 array (H, W, 3) of at least one pixel, not {image.dtype} {image.shape}")


def _numbers(given: Sequence[float], form: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(map(float, given))
    except (TypeError, ValueError) as error:
        raise PromptError(f"{form}, not {given!r}") from error
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise PromptError(f"{form}, not {given!r}")
    return numbers

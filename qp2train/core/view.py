"""View: a rectangle of a picture, mirrored, turned and with its channels in another order."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qp2train.core.geometry import Box
from qp2train.errors import SlideError

CHANNELS = "RGB"
Flip = Literal["horizontal", "vertical"]
_TEXT = re.compile(r"(-?\d+),(-?\d+) (\d+)x(\d+)(?: mirrored)?(?: turned (?:90|180|270))?(?: [RGB]{3})?")
_DIGITS = 15  # int(…) of a hostile table takes no time


@dataclass(frozen=True, slots=True)
class View:
    """What QuPath's cropped, rotated and flipped images show of the file below them.

    However these are nested, they come to one rectangle of the file, that is mirrored (or not), then turned by quarter
    turns. Annotations are in the view's own pixels.

    Args:
        x: Left edge of the rectangle, in full-resolution px of the file.
        y: Top edge.
        width: Of the rectangle, before it is turned.
        height: Of the rectangle, before it is turned.
        mirrored: Left and right change places, before the turns.
        turns: Quarter turns, clockwise, 0 to 3.
        order: Which channels of the file are shown as red, green and blue.
    """

    x: int
    y: int
    width: int
    height: int
    mirrored: bool = False
    turns: int = 0
    order: str = CHANNELS

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as shown."""
        return (self.height, self.width) if self.turns % 2 else (self.width, self.height)

    def cropped(self, x: int, y: int, width: int, height: int) -> View:
        """A part of what is shown. It may reach beyond the rectangle: then it shows what the file has there."""
        box = self.to_file(Box(x, y, width, height))
        return replace(self, x=int(box.x), y=int(box.y), width=int(box.width), height=int(box.height))

    def turned(self, quarters: int) -> View:
        """What is shown, turned clockwise."""
        return replace(self, turns=(self.turns + quarters) % 4)

    def flipped(self, how: Flip) -> View:
        """What is shown, mirrored: "horizontal" changes left and right, "vertical" top and bottom."""
        half = 0 if how == "horizontal" else 2
        return replace(self, mirrored=not self.mirrored, turns=(half - self.turns) % 4)

    def reordered(self, order: str) -> View:
        """The channels in another order: "BGR" shows as red what was blue."""
        return replace(self, order="".join(self.order[CHANNELS.index(channel)] for channel in order))

    def to_file(self, box: Box) -> Box:
        """Where in the file a box of the view is."""
        (width, height), x, y, w, h = self.size, box.x, box.y, box.width, box.height
        for _ in range(self.turns):
            x, y, w, h = y, width - x - w, h, w
            width, height = height, width
        if self.mirrored:
            x = width - x - w
        return Box(self.x + x, self.y + y, w, h)

    def shown(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels of the file (H×W×3) as the view shows them."""
        if self.mirrored:
            pixels = pixels[:, ::-1]
        pixels = np.rot90(pixels, -self.turns)
        if self.order != CHANNELS:
            pixels = pixels[..., [CHANNELS.index(channel) for channel in self.order]]
        return np.ascontiguousarray(pixels)

    def __str__(self) -> str:
        """Such as "10,20 300x200 mirrored turned 90 BGR"; `parse` reads it."""
        parts = [f"{self.x},{self.y} {self.width}x{self.height}"]
        parts += ["mirrored"] * self.mirrored
        parts += [f"turned {90 * self.turns}"] * (self.turns > 0)
        parts += [self.order] * (self.order != CHANNELS)
        return " ".join(parts)

    @classmethod
    def parse(cls, text: str) -> View:
        """The view that `str` wrote.

        Raises:
            SlideError: It is no such text.
        """
        match = _TEXT.fullmatch(text)
        if match is None or any(len(number) > _DIGITS for number in match.groups()):
            raise SlideError(f"{text[:80]!r} is no view: expected such as '10,20 300x200 mirrored turned 90 BGR'")
        words = text.split(" ")[2:]
        turns = int(words[words.index("turned") + 1]) // 90 if "turned" in words else 0
        order = words[-1] if words and set(words[-1]) <= set(CHANNELS) else CHANNELS
        x, y, width, height = map(int, match.groups())
        if not (width and height and sorted(order) == sorted(CHANNELS)):
            raise SlideError(f"{text!r} is no view: it has no pixels, or a channel twice")
        return cls(x, y, width, height, "mirrored" in words, turns, order)

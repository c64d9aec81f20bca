"""Prompts as people would give them, simulated for training: clicks, loose boxes, rough outlines."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from qp2train.core.clicks import BitMask, extent_of

# How often training begins with a click, a box, a rough outline; and how often a click comes with the outline.
CLICK, BOX, OUTLINE = 0.55, 0.2, 0.25
AND_CLICK = 0.6
# How often 0, 1, 2 and 3 clicks follow: the first answer is the hardest, and decides how much is left to do.
MORE_CLICKS = (0.5, 0.2, 0.15, 0.15)
# An earlier outline is forgotten so often, as a fresh prompt has none.
FORGET = 0.2
# How far a box's edges are beside the object's, as a share of its sides.
LOOSE = 0.15


@dataclass
class Prompting:
    """The prompt of one view so far.

    Args:
        points: (x, y) of each click, in pixels of the view, corners at integers.
        labels: 1 = belongs, 0 = does not.
        box: (left, top, right, bottom).
        mask: (H, W) bool, the earlier outline.
    """

    points: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: tuple[float, float, float, float] | None = None
    mask: BitMask | None = None

    def click(self, predicted: BitMask, truth: BitMask, known: BitMask, rng: np.random.Generator) -> None:
        """A click more, where most is wrong, if anything is; see `error_click`."""
        found = error_click(predicted, truth, known, rng)
        if found is not None:
            self.points.append(found[:2])
            self.labels.append(found[2])


def first_prompt(truth: BitMask, known: BitMask, rng: np.random.Generator) -> Prompting:
    """How a person may begin: a click inside, a loose box, or a rough outline, mostly with a click on its worst error.

    Args:
        truth: (H, W) bool, the object.
        known: (H, W) bool, where that is known.
        rng: Decides.
    """
    prompt, kind = Prompting(), rng.random()
    nothing = np.zeros_like(truth)
    if CLICK <= kind < CLICK + BOX and truth.any():
        prompt.box = loose_box(truth, rng)
    elif kind >= CLICK + BOX and truth.any():
        prompt.mask = degraded(truth, rng)
        if rng.random() < AND_CLICK:
            prompt.click(prompt.mask, truth, known, rng)
    else:
        prompt.click(nothing, truth, known, rng)
    return prompt


def loose_box(truth: BitMask, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A box round an object, each edge up to 15 % of its sides beside it."""
    left, top, right, bottom = extent_of(truth)
    dx, dy = LOOSE * (right - left), LOOSE * (bottom - top)
    off = rng.uniform(-1, 1, 4) * [dx, dy, dx, dy]
    return float(left + off[0]), float(top + off[1]), float(right + off[2]), float(bottom + off[3])


def degraded(truth: BitMask, rng: np.random.Generator) -> BitMask:
    """What a hurried hand or a poor model makes of an object: grown, shrunk, moved, or with a part missing or more."""
    side = np.sqrt(truth.sum())
    out = truth.astype(np.uint8)
    if rng.random() < 0.7:
        width = 2 * int(rng.uniform(0.02, 0.15) * side) + 1
        brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
        changed = cv2.dilate(out, brush) if rng.random() < 0.5 else cv2.erode(out, brush)
        out = np.asarray(changed if changed.any() else out, np.uint8)
    if rng.random() < 0.5:
        dx, dy = rng.uniform(-0.2, 0.2, 2) * side
        out = np.asarray(cv2.warpAffine(out, np.array([[1, 0, dx], [0, 1, dy]]), out.shape[::-1], flags=0), np.uint8)
    for _ in range(rng.integers(0, 3)):  # a round piece taken off or put on, at a place on the outline
        edge = np.argwhere(out != np.asarray(cv2.erode(out, np.ones((3, 3), np.uint8))))
        if not len(edge):
            break
        row, column = edge[rng.integers(len(edge))]
        piece = np.zeros_like(out)
        cv2.circle(piece, (int(column), int(row)), max(1, int(rng.uniform(0.1, 0.35) * side)), 1, -1)
        out[piece > 0] = rng.random() < 0.5
    return out > 0


def error_click(
    predicted: BitMask, truth: BitMask, known: BitMask, rng: np.random.Generator
) -> tuple[float, float, int] | None:
    """A click in the deeper of what was missed and what is too much, anywhere in its inner half.

    For training, where it must be quick; scores are taken with `core.clicks.next_click`, which goes by area.

    Returns:
        (x, y, label), a pixel's middle; 1 where the object was missed. None = nothing is wrong.
    """
    missed, surplus = truth & ~predicted & known, predicted & ~truth & known
    depths = [_depth(part) for part in (missed, surplus)]
    label = 1 if depths[0].max() >= depths[1].max() else 0
    depth = depths[0 if label else 1]
    if depth.max() == 0:
        return None
    inner = np.flatnonzero(depth >= depth.max() / 2)
    row, column = divmod(int(inner[rng.integers(len(inner))]), depth.shape[1])
    return column + 0.5, row + 0.5, label


def _depth(part: BitMask) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """How far each pixel is from what is outside of the part; the view's edge is outside."""
    padded = cv2.copyMakeBorder(part.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1], np.float32)

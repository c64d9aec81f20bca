"""Simulated prompts to train with: what somebody may have pointed at to get an object outlined."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import distance_transform_edt, shift

from qp2train.refine.clicks import next_click
from qp2train.refine.prompts import BitMask, Prompt

# How often each kind of first prompt is drawn: a click; a box; the rest is a rough outline with a click.
CLICKS, BOXES = 0.6, 0.25
# By how much of its size each side of a box is off, at most.
BOX_JITTER = 0.15
# By how much of the square root of its area a rough outline is grown, shrunk or shifted, at least and at most.
ROUGH = (0.05, 0.25)


def first_prompt(truth: BitMask, valid: BitMask, rng: np.random.Generator) -> Prompt:
    """A prompt for an object before anything was answered.

    Args:
        truth: (H, W) bool, the object; not empty where `valid`.
        valid: (H, W) bool, where it is known.
        rng: Decides.
    """
    drawn = rng.random()
    if drawn < CLICKS:
        return with_click(None, np.zeros_like(truth), truth, valid, rng)
    if drawn < CLICKS + BOXES:
        return Prompt(box=jittered_box(truth & valid, rng))
    rough = degraded(truth, rng)
    return with_click(None, rough, truth, valid, rng)


def with_click(
    prompt: Prompt | None, answer: BitMask, truth: BitMask, valid: BitMask, rng: np.random.Generator
) -> Prompt:
    """The prompt with one click more, in the largest error of the answer, which becomes its mask.

    To an answer without error no click is added.
    """
    click = next_click(answer, truth, valid=valid, rng=rng)
    more = [] if click is None else [click]
    points, labels, box = ((), (), None) if prompt is None else (prompt.points, prompt.labels, prompt.box)
    return Prompt(
        [*points, *(c[:2] for c in more)],
        [*labels, *(c[2] for c in more)],
        box,
        answer if answer.any() else None,  # of an empty one the object is missing, and clicked
    )


def jittered_box(mask: BitMask, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """The box of a mask, each side off by up to 15 % of its size, and at least half a pixel large."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top, right, bottom = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
    off = rng.uniform(-BOX_JITTER, BOX_JITTER, 4) * ([right - left, bottom - top] * 2)
    x0, y0, x1, y1 = left + off[0], top + off[1], right + off[2], bottom + off[3]
    return (x0, y0, max(x1, x0 + 0.5), max(y1, y0 + 0.5))


def degraded(mask: BitMask, rng: np.random.Generator) -> BitMask:
    """A rough outline of a mask: grown, shrunk, shifted or cut, never empty.

    Args:
        mask: (H, W) bool, not empty.
        rng: Decides which of these, and how much.
    """
    by = rng.uniform(*ROUGH) * math.sqrt(float(mask.sum()))
    way = rng.integers(4)
    if way == 0:
        rough = distance_transform_edt(~mask) <= by
    elif way == 1:
        rough = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] > by
    elif way == 2:
        angle = rng.uniform(0, 2 * math.pi)
        rough = shift(mask, (by * math.sin(angle), by * math.cos(angle)), order=0)
    else:  # what lies beyond a straight line is lost
        rows, columns = np.nonzero(mask)
        angle = rng.uniform(0, 2 * math.pi)
        along = rows * math.sin(angle) + columns * math.cos(angle)
        kept = along <= np.quantile(along, rng.uniform(0.5, 0.9))
        rough = np.zeros_like(mask)
        rough[rows[kept], columns[kept]] = True
    return np.asarray(rough, np.bool_) if rough.any() else mask

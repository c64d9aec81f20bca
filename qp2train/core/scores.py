"""ScoreMap: class probabilities over a part of a slide."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qp2train.core.geometry import Box
from qp2train.core.labels import BACKGROUND, IGNORE, LabelMap

# Probabilities are kept as whole 255ths: a quarter of the memory, and finer than any model's calibration.
STEPS = 255


@dataclass(frozen=True)
class ScoreMap:
    """What a segmentation model says of a slide.

    Args:
        scores: (C, H, W) uint8, probability × 255 of background and each class; all 0 where nothing was
            predicted (glass). Large maps lie in a temporary file (numpy.memmap), not in memory.
        classmap: (H, W) uint8: the most probable class (0 = background), 255 where nothing was predicted.
        box: What the map covers, in full-resolution pixels.
        mpp: µm per map pixel.
        slide_mpp: µm per full-resolution pixel.
        labels: What the classes mean.
        overlapping: A pixel may be of several classes: each class is where its own probability is above ½, the class
            map has the most probable one of them, and background is what no class is.
    """

    scores: NDArray[np.uint8]
    classmap: NDArray[np.uint8]
    box: Box
    mpp: float
    slide_mpp: float
    labels: LabelMap
    overlapping: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the map."""
        height, width = self.classmap.shape
        return height, width

    @property
    def scale(self) -> tuple[float, float]:
        """Full-resolution pixels per map pixel, (x, y)."""
        height, width = self.shape
        return self.box.width / width, self.box.height / height

    def probability(self, class_name: str) -> NDArray[np.float32]:
        """(H, W) float32 in [0, 1] of one class ("Background" included)."""
        plane = self.scores[self.labels.names.index(class_name)]
        probability: NDArray[np.float32] = plane.astype(np.float32) / np.float32(STEPS)
        return probability

    def layer(self, class_name: str) -> ScoreMap:
        """One class and all else, as a map of its own."""
        value = self.labels.names.index(class_name)
        there = np.where(self.scores[value] > STEPS / 2, np.uint8(value), np.uint8(BACKGROUND))
        return replace(self, classmap=np.where(self.classmap == IGNORE, IGNORE, there), overlapping=False)

    def areas_mm2(self) -> dict[str, float]:
        """Class → predicted area in mm²."""
        counts = np.bincount(self.classmap.ravel(), minlength=IGNORE + 1)
        if self.overlapping:
            counts[1 : len(self.scores)] = [np.count_nonzero(plane > STEPS / 2) for plane in self.scores[1:]]
        px_mm2 = self.scale[0] * self.scale[1] * self.slide_mpp**2 / 1e6
        return {name: float(counts[i] * px_mm2) for i, name in enumerate(self.labels.names)}

    def picture(self, max_size: int = 1024) -> NDArray[np.uint8]:
        """The class map in the classes' colours on white, H×W×3 uint8, its longer side at most `max_size`."""
        step = max(1, -(-max(self.shape) // max_size))
        table = np.full((IGNORE + 1, 3), 255, dtype=np.uint8)
        for i, name in enumerate(self.labels.classes, start=1):
            table[i] = self.labels.color(name)
        table[BACKGROUND] = (245, 245, 245)
        picture: NDArray[np.uint8] = table[self.classmap[::step, ::step]]
        return picture

    def __repr__(self) -> str:
        height, width = self.shape
        return f"ScoreMap({', '.join(self.labels.classes)}; {width}×{height} at {self.mpp:g} µm/px)"

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        Image.fromarray(self.picture(400)).save(buffer, "PNG")
        src = base64.b64encode(buffer.getvalue()).decode()
        areas = self.areas_mm2()
        legend = "".join(
            f"<div><span style='background:rgb{self.labels.color(n)};padding:0 .7em'></span> "
            f"{html.escape(n)}: {areas[n]:.3f} mm²</div>"
            for n in self.labels.classes
        )
        height, width = self.shape
        return (
            f"<b>Score map</b> {width} × {height} at {self.mpp:g} µm/px{legend}"
            f"<img alt='predicted classes' style='border:1px solid #ccc' src='data:image/png;base64,{src}'>"
        )

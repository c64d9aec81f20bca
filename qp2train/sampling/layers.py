"""Annotations → one mask per class, where classes may overlap."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box
from qp2train.core.labels import BACKGROUND, IGNORE, LabelMap
from qp2train.sampling.mask import Painter


class LayerPainter:
    """Paints, for each class by itself, where it is, where it is not, and where nobody said.

    A class's layer is 1 in its annotations; 0 where somebody looked and did not draw it: in `Region*` and in the
    background's annotations (and wherever nothing is annotated, if `labels.unannotated` is "background"); else 255.
    Another class's annotation says nothing about it. What is ignored is 255 in all layers.

    Args:
        annotations: The objects of one slide, in full-resolution pixels.
        labels: The classes.
        slide_size: As for `Painter`.
    """

    def __init__(
        self, annotations: Iterable[Annotation], labels: LabelMap, *, slide_size: tuple[int, int] | None = None
    ) -> None:
        valued = [(a, labels.value_of(a.class_name)) for a in annotations]
        self._painters = []
        for value, (name, members) in enumerate(labels.merged.items(), start=1):
            one = LabelMap(
                {name: members}, background=labels.background, ignore=labels.ignore, unannotated=labels.unannotated
            )
            drawn = [a for a, v in valued if v in (value, BACKGROUND, IGNORE)]
            self._painters.append(Painter(drawn, one, slide_size=slide_size))

    def paint(self, box: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The layers of `box` (full-resolution px) in `size` = (width, height) pixels: (C, height, width) uint8."""
        return np.stack([painter.paint(box, size) for painter in self._painters])

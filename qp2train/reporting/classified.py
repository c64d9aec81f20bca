"""What a classifier says of a patch, and where it sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qp2train.core.patches import PatchTable
from qp2train.errors import ModelError, NoAnnotationError
from qp2train.infer.classify import net_of, probabilities
from qp2train.infer.gradcam import gradcam
from qp2train.infer.predict import choose_device
from qp2train.learn.classdata import ClassifiedPatches, scale_tables
from qp2train.learn.models import Model
from qp2train.learn.patchlabels import labelled
from qp2train.slides.reading import Reading


@dataclass(frozen=True)
class Said:
    """A classified patch.

    Args:
        truth: Name of its class.
        predicted: Name of the class that it is taken for.
        heat: (H, W) float32, 0–1: what speaks for that (Grad-CAM); None = the encoder has no maps.
    """

    truth: str
    predicted: str
    heat: NDArray[np.float32] | None


def rows_by_place(table: PatchTable) -> dict[tuple[str, float, float], int]:
    """(entry, x, y) → position in the table."""
    rows = table.rows
    return {key: i for i, key in enumerate(zip(rows["entry"].astype(str), rows["x"], rows["y"], strict=True))}


def classified(model: Model, table: PatchTable, row: int, *, device: str = "auto") -> Said | None:
    """Classify one patch anew; None if it has no class to be compared with.

    Raises:
        SlideError: Its slide cannot be read.
    """
    chosen = choose_device(device)
    net = net_of(model).to(chosen).eval()
    try:
        part, truth = labelled(table.take([row]), share=net.spec.share)
    except NoAnnotationError:
        return None
    pixels, _ = ClassifiedPatches(scale_tables(part, net.spec.context), truth, reading=Reading(stain=net.spec.stain))[
        (0, 0)
    ]
    batch = pixels[None].to(chosen)
    said = int(probabilities(model, batch)[0].argmax())
    try:
        heat = gradcam(model, batch)[0, said]
    except ModelError:
        heat = None
    return Said(model.labels.names[int(truth[0])], model.labels.names[said], heat)

"""A patch classifier on a slide, and on the patches of a table."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qp2train.core.geometry import Box
from qp2train.core.labels import IGNORE
from qp2train.core.patches import PatchTable
from qp2train.core.scores import STEPS, ScoreMap
from qp2train.errors import ModelError
from qp2train.infer.predict import temperature_of
from qp2train.learn.classdata import ClassifiedPatches, plain_loader, scale_tables
from qp2train.learn.classification import ClassificationNet
from qp2train.learn.models import Model
from qp2train.learn.patchlabels import labelled
from qp2train.slides import Slide
from qp2train.slides.reading import Reading

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassifiedTable:
    """What a classifier says of the patches of a table that have a class.

    Args:
        table: These patches.
        probabilities: (N, C) float32, columns as `table.labels.names`; each row adds up to 1.
        truth: (N,) int64, the true class of each.
    """

    table: PatchTable
    probabilities: NDArray[np.float32]
    truth: NDArray[np.int64]


def classify_table(
    model: Model, table: PatchTable, *, batch_size: int = 32, device: torch.device | str = "cpu", workers: int = 0
) -> ClassifiedTable:
    """Classify the patches of a table; those without a class are left out.

    Args:
        model: A classification model.
        table: The patches, at the model's scales.
        batch_size: Patches per step.
        device: Where.
        workers: Processes that read patches.

    Raises:
        ModelError: The model is none of classification, or the table lacks a scale that it reads.
        NoAnnotationError: No patch has a class.
    """
    net = net_of(model).to(device).eval()
    table, truth = labelled(table, share=net.spec.share)
    data = ClassifiedPatches(scale_tables(table, net.spec.context), truth, reading=Reading(stain=net.spec.stain))
    loader = plain_loader(data, batch_size=batch_size, workers=workers)
    found = [probabilities(model, pixels.to(device)) for pixels, _ in loader]
    return ClassifiedTable(table, np.concatenate(found), truth)


def probabilities(model: Model, pixels: torch.Tensor, tta: str = "none") -> NDArray[np.float32]:
    """(B, C) softmax of the logits divided by the model's temperature, the mean of all eight symmetries if asked."""
    net = net_of(model)
    temperature = temperature_of(model)
    views = [pixels]
    if tta == "dihedral":
        views = [torch.rot90(p, turns, (-2, -1)) for p in (pixels, pixels.flip(-1)) for turns in range(4)]
    with torch.inference_mode():
        said = [(net(view.contiguous()) / temperature).softmax(dim=1) for view in views]
    return np.asarray(torch.stack(said).mean(dim=0).cpu().numpy(), dtype=np.float32)


def classify_slide(
    model: Model,
    slide: Slide,
    *,
    wanted: Callable[[Box, tuple[int, int]], NDArray[np.bool_]],
    overlap: float,
    tta: str,
    batch_size: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> ScoreMap:
    """Classify patches along a grid: each becomes one pixel of the map, of the part in its middle.

    Args:
        model: A classification model.
        slide: Any slide with a known pixel size.
        wanted: (rows, columns) bool of the pixels of the map to predict, from its box and (columns, rows).
        overlap: Share of a patch's side that neighbours have in common; the pixels of the map are 1 − overlap of it.
        tta: "none" or "dihedral".
        batch_size: Patches per step.
        device: Where.
        progress: Called with (patches done, patches in all).
    """
    net = net_of(model).to(device).eval()
    step_mpp = model.size_px * (1 - overlap) * model.mpp
    step = step_mpp / slide.mpp
    columns, rows = (max(1, round(length / step)) for length in slide.size)
    # In whole steps; the last may end a half before the slide's border, or reach a half over it.
    box = Box(0, 0, columns * step, rows * step)
    scores = np.zeros((len(model.labels.names), rows, columns), dtype=np.uint8)
    classmap = np.full((rows, columns), IGNORE, dtype=np.uint8)
    cells = np.argwhere(wanted(box, (columns, rows)))
    if not len(cells):
        log.warning("%s: no tissue was found, so nothing is predicted; tissue=False predicts everything", slide.name)
    for start in range(0, len(cells), batch_size):
        some = cells[start : start + batch_size]
        centres = (some[:, ::-1] + 0.5) * step
        pixels = np.stack([_read(slide, net, model, x, y) for x, y in centres.tolist()])
        said = probabilities(model, torch.from_numpy(pixels).to(device), tta)
        y, x = some.T
        scores[:, y, x] = np.round(said.T * STEPS)
        classmap[y, x] = said.argmax(axis=1)
        if progress is not None:
            progress(start + len(some), len(cells))
    return ScoreMap(scores, classmap, box, step_mpp, slide.mpp, model.labels)


def net_of(model: Model) -> ClassificationNet:
    """The network of a classification model.

    Raises:
        ModelError: It is none.
    """
    if not isinstance(model.net, ClassificationNet):
        raise ModelError(f"{model.id} is a {model.task} model, and this is for classification")
    return model.net


def _read(slide: Slide, net: ClassificationNet, model: Model, x: float, y: float) -> NDArray[np.uint8]:
    """(3, H, W) round a centre in full-resolution pixels, with further scales (S, 3, H, W)."""
    size, pictures = model.size_px, []
    for mpp in (model.mpp, *net.spec.context):
        side = size * mpp / slide.mpp
        pictures.append(slide.read(Box(x - side / 2, y - side / 2, side, side), (size, size)))
    pixels = np.stack(pictures).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels if len(pictures) > 1 else pixels[0])

"""Predictions against annotations: per patch, slide and patient."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from qp2train.core.annotation import Annotation
from qp2train.core.calibration import COLDEST, HOTTEST, fitted_temperature
from qp2train.core.confusion import Confusion
from qp2train.core.geometry import Box
from qp2train.core.labels import IGNORE, LabelMap
from qp2train.core.patches import PatchTable
from qp2train.errors import ModelError, NoAnnotationError
from qp2train.infer.evaluation import Evaluation
from qp2train.infer.predict import choose_device, temperature_of
from qp2train.infer.scoring import Tally
from qp2train.learn.classification import Classification, ClassificationNet
from qp2train.learn.classify import val_loader
from qp2train.learn.data import plain_loader
from qp2train.learn.models import Model
from qp2train.learn.patchlabels import patch_labels
from qp2train.learn.prompted import PromptedNet
from qp2train.learn.segmentation import Segmentation
from qp2train.sampling.mask import Painter
from qp2train.slides.reading import Reading

log = logging.getLogger(__name__)

__all__ = ["Evaluation", "compare", "evaluate", "fit_temperature"]


def evaluate(
    model: Model,
    table: PatchTable,
    *,
    batch_size: int = 8,
    device: str = "auto",
    workers: int = 0,
    boundary: bool = True,
    objects: bool = True,
) -> Evaluation:
    """Score a model on the patches of a table. Ignored pixels do not count; overlapping patches count twice.

    The patches are read once, and only counts are kept. Outlines and objects are those within a patch: an object that
    reaches over its edge counts as what is seen of it, and objects of a class that touch count as one. Of a
    classification model each patch counts as one; patches without a class are left out.

    Args:
        model: A trained model.
        table: Held-out patches.
        batch_size: Patches per step.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        workers: Processes that read patches; 0 = none.
        boundary: Also measure how far predicted outlines lie from the annotated ones.
        objects: Also count objects (connected parts of a class) and how well they match.

    Raises:
        ModelError: The table has other classes, or another resolution, than the model.
        NoAnnotationError: The table is empty, or no patch has a class that a classification could hit.
    """
    part, rows = _checked(model, table)
    temperature = temperature_of(model)
    multilabel = _multilabel(model)
    tally = Tally(
        part,
        model.labels.classes if multilabel else model.labels.names,
        rows=rows,
        task="classification" if isinstance(model.spec, Classification) else "segmentation",
        multilabel=multilabel,
        boundary=boundary,
        objects=objects,
    )
    for logits, truths in _batches(model, part, batch_size, device, workers):
        scaled = logits / temperature
        scores = scaled.sigmoid() if multilabel else scaled.softmax(dim=1)
        odds = scaled if multilabel else _log_odds(scaled)
        for truth, *said in zip(truths.numpy(), scores.cpu().numpy(), odds.cpu().numpy(), strict=True):
            tally.add(truth, *said)
    return tally.evaluation(model=model.id, temperature=temperature)


def fit_temperature(
    model: Model,
    val: PatchTable,
    *,
    pixels: int = 200_000,
    batch_size: int = 8,
    device: str = "auto",
    workers: int = 0,
    seed: int = 0,
) -> Model:
    """Make a model as sure of itself as it is right: the same network, with its temperature of validation patches.

    `predict` and `evaluate` divide the logits by it. It changes probabilities, and never which class is predicted.

    Args:
        model: A trained model.
        val: Patches that it did not learn from, and that are not those it will be tested on.
        pixels: At most so many annotated pixels are looked at, as many of each patch, drawn at random.
        batch_size: Patches per step.
        device: As for `evaluate`.
        workers: Processes that read patches; 0 = none.
        seed: Of the draw.

    Returns:
        A model with `about["temperature"]`; the same model, with a warning, where the patches cannot tell it: where all
        of their few pixels are right, ever more certainty seems ever better.

    Raises:
        ModelError: As for `evaluate`.
        NoAnnotationError: The table is empty, or nothing in it is annotated.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    part, _ = _checked(model, val)
    rng, share = np.random.default_rng(seed), max(1, pixels // len(part))
    logits: list[NDArray[np.float32]] = []
    truths: list[NDArray[np.integer]] = []
    for batch, masks in _batches(model, part, batch_size, device, workers):
        for said, mask in zip(batch.cpu().numpy(), masks.numpy(), strict=True):
            labels = mask.ravel()  # of a whole patch one "pixel", of overlapping classes one per class
            flat = said.ravel() if _multilabel(model) else said.reshape(len(said), -1).T
            drawn = rng.permutation(np.flatnonzero(labels != IGNORE))[:share]
            logits.append(flat[drawn])
            truths.append(labels[drawn].astype(np.int64))
    truth, values = np.concatenate(truths), np.concatenate(logits)
    if isinstance(model.net, ClassificationNet):  # a class that was never seen has probability 0 at any temperature
        seen = model.net.known.cpu().numpy()[truth]
        truth, values = truth[seen], values[seen]
    if len(truth) == 0:
        raise NoAnnotationError("no pixel of the validation patches is annotated, so that no temperature can be fitted")
    temperature = fitted_temperature(values, truth)
    right = (values > 0 if values.ndim == 1 else values.argmax(axis=1)) == truth
    if right.all() or not 1.01 * COLDEST < temperature < 0.99 * HOTTEST:
        log.warning("%s: the validation patches are too few, or too easy, to say how sure the model may be", model.id)
        return model
    return replace(model, about={**model.about, "temperature": temperature})


def _multilabel(model: Model) -> bool:
    """Whether the model's classes may overlap: one logit and one mask per class, none for background."""
    return isinstance(model.spec, Segmentation) and model.spec.multilabel


def _checked(model: Model, table: PatchTable) -> tuple[PatchTable, NDArray[np.intp]]:
    """The patches that can be scored, and their places in the table."""
    if isinstance(model.net, PromptedNet):
        raise ModelError(f"{model.id} answers prompts: evaluate_prompts scores it")
    if table.labels.names != model.labels.names or abs(table.mpp / model.mpp - 1) > 0.01:
        raise ModelError(
            f"the model predicts {', '.join(model.labels.classes)} at {model.mpp:g} µm/px, but the patches are of "
            f"{', '.join(table.labels.classes)} at {table.mpp:g} µm/px"
        )
    if len(table) == 0:
        raise NoAnnotationError("there is no patch to evaluate on")
    rows = np.arange(len(table))
    if isinstance(model.spec, Classification):
        rows = np.flatnonzero(patch_labels(table, share=model.spec.share) != IGNORE)
        if len(rows) == 0:
            raise NoAnnotationError(f"none of {len(table)} patches has a class, so there is nothing to score")
    return table.take(rows), rows


def _batches(
    model: Model, table: PatchTable, batch_size: int, device: str, workers: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(logits, truth) of all patches in row order; the logits are 32-bit, and on the device."""
    chosen = choose_device(device)
    net = model.net.to(chosen).eval()
    if isinstance(model.spec, Classification):
        loader = val_loader(model.spec, table, batch_size, workers)
    else:
        loader = plain_loader(
            table,
            batch_size=batch_size,
            workers=workers,
            reading=Reading(stain=model.spec.stain),
            multilabel=_multilabel(model),
        )
    with torch.inference_mode():
        for pixels, truth in loader:
            logits = net(pixels.to(chosen).contiguous()).float()
            if not torch.isfinite(logits).all():
                raise ModelError(f"{model.id} answers with what is no number: train it again, at a lower learning rate")
            yield logits, truth


def _log_odds(logits: torch.Tensor) -> torch.Tensor:
    """(B, C, …) logits of exclusive classes → log-odds of each against the others, also where a probability is 1."""
    others = [torch.cat([logits[:, :c], logits[:, c + 1 :]], dim=1).logsumexp(dim=1) for c in range(logits.shape[1])]
    return logits - torch.stack(others, dim=1)


def compare(
    predicted: Iterable[Annotation],
    truth: Iterable[Annotation],
    labels: LabelMap,
    *,
    box: Box,
    downsample: float = 1.0,
    band: int = 2048,
) -> Confusion:
    """Paint predicted and true annotations and count their pixels, in bands of rows.

    Where the truth says nothing (255), nothing counts; where no object was predicted, background was.

    Args:
        predicted: A model's annotations.
        truth: A human's.
        labels: Class → pixel value, for both.
        box: What to compare, in full-resolution pixels.
        downsample: Full-resolution pixels per compared pixel.
        band: Rows of compared pixels per step.
    """
    guess, true = Painter(predicted, labels), Painter(truth, labels)
    total = Confusion.empty(labels.names)
    width, height = max(1, round(box.width / downsample)), max(1, round(box.height / downsample))
    row_px = box.height / height
    for top in range(0, height, band):
        rows = min(band, height - top)
        part = Box(box.x, box.y + top * row_px, box.width, rows * row_px)
        said = guess.paint(part, (width, rows))
        total += Confusion.of(true.paint(part, (width, rows)), np.where(said == IGNORE, 0, said), labels.names)
    return total

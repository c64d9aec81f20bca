"""ClassificationTask: one training or validation step of a patch classifier, for Lightning, and its loaders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from qp2train.core.patches import PatchTable
from qp2train.errors import NoAnnotationError
from qp2train.learn.absent import warn_of_unlearnt
from qp2train.learn.augment import Augmentation
from qp2train.learn.balance import drawing_shares
from qp2train.learn.classdata import ClassifiedPatches, Item, plain_loader, scale_tables, train_loader
from qp2train.learn.classification import Classification, ClassificationNet
from qp2train.learn.classweights import ClassWeights, class_weights
from qp2train.learn.mixup import mixed
from qp2train.learn.onevalue import variance_needed
from qp2train.learn.patchlabels import balanced_weights, class_counts, labelled
from qp2train.learn.schedule import Optimisation
from qp2train.slides.reading import Reading

# In a target: no class that the network knows.
_NONE = -100


class ClassificationTask(pl.LightningModule):
    """Network, loss and optimisation.

    The loss is the cross-entropy among the classes that have training patches; the network never predicts the others.

    Args:
        net: The network; it learns here which classes have patches.
        names: Class names, background first.
        optimisation: Optimiser and schedule.
        counts: How many training patches each class has.
        label_smoothing: Of the cross-entropy.
        weights: A weight per class in the loss; None = 1 each.
    """

    # What decides which epoch is best; more is better.
    monitor = "val/balanced_accuracy"
    # How pictures lie in memory; the network's weights must lie so too.
    memory_format = torch.contiguous_format

    def __init__(
        self,
        net: ClassificationNet,
        names: tuple[str, ...],
        optimisation: Optimisation,
        *,
        counts: Sequence[int],
        label_smoothing: float = 0.0,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.names, self.optimisation, self.label_smoothing = net, names, optimisation, label_smoothing
        known = torch.tensor([n > 0 for n in counts])
        net.known.copy_(known)
        self.weights: torch.Tensor
        self.places: torch.Tensor
        chosen = torch.ones(len(names)) if weights is None else torch.tensor(list(weights), dtype=torch.float32)
        self.register_buffer("weights", chosen[known], persistent=False)
        # Class → its place among the known ones.
        self.register_buffer("places", torch.where(known, known.cumsum(0) - 1, _NONE), persistent=False)
        self.seen = np.zeros((len(names), len(names)), dtype=np.int64)

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits (B, C), target (B,) classes or (B, C) shares of them → a scalar; 0 if no class is known."""
        logits = logits[:, self.net.known]
        if target.ndim == 2:
            target = target[:, self.net.known]
            return cross_entropy(logits, target, weight=self.weights, label_smoothing=self.label_smoothing)
        target = self.places[target]
        if not (target != _NONE).any():
            return logits.sum() * 0
        return cross_entropy(
            logits, target, weight=self.weights, label_smoothing=self.label_smoothing, ignore_index=_NONE
        )

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        return self.step(batch, "val")

    def step(self, batch: tuple[torch.Tensor, torch.Tensor], stage: str) -> torch.Tensor:
        pixels, labels = batch
        alpha = self.net.spec.mixup if stage == "train" else 0.0
        target = labels
        if alpha:
            pixels, target = mixed(pixels, labels, classes=len(self.names), alpha=alpha)
        # Pictures at several scales have an axis more, and become (B, 3, H, W) only in the network.
        pixels = pixels.contiguous(memory_format=self.memory_format) if pixels.ndim == 4 else pixels.contiguous()
        with variance_needed(len(pixels)):
            logits = self.net(pixels)
        loss = self.loss(logits, target)
        self.log(
            f"{stage}/loss", loss, on_step=False, on_epoch=True, batch_size=len(labels), prog_bar=True, sync_dist=True
        )
        if stage == "val":
            self.seen += pairs(labels, logits.argmax(dim=1), len(self.names))
        return loss

    def on_validation_epoch_start(self) -> None:
        self.seen[:] = 0

    def on_validation_epoch_end(self) -> None:
        """Of all validation patches together, those of every process."""
        seen = torch.from_numpy(self.seen).to(self.device)
        matrix = self.trainer.strategy.reduce(seen, reduce_op="sum").cpu().numpy()
        there = matrix.sum(axis=1)
        recall = np.diag(matrix)[there > 0] / there[there > 0]
        for name, value in zip(np.array(self.names)[there > 0], recall, strict=True):
            self.log(f"val/recall/{name}", float(value), sync_dist=True)
        self.log("val/accuracy", float(np.trace(matrix) / max(1, there.sum())), prog_bar=True, sync_dist=True)
        self.log(self.monitor, float(recall.mean()) if len(recall) else 0.0, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        how = self.optimisation
        groups = self.net.parameter_groups(lr=how.lr, weight_decay=how.weight_decay, layer_decay=how.layer_decay)
        return how.configured(groups, self.trainer)


def pairs(truth: torch.Tensor, predicted: torch.Tensor, classes: int) -> NDArray[np.int64]:
    """(classes, classes): how many patches of each true class (rows) were called each class (columns)."""
    flat = torch.bincount(truth * classes + predicted, minlength=classes**2)
    counted: NDArray[np.int64] = flat.reshape(classes, classes).cpu().numpy()
    return counted


class Prepared(NamedTuple):
    """What a trainer needs to train a classifier."""

    task: ClassificationTask
    train: DataLoader[Item]
    val: DataLoader[Item] | None


def prepare(
    spec: Classification,
    net: ClassificationNet,
    train: PatchTable,
    val: PatchTable | None,
    optimisation: Optimisation,
    *,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    balanced: bool = False,
    workers: int = 0,
    cache: str | Path | None = None,
    cache_gb: float = 50.0,
    scaled_decode: bool = False,
    label_smoothing: float = 0.0,
    weights: ClassWeights = None,
) -> Prepared:
    """The task and the loaders of a training.

    Args:
        spec: The network's description.
        net: The network.
        train: Patches to learn from; those without a class are left out.
        val: Patches to choose the best epoch by.
        optimisation: Optimiser and schedule.
        augmentation: Of the training patches.
        batch_size: Patches per step.
        seed: Of the order and the augmentation.
        balanced: Draw patches so that every class comes equally often.
        workers: Processes that read patches.
        cache: Where read patches are kept.
        cache_gb: Most that it may hold.
        scaled_decode: As for `open_slide`.
        label_smoothing: Of the cross-entropy.
        weights: As for `fit`; "auto" = `balanced_weights` of the training patches, as often as they are drawn.

    Raises:
        NoAnnotationError: No patch has a class, or all have the same.
        ModelError: The table lacks a scale that the network reads.
    """
    train, labels = labelled(train, share=spec.share)
    counts = class_counts(labels, len(spec.labels.names))
    if sum(n > 0 for n in counts) < 2:
        only = spec.labels.names[int(labels[0])]
        raise NoAnnotationError(f"all {len(train)} training patches are {only}: a classifier needs two classes or more")
    warn_of_unlearnt(spec.labels.names, counts)
    if weights == "auto":
        # What is drawn equally often needs no weight.
        drawn = np.bincount(labels, weights=drawing_shares(train, labels) if balanced else None, minlength=len(counts))
        chosen: Sequence[float] | None = balanced_weights(drawn.tolist())
    else:
        chosen = class_weights(weights, train)
    task = ClassificationTask(
        net, spec.labels.names, optimisation, counts=counts, label_smoothing=label_smoothing, weights=chosen
    )
    data = ClassifiedPatches(
        scale_tables(train, spec.context),
        labels,
        augmentation,
        cache=cache,
        cache_gb=cache_gb,
        reading=Reading(scaled_decode, spec.stain),
    )
    loader = train_loader(data, batch_size=batch_size, seed=seed, balanced=balanced, workers=workers)
    if val is None:
        return Prepared(task, loader, None)
    return Prepared(task, loader, val_loader(spec, val, batch_size, workers, scaled_decode, dealt=True))


def val_loader(
    spec: Classification,
    table: PatchTable,
    batch_size: int,
    workers: int = 0,
    scaled_decode: bool = False,
    *,
    dealt: bool = False,
) -> DataLoader[Item]:
    """The patches of a table that have a class, in row order, as they are; `dealt` among a training's processes."""
    table, labels = labelled(table, share=spec.share)
    data = ClassifiedPatches(scale_tables(table, spec.context), labels, reading=Reading(scaled_decode, spec.stain))
    return plain_loader(data, batch_size=batch_size, workers=workers, dealt=dealt)

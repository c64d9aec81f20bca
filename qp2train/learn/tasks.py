"""SegmentationTask: one training or validation step, for Lightning."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.utils.data import DataLoader

from qp2train.core.confusion import Confusion
from qp2train.core.patches import PatchTable
from qp2train.errors import NoAnnotationError
from qp2train.learn.absent import warn_of_absent
from qp2train.learn.augment import Augmentation
from qp2train.learn.classweights import ClassWeights, class_weights
from qp2train.learn.data import Item, plain_loader, train_loader
from qp2train.learn.losses import CE_AND_DICE, SegmentationLoss
from qp2train.learn.onevalue import variance_needed
from qp2train.learn.schedule import Optimisation
from qp2train.learn.segmentation import Segmentation, SegmentationNet
from qp2train.sampling.patchcache import PatchCache
from qp2train.slides.reading import Reading

log = logging.getLogger(__name__)


class SegmentationTask(pl.LightningModule):
    """Network, loss and optimisation.

    Args:
        net: The network.
        names: Class names, background first; of overlapping classes those of the logits.
        optimisation: Optimiser and schedule.
        loss: Of logits and mask.
    """

    # What decides which epoch is best; more is better.
    monitor = "val/dice"

    # How the pixels lie in memory that the network is given.
    memory_format = torch.contiguous_format

    def __init__(
        self, net: SegmentationNet, names: tuple[str, ...], optimisation: Optimisation, loss: SegmentationLoss
    ) -> None:
        super().__init__()
        self.net, self.loss = net, loss
        self.names, self.optimisation = names, optimisation
        self.confusions = self._empty()
        self._said = False

    def step(self, batch: tuple[torch.Tensor, torch.Tensor], stage: str) -> torch.Tensor:
        pixels, mask = batch
        with variance_needed(len(pixels)):
            logits = self.net(pixels.contiguous(memory_format=self.memory_format))
        loss: torch.Tensor = self.loss(logits, mask.long())
        count = len(mask)
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, batch_size=count, prog_bar=True, sync_dist=True)
        if stage == "val":
            predicted = (logits > 0).transpose(0, 1) if self.loss.multilabel else logits.argmax(dim=1)[None]
            truth = mask.transpose(0, 1) if self.loss.multilabel else mask[None]
            pairs = zip(truth.cpu().numpy(), predicted.cpu().numpy().astype(np.uint8), strict=True)
            counted = (Confusion.of(*pair, c.names) for pair, c in zip(pairs, self.confusions, strict=True))
            self.confusions = [c + more for c, more in zip(self.confusions, counted, strict=True)]
        return loss

    def _empty(self) -> list[Confusion]:
        """One of all classes; of overlapping classes one each."""
        if self.loss.multilabel:
            return [Confusion.empty(("", name)) for name in self.names]
        return [Confusion.empty(self.names)]

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        return self.step(batch, "val")

    def on_validation_epoch_start(self) -> None:
        self.confusions = self._empty()

    def on_validation_epoch_end(self) -> None:
        """Dice over all validation pixels together, so that a small class weighs as much as a large one.

        Together also means: those of all processes of a distributed training. A class that no validation pixel has
        takes no part: its score would be 0 as soon as one pixel is taken for it.

        Raises:
            NoAnnotationError: No validation pixel is of a class.
        """
        own = torch.from_numpy(np.stack([c.matrix for c in self.confusions])).to(self.device)
        matrices = self.trainer.strategy.reduce(own, reduce_op="sum").cpu().numpy()
        found = [replace(c, matrix=matrix) for c, matrix in zip(self.confusions, matrices, strict=True)]
        dice = {name: value for c in found for name, value in c.dice().items() if name and _pixels(c, name)}
        for name, value in dice.items():
            self.log(f"val/dice/{name}", value, sync_dist=True)
        # Of the classes without background; of overlapping ones, "" is all else.
        classes = [name for c in found for name in c.names[1:]]
        known = [dice[name] for name in classes if name in dice]
        if not known:
            raise NoAnnotationError(
                f"no pixel of the validation patches is annotated as {' or '.join(classes)}, so that no epoch can be "
                "chosen by them: validate on patches with such annotations, or train without validation (val=None)"
            )
        if len(known) < len(classes) and not self._said:
            missing = ", ".join(name for name in classes if name not in dice)
            log.warning("no validation pixel is %s: the score that chooses the epoch is of the other classes", missing)
        self._said = True
        self.log(self.monitor, float(np.mean(known)), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return self.optimisation.configured(self.parameters(), self.trainer)


def _pixels(confusion: Confusion, name: str) -> int:
    """How many are truly of a class."""
    return int(confusion.matrix[confusion.names.index(name)].sum())


class Prepared(NamedTuple):
    """What a trainer needs to train a segmentation network."""

    task: SegmentationTask
    train: DataLoader[Item]
    val: DataLoader[Item] | None


def prepare(
    spec: Segmentation,
    net: SegmentationNet,
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
    loss: str = CE_AND_DICE,
) -> Prepared:
    """The task and the loaders of a training; the arguments are those of `fit`."""
    warn_of_absent(train, multilabel=spec.multilabel)
    chosen = class_weights(weights, train, balanced=balanced, seed=seed)
    if chosen is not None and spec.multilabel:
        chosen = chosen[1:]  # there is no background
    how = SegmentationLoss(loss, label_smoothing=label_smoothing, class_weights=chosen, multilabel=spec.multilabel)
    task = SegmentationTask(net, spec.outputs, optimisation, how)
    reading, kept = Reading(scaled_decode, spec.stain), None
    if cache is not None:
        kept = PatchCache(cache, train, px=augmentation.read_px, reading=reading, limit_gb=cache_gb)
    loader = train_loader(
        train,
        augmentation,
        batch_size=batch_size,
        seed=seed,
        balanced=balanced,
        workers=workers,
        cache=kept,
        reading=reading,
        multilabel=spec.multilabel,
    )
    if val is None:
        return Prepared(task, loader, None)
    held = plain_loader(
        val,
        batch_size=batch_size,
        workers=workers,
        reading=reading,
        multilabel=spec.multilabel,
        dealt=True,
    )
    return Prepared(task, loader, held)

"""PromptedTask: one training or validation step of a network for prompts, for Lightning, and its loaders."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from qp2train.core.clicks import BitMask, iou, next_click
from qp2train.core.labels import IGNORE
from qp2train.core.patches import PatchTable
from qp2train.learn.augment import Augmentation
from qp2train.learn.objects import OBJECT, OTHER, Item, ObjectViews, objects_of
from qp2train.learn.onevalue import variance_needed
from qp2train.learn.order import EpochOrder, RowOrder
from qp2train.learn.prompted import Prompted, PromptedNet
from qp2train.learn.promptguide import guide
from qp2train.learn.promptsim import FORGET, MORE_CLICKS, Prompting, first_prompt
from qp2train.learn.schedule import Optimisation
from qp2train.slides.reading import Reading

log = logging.getLogger(__name__)

# A pixel belongs to the object from here on; RITM's.
THRESHOLD = 0.49
# Clicks after which an epoch is judged.
JUDGED = 3


class PromptedTask(pl.LightningModule):
    """Network, simulated prompts, loss and optimisation.

    A training step answers the first prompt of each view, adds up to three clicks where the answer is wrong, without
    gradient, and learns from the last answer.

    Args:
        net: The network.
        optimisation: Optimiser and schedule.
    """

    # What decides which epoch is best; more is better.
    monitor = "val/iou"
    # How pictures lie in memory; the network's weights must lie so too.
    memory_format = torch.contiguous_format

    def __init__(self, net: PromptedNet, optimisation: Optimisation) -> None:
        super().__init__()
        self.net, self.optimisation = net, optimisation
        self.curves: list[list[float]] = []

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        pixels, mask, seeds = batch
        truth, known = _bits(mask)
        rngs = [np.random.default_rng([int(seed), 2]) for seed in seeds]
        prompts = [first_prompt(t, k, rng) for t, k, rng in zip(truth, known, rngs, strict=True)]
        rounds = np.array([int(rng.choice(len(MORE_CLICKS), p=MORE_CLICKS)) for rng in rngs])
        for done in range(int(rounds.max())):
            asked = np.flatnonzero(rounds > done)
            found = self._answered(pixels[asked], [prompts[i] for i in asked])
            for i, predicted in zip(asked, found, strict=True):
                prompts[i].click(predicted, truth[i], known[i], rngs[i])
                prompts[i].mask = None if rngs[i].random() < FORGET else predicted
        with variance_needed(len(pixels)):
            logits, said = self(pixels, prompts)
        loss = prompted_loss(logits, said, mask)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(mask), prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], _: int) -> None:
        """The first clicks of each object, at the centres of what is wrong."""
        pixels, mask, _seeds = batch
        truth, known = _bits(mask)
        prompts = [Prompting() for _ in truth]
        found: list[BitMask] = [np.zeros_like(t) for t in truth]
        curves = [list[float]() for _ in truth]
        for _click in range(JUDGED):
            for prompt, predicted, t, k in zip(prompts, found, truth, known, strict=True):
                click = next_click(predicted, t, valid=k)
                if click is not None:
                    prompt.points.append(click[:2])
                    prompt.labels.append(click[2])
                prompt.mask = predicted if predicted.any() else None
            found = self._answered(pixels, prompts)
            for curve, predicted, t, k in zip(curves, found, truth, known, strict=True):
                curve.append(iou(predicted, t, valid=k))
        self.curves.extend(curves)

    def on_validation_epoch_start(self) -> None:
        self.curves = []

    def on_validation_epoch_end(self) -> None:
        """Mean IoU over the objects of all processes, after the first click and over the first ones."""
        own = np.array(self.curves, np.float64).reshape(-1, JUDGED)
        sums = torch.from_numpy(np.array([len(own), own[:, 0].sum(), own.sum() / JUDGED])).float().to(self.device)
        count, first, all_of_them = self.trainer.strategy.reduce(sums, reduce_op="sum").cpu().tolist()
        self.log("val/iou@1", first / max(1, count), prog_bar=True, sync_dist=True)
        self.log(self.monitor, all_of_them / max(1, count), prog_bar=True, sync_dist=True)

    def forward(self, pixels: torch.Tensor, prompts: list[Prompting]) -> tuple[torch.Tensor, torch.Tensor]:
        size = pixels.shape[-1]
        drawn = np.stack([guide(size, p.points, p.labels, p.box, p.mask) for p in prompts])
        guides = torch.from_numpy(drawn).to(pixels.device)
        memory = self.memory_format
        answer: tuple[torch.Tensor, torch.Tensor] = self.net(
            pixels.contiguous(memory_format=memory), guides.contiguous(memory_format=memory)
        )
        return answer

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return self.optimisation.configured(self.parameters(), self.trainer)

    @torch.no_grad()
    def _answered(self, pixels: torch.Tensor, prompts: list[Prompting]) -> list[BitMask]:
        """As in use: without gradient, and with the statistics that were gathered so far."""
        training = self.net.training
        self.net.eval()
        logits, _ = self(pixels, prompts)
        self.net.train(training)
        return list((logits[:, 0].sigmoid() > THRESHOLD).cpu().numpy())


def prompted_loss(logits: torch.Tensor, said: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Normalised focal loss + Dice of each view, and the squared error of the predicted IoU; what is unknown is free.

    Args:
        logits: (B, 1, H, W).
        said: (B,) predicted IoU.
        mask: (B, H, W) uint8, see `ObjectViews`.

    Source: Sofiiuk et al., AdaptIS, ICCV 2019 (the focal loss, divided by the sum of its weights).
    """
    logits, known = logits[:, 0].float(), (mask != IGNORE).float()
    truth = (mask == OBJECT).float()
    p = logits.sigmoid()
    right = torch.where(truth > 0, p, 1 - p)
    weight = ((1 - right) ** 2 * known).detach()
    ce = binary_cross_entropy_with_logits(logits, truth, reduction="none")
    focal = (weight * ce).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6)
    both, either = (p * truth * known).sum((1, 2)), ((p + truth) * known).sum((1, 2))
    dice = 1 - (2 * both + 1) / (either + 1)
    hard = (p > THRESHOLD).float() * known
    inside = (hard * truth).sum((1, 2))
    true_iou = inside / (hard.sum((1, 2)) + (truth * known).sum((1, 2)) - inside).clamp(min=1)
    return (focal + dice + (said.float() - true_iou.detach()) ** 2).mean()


class Prepared(NamedTuple):
    """What a trainer needs to train a network for prompts."""

    task: PromptedTask
    train: DataLoader[Item]
    val: DataLoader[Item] | None


def prepare(
    spec: Prompted,
    net: PromptedNet,
    train: PatchTable,
    val: PatchTable | None,
    optimisation: Optimisation,
    *,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    balanced: bool = False,
    workers: int = 0,
    scaled_decode: bool = False,
    **_: Any,
) -> Prepared:
    """The task and the loaders of a training; an epoch has as many views of objects as the table has patches.

    Raises:
        NoAnnotationError: No object is outlined.
    """
    reading = Reading(scaled_decode)
    objects = objects_of(train)
    views = ObjectViews(objects, train.size_px, augmentation, reading=reading)
    _warn_of_no_outside(views)
    times = -(-max(len(train), len(objects)) // len(objects))
    rows = objects.table.take(np.tile(np.arange(len(objects)), times)[: max(len(train), len(objects))].tolist())
    loader = DataLoader(
        views,
        batch_sampler=EpochOrder(
            rows, batch_size=batch_size, seed=seed, balanced=balanced, classes=_classes(rows) if balanced else None
        ),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
    task = PromptedTask(net, optimisation)
    if val is None:
        return Prepared(task, loader, None)
    held = ObjectViews(objects_of(replace(val, size_px=train.size_px)), train.size_px, reading=reading)
    return Prepared(
        task,
        loader,
        DataLoader(
            held,
            batch_size=batch_size,
            sampler=RowOrder(len(held)),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        ),
    )


def _classes(rows: PatchTable) -> NDArray[np.int64]:
    return np.array([rows.labels.names.index(name) for name in rows.rows["label"]], np.int64)


def _bits(mask: torch.Tensor) -> tuple[list[BitMask], list[BitMask]]:
    """The objects, and where anything is known, of a batch."""
    values = mask.cpu().numpy()
    return list(values == OBJECT), list(values != IGNORE)


def _warn_of_no_outside(views: ObjectViews) -> None:
    """Say that nothing round the objects is known, so that a network would call all of it the object."""
    looked = range(0, len(views), max(1, len(views) // 50))
    shares = [float((views.read(i, views.objects.view(i), 64)[1] == OTHER).mean()) for i in looked]
    if float(np.mean(shares)) < 0.02:
        log.warning(
            "hardly any pixel round the outlined objects is annotated as anything else, so that prompts would outline "
            "everything: draw Region* annotations, in which the rest is background, or, if every object is outlined "
            "whole, say labels: {unannotated: background}"
        )

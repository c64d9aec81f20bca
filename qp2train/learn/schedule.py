"""Optimisation: which steps the weights take, and how long they are in the course of training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from qp2train.errors import Qp2trainError

Schedule = Literal["cosine", "onecycle", "plateau", "constant"]

# What a plateau is: so many epochs without a better score; then the rate is multiplied by the second number.
PLATEAU_EPOCHS, PLATEAU_FACTOR = 3, 0.3


@dataclass(frozen=True)
class Optimisation:
    """AdamW and its learning rate.

    Args:
        lr: Highest learning rate.
        weight_decay: Of AdamW.
        schedule: "cosine": after the warm-up, half a cosine down to 0. "onecycle": up and down as cosines, from a
            25th of the rate to almost 0, with AdamW's momentum the other way round. "plateau": times
            `PLATEAU_FACTOR` whenever `PLATEAU_EPOCHS` epochs brought no better validation score (without validation:
            training loss). "constant".
        warmup: Share of the steps in which the rate rises, linearly: Adam's first estimates are poor.
        layer_decay: What the rate is multiplied by from each layer of an encoder to the one before; 1 = one rate.

    Raises:
        Qp2trainError: A number out of its range, or an unknown schedule.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-2
    schedule: Schedule = "cosine"
    warmup: float = 0.1
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise Qp2trainError(f"lr must be above 0, not {self.lr}")
        if not 0 <= self.weight_decay < math.inf:
            raise Qp2trainError(f"weight_decay must not be negative, not {self.weight_decay}")
        if self.schedule not in get_args(Schedule):
            raise Qp2trainError(f"schedule must be one of {', '.join(get_args(Schedule))}, not {self.schedule!r}")
        if not 0 <= self.warmup < 1:
            raise Qp2trainError(f"warmup must be from 0 to below 1, not {self.warmup}")
        if not 0 < self.layer_decay <= 1:
            raise Qp2trainError(f"layer_decay must be above 0 and at most 1, not {self.layer_decay}")

    def configured(
        self, parameters: Iterable[torch.nn.Parameter] | Iterable[Mapping[str, Any]], trainer: pl.Trainer
    ) -> OptimizerLRSchedulerConfig:
        """Optimiser and schedule, as a LightningModule's `configure_optimizers` returns them.

        Args:
            parameters: What is trained: parameters, or groups of them with a "lr" and "weight_decay" of their own.
            trainer: Which knows how many steps there will be.
        """
        given: Any = parameters
        optimizer = torch.optim.AdamW(given, lr=self.lr, weight_decay=self.weight_decay)
        steps = int(trainer.estimated_stepping_batches)
        rise = max(1, round(self.warmup * steps)) if self.warmup else 0
        schedule: LRScheduler
        if self.schedule == "onecycle":
            highest = [group["lr"] for group in optimizer.param_groups]
            steps = max(steps, 3)  # torch divides by the steps of each phase
            share = min(max(self.warmup, 2 / steps), 0.9)
            schedule = OneCycleLR(optimizer, highest, total_steps=steps, pct_start=share)
        elif self.schedule == "cosine":
            schedule = LambdaLR(optimizer, lambda step: cosine(step, steps, rise))
        elif self.schedule == "plateau":
            schedule = LambdaLR(optimizer, Plateau(rise))
        else:
            schedule = LambdaLR(optimizer, lambda step: rising(step, rise))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rising(step: int, rise: int) -> float:
    """The share of the highest learning rate at a step of the warm-up; 1 afterwards."""
    return min(1.0, (step + 1) / (rise + 1))


def cosine(step: int, steps: int, rise: int) -> float:
    """The share of the highest learning rate at a step: a linear rise, then half a cosine down to 0."""
    if step < rise:
        return rising(step, rise)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))


class Plateau:
    """The share of the highest learning rate: a linear rise, then less at each plateau of the score.

    It takes the place of torch's `ReduceLROnPlateau`, which Lightning steps only after an epoch's checkpoint was
    written, so that a resumed run would miss a step; the state of this one is part of `LambdaLR`'s.
    """

    def __init__(self, rise: int) -> None:
        self.rise = rise
        self.share, self.best, self.waited = 1.0, -math.inf, 0

    def __call__(self, step: int) -> float:
        return rising(step, self.rise) * self.share

    def saw(self, score: float) -> None:
        """An epoch's score; more is better."""
        self.waited = 0 if score > self.best else self.waited + 1
        self.best = max(self.best, score)
        if self.waited >= PLATEAU_EPOCHS:
            self.share, self.waited = self.share * PLATEAU_FACTOR, 0


class PlateauWatch(Callback):
    """Tells a `Plateau` each epoch's validation score, or how small the training loss was if there is none."""

    def __init__(self, monitor: str | None) -> None:
        self.monitor = monitor

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        scores = trainer.callback_metrics
        score = float(scores[self.monitor]) if self.monitor else -float(scores["train/loss"])
        for config in trainer.lr_scheduler_configs:
            watched = getattr(config.scheduler, "lr_lambdas", [])[:1]  # one for all groups of parameters
            for plateau in watched:
                if isinstance(plateau, Plateau):
                    plateau.saw(score)


def diverged(lr: float) -> Qp2trainError:
    """What is said of a training whose loss or weights are no numbers any more."""
    return Qp2trainError(f"training has diverged, and no model is kept: lower the learning rate (lr={lr:g})")


class Diverged(Callback):
    """Ends a training at the end of an epoch whose loss was not finite, before the epoch can be kept as the best.

    Args:
        lr: The highest learning rate, which the error names.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the epoch's loss.

        Raises:
            Qp2trainError: It is not finite.
        """
        if not math.isfinite(float(trainer.callback_metrics["train/loss"])):
            raise diverged(self.lr)

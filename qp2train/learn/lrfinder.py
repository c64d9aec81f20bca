"""find_lr: which highest learning rate suits a network and its patches."""

from __future__ import annotations

import math
import tempfile
import warnings
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.tuner.tuning import Tuner

from qp2train.core.patches import PatchTable
from qp2train.errors import Qp2trainError
from qp2train.learn.arguments import check_arguments
from qp2train.learn.augment import Augmentation, Strength
from qp2train.learn.classweights import ClassWeights
from qp2train.learn.fit import check_tables, prepared
from qp2train.learn.hardware import Accelerator, Hardware, Precision, quiet_lightning, seeded
from qp2train.learn.losses import CE_AND_DICE
from qp2train.learn.models import Spec
from qp2train.learn.schedule import Optimisation
from qp2train.learn.typed import check_types

# Share of a running mean of the losses that stays at each step, in Lightning's finder.
MEAN = 0.98
# Steps that a proposal needs.
FEWEST = 15


@dataclass(frozen=True)
class LearningRates:
    """A short training whose rate rises at each step.

    Args:
        rates: The rate of each step.
        losses: The loss at each step, smoothed over the steps before.
        proposed: The rate where the loss fell fastest; a good highest rate for `fit`.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    proposed: float


def find_lr(
    spec: Spec,
    train: PatchTable,
    *,
    batch_size: int = 16,
    loss: str = CE_AND_DICE,
    class_weights: ClassWeights = None,
    weight_decay: float = 1e-2,
    augment: Strength = "medium",
    balanced: bool = False,
    gradient_clip: float = 5.0,
    accelerator: Accelerator = "auto",
    precision: Precision = "auto",
    steps: int = 100,
    lowest: float = 1e-6,
    highest: float = 1.0,
    seed: int = 0,
) -> LearningRates:
    """Try learning rates: train for some steps while the rate rises evenly on a logarithmic scale.

    The steeper the loss falls at a rate, the better the rate. What is learned is thrown away.

    Args:
        spec: The network.
        train: Patches to learn from.
        batch_size: As for `fit`.
        loss: As for `fit`.
        class_weights: As for `fit`.
        weight_decay: As for `fit`.
        augment: As for `fit`.
        balanced: As for `fit`.
        gradient_clip: As for `fit`.
        accelerator: As for `fit`.
        precision: As for `fit`.
        steps: At most; where the loss bursts, the trial ends.
        lowest: The first rate.
        highest: The last rate.
        seed: As for `fit`.

    Raises:
        NoAnnotationError: No patch to train on.
        Qp2trainError: Too few steps, rates that do not rise, patches of other classes, or an argument that `fit` would
            refuse.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017, section 3.3.
    """
    given = locals()
    check_types(find_lr, given, Qp2trainError)
    check_arguments(spec, given)
    check_tables(spec, train)
    hardware = Hardware(accelerator, precision=precision)
    if steps < 20 or not 0 < lowest < highest < math.inf:
        raise Qp2trainError(f"steps must be at least 20 and 0 < lowest < highest, not {steps}, {lowest}, {highest}")
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    with quiet_lightning(), seeded(seed), tempfile.TemporaryDirectory(prefix="qp2train-") as scratch:
        net = spec.build()
        net.check_size(train.size_px)
        task, loader, _ = prepared(
            spec,
            net,
            train,
            None,
            Optimisation(lowest, weight_decay),
            loss=loss,
            augmentation=Augmentation(train.size_px, augment),
            batch_size=batch_size,
            seed=seed,
            balanced=balanced,
            weights=class_weights,
        )
        trainer = pl.Trainer(
            max_epochs=steps,  # more than enough: the steps are counted
            gradient_clip_val=gradient_clip or None,
            enable_progress_bar=False,
            default_root_dir=scratch,
            **quiet,
            **hardware.arguments(),
        )
        setattr(task, "lr", lowest)  # noqa: B010  Lightning's finder wants to find the rate as a number of the module's
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*lr_find.*")
            found = Tuner(trainer).lr_find(
                task, loader, min_lr=lowest, max_lr=highest, num_training=steps, update_attr=False
            )
    if found is None or len(found.results["loss"]) < FEWEST:
        raise Qp2trainError("the loss burst at once: give a lower lowest rate")
    steps_done = np.arange(1, len(found.results["loss"]) + 1)
    # Lightning corrects its running mean as if there had been a step more.
    losses = np.array(found.results["loss"]) * (1 - MEAN ** (steps_done + 1)) / (1 - MEAN**steps_done)
    inner = slice(10, -1)  # the first steps are of a few batches only
    proposed = np.array(found.results["lr"])[inner][np.gradient(losses[inner]).argmin()]
    return LearningRates(tuple(found.results["lr"]), tuple(losses.tolist()), float(proposed))

"""Hardware: on which devices, how many, and in which precision a network is trained."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from qp2train.errors import Qp2trainError

Precision = Literal["auto", "32-true", "16-mixed", "bf16-mixed"]
Accelerator = Literal["auto", "cpu", "gpu", "mps"]

# Set where a scheduler or torchrun has started this program once for each process of the training.
LAUNCHED = ("LOCAL_RANK", "SLURM_PROCID")


@dataclass(frozen=True)
class Hardware:
    """Where a network is trained.

    Args:
        accelerator: "auto" = a GPU if there is one.
        devices: Processes per computer, each with a GPU of its own, or all on the CPU.
        num_nodes: Computers. With several, SLURM or torchrun starts the program on each.
        precision: "auto" = bfloat16 where the GPU can, else 32 bits.

    Raises:
        Qp2trainError: An unknown accelerator or precision, no device, or more than there are.
    """

    accelerator: Accelerator = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if self.accelerator not in get_args(Accelerator) or self.precision not in get_args(Precision):
            raise Qp2trainError(
                f"accelerator must be of {', '.join(get_args(Accelerator))}, and precision of "
                f"{', '.join(get_args(Precision))}, not {self.accelerator!r} and {self.precision!r}"
            )
        if self.devices < 1 or self.num_nodes < 1:
            raise Qp2trainError(f"devices and num_nodes must be at least 1, not {self.devices} and {self.num_nodes}")
        there = torch.cuda.device_count()
        if self.accelerator == "gpu" and not there:
            raise Qp2trainError(
                "accelerator='gpu', but torch finds no GPU here; accelerator='auto' takes what there is"
            )
        if self.on_gpu and self.devices > there:
            raise Qp2trainError(f"devices={self.devices}, but there are {there} GPUs here")

    @property
    def on_gpu(self) -> bool:
        return self.accelerator in ("auto", "gpu") and torch.cuda.is_available()

    @property
    def processes(self) -> int:
        """Of all computers together."""
        return self.devices * self.num_nodes

    def arguments(self) -> dict[str, Any]:
        """Of Lightning's Trainer."""
        strategy = "auto"
        if self.processes > 1:
            started = self.num_nodes > 1 or any(name in os.environ for name in LAUNCHED)
            # Lightning's "ddp" would start the whole program again for each device, sampling and all.
            kind = "ddp" if started else "ddp_spawn"
            strategy = f"{kind}_find_unused_parameters_true"  # shallow encoders leave their deepest layers unused
        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "num_nodes": self.num_nodes,
            "strategy": strategy,
            "sync_batchnorm": self.on_gpu and self.processes > 1,
            "precision": self._precision(),
            "use_distributed_sampler": False,  # `EpochOrder` deals its batches out itself
        }

    def _precision(self) -> str:
        if self.precision != "auto":
            return self.precision
        if not self.on_gpu:
            return "32-true"
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def first_process() -> bool:
    """Whether this is the only process of a training, or the first of those that torchrun or SLURM started."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", *LAUNCHED))


class Reseed(Callback):
    """Makes what is drawn in an epoch (dropout, mixup) depend on the seed, the epoch and the process only.

    So a resumed training draws the same as one that was never stopped.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            drawn = np.random.SeedSequence([self.seed, trainer.current_epoch, trainer.global_rank])
            torch.manual_seed(int(drawn.generate_state(1)[0]))


class Compiled(Callback):
    """Compiles the network while it is trained (torch.compile); what comes out is the plain one again."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.get_submodule("net").compile()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.get_submodule("net")._compiled_call_impl = None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's generators seeded inside, and as they were before outside."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's tips and its advice on loaders; its errors stay."""
    loud = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*but have no `val_dataloader`.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists.*")
        warnings.filterwarnings("ignore", message=".*isinstance.*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*Experiment logs directory.*")
        try:
            yield
        finally:
            for logger, level in zip(loud, levels, strict=True):
                logger.setLevel(level)

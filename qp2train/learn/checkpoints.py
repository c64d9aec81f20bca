"""Checkpoints: what a killed training goes on from, and the weights of the best epoch."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from qp2train.errors import ResumeError

log = logging.getLogger(__name__)

LAST, BEST = "last.ckpt", "best.ckpt"
# An epoch that is not the best is written when this many times the duration of a writing has passed since the last
# one, so that writing takes at most a twentieth of the time.
PAUSE = 20


class Checkpoints(Checkpoint):
    """Keeps two files in a folder: `last.ckpt`, all that training goes on from, and `best.ckpt`.

    A file is replaced whole or not at all. Where the disk is full this is said, the files stay as they were, and
    training goes on.

    Args:
        folder: Where they are.
        monitor: The score that decides which epoch is best; more is better. None = there is no best.
        keep_best: Give the network the best epoch's weights when training ends.
        resumable: Write other epochs than the best, too.
        fingerprint: Plain data of all that decides what comes out; see `resumable_state`.
    """

    def __init__(
        self, folder: Path, *, monitor: str | None, keep_best: bool, resumable: bool, fingerprint: Mapping[str, Any]
    ) -> None:
        self.folder, self.monitor, self.keep_best, self.resumable = folder, monitor, keep_best, resumable
        self.fingerprint = json.dumps(fingerprint, sort_keys=True, default=str)
        self.best_score, self.best_epoch = -math.inf, -1
        self.finished = False
        self._written_at, self._took = -math.inf, 0.0

    @property
    def state_key(self) -> str:
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        names = ("fingerprint", "best_score", "best_epoch", "finished")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        score = float(trainer.callback_metrics[self.monitor]) if self.monitor else -math.inf
        better = self.keep_best and score > self.best_score
        self.finished = trainer.should_stop or trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        due = self.resumable and (self.finished or time.monotonic() - self._written_at > PAUSE * self._took)
        if not trainer.strategy.broadcast(better or due):  # one process's clock decides for all
            return
        before = self.best_score, self.best_epoch
        if better:
            self.best_score, self.best_epoch = score, trainer.current_epoch
        started = time.monotonic()
        trainer.save_checkpoint(self.folder / LAST)
        written = not isinstance(trainer.strategy.checkpoint_io, AtomicFiles) or trainer.strategy.checkpoint_io.written
        if trainer.is_global_zero and better:
            written = written and _link(self.folder / LAST, self.folder / BEST)
        self._written_at, self._took = time.monotonic(), time.monotonic() - started
        if not trainer.strategy.broadcast(written):
            self.best_score, self.best_epoch = before

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.keep_best:
            restore(pl_module, self.folder, best=True)
        trainer.strategy.barrier()  # no process may tidy up before all have read


class AtomicFiles(TorchCheckpointIO):
    """Writes a file under another name first; never raises for a full disk, and unpickles nothing but tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.written = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        new = path.with_name(f".{path.name}.new")
        self.written = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with new.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
            self.written = True
        except (OSError, RuntimeError) as error:  # torch says RuntimeError where a write failed half-way
            new.unlink(missing_ok=True)
            log.warning(
                "this epoch's checkpoint cannot be written (%s); the one before it stays, and training goes on", error
            )

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return _read(Path(path))


def resumable_state(folder: Path, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state of the `Checkpoints` that a training in `folder` can go on from; None = there is no checkpoint.

    Raises:
        ResumeError: The checkpoint is damaged, or of a training with other patches, network or arguments.
    """
    path = folder / LAST
    if not path.is_file():
        return None
    try:
        read = _read(path, mapped=True)
        state: dict[str, Any] = read["callbacks"][Checkpoints.__name__]
        then = json.loads(state["fingerprint"])
        epoch = int(read["epoch"])
    except (KeyError, TypeError, ValueError) as error:
        raise ResumeError(f"{path} is no checkpoint of this program; delete it to train from the beginning") from error
    now = json.loads(json.dumps(fingerprint, sort_keys=True, default=str))
    changed = [f"{k} was {then.get(k)!r} and is {now.get(k)!r}" for k in now | then if then.get(k) != now.get(k)]
    if changed:
        raise ResumeError(
            f"{path} is of another training: {'; '.join(changed)}. Give what it was trained with, or train from the "
            "beginning with resume=False"
        )
    if state["best_epoch"] == epoch and not _link(path, folder / BEST):  # killed between the two files
        raise ResumeError(f"{folder / BEST} cannot be written: is the disk full?")
    return state


def restore(module: nn.Module, folder: Path, *, best: bool) -> None:
    """Give a module the weights of the best epoch, or of the last one where none could be kept as the best."""
    path = folder / (BEST if best else LAST)
    if not path.is_file():
        log.warning("no epoch could be kept as the best, so the last one is taken")
        return
    module.load_state_dict(_read(path)["state_dict"])


def _read(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """A checkpoint; `mapped` = only what is looked at is read."""
    try:
        read: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ResumeError(
            f"{path} cannot be read ({str(error)[:200]}); delete it to train from the beginning"
        ) from error
    return read


def _link(path: Path, to: Path) -> bool:
    """A second name for a file (or a copy, where the drive knows no such names), in the place of what was there."""
    new = to.with_name(f".{to.name}.new")
    try:
        new.unlink(missing_ok=True)
        try:
            os.link(path, new)
        except OSError:
            shutil.copyfile(path, new)
        os.replace(new, to)
    except OSError as error:
        new.unlink(missing_ok=True)
        log.warning("the best epoch's weights cannot be written (%s); those before them stay", error)
        return False
    return True

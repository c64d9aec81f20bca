"""fit: a patch table and a network in, a trained model out."""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from qp2train.core.leakage import Parts, leaks, report
from qp2train.core.patches import PatchTable
from qp2train.errors import NoAnnotationError, Qp2trainError
from qp2train.learn.augment import Augmentation, Strength
from qp2train.learn.data import plain_loader, train_loader
from qp2train.learn.models import Model, model_id, package_versions
from qp2train.learn.segmentation import Segmentation
from qp2train.learn.tasks import SegmentationTask
from qp2train.sampling.patchcache import PatchCache

log = logging.getLogger(__name__)

Precision = Literal["auto", "32-true", "16-mixed", "bf16-mixed"]


def fit(
    spec: Segmentation,
    train: PatchTable,
    val: PatchTable | None = None,
    *,
    epochs: int = 30,
    batch_size: int = 16,
    lr: float = 1e-3,
    weight_decay: float = 1e-2,
    label_smoothing: float = 0.0,
    gradient_clip: float = 5.0,
    augment: Strength = "medium",
    balanced: bool = False,
    ema: float = 0.0,
    patience: int = 10,
    keep: Literal["best", "last"] = "best",
    precision: Precision = "auto",
    workers: int = 0,
    cache: str | Path | None = None,
    cache_gb: float = 50.0,
    scaled_decode: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    name: str | None = None,
    progress: bool = True,
) -> Model:
    """Train a segmentation network.

    Ignored pixels cost nothing, in the loss and in the scores. On the CPU the same seed, table and number
    of threads give the same model; some GPU kernels sum in varying order.

    Args:
        spec: The network.
        train: Patches to learn from.
        val: Patches to choose the best epoch by, of other patients. None = no choice: the last epoch is kept.
        epochs: Passes over the patches, at most.
        batch_size: Patches per step.
        lr: Highest learning rate (AdamW; a linear rise over a tenth of the steps, then a cosine down to 0).
        weight_decay: Of AdamW.
        label_smoothing: Of the cross-entropy, 0–1.
        gradient_clip: Largest norm of a step's gradient; 0 = no limit.
        augment: "none", "flips", "medium" or "strong".
        balanced: Draw patches by their weight, so that every class comes equally often.
        ema: Decay per step of an exponential moving average of the weights, which is what is validated and
            kept; 0 = none. 0.99–0.999 steadies training on few patches.
        patience: Epochs without a better mean validation Dice before training stops.
        keep: "best" = the epoch with the best mean validation Dice, "last" = the last one.
        precision: "auto" = bfloat16 where the GPU can, else 32 bits.
        workers: Processes that read patches beside the training; 0 = none.
        cache: A folder where read patches are kept, for slow drives and for runs to come. None = in memory, as far as
            1 GB per process reaches.
        cache_gb: Most that this folder may hold, in GB.
        scaled_decode: Read JPEG slides at less than half their resolution in about half the time; pixels then differ
            from the exact mean by mostly less than 1 grey level.
        seed: Of the first weights, the order of patches and the augmentation.
        out: Run folder: model, learning curves (CSV and TensorBoard), patches and annotations. None = nothing
            is written.
        name: First part of the model's id. Default: the run folder's name, else the architecture's.
        progress: Show a progress bar.

    Raises:
        NoAnnotationError: No patch to train on.
        SplitError: Training and validation share a patient or slide.
        ModelError: The network cannot be built.
    """
    _check(spec, train, val, epochs=epochs, batch_size=batch_size)
    if not 0 <= ema < 1 or keep not in ("best", "last"):
        raise Qp2trainError(f"ema must be at least 0 and below 1, and keep 'best' or 'last', not {ema} and {keep!r}")
    if not 0 < lr < math.inf or not 0 <= label_smoothing < 1:
        raise Qp2trainError(f"lr must be above 0 and label_smoothing from 0 to below 1, not {lr} and {label_smoothing}")
    if min(weight_decay, gradient_clip, patience, workers, seed) < 0:
        raise Qp2trainError(
            "weight_decay, gradient_clip, patience, workers and seed must not be negative, not "
            f"{weight_decay}, {gradient_clip}, {patience}, {workers}, {seed}"
        )
    augmentation = Augmentation(train.size_px, augment)
    run = Path(out) if out is not None else None
    with _quiet_lightning(), _seeded(seed), tempfile.TemporaryDirectory(prefix="qp2train-") as scratch:
        net = spec.build()
        net.check_size(train.size_px)
        task = SegmentationTask(
            net, spec.labels.names, lr=lr, weight_decay=weight_decay, label_smoothing=label_smoothing
        )
        # Only into a whole checkpoint does the average of the weights go; the others hold the last step's.
        best = ModelCheckpoint(
            scratch, "best", monitor="val/dice" if val is not None else None, mode="max", save_weights_only=not ema
        )
        history = _History()
        trainer = pl.Trainer(
            max_epochs=epochs,
            precision=_precision(precision),
            gradient_clip_val=gradient_clip or None,
            callbacks=[history, best, *_callbacks(val is not None, patience, ema)],
            logger=_loggers(run or Path(scratch)),
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            default_root_dir=scratch,
        )
        kept = None
        if cache is not None:
            kept = PatchCache(cache, train, px=augmentation.read_px, scaled_decode=scaled_decode, limit_gb=cache_gb)
        loader = train_loader(
            train,
            augmentation,
            batch_size=batch_size,
            seed=seed,
            balanced=balanced,
            workers=workers,
            cache=kept,
            scaled_decode=scaled_decode,
        )
        val_loader = None
        if val is not None:
            val_loader = plain_loader(val, batch_size=batch_size, workers=workers, scaled_decode=scaled_decode)
        trainer.fit(task, loader, val_loader)
        if trainer.interrupted:
            raise KeyboardInterrupt
        if keep == "best" and val is not None:
            task.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    spec = replace(spec, labels=train.labels)  # the table's know the project's colours
    net = task.net.cpu().eval()
    chosen = name or (run.name if run is not None else spec.arch)
    arguments = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "augment": augment,
        "balanced": balanced,
        "scaled_decode": scaled_decode,
        "ema": ema,
        "keep": keep if val is not None else "last",
        "seed": seed,
    }
    about = {
        "arguments": arguments,
        "history": history.rows,
        "patches": {"train": len(train), "val": len(val) if val is not None else 0},
        "table": train.digest(),
        "encoder_weights": spec.encoder_weights,
        "versions": package_versions(),
    }
    model = Model(model_id(chosen, net), spec, net, train.size_px, train.mpp, about)
    if run is not None:
        model.save(run / "model")
        rows = [t.rows.assign(split=s) for s, t in (("train", train), ("val", val)) if t is not None]
        slides = {**train.slides, **(val.slides if val is not None else {})}
        replace(train, rows=pd.concat(rows, ignore_index=True), slides=slides).save(run / "patches.parquet")
    return model


class _History(Callback):
    """The scores of each epoch, for the model's card and the log."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        scores = {k: round(float(v), 5) for k, v in trainer.callback_metrics.items()}
        row = {"epoch": trainer.current_epoch + 1, **scores}
        self.rows.append(row)
        said = ", ".join(f"{k} {v:.3f}" for k, v in scores.items() if k.count("/") == 1)
        log.info("epoch %d/%d: %s", row["epoch"], trainer.max_epochs, said)


def _callbacks(validated: bool, patience: int, ema: float) -> Iterator[Callback]:
    if validated:
        yield EarlyStopping("val/dice", mode="max", patience=patience)
    if ema:
        yield EMAWeightAveraging(decay=ema)


def _loggers(folder: Path) -> list[Logger]:
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    return [CSVLogger(folder, name="logs", version=""), TensorBoardLogger(folder, name="logs", version="")]


def _precision(asked: Precision) -> Any:
    if asked != "auto":
        return asked
    if not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def _check(spec: Segmentation, train: PatchTable, val: PatchTable | None, *, epochs: int, batch_size: int) -> None:
    if epochs < 1 or batch_size < 1:
        raise Qp2trainError(f"epochs and batch_size must be at least 1, not {epochs} and {batch_size}")
    if len(train) == 0:
        raise NoAnnotationError("the training table has no patch")
    if spec.labels.names != train.labels.names:
        raise Qp2trainError(f"the network's classes {spec.labels.classes} are not the table's {train.labels.classes}")
    if val is None:
        return
    if len(val) == 0:
        raise NoAnnotationError("the validation table has no patch; leave it out to train without one")
    if val.labels.names != train.labels.names or abs(val.mpp / train.mpp - 1) > 0.01:
        raise Qp2trainError(
            f"training is on {', '.join(train.labels.classes)} at {train.mpp:g} µm/px, but validation on "
            f"{', '.join(val.labels.classes)} at {val.mpp:g} µm/px"
        )
    report(leaks(Parts.of([train, val])))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's generators seeded inside, and as they were before outside."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _quiet_lightning() -> Iterator[None]:
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

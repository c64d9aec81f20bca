"""fit: a patch table and a network in, a trained model out."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping

from qp2train.core.leakage import Parts, leaks, report
from qp2train.core.patches import PatchTable
from qp2train.errors import NoAnnotationError, Qp2trainError
from qp2train.learn import classify, prompting, tasks
from qp2train.learn.arguments import check_arguments
from qp2train.learn.augment import Augmentation, Strength
from qp2train.learn.averaging import Averaging
from qp2train.learn.card import trained_on, write_card
from qp2train.learn.checkpoints import LAST, AtomicFiles, Checkpoints, restore, resumable_state
from qp2train.learn.classification import Classification, ClassificationNet
from qp2train.learn.classweights import ClassWeights
from qp2train.learn.hardware import Accelerator, Compiled, Hardware, Precision, Reseed, quiet_lightning, seeded
from qp2train.learn.losses import CE_AND_DICE
from qp2train.learn.modelfiles import check_target
from qp2train.learn.models import Model, Net, Spec, is_plain, model_id, not_finite, package_versions
from qp2train.learn.prompted import Prompted, PromptedNet
from qp2train.learn.schedule import Diverged, Optimisation, PlateauWatch, Schedule, diverged
from qp2train.learn.segmentation import Segmentation, SegmentationNet
from qp2train.learn.tracking import Tracker, Tracking, read_rows
from qp2train.learn.typed import check_types, plain

log = logging.getLogger(__name__)

# The arguments that decide which model comes out.
DECISIVE = (
    "epochs",
    "batch_size",
    "loss",
    "class_weights",
    "label_smoothing",
    "lr",
    "weight_decay",
    "schedule",
    "warmup",
    "layer_decay",
    "gradient_clip",
    "accumulate",
    "augment",
    "balanced",
    "ema",
    "patience",
    "scaled_decode",
    "seed",
)


def fit(
    spec: Spec,
    train: PatchTable,
    val: PatchTable | None = None,
    *,
    epochs: int = 30,
    batch_size: int = 16,
    loss: str = CE_AND_DICE,
    class_weights: ClassWeights = None,
    label_smoothing: float = 0.0,
    lr: float = 1e-3,
    weight_decay: float = 1e-2,
    schedule: Schedule = "cosine",
    warmup: float = 0.1,
    layer_decay: float = 1.0,
    gradient_clip: float = 5.0,
    accumulate: int = 1,
    augment: Strength = "medium",
    balanced: bool = False,
    ema: float = 0.0,
    patience: int = 10,
    keep: Literal["best", "last"] = "best",
    accelerator: Accelerator = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    precision: Precision = "auto",
    channels_last: bool = False,
    compile: bool = False,
    workers: int = 0,
    cache: str | Path | None = None,
    cache_gb: float = 50.0,
    scaled_decode: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    track: Tracker | Sequence[Tracker] = "tensorboard",
    name: str | None = None,
    progress: bool = True,
) -> Model:
    """Train a network, of segmentation, of patch classification or for prompts.

    Ignored pixels cost nothing, in the loss and in the scores. On the CPU the same seed, table and number
    of threads give the same model; some GPU kernels sum in varying order.

    Args:
        spec: The network.
        train: Patches to learn from.
        val: Patches to choose the best epoch by, of other patients. None = no choice: the last epoch is kept.
        epochs: Passes over the patches, at most.
        batch_size: Patches per step and device.
        loss: Of segmentation: a sum of "ce", "dice", "jaccard", "focal", "tversky" and "lovasz", with factors, such as
            "ce + 0.5*dice"; see `SegmentationLoss`.
        class_weights: A weight per class in the loss (1 where none is given, "Background" may be named); "auto" = the
            rarer, the more, from 0.1 to 10.
        label_smoothing: Of the cross-entropy, 0–1.
        lr: Highest learning rate, of AdamW; `find_lr` proposes one.
        weight_decay: Of AdamW.
        schedule: "cosine" down to 0, "onecycle", "plateau" (less whenever the score stays) or "constant"; see
            `Optimisation`.
        warmup: Share of the steps in which the learning rate rises first.
        layer_decay: What the rate is multiplied by from each layer of a classifier's encoder to the one before.
        gradient_clip: Largest norm of a step's gradient; 0 = no limit.
        accumulate: Batches whose gradients are summed up to one step: large batches in little memory.
        augment: "none", "flips", "medium" or "strong".
        balanced: Draw patches so that every class comes equally often, and within a class by their weight.
        ema: Decay per step of an exponential moving average of the weights, which is what is validated and
            kept; 0 = none. 0.99–0.999 steadies training on few patches.
        patience: Epochs without a better validation score before training stops. The score is the mean Dice, or a
            classifier's balanced accuracy.
        keep: "best" = the epoch with the best validation score, "last" = the last one.
        accelerator: "auto" = a GPU if there is one; "cpu", "gpu", "mps".
        devices: GPUs (or processes on the CPU) per computer. A script that asks for several must guard its call by
            `if __name__ == "__main__":`, as they are started as processes of their own.
        num_nodes: Computers; SLURM or torchrun starts the script on each of them.
        precision: "auto" = bfloat16 where the GPU can, else 32 bits.
        channels_last: Keep a pixel's channels side by side in memory: faster on most GPUs with 16 bits.
        compile: Compile the network first (torch.compile): minutes at the start, then mostly faster steps.
        workers: Processes that read patches beside the training; 0 = none.
        cache: A folder where read patches are kept, for slow drives and for runs to come. None = in memory, as far as
            1 GB per process reaches.
        cache_gb: Most that this folder may hold, in GB.
        scaled_decode: Read JPEG slides at less than half their resolution in about half the time; pixels then differ
            from the exact mean by mostly less than 1 grey level.
        seed: Of the first weights, the order of patches and the augmentation.
        out: Run folder: model, learning curves, patches and annotations; during training also `checkpoints`. None =
            nothing is written.
        resume: Go on from the run folder's last checkpoint, if a training with the same patches, network and arguments
            was stopped there; the result is the one that it would have had.
        track: What learning curves are written to beside `logs/metrics.csv`: "tensorboard", "mlflow", "wandb", several
            of them, or "csv" = nothing else; see `Tracking`.
        name: First part of the model's id. Default: the run folder's name, else the architecture's.
        progress: Show a progress bar.

    Raises:
        NoAnnotationError: No patch to train on.
        SplitError: Training and validation share a patient or slide.
        ModelError: The network cannot be built.
        ResumeError: The checkpoint is damaged or of another training.
        Qp2trainError: An argument out of its range, or a tracker that is not installed.
    """
    given = locals()
    check_types(fit, given, Qp2trainError)
    optimisation = check_arguments(spec, given)
    arguments = {key: plain(given[key]) for key in DECISIVE} | {"keep": keep if val is not None else "last"}
    hardware = Hardware(accelerator, devices, num_nodes, precision)
    check_tables(spec, train, val)
    _check_shares(train, val, batch_size=batch_size, hardware=hardware)
    if out is None and (resume or (num_nodes > 1)):
        raise Qp2trainError("resume and num_nodes need a run folder: give out=<folder>")
    if name is not None and not is_plain(name):
        raise Qp2trainError(f"name must be a text without slashes and control characters, not {name!r}")
    if out is not None:
        _check_run_folder(Path(out))
    augmentation = Augmentation(train.size_px, augment)
    with quiet_lightning(), seeded(seed), tempfile.TemporaryDirectory(prefix="qp2train-") as scratch:
        run = Path(out) if out is not None else Path(scratch)
        net = spec.build()
        net.check_size(train.size_px)
        task, loader, val_loader = prepared(
            spec,
            net,
            train,
            val,
            optimisation,
            loss=loss,
            augmentation=augmentation,
            batch_size=batch_size,
            seed=seed,
            balanced=balanced,
            workers=workers,
            cache=cache,
            cache_gb=cache_gb,
            scaled_decode=scaled_decode,
            label_smoothing=label_smoothing,
            weights=class_weights,
        )
        if channels_last:
            net.to(memory_format=torch.channels_last)
            task.memory_format = torch.channels_last
        monitor = task.monitor if val is not None else None
        chosen = name or (_plain(run.name) if out is not None else spec.arch)
        tracking = Tracking(run, track, name=chosen, arguments=arguments)
        checkpoints = Checkpoints(
            run / "checkpoints",
            monitor=monitor,
            keep_best=arguments["keep"] == "best",
            resumable=out is not None,
            fingerprint=_fingerprint(spec, train, val, arguments, hardware),
        )
        watching = _callbacks(monitor, patience=patience, ema=ema, seed=seed, compile=compile, lr=lr)
        trainer = pl.Trainer(
            max_epochs=arguments["epochs"],
            gradient_clip_val=arguments["gradient_clip"] or None,
            accumulate_grad_batches=arguments["accumulate"],
            callbacks=[tracking, *watching, checkpoints],
            plugins=[AtomicFiles()],
            logger=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=scratch,
            **hardware.arguments(),
        )
        state = _begun(checkpoints, resume=resume, first=trainer.is_global_zero)
        if state is not None and state["finished"]:
            restore(task, checkpoints.folder, best=checkpoints.keep_best)
            tracking.rows = read_rows(run)
        else:
            path = checkpoints.folder / LAST if state is not None else None
            trainer.fit(task, loader, val_loader, ckpt_path=path, weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt
        about = {
            "arguments": arguments,
            # Processes that were started for the training alone have taken what they knew with them.
            "history": tracking.rows or read_rows(run),
            "patches": {"train": len(train), "val": len(val) if val is not None else 0},
            "data": trained_on(train, val),
            "table": train.digest(),
            "encoder_weights": spec.encoder_weights,
            "versions": package_versions(),
        }
    if any(not_finite(task.net)):
        raise diverged(lr)
    spec = replace(spec, labels=train.labels)  # the table's know the project's colours
    net = task.net.cpu().eval()
    model = Model(model_id(chosen, net), spec, net, train.size_px, train.mpp, about)
    if out is not None and trainer.is_global_zero:
        write_card(model, model.save(run / "model"))
        rows = [t.rows.assign(split=s) for s, t in (("train", train), ("val", val)) if t is not None]
        slides = {**train.slides, **(val.slides if val is not None else {})}
        replace(train, rows=pd.concat(rows, ignore_index=True), slides=slides).save(run / "patches.parquet")
        shutil.rmtree(checkpoints.folder, ignore_errors=True)
    return model


def prepared(
    spec: Spec,
    net: Net,
    train: PatchTable,
    val: PatchTable | None,
    optimisation: Optimisation,
    *,
    loss: str,
    **more: Any,
) -> tasks.Prepared | classify.Prepared | prompting.Prepared:
    """The task that trains a network, and the loaders of its patches."""
    match spec, net:
        case Segmentation(), SegmentationNet():
            return tasks.prepare(spec, net, train, val, optimisation, loss=loss, **more)
        case Classification(), ClassificationNet():
            return classify.prepare(spec, net, train, val, optimisation, **more)
        case Prompted(), PromptedNet():
            return prompting.prepare(spec, net, train, val, optimisation, **more)
    raise TypeError(f"{type(spec).__name__} is nothing that can be trained")


def _callbacks(
    monitor: str | None, *, patience: int, ema: float, seed: int, compile: bool, lr: float
) -> Iterator[Callback]:
    yield Diverged(lr)
    yield Reseed(seed)
    yield PlateauWatch(monitor)
    if monitor:
        yield EarlyStopping(monitor, mode="max", patience=patience)
    if ema:
        yield Averaging(ema)
    if compile:
        yield Compiled()


def _fingerprint(
    spec: Spec, train: PatchTable, val: PatchTable | None, arguments: Mapping[str, Any], hardware: Hardware
) -> dict[str, Any]:
    """All that decides which model comes out, as far as one can know before."""
    network = {key: value for key, value in asdict(spec).items() if key != "labels"}
    return {
        **arguments,
        **network,
        "network": type(spec).__name__,
        "classes": list(spec.labels.names),
        "training patches": train.digest(),
        "validation patches": val.digest() if val is not None else None,
        "processes": hardware.processes,
    }


def _begun(checkpoints: Checkpoints, *, resume: bool, first: bool) -> dict[str, Any] | None:
    """The state to go on from; None = train from the beginning, and older checkpoints are gone."""
    if resume:
        state = resumable_state(checkpoints.folder, json.loads(checkpoints.fingerprint))
        if state is None:
            log.info("there is no checkpoint in %s: training starts from the beginning", checkpoints.folder)
        return state
    if first and (checkpoints.folder / LAST).is_file():
        log.warning("a stopped training in %s is replaced; resume=True would have gone on", checkpoints.folder)
    if first:
        shutil.rmtree(checkpoints.folder, ignore_errors=True)
    return None


def _plain(folder: str) -> str:
    """A folder's name as a model's."""
    return "".join(c if is_plain(c) else "_" for c in folder) or "model"


def _check_run_folder(run: Path) -> None:
    """Refuse a place where no run can be written, before anything is trained."""
    if run.exists() and not run.is_dir():
        raise Qp2trainError(f"out={str(run)!r} is a file: a run needs a folder")
    check_target(run / "model")


def _check_shares(train: PatchTable, val: PatchTable | None, *, batch_size: int, hardware: Hardware) -> None:
    """Refuse a training in which some process would have nothing to do."""
    batches, held = max(1, len(train) // batch_size), len(val) if val is not None else hardware.processes
    if min(batches, held) < hardware.processes:
        raise Qp2trainError(
            f"{hardware.processes} processes cannot share {batches} batches of training and {held} patches of "
            "validation: use fewer devices, smaller batches or more patches"
        )


def check_tables(spec: Spec, train: PatchTable, val: PatchTable | None = None) -> None:
    """Refuse patches that a network cannot be trained on.

    Raises:
        NoAnnotationError: There is none.
        SplitError: Training and validation share a patient or slide.
        Qp2trainError: They have other classes than the network, or validation is at another scale.
    """
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

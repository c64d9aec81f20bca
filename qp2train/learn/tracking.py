"""Tracking: each epoch's scores, into a table, the log, and what else follows experiments."""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from qp2train.errors import Qp2trainError

log = logging.getLogger(__name__)

Tracker = Literal["csv", "tensorboard", "mlflow", "wandb"]

METRICS = "metrics.csv"


class Tracking(Callback):
    """One row of scores per epoch: `logs/metrics.csv` in the run folder, the log, and the asked trackers.

    Args:
        folder: The run folder.
        track: "tensorboard"; "mlflow" and "wandb", which must be installed and write into `logs` unless their own
            environment variables (MLFLOW_TRACKING_URI, WANDB_MODE=online) say otherwise; "csv" = the table alone.
        name: Of the run.
        arguments: What the run was started with.

    Raises:
        Qp2trainError: An unknown tracker, or one that is not installed.
    """

    def __init__(
        self, folder: Path, track: Tracker | Sequence[Tracker], *, name: str, arguments: Mapping[str, Any]
    ) -> None:
        self.names: list[str] = [track] if isinstance(track, str) else list(track)
        for tracker in self.names:
            check(tracker)
        self.folder, self.name, self.arguments = folder / "logs", name, dict(arguments)
        self.rows: list[dict[str, float]] = []
        self._loggers: list[Logger] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._loggers = [_OPENED[name](self) for name in self.names if name != "csv"]
        for logger in self._loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self.arguments)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        scores = {k: round(float(v), 5) for k, v in trainer.callback_metrics.items()}
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, "lr": rate, **scores}
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        said = ", ".join(f"{k} {v:.3f}" for k, v in scores.items() if k.count("/") == 1)
        log.info("epoch %d/%s: %s", row["epoch"], trainer.max_epochs, said)
        write_rows(self.folder / METRICS, self.rows)
        for logger in self._loggers:
            logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step=trainer.global_step)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for logger in self._loggers:
            logger.finalize("failed" if trainer.interrupted else "success")
        self._loggers = []  # so that the callback can go to another process


def check(tracker: str) -> None:
    """Refuse a tracker that is unknown or not installed.

    Raises:
        Qp2trainError: Naming the trackers, or how to install it.
    """
    if tracker not in get_args(Tracker):
        raise Qp2trainError(f"track must be of {', '.join(get_args(Tracker))}, not {tracker!r}")
    if tracker in ("mlflow", "wandb") and importlib.util.find_spec(tracker) is None:
        raise Qp2trainError(f"track={tracker!r} needs the package {tracker}: pip install {tracker}")


def write_rows(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """The rows as a CSV file, replaced whole. Where the disk is full this is said, and no error."""
    text = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text.getvalue(), encoding="utf-8")
        os.replace(new, path)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error)


def read_rows(run: Path) -> list[dict[str, float]]:
    """The rows of a run folder's `metrics.csv`, as they were written; none if there is no file."""
    path = run / "logs" / METRICS
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: _number(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def _number(text: str) -> float:
    return int(text) if text.isdecimal() else float(text)


def _tensorboard(of: Tracking) -> Logger:
    return TensorBoardLogger(of.folder, name="", version="")


def _mlflow(of: Tracking) -> Logger:
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{of.folder.absolute() / 'mlflow.db'}"
    place = (of.folder.absolute() / "mlartifacts").as_uri()
    return MLFlowLogger(experiment_name="qp2train", run_name=of.name, tracking_uri=uri, artifact_location=place)


def _wandb(of: Tracking) -> Logger:
    offline = os.environ.get("WANDB_MODE", "offline") != "online"
    return WandbLogger(project="qp2train", name=of.name, save_dir=of.folder, offline=offline)


_OPENED: Mapping[str, Callable[[Tracking], Logger]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}

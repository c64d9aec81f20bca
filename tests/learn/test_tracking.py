"""Where the learning curves go."""

from __future__ import annotations

import csv
import importlib.util
import sys
from types import ModuleType

import pytest

from qp2train import fit
from qp2train.errors import Qp2trainError
from qp2train.learn import tracking
from qp2train.learn.tracking import read_rows, write_rows

QUICK = {"epochs": 2, "batch_size": 8, "augment": "none", "progress": False}


@pytest.fixture
def few(train_val):
    return train_val[0].take(range(8)), train_val[1].take(range(2))


def test_the_table_has_a_row_per_epoch_as_the_models_card(tmp_path, spec, few):
    model = fit(spec, *few, **QUICK, track="csv", out=tmp_path)
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"step", "lr", "train/loss", "val/loss", "val/dice", "val/dice/Tumor"} <= set(rows[0])
    assert read_rows(tmp_path) == model.about["history"]
    assert [p.name for p in (tmp_path / "logs").iterdir()] == ["metrics.csv"]


def test_tensorboard(tmp_path, spec, few):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = fit(spec, *few, **QUICK, track=["tensorboard"], out=tmp_path)
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    seen = [event.value for event in events.Scalars("val/dice")]
    assert seen == pytest.approx([row["val/dice"] for row in model.about["history"]])


def test_a_score_that_comes_later_has_an_empty_cell_before(tmp_path):
    rows = [{"epoch": 1, "a": 0.5}, {"epoch": 2, "a": 0.25, "b": 1e-7}]
    (tmp_path / "logs").mkdir()
    write_rows(tmp_path / "logs" / "metrics.csv", rows)
    assert (tmp_path / "logs" / "metrics.csv").read_text() == "epoch,a,b\n1,0.5,\n2,0.25,1e-07\n"
    assert read_rows(tmp_path) == rows
    assert read_rows(tmp_path / "nowhere") == []


class TestAsked:
    @pytest.mark.parametrize("name", ["mlflow", "wandb"])
    def test_what_is_not_installed_is_said_before_any_work(self, spec, few, name, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(Qp2trainError, match=f"pip install {name}"):
            fit(spec, *few, **QUICK, track=name)

    def test_what_is_unknown_is_said(self, spec, few):
        with pytest.raises(Qp2trainError, match=r"track\[1\] must be 'csv', .* or 'wandb', not 'paper'"):
            fit(spec, *few, **QUICK, track=["csv", "paper"])

    @pytest.mark.parametrize("name", ["mlflow", "wandb"])
    def test_it_gets_the_arguments_and_each_epochs_scores(self, tmp_path, spec, few, name, monkeypatch):
        """Of Lightning's loggers, which write to the service's own files."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: ModuleType(name))
        opened = []

        class Logger:
            def __init__(self, **how):
                self.how, self.arguments, self.rows, self.ended = how, {}, [], ""
                opened.append(self)

            def log_hyperparams(self, arguments):
                self.arguments = arguments

            def log_metrics(self, row, step):
                self.rows.append((step, row))

            def finalize(self, status):
                self.ended = status

        monkeypatch.setattr(tracking, {"mlflow": "MLFlowLogger", "wandb": "WandbLogger"}[name], Logger)
        model = fit(spec, *few, **QUICK, track=name, out=tmp_path, name="mine")
        (logger,) = opened
        assert logger.arguments["lr"] == 1e-3
        assert [row["val/dice"] for _, row in logger.rows] == [row["val/dice"] for row in model.about["history"]]
        assert [step for step, _ in logger.rows] == [1, 2]
        assert logger.ended == "success"
        assert str(tmp_path) in str(logger.how)
        assert logger.how.get("offline", True)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_with_the_service_itself_offline(tmp_path, spec, few, name):
    pytest.importorskip(name)
    fit(spec, *few, **QUICK, track=name, out=tmp_path)
    written = [p for p in (tmp_path / "logs").rglob("*") if p.is_file()]
    assert len(written) > 1


def test_nothing_is_imported_that_nobody_asked_for():
    assert "wandb" not in sys.modules
    assert "mlflow" not in sys.modules

"""A training that was stopped goes on as if it never had been; what cannot be gone on from is said."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qp2train import fit, load_model
from qp2train.errors import Qp2trainError, ResumeError
from qp2train.learn import checkpoints
from qp2train.learn.tasks import SegmentationTask

ARGUMENTS = {"epochs": 4, "batch_size": 2, "augment": "medium", "ema": 0.9, "track": "csv", "progress": False}


NARROW = {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32}


class Stopped(Exception):
    pass


@pytest.fixture(autouse=True)
def every_epoch_is_written(monkeypatch):
    monkeypatch.setattr(checkpoints, "PAUSE", 0)


@pytest.fixture(scope="module")
def few(train_val):
    return train_val[0].take(range(6)), train_val[1].take(range(2))


@pytest.fixture
def stop(monkeypatch):
    """Let the coming training end at an epoch's second step, as if the computer had failed."""

    def at(epoch: int) -> None:
        whole = SegmentationTask.training_step

        def step(self, batch, number):
            if self.current_epoch == epoch and number == 1:
                monkeypatch.setattr(SegmentationTask, "training_step", whole)
                raise Stopped
            return whole(self, batch, number)

        monkeypatch.setattr(SegmentationTask, "training_step", step)

    return at


def weights(model) -> dict[str, torch.Tensor]:
    return {k: v.float() for k, v in model.net.state_dict().items()}


def assert_same(one, other) -> None:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert max((mine[k] - theirs[k]).abs().max().item() for k in mine) < 1e-4


class TestSame:
    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"keep": "last", "schedule": "onecycle"},
            {"ema": 0.0, "schedule": "plateau", "balanced": True},
            {"ema": 0.0, "accumulate": 2},
        ],
    )
    def test_as_if_never_stopped(self, tmp_path, spec, few, stop, more):
        """Weights, their average, optimiser, schedule, order of patches and augmentation: any would show."""
        arguments = ARGUMENTS | more
        through = fit(spec, *few, **arguments, out=tmp_path / "through")
        stop(2)
        with pytest.raises(Stopped):
            fit(spec, *few, **arguments, out=tmp_path / "stopped")
        went_on = fit(spec, *few, **arguments, out=tmp_path / "stopped", resume=True)
        assert_same(through, went_on)
        assert went_on.about["history"] == through.about["history"]
        curves = [(tmp_path / name / "logs" / "metrics.csv").read_text() for name in ("through", "stopped")]
        assert curves[0] == curves[1]

    def test_also_without_validation(self, tmp_path, spec, few, stop):
        through = fit(spec, few[0], **ARGUMENTS)
        stop(2)
        with pytest.raises(Stopped):
            fit(spec, few[0], **ARGUMENTS, out=tmp_path)
        assert_same(through, fit(spec, few[0], **ARGUMENTS, out=tmp_path, resume=True))

    def test_also_what_is_drawn_inside_the_network(self, tmp_path, few, spec, stop):
        """Dropout draws from torch's generator."""
        dropping = replace(
            spec, arch="fpn", options={"encoder_depth": 3, "decoder_dropout": 0.5, "upsampling": 1} | NARROW
        )
        through = fit(dropping, *few, **ARGUMENTS)
        stop(2)
        with pytest.raises(Stopped):
            fit(dropping, *few, **ARGUMENTS, out=tmp_path)
        torch.manual_seed(77)
        assert_same(through, fit(dropping, *few, **ARGUMENTS, out=tmp_path, resume=True))

    def test_stopped_twice(self, tmp_path, spec, few, stop):
        through = fit(spec, *few, **ARGUMENTS)
        for epoch in (1, 2):
            stop(epoch)
            with pytest.raises(Stopped):
                fit(spec, *few, **ARGUMENTS, out=tmp_path, resume=True)
        assert_same(through, fit(spec, *few, **ARGUMENTS, out=tmp_path, resume=True))

    @pytest.mark.parametrize("keep", ["best", "last"])
    def test_stopped_after_the_last_epoch(self, tmp_path, spec, few, monkeypatch, keep):
        through = fit(spec, *few, **ARGUMENTS, keep=keep)
        with monkeypatch.context() as patched:
            patched.setattr("qp2train.learn.fit.model_id", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                fit(spec, *few, **ARGUMENTS, keep=keep, out=tmp_path)
        monkeypatch.setattr(SegmentationTask, "training_step", lambda *_: pytest.fail("it was trained already"))
        went_on = fit(spec, *few, **ARGUMENTS, keep=keep, out=tmp_path, resume=True)
        assert_same(through, went_on)
        assert went_on.about["history"] == through.about["history"]

    def test_early_stopping_counts_on(self, tmp_path, spec, few, stop, monkeypatch):
        """The score gets worse from the second epoch on; two epochs of patience end after the fourth."""
        monkeypatch.setattr(
            SegmentationTask,
            "on_validation_epoch_end",
            lambda self: self.log("val/dice", 0.9 if self.current_epoch == 1 else 0.1),
        )
        arguments = ARGUMENTS | {"epochs": 9, "patience": 2}
        stop(3)
        with pytest.raises(Stopped):
            fit(spec, *few, **arguments, out=tmp_path)
        assert len(fit(spec, *few, **arguments, out=tmp_path, resume=True).about["history"]) == 4


@pytest.mark.slow
def test_killed_at_any_time(tmp_path, spec, few):
    """The process gets SIGKILL, which nothing can catch, until one time it is fast enough."""
    script = (
        "import pickle, sys, torch; torch.set_num_threads(1)\n"
        "from qp2train import fit\n"
        "from qp2train.learn import checkpoints; checkpoints.PAUSE = 0\n"
        "spec, tables, arguments = pickle.load(open(sys.argv[1], 'rb'))\n"
        "fit(spec, *tables, **arguments, out=sys.argv[2], resume=True)\n"
    )
    arguments = ARGUMENTS | {"epochs": 12}
    (tmp_path / "given").write_bytes(pickle.dumps((spec, few, arguments)))
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "given"), str(tmp_path / "run")]
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    killed = 0
    while killed < 2:
        before = last.stat().st_mtime_ns if last.is_file() else 0
        process = subprocess.Popen(command)
        while process.poll() is None and not (last.is_file() and last.stat().st_mtime_ns > before):
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
        killed += 1
    assert not (tmp_path / "run" / "model").exists()
    went_on = fit(spec, *few, **arguments, out=tmp_path / "run", resume=True)
    assert_same(fit(spec, *few, **arguments), went_on)
    assert not last.parent.exists()


class TestFullDisk:
    @pytest.fixture
    def full(self, monkeypatch):
        """From a writing on, the disk is full."""

        def after(writings: int) -> None:
            save, count = torch.save, iter(range(1000))

            def saved(what, file, **more):
                if next(count) < writings:
                    return save(what, file, **more)
                file.write(b"half of it")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr(torch, "save", saved)

        return after

    @pytest.fixture
    def better_each_epoch(self, monkeypatch):
        monkeypatch.setattr(
            SegmentationTask, "on_validation_epoch_end", lambda self: self.log("val/dice", self.current_epoch / 10)
        )

    def test_training_goes_on_and_the_last_good_one_stays(
        self, tmp_path, spec, few, full, stop, caplog, better_each_epoch
    ):
        full(2)
        stop(3)
        with pytest.raises(Stopped):
            fit(spec, *few, **ARGUMENTS, out=tmp_path)
        assert "No space left on device" in caplog.text
        folder = tmp_path / "checkpoints"
        assert sorted(p.name for p in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
        for name in ("last.ckpt", "best.ckpt"):
            assert torch.load(folder / name, weights_only=True)["epoch"] == 1

    def test_it_can_be_gone_on_from(self, tmp_path, spec, few, full, stop, monkeypatch):
        through = fit(spec, *few, **ARGUMENTS)
        with monkeypatch.context():
            full(2)
            stop(3)
            with pytest.raises(Stopped):
                fit(spec, *few, **ARGUMENTS, out=tmp_path)
        monkeypatch.undo()
        assert_same(through, fit(spec, *few, **ARGUMENTS, out=tmp_path, resume=True))

    def test_the_best_of_those_that_could_be_written_is_kept(self, tmp_path, spec, few, full, better_each_epoch):
        second = fit(spec, *few, **ARGUMENTS | {"keep": "last"}, out=tmp_path / "a")
        full(2)
        kept = fit(spec, *few, **ARGUMENTS, out=tmp_path / "b")
        assert load_model(tmp_path / "b").id == kept.id
        assert max((weights(kept)[k] - v).abs().max().item() for k, v in weights(second).items()) > 1e-3

    def test_from_the_beginning(self, tmp_path, spec, few, full, caplog):
        full(0)
        model = fit(spec, *few, **ARGUMENTS, out=tmp_path)
        assert "the last one is taken" in caplog.text
        assert load_model(tmp_path).id == model.id

    def test_a_curve_that_cannot_be_written_stops_nothing(self, tmp_path, caplog):
        from qp2train.learn.tracking import write_rows

        write_rows(tmp_path / "nowhere" / "metrics.csv", [{"epoch": 1}])
        assert "metrics.csv cannot be written" in caplog.text


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, spec, few):
    """A folder with a checkpoint."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("qp2train.learn.fit.model_id", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(spec, *few, **ARGUMENTS, out=folder)
    return folder


class TestRefused:
    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"lr": 0.5}, "lr was 0.001 and is 0.5"),
            ({"epochs": 9}, "epochs was 4 and is 9"),
            ({"seed": 1}, "seed was 0 and is 1"),
            ({"class_weights": {"Tumor": 2}}, "class_weights was None and is {'Tumor': 2}"),
        ],
    )
    def test_other_arguments(self, stopped, spec, few, changed, said):
        with pytest.raises(ResumeError, match=said):
            fit(spec, *few, **ARGUMENTS | changed, out=stopped, resume=True)

    def test_another_network(self, stopped, spec, few):
        with pytest.raises(ResumeError, match="encoder was 'resnet18' and is 'resnet34'"):
            fit(replace(spec, encoder="resnet34"), *few, **ARGUMENTS, out=stopped, resume=True)

    def test_other_patches(self, stopped, spec, few):
        with pytest.raises(ResumeError, match="training patches was"):
            fit(spec, few[0].take(range(5)), few[1], **ARGUMENTS, out=stopped, resume=True)
        with pytest.raises(ResumeError, match="validation patches was"):
            fit(spec, few[0], few[1].take(range(1)), **ARGUMENTS, out=stopped, resume=True)

    def test_what_changes_nothing_may_differ(self, stopped, spec, few, tmp_path):
        import shutil

        shutil.copytree(stopped, tmp_path / "copy")
        fit(spec, *few, **ARGUMENTS, out=tmp_path / "copy", resume=True, name="other")

    @pytest.mark.parametrize("content", [b"", b"nonsense", "half", {"callbacks": {}}, [1]])
    def test_a_damaged_one(self, stopped, spec, few, tmp_path, content):
        path = tmp_path / "checkpoints" / "last.ckpt"
        path.parent.mkdir()
        whole = (stopped / "checkpoints" / "last.ckpt").read_bytes()
        if isinstance(content, dict | list):
            torch.save(content, path)
        else:
            path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
        with pytest.raises(ResumeError, match=r"last\.ckpt.*delete it"):
            fit(spec, *few, **ARGUMENTS, out=tmp_path, resume=True)

    def test_nothing_is_unpickled(self, stopped, spec, few, tmp_path):
        path = tmp_path / "checkpoints" / "last.ckpt"
        path.parent.mkdir()
        torch.save({"callbacks": Touch(tmp_path / "touched")}, path)
        with pytest.raises(ResumeError, match="cannot be read"):
            fit(spec, *few, **ARGUMENTS, out=tmp_path, resume=True)
        assert not (tmp_path / "touched").exists()

    def test_without_a_folder(self, spec, few):
        with pytest.raises(Qp2trainError, match="out=<folder>"):
            fit(spec, *few, **ARGUMENTS, resume=True)


class Touch:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_without_a_checkpoint_training_starts_from_the_beginning(tmp_path, spec, few, caplog):
    with caplog.at_level(logging.INFO, logger="qp2train"):
        model = fit(spec, few[0], **ARGUMENTS | {"epochs": 1}, out=tmp_path, resume=True)
    assert "starts from the beginning" in caplog.text
    assert len(model.about["history"]) == 1


def test_a_new_training_replaces_a_stopped_one_and_says_so(tmp_path, spec, few, stop, caplog):
    stop(1)
    with pytest.raises(Stopped):
        fit(spec, *few, **ARGUMENTS, out=tmp_path)
    model = fit(spec, *few, **ARGUMENTS, out=tmp_path)
    assert "resume=True would have gone on" in caplog.text
    assert_same(model, fit(spec, *few, **ARGUMENTS))
    assert json.loads((tmp_path / "model" / "model.json").read_text())["id"] == model.id

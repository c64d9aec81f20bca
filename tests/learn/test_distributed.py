"""Two processes on the CPU train one network."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch

from qp2train import fit
from qp2train.errors import Qp2trainError
from qp2train.learn.hardware import Hardware
from qp2train.learn.order import EpochOrder, RowOrder

SCRIPT = """
import pickle, sys, warnings
import torch
from qp2train import evaluate, fit, load_model

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    spec, train, val, more, out = pickle.load(open(sys.argv[1], "rb"))
    model = fit(spec, train, val, **more, out=out)
    assert load_model(out).id == model.id
    seen = evaluate(model, val).pooled.mean_dice()
    pickle.dump((model.about["history"], seen), open(sys.argv[2], "wb"))
"""


class TestShares:
    @pytest.fixture
    def process(self, monkeypatch):
        def is_one_of(own: int, many: int) -> None:
            monkeypatch.setattr("qp2train.learn.order.processes", lambda: (own, many))

        return is_one_of

    @pytest.mark.parametrize("many", [2, 3])
    def test_batches_are_dealt_and_none_comes_twice(self, two_colours, process, many):
        order = EpochOrder(two_colours, batch_size=5, seed=0)  # 24 patches: 4 full batches
        whole = list(order)
        found = []
        for own in range(many):
            process(own, many)
            found.append(list(order))
            assert len(order) == len(found[-1]) == 4 // many
        assert sorted(b for part in found for b in part) == sorted(whole[: 4 // many * many])

    def test_rows_are_dealt_and_none_is_left(self, process):
        found = []
        for own in range(3):
            process(own, 3)
            found.append(list(RowOrder(8)))
            assert len(RowOrder(8)) == len(found[-1])
        assert sorted(key for part in found for key in part) == [(row, 0) for row in range(8)]

    def test_alone_all_is_ones_own(self):
        assert list(RowOrder(3)) == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.slow
class TestTwoProcesses:
    MORE: ClassVar = {"epochs": 3, "batch_size": 2, "augment": "none", "lr": 5e-3, "progress": False, "devices": 2}

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, tmp_path_factory, spec, train_val):
        """(the history, the Dice of what was kept, over all validation patches)."""
        folder = tmp_path_factory.mktemp("two")
        (folder / "script.py").write_text(SCRIPT)
        (folder / "in").write_bytes(pickle.dumps((spec, *train_val, cls.MORE | {"ema": 0.5}, folder / "run")))
        command = [sys.executable, folder / "script.py", folder / "in", folder / "out"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr[-3000:]
        return pickle.loads((folder / "out").read_bytes())

    def test_each_makes_half_of_the_steps(self, trained, train_val):
        # 11 patches are 5 batches of 2; 2 for each process, which are one step together.
        history, _ = trained
        assert len(train_val[0]) == 11
        assert [row["step"] for row in history] == [2, 4, 6]

    def test_the_score_is_of_all_validation_patches_and_the_best_is_kept(self, trained):
        """What evaluation finds on all patches in one process is the best of what two processes found on halves."""
        history, seen = trained
        assert max(row["val/dice"] for row in history) == pytest.approx(seen, abs=1e-4)


class TestRefused:
    def test_more_processes_than_batches(self, spec, train_val):
        with pytest.raises(Qp2trainError, match="2 processes cannot share 1 batches"):
            fit(spec, *train_val, batch_size=8, devices=2)

    def test_more_processes_than_patches_of_validation(self, spec, train_val):
        with pytest.raises(Qp2trainError, match="1 patches of validation"):
            fit(spec, train_val[0], train_val[1].take([0]), batch_size=1, devices=2)

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [({"devices": 0}, "devices"), ({"accelerator": "abacus"}, "'abacus'"), ({"precision": "8"}, "'8'")],
    )
    def test_arguments(self, wrong, said):
        with pytest.raises(Qp2trainError, match=said):
            Hardware(**wrong)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_gpu_where_there_is_none(self):
        with pytest.raises(Qp2trainError, match="no GPU here"):
            Hardware("gpu")

    def test_several_computers_without_a_folder_for_all(self, spec, train_val):
        with pytest.raises(Qp2trainError, match="num_nodes"):
            fit(spec, *train_val, batch_size=1, num_nodes=2)


class TestOneDevice:
    QUICK: ClassVar = {"epochs": 1, "batch_size": 4, "augment": "none", "progress": False, "track": "csv"}

    def test_channels_last_changes_the_order_in_memory_only(self, spec, train_val):
        few = train_val[0].take(range(8))
        nets = [fit(spec, few, **self.QUICK, lr=1e-9, channels_last=last).net for last in (False, True)]
        assert nets[1].net.encoder.conv1.weight.is_contiguous(memory_format=torch.channels_last)
        pixels = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.manual_seed(0))
        with torch.inference_mode():
            one, other = (net(pixels).numpy() for net in nets)
        assert np.abs(one - other).max() < 1e-3

    def test_16_bits(self, spec, train_val):
        model = fit(spec, train_val[0].take(range(8)), **self.QUICK, precision="bf16-mixed")
        assert all(p.dtype == torch.float32 for p in model.net.parameters())

    def test_compiled_is_the_same_network(self, spec, train_val, monkeypatch):
        """By torch's simplest compiler; the one that makes it fast takes a minute to start."""
        whole, compiled = torch.nn.Module.compile, []

        def simply(module):
            compiled.append(type(module).__name__)
            whole(module, backend="eager")

        monkeypatch.setattr(torch.nn.Module, "compile", simply)
        few = train_val[0].take(range(4))
        nets = [fit(spec, few, **self.QUICK, lr=1e-9, compile=on, ema=0.5).net for on in (False, True)]
        assert compiled == ["SegmentationNet"]
        assert nets[1]._compiled_call_impl is None
        a, b = (net.state_dict() for net in nets)
        assert a.keys() == b.keys()
        assert max((a[k].float() - b[k].float()).abs().max().item() for k in a) < 1e-4

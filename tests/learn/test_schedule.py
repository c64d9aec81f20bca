"""The learning rate in the course of training, against values worked by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from qp2train import fit
from qp2train.errors import Qp2trainError
from qp2train.learn.schedule import PLATEAU_FACTOR, Optimisation, Plateau, PlateauWatch

QUICK = {"augment": "none", "progress": False, "track": "csv"}


class Steps:
    """A trainer, as far as a schedule asks."""

    def __init__(self, steps: int) -> None:
        self.estimated_stepping_batches = steps


def rates(how: Optimisation, steps: int, *, taken: int | None = None) -> list[float]:
    """The rate of each step."""
    weight = torch.nn.Parameter(torch.zeros(1))
    config = how.configured([weight], Steps(steps))
    out = []
    for _ in range(taken or steps):
        out.append(config["optimizer"].param_groups[0]["lr"])
        config["optimizer"].step()
        config["lr_scheduler"]["scheduler"].step()
    return out


def test_cosine_rises_and_falls_to_0():
    # 10 steps, of which 2 rise: ⅓, ⅔, and then ½(1 + cos(π i/8)) of the highest.
    found = rates(Optimisation(3.0, warmup=0.2), 10)
    assert found == pytest.approx([1, 2, *(1.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8))])


def test_constant_rises_and_stays():
    assert rates(Optimisation(3.0, schedule="constant", warmup=0.2), 10) == pytest.approx([1, 2, *[3] * 8])


def test_without_a_warm_up_the_first_step_is_the_highest():
    assert rates(Optimisation(3.0, schedule="constant", warmup=0), 4) == [3, 3, 3, 3]
    assert rates(Optimisation(3.0, warmup=0), 4)[0] == 3


def test_one_cycle_starts_at_a_25th_is_highest_after_the_warm_up_and_ends_near_0():
    found = rates(Optimisation(2.0, schedule="onecycle", warmup=0.4), 10)
    assert found[0] == pytest.approx(2 / 25)
    assert found.index(max(found)) == 3
    assert max(found) == pytest.approx(2)
    assert found[-1] < 1e-4


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.99])
@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "plateau", "constant"])
def test_any_number_of_steps_moves_the_weights(schedule, warmup, steps):
    found = rates(Optimisation(1.0, schedule=schedule, warmup=warmup), steps)
    assert all(0 <= rate <= 1 + 1e-9 for rate in found)
    assert found[0] > 0


def test_plateau_falls_after_three_epochs_without_a_better_score_and_again_after_three_more():
    plateau = Plateau(rise=1)
    shares = []
    for score in (0.5, 0.6, 0.6, 0.5, 0.6, 0.7, 0.1, 0.1, 0.1):
        plateau.saw(score)
        shares.append(plateau(100))
    assert shares == pytest.approx([1, 1, 1, 1, *[PLATEAU_FACTOR] * 4, PLATEAU_FACTOR**2])
    assert plateau(0) == pytest.approx(PLATEAU_FACTOR**2 / 2)  # still within the warm-up


def test_the_groups_keep_their_ratio():
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [{"params": [first], "lr": 1.0}, {"params": [second], "lr": 0.1}]
    for schedule in ("cosine", "onecycle", "plateau", "constant"):
        config = Optimisation(9.0, schedule=schedule, warmup=0.5).configured(groups, Steps(8))
        one, other = (group["lr"] for group in config["optimizer"].param_groups)
        assert other == pytest.approx(one / 10)


@pytest.mark.parametrize(
    "wrong",
    [{"lr": 0}, {"lr": math.nan}, {"weight_decay": -1}, {"warmup": 1}, {"layer_decay": 0}, {"schedule": "linear"}],
)
def test_refused(wrong):
    with pytest.raises(Qp2trainError, match=rf"{next(iter(wrong))} must"):
        Optimisation(**wrong)


class TestInTraining:
    @pytest.fixture
    def few(self, train_val):
        return train_val[0].take(range(8)), train_val[1].take(range(2))

    def test_the_rate_falls_where_the_score_stays(self, few, spec, monkeypatch):
        from qp2train.learn.tasks import SegmentationTask

        monkeypatch.setattr(SegmentationTask, "on_validation_epoch_end", lambda self: self.log("val/dice", 0.5))
        model = fit(spec, *few, **QUICK, epochs=6, batch_size=8, schedule="plateau", lr=1.0, warmup=0, patience=9)
        # One step an epoch; what the fourth epoch ends with is what the fifth one's step is already given.
        assert [row["lr"] for row in model.about["history"]] == pytest.approx([1, 1, 1, 1, 0.3, 0.3])

    def test_without_validation_a_smaller_training_loss_is_better(self):
        watch = PlateauWatch(None)
        seen = Plateau(rise=0)
        trainer = SimpleNamespace(
            lr_scheduler_configs=[SimpleNamespace(scheduler=SimpleNamespace(lr_lambdas=[seen]))], callback_metrics={}
        )
        shares = []
        for loss in (5.0, 4.0, 3.0, 3.0, 3.0, 3.0, 1.0):
            trainer.callback_metrics["train/loss"] = loss
            watch.on_train_epoch_end(trainer, None)
            shares.append(seen.share)
        assert shares == pytest.approx([1, 1, 1, 1, 1, PLATEAU_FACTOR, PLATEAU_FACTOR])

    def test_accumulated_batches_are_one_step(self, few, spec):
        """Of as many steps as the batches are summed to; the rate's rise and fall is spread over these."""
        model = fit(spec, few[0], **QUICK, epochs=2, batch_size=2, accumulate=2)
        assert [row["step"] for row in model.about["history"]] == [2, 4]
        assert model.about["history"][-1]["lr"] == pytest.approx(0)

    @pytest.mark.parametrize("schedule", ["onecycle", "constant"])
    def test_other_schedules(self, few, spec, schedule):
        assert fit(spec, *few, **QUICK, epochs=2, batch_size=4, schedule=schedule).about["history"][-1]["lr"] >= 0

import csv
import logging
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qp2train import PatchTable, evaluate, fit, load_model
from qp2train.core.confusion import Confusion
from qp2train.errors import ModelError, NoAnnotationError, Qp2trainError, SplitError
from qp2train.learn.averaging import _Decay
from qp2train.learn.losses import SegmentationLoss
from qp2train.learn.schedule import Optimisation
from qp2train.learn.tasks import SegmentationTask

QUICK = {"epochs": 1, "batch_size": 8, "augment": "none", "progress": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory, spec, train_val):
    """One run with all that goes into its folder; (folder, model)."""
    folder = tmp_path_factory.mktemp("runs") / "two colours"
    torch.manual_seed(123)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    model = fit(spec, *train_val, epochs=12, batch_size=4, lr=5e-3, augment="flips", out=folder, progress=False)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    return folder, model, before, after


@pytest.mark.slow
class TestRun:
    def test_it_learns_what_anything_learns(self, run, train_val):
        _, model, *_ = run
        assert evaluate(model, train_val[1]).pooled.mean_dice() > 0.9

    def test_the_history_has_an_epoch_per_row(self, run):
        history = run[1].about["history"]
        assert [h["epoch"] for h in history] == list(range(1, 13))
        assert history[-1]["train/loss"] < history[0]["train/loss"]
        assert {"val/dice", "val/loss", "val/dice/Tumor"} <= set(history[-1])

    def test_the_folder_holds_all_that_made_it(self, run, train_val):
        folder, model, *_ = run
        assert load_model(folder).id == model.id
        table = PatchTable.load(folder / "patches.parquet")
        assert table.counts().sum().to_dict() == {"train": len(train_val[0]), "val": len(train_val[1])}
        assert set(table.slides) == {"s0", "s1", "s2", "s3"}
        assert all(s.annotations for s in table.slides.values())
        with (folder / "logs" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert sum(bool(r.get("val/dice")) for r in rows) == 12
        assert len(list((folder / "logs").glob("events.out.tfevents*"))) == 1
        assert sorted(p.name for p in folder.iterdir()) == [
            "logs", "model", "patches.annotations.parquet", "patches.parquet"
        ]  # fmt: skip

    def test_the_card_says_what_made_it(self, run, train_val):
        _, model, *_ = run
        about = model.about
        assert model.id.startswith("two colours-")
        assert about["arguments"]["lr"] == 5e-3
        assert about["arguments"]["augment"] == "flips"
        assert about["table"] == train_val[0].digest()
        assert about["patches"] == {"train": len(train_val[0]), "val": len(train_val[1])}
        assert "torch" in about["versions"]
        assert (model.size_px, model.mpp) == (64, 1.0)

    def test_global_generators_are_as_they_were(self, run):
        _, _, before, after = run
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]

    def test_the_network_comes_back_ready_to_predict(self, run):
        assert not run[1].net.training


class TestSeed:
    def test_same_seed_same_table_same_model_whatever_the_global_seed(self, spec, train_val):
        ids = []
        for seed, before in ((0, 1), (0, 2), (5, 1)):
            torch.manual_seed(before)
            np.random.seed(before)
            ids.append(fit(spec, train_val[0], **QUICK | {"augment": "medium"}, seed=seed).id)
        assert ids[0] == ids[1]
        assert ids[0] != ids[2]


class TestKeep:
    @pytest.fixture
    def dices(self, monkeypatch):
        """Validation Dice of the coming epochs, given by the test; what the weights were in each."""
        planned: list[float] = []
        weights: list[torch.Tensor] = []

        def start(self):
            weights.append(self.net.net.segmentation_head[0].weight.detach().clone())

        monkeypatch.setattr(SegmentationTask, "on_validation_epoch_start", start)
        monkeypatch.setattr(
            SegmentationTask, "on_validation_epoch_end", lambda self: self.log("val/dice", planned[len(weights) - 1])
        )
        return planned, weights

    @pytest.mark.parametrize(("keep", "ema", "kept"), [("best", 0.0, 1), ("last", 0.0, 2), ("best", 0.9, 1)])
    def test_the_best_epoch_or_the_last(self, dices, spec, train_val, keep, ema, kept):
        planned, weights = dices
        planned[:] = [0.1, 0.9, 0.5]
        model = fit(spec, *train_val, **QUICK | {"epochs": 3}, keep=keep, ema=ema)
        found = model.net.net.segmentation_head[0].weight
        assert [torch.equal(found, w) for w in weights] == [i == kept for i in range(3)]

    def test_it_stops_when_nothing_gets_better(self, dices, spec, train_val):
        planned, weights = dices
        planned[:] = [0.1, 0.9, 0.5, 0.6, 0.7, 0.8]
        model = fit(spec, *train_val, **QUICK | {"epochs": 6}, patience=2)
        assert len(weights) == 4
        assert torch.equal(model.net.net.segmentation_head[0].weight, weights[1])


class TestValidationScore:
    """Of classes of which validation has pixels: 98 of background, 2 of Tumor, and of a third class none."""

    @pytest.fixture
    def task(self, monkeypatch):
        task = SegmentationTask(torch.nn.Identity(), ("Background", "Tumor", "Necrosis"), Optimisation(), None)
        task.logged = {}
        monkeypatch.setattr(task, "log", lambda name, value, **_: task.logged.__setitem__(name, value))
        whole = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda tensor, reduce_op: tensor))
        monkeypatch.setattr(SegmentationTask, "trainer", whole)
        return task

    def ended(self, task, *matrix) -> dict:
        task.confusions = [Confusion(np.array(matrix), task.names)]
        task.logged.clear()
        task.on_validation_epoch_end()
        return dict(task.logged)

    @pytest.fixture(autouse=True)
    def no_overlap(self, monkeypatch):
        monkeypatch.setattr(SegmentationTask, "_empty", lambda self: [])

    def test_a_pixel_wrongly_taken_for_an_absent_class_does_not_halve_the_score(self, task):
        # Dice of Tumor: 2·2 / (2 + 3).
        without = self.ended(task, [97, 1, 0], [0, 2, 0], [0, 0, 0])
        taken = self.ended(task, [96, 1, 1], [0, 2, 0], [0, 0, 0])
        assert without["val/dice"] == taken["val/dice"] == pytest.approx(0.8)
        assert "val/dice/Necrosis" not in taken

    def test_the_absent_class_is_named_once(self, task, caplog):
        for _ in range(2):
            self.ended(task, [97, 1, 0], [0, 2, 0], [0, 0, 0])
        assert [r.getMessage() for r in caplog.records] == [
            "no validation pixel is Necrosis: the score that chooses the epoch is of the other classes"
        ]

    def test_without_any_class_there_is_nothing_to_choose_by(self, task):
        with pytest.raises(NoAnnotationError, match="no pixel of the validation patches is annotated as Tumor or Necr"):
            self.ended(task, [97, 3, 0], [0, 0, 0], [0, 0, 0])


class TestAverage:
    SLOW = QUICK | {"batch_size": 2, "seed": 3, "ema": 0.99}

    def test_the_average_of_the_weights_is_kept(self, spec, train_val):
        """It lags behind the last step's weights, and so lies nearer to where they began."""
        few = train_val[0].take(range(10))
        averaged, last = (fit(spec, few, **self.SLOW | {"ema": ema}) for ema in (0.99, 0.0))
        start = fit(spec, few, **self.SLOW | {"lr": 1e-12})
        w = [m.net.net.segmentation_head[0].weight for m in (start, averaged, last)]
        assert (w[1] - w[0]).abs().mean() < 0.8 * (w[2] - w[0]).abs().mean()

    @pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
    def test_each_step_counts_less_than_the_next_by_the_decay(self, decay):
        """Weights of 1, 2, 3 and 4 after four steps, from a start at 100 that has no part in it."""
        averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(1, 1), avg_fn=_Decay(decay))
        net = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(averaged.module.weight, 100.0)
        for weight in (1.0, 2.0, 3.0, 4.0):
            torch.nn.init.constant_(net.weight, weight)
            averaged.update_parameters(net)
        expected = np.average([1, 2, 3, 4], weights=[decay**3, decay**2, decay, 1])
        assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-4)

    def test_also_in_the_best_epoch(self, spec, train_val):
        few = train_val[0].take(range(10))
        best, last = (fit(spec, few, train_val[1], **self.SLOW, keep=keep) for keep in ("best", "last"))
        assert best.id == last.id  # there is one epoch only


class TestDiverged:
    def test_no_epoch_of_a_diverged_training_is_kept(self, spec, train_val, tmp_path):
        burst = QUICK | {"epochs": 3, "lr": 1e30, "gradient_clip": 0.0}
        with pytest.raises(Qp2trainError, match=r"diverged.*lower the learning rate \(lr=1e\+30\)"):
            fit(spec, *train_val, **burst, out=tmp_path)
        assert not (tmp_path / "model").exists()

    def test_it_ends_with_the_epoch_whose_loss_was_no_number(self, spec, train_val, monkeypatch, tmp_path):
        loss = SegmentationLoss.forward
        monkeypatch.setattr(SegmentationTask, "on_train_epoch_start", lambda self: begun.append(self.current_epoch))
        monkeypatch.setattr(
            SegmentationLoss,
            "forward",
            lambda self, *batch: loss(self, *batch) * (float("nan") if len(begun) == 2 else 1),
        )
        begun: list[int] = []
        with pytest.raises(Qp2trainError, match="diverged"):
            fit(spec, *train_val, **QUICK | {"epochs": 4}, out=tmp_path)
        assert begun == [0, 1]


class TestWithoutValidation:
    def test_the_last_epoch_is_kept(self, spec, train_val):
        model = fit(spec, train_val[0], **QUICK)
        assert model.about["arguments"]["keep"] == "last"
        assert model.about["patches"] == {"train": len(train_val[0]), "val": 0}
        assert model.id.startswith("unet-")

    def test_a_name_of_its_own(self, spec, train_val):
        assert fit(spec, train_val[0], **QUICK, name="mine").id.startswith("mine-")

    @pytest.mark.parametrize("name", ["", "a/b", "..\\c", "a\nb"])
    def test_a_name_that_no_model_could_be_loaded_with(self, spec, train_val, name):
        with pytest.raises(Qp2trainError, match="name must be a text without slashes"):
            fit(spec, train_val[0], **QUICK, name=name)

    def test_a_run_folder_with_such_a_name(self, spec, train_val, tmp_path):
        fit(spec, train_val[0].take(range(8)), **QUICK, out=tmp_path / "a\\b\nc")
        assert load_model(tmp_path / "a\\b\nc").id.startswith("a_b_c-")


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11])
def test_any_number_of_steps(steps, spec, train_val):
    """The schedule's rise is a share of the steps, which may be less than one."""
    table = train_val[0].take([0, 1] * steps)
    fit(spec, table, **QUICK | {"batch_size": 2})


def test_a_table_smaller_than_a_batch(spec, train_val):
    assert len(fit(spec, train_val[0].take([0]), **QUICK | {"batch_size": 16}).about["history"]) == 1


@pytest.mark.parametrize("arguments", [{"balanced": True}, {"label_smoothing": 0.1}, {"gradient_clip": 0.0}])
def test_other_ways_to_train(arguments, spec, train_val):
    fit(spec, train_val[0].take(range(8)), **QUICK, **arguments)


def test_training_twice_into_one_folder_leaves_the_second(tmp_path, spec, train_val):
    few = train_val[0].take(range(8))
    fit(spec, few, **QUICK, out=tmp_path, seed=0)
    second = fit(spec, few, **QUICK, out=tmp_path, seed=1)
    assert load_model(tmp_path).id == second.id


class TestRefused:
    def test_a_run_folder_that_could_not_take_the_model_before_any_training(self, spec, train_val, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(Qp2trainError, match="is a file"):
            fit(spec, *train_val, **QUICK, out=tmp_path / "file")
        (tmp_path / "run" / "model").mkdir(parents=True)
        (tmp_path / "run" / "model" / "notes.txt").write_text("mine")
        with pytest.raises(ModelError, match=r"notes\.txt"):
            fit(spec, *train_val, **QUICK, out=tmp_path / "run")
        assert [p.name for p in (tmp_path / "run").iterdir()] == ["model"]

    def test_validation_with_a_patient_of_training(self, spec, two_colours):
        train, val = two_colours.take(range(12)), two_colours.take(range(6, 20))
        with pytest.raises(SplitError, match="the same slide in several parts"):
            fit(spec, train, val, **QUICK)

    def test_nothing_to_learn_from_or_to_choose_by(self, spec, train_val):
        with pytest.raises(NoAnnotationError, match="training"):
            fit(spec, train_val[0].take([]), **QUICK)
        with pytest.raises(NoAnnotationError, match="validation"):
            fit(spec, train_val[0], train_val[1].take([]), **QUICK)

    def test_other_classes(self, spec, train_val):
        from qp2train import LabelMap

        other = replace(train_val[0], labels=LabelMap(["Stroma"]))
        with pytest.raises(Qp2trainError, match="Stroma"):
            fit(spec, other, **QUICK)
        with pytest.raises(Qp2trainError, match="Stroma"):
            fit(spec, train_val[0], replace(train_val[1], labels=LabelMap(["Stroma"])), **QUICK)

    def test_a_validation_at_another_scale(self, spec, train_val):
        with pytest.raises(Qp2trainError, match="µm/px"):
            fit(spec, train_val[0], replace(train_val[1], mpp=2.0), **QUICK)

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"epochs": 0}, "epochs"),
            ({"batch_size": 0}, "batch_size"),
            ({"augment": "wild"}, "'wild'"),
            ({"keep": "first"}, "'first'"),
            ({"ema": 1.5}, "ema"),
            ({"accumulate": 0}, "accumulate"),
            ({"loss": "l2"}, "'l2'"),
            ({"class_weights": {"Stroma": 1}}, "'Stroma'"),
            ({"layer_decay": 0.5}, "layer_decay is for classifiers"),
        ],
    )
    def test_arguments(self, spec, train_val, wrong, said):
        with pytest.raises(Qp2trainError, match=said):
            fit(spec, train_val[0], **QUICK | wrong)

    def test_a_size_that_the_network_cannot_take_before_any_training(self, spec, train_val):
        with pytest.raises(ModelError, match="60 px"):
            fit(replace(spec, arch="unetplusplus"), replace(train_val[0], size_px=60), **QUICK)
        fit(spec, replace(train_val[0].take(range(4)), size_px=61), **QUICK)  # a U-Net of smp takes any

    def test_a_network_that_cannot_be_built(self, spec, train_val):
        with pytest.raises(ModelError, match="unet3000"):
            fit(replace(spec, arch="unet3000"), train_val[0], **QUICK)


def test_each_epoch_is_logged(spec, train_val, caplog):
    with caplog.at_level(logging.INFO, logger="qp2train"):
        fit(spec, train_val[0].take(range(8)), **QUICK)
    assert "epoch 1/1: train/loss" in caplog.text


def test_the_model_knows_the_tables_colours(spec, train_val):
    train, val = train_val
    colours = dict.fromkeys(train.labels.classes, (1, 2, 3))
    coloured = replace(train, labels=train.labels.with_colors(colours))
    model = fit(spec, coloured, val, epochs=1, progress=False)
    assert model.labels.color(train.labels.classes[0]) == (1, 2, 3)


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": -1},
        {"lr": 0},
        {"label_smoothing": 5},
        {"seed": -1},
        {"workers": -1},
        {"patience": -1},
        {"gradient_clip": float("nan")},
        {"devices": 0},
    ],
)
def test_impossible_numbers_are_refused_before_any_work(bad, spec, train_val):
    with pytest.raises(Qp2trainError, match="must"):
        fit(spec, *train_val, **bad)


class TestTypes:
    """What is of another type than the signature says is named, and not taken for something else."""

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"epochs": "3"}, "epochs must be a whole number, not '3'"),
            ({"epochs": 2.5}, "epochs must be a whole number, not 2.5"),
            ({"epochs": None}, "epochs must be a whole number, not None"),
            ({"patience": 2.5}, "patience must be a whole number"),
            ({"accumulate": 2.0}, "accumulate must be a whole number"),
            ({"seed": None}, "seed must be a whole number"),
            ({"workers": None}, "workers must be a whole number"),
            ({"devices": "auto"}, "devices must be a whole number"),
            ({"lr": "1e-3"}, "lr must be a number, not '1e-3'"),
            ({"ema": "0.9"}, "ema must be a number"),
            ({"balanced": "no"}, "balanced must be True or False, not 'no'"),
            ({"loss": None}, "loss must be a text, not None"),
            ({"class_weights": {"Tumor": "2"}}, r"class_weights\['Tumor'\] must be a number, not '2'"),
            ({"class_weights": np.ones(2)}, "class_weights must be 'auto' or a dictionary or None"),
            ({"track": None}, "track must be 'csv', 'tensorboard'"),
            ({"out": 3}, "out must be a text or a path or None, not 3"),
            ({"cache": 3}, "cache must be a text or a path or None, not 3"),
            ({"spec": "unet"}, "spec must be a Segmentation or a Classification or a Prompted, not 'unet'"),
            ({"train": "x.parquet"}, "train must be a PatchTable, not 'x.parquet'"),
            ({"val": [1]}, r"val must be a PatchTable or None, not \[1\]"),
        ],
    )
    def test_named(self, spec, train_val, wrong, said):
        with pytest.raises(Qp2trainError, match=said):
            fit(**{"spec": spec, "train": train_val[0], **QUICK} | wrong)

    def test_numbers_of_numpy_are_numbers(self, spec, train_val, tmp_path):
        numbers = {"epochs": np.int64(1), "lr": np.float32(0.25), "class_weights": {"Tumor": np.float32(2)}}
        fit(spec, train_val[0].take(range(8)), **QUICK | numbers, out=tmp_path)
        arguments = load_model(tmp_path).about["arguments"]
        assert (arguments["epochs"], arguments["lr"], arguments["class_weights"]) == (1, 0.25, {"Tumor": 2.0})


@pytest.mark.parametrize("weight", [0.0, np.nan])
@pytest.mark.parametrize("more", [{}, {"class_weights": "auto"}])
def test_weights_that_nothing_can_be_drawn_by(spec, train_val, weight, more):
    table = replace(train_val[0], rows=train_val[0].rows.assign(weight=weight))
    with pytest.raises(Qp2trainError, match="the table's weights must not be negative"):
        fit(spec, table, **QUICK, balanced=True, **more)


def test_one_patch_at_a_time_where_the_deepest_maps_are_one_pixel(spec, train_val):
    pyramid = replace(spec, arch="deeplabv3plus", options={})
    with pytest.raises(Qp2trainError, match="use batch_size=2 at least"):
        fit(pyramid, train_val[0].take([0, 1]), **QUICK | {"batch_size": 1})

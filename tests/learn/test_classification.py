from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from discs import LABELS, SIDE, disc_table

from qp2train import LabelMap, fit
from qp2train.core.labels import IGNORE
from qp2train.errors import LabelError, ModelError, NoAnnotationError
from qp2train.infer.classify import classify_table
from qp2train.learn.augment import Augmentation
from qp2train.learn.classdata import ClassifiedPatches, scale_tables
from qp2train.learn.classification import NEVER, Classification
from qp2train.learn.classify import ClassificationTask, pairs, prepare
from qp2train.learn.models import Model, load_model
from qp2train.learn.patchlabels import balanced_weights, class_counts, labelled, patch_labels
from qp2train.learn.schedule import Optimisation
from qp2train.sampling.patchcache import PatchCache

torch.set_num_threads(1)

TINY = Classification(LABELS, encoder="test_byobnet", encoder_weights=None)
ALL = ["Stroma", "Tumor", "Background"]
QUICK = {"epochs": 12, "batch_size": 12, "lr": 4e-3, "augment": "flips", "progress": False, "track": "csv"}


@pytest.fixture(scope="session")
def train(tmp_path_factory):
    return disc_table(tmp_path_factory.mktemp("train"), ALL * 12)


@pytest.fixture(scope="session")
def val(tmp_path_factory):
    table = disc_table(tmp_path_factory.mktemp("val"), ALL * 5, seed=7)
    rename = {"s0": "v0", "s1": "v1"}
    slides = {rename[k]: replace(s, entry=rename[k], name=f"v{s.name}") for k, s in table.slides.items()}
    rows = table.rows.assign(entry=table.rows["entry"].map(rename), group=table.rows["group"].map(rename))
    return replace(table, rows=rows, slides=slides)


@pytest.fixture(scope="session")
def run(tmp_path_factory, train, val) -> tuple[Model, object]:
    out = tmp_path_factory.mktemp("run")
    return fit(TINY, train, val, out=out, **QUICK), out


class TestLearning:
    def test_a_few_seconds_tell_red_discs_from_blue_ones_and_from_none(self, run, val):
        found = classify_table(run[0], val)
        assert (found.probabilities.argmax(axis=1) == found.truth).mean() > 0.95
        np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)

    def test_the_best_epoch_is_chosen_by_balanced_accuracy(self, run):
        assert max(row["val/balanced_accuracy"] for row in run[0].about["history"]) > 0.95

    def test_the_saved_model_says_the_same(self, run, val):
        model, out = run
        back = load_model(out)
        assert back.task == "classification"
        assert back.id == model.id
        assert back.spec.encoder == "test_byobnet"
        np.testing.assert_array_equal(classify_table(back, val).probabilities, classify_table(model, val).probabilities)

    def test_the_same_seed_gives_the_same_model(self, train):
        twice = [fit(TINY, train, **QUICK | {"epochs": 1}) for _ in range(2)]
        assert twice[0].id == twice[1].id

    def test_a_class_without_patches_is_never_predicted(self, train):
        some = train.take(np.flatnonzero(train.rows["label"] != "Background"))
        model = fit(TINY, some, label_smoothing=0.1, **QUICK | {"epochs": 1})
        assert model.net.known.tolist() == [False, True, True]
        found = classify_table(model, train)
        assert (found.probabilities[:, 0] == 0).all()
        assert (found.truth == 0).sum() == 24  # the background patches are still judged, all wrongly

    def test_patches_of_one_class_are_refused(self, train):
        with pytest.raises(NoAnnotationError, match="are Tumor: a classifier needs two"):
            fit(TINY, train.take(np.flatnonzero(train.rows["label"] == "Tumor")), **QUICK)

    def test_mixup_and_weights_can_be_asked_for(self, train):
        model = fit(replace(TINY, mixup=0.2), train, class_weights="auto", **QUICK | {"epochs": 1})
        assert np.isfinite(model.about["history"][0]["train/loss"])

    def test_an_average_of_weights_knows_the_same_classes(self, train, val):
        some, held = (t.take(np.flatnonzero(t.rows["label"] != "Background")) for t in (train, val))
        model = fit(TINY, some, held, ema=0.9, **QUICK | {"epochs": 2})
        assert model.net.known.tolist() == [False, True, True]


class TestLoss:
    """Worked by hand: with logits (0, ln 3) among the known classes the probabilities are 1/4 and 3/4."""

    @pytest.fixture
    def task(self):
        return ClassificationTask(TINY.build(), LABELS.names, Optimisation(), counts=(0, 5, 5), weights=(9, 1, 3))

    def test_unknown_classes_take_no_part(self, task):
        logits = torch.tensor([[NEVER, 0.0, np.log(3)]], dtype=torch.float32)
        assert task.loss(logits, torch.tensor([2])).item() == pytest.approx(np.log(4 / 3), rel=1e-5)
        assert task.loss(logits, torch.tensor([0])).item() == 0

    def test_weights_make_a_weighted_mean(self, task):
        logits = torch.tensor([[NEVER, 0.0, np.log(3)]] * 2, dtype=torch.float32)
        # (1·ln 4 + 3·ln 4/3) / (1 + 3)
        expected = (np.log(4) + 3 * np.log(4 / 3)) / 4
        assert task.loss(logits, torch.tensor([1, 2])).item() == pytest.approx(expected, rel=1e-5)

    def test_counting_pairs(self):
        counted = pairs(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 1, 0]), 2)
        assert counted.tolist() == [[1, 0], [1, 2]]


class TestPatchLabels:
    def test_the_tables_label_by_index_background_first(self, train):
        assert patch_labels(train)[:3].tolist() == [1, 2, 0]

    def test_patches_without_a_class_are_left_out(self, train):
        few = train.take(range(3))
        few = replace(few, rows=few.rows.assign(label=["", "Tumor", "Background"]))
        assert patch_labels(few).tolist() == [IGNORE, 2, 0]
        table, labels = labelled(few)
        assert (len(table), labels.tolist()) == (2, [2, 0])
        with pytest.raises(NoAnnotationError, match="none of 1 patches has a class"):
            labelled(few.take([0]))

    def test_a_label_of_another_map_is_named(self, train):
        with pytest.raises(LabelError, match="'Stroma'; its classes are Background, Other"):
            patch_labels(replace(train, labels=LabelMap(["Other"])))

    def test_the_share_rule(self, train):
        # A patch moved by a quarter of its side: three quarters Stroma, one quarter Tumor.
        moved = train.take([0])
        moved = replace(moved, rows=moved.rows.assign(x=SIDE / 4, label="Tumor"))
        assert patch_labels(moved, share=0.75).tolist() == [1]
        assert patch_labels(moved, share=0.76).tolist() == [IGNORE]

    def test_the_share_counts_only_what_is_annotated(self, train):
        # Half above the slide, where nothing is: of the rest all is Stroma.
        above = train.take([0])
        above = replace(above, rows=above.rows.assign(y=-SIDE / 2))
        assert patch_labels(above, share=1.0).tolist() == [1]

    def test_counts_and_balanced_weights(self):
        assert class_counts(np.array([1, 1, 1, 2]), 3) == (0, 3, 1)
        # 4 patches, 2 classes: 4/(2·3) and 4/(2·1)
        assert balanced_weights((0, 3, 1)) == (0, pytest.approx(2 / 3), 2)
        assert balanced_weights((10_000, 1, 0)) == (pytest.approx(10_001 / 20_000), 10, 0)

    @pytest.mark.parametrize(("balanced", "expected"), [(False, [2 / 3, 2]), (True, [1, 1])])
    def test_what_is_drawn_equally_often_has_no_weight_besides(self, train, balanced, expected):
        some = train.take([0, 3, 6, 1])  # three of Stroma, one of Tumor
        how = {"augmentation": Augmentation(SIDE, "none"), "batch_size": 4, "seed": 0, "weights": "auto"}
        prepared = prepare(TINY, TINY.build(), some, None, Optimisation(), balanced=balanced, **how)
        assert prepared.task.weights.tolist() == pytest.approx(expected)

    def test_a_balanced_training_draws_by_the_classes_that_are_learnt(self, train):
        # The table calls all of them the same; what fills them are three of Stroma and one of Tumor.
        some = train.take([0, 3, 6, 1])
        some = replace(some, rows=some.rows.assign(label="Tumor"))
        how = {"augmentation": Augmentation(SIDE, "none"), "batch_size": 4, "seed": 0, "balanced": True}
        loader = prepare(replace(TINY, share=0.5), TINY.build(), some, None, Optimisation(), **how).train
        drawn = []
        for epoch in range(100):
            loader.batch_sampler.set_epoch(epoch)
            drawn += [row for batch in loader.batch_sampler for row, _ in batch]
        assert np.mean([row == 3 for row in drawn]) == pytest.approx(0.5, abs=0.08)


class TestContext:
    def test_every_scale_has_the_same_centre(self, train):
        table = replace(train, context=(2.0,))
        own, wide = scale_tables(table, (2.0,))
        assert wide.mpp == 2.0
        a, b = own.box(4), wide.box(4)
        assert (b.x + b.width / 2, b.y + b.height / 2) == (a.x + a.width / 2, a.y + a.height / 2)
        assert b.width == 2 * a.width

    def test_the_scales_are_turned_alike(self, train):
        # Of the second scale the middle quarter is the first scale at half the resolution, in any augmentation.
        tables = scale_tables(replace(train, context=(2.0,)), (2.0,))
        data = ClassifiedPatches(tables, patch_labels(train), Augmentation(SIDE, "flips"))
        for seed in range(8):
            pixels, label = data[4, seed]
            assert pixels.shape == (2, 3, SIDE, SIDE)
            assert label == 2
            middle = pixels[1, :, SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4].float()
            small = torch.nn.functional.avg_pool2d(pixels[0].float(), 2)
            assert (middle - small).abs().mean() < 3

    def test_a_network_of_two_scales_learns_and_comes_back(self, train, val, tmp_path):
        spec = replace(TINY, context=(2.0,))
        tables = [replace(t, context=(2.0, 4.0)) for t in (train, val)]
        model = fit(spec, *tables, **QUICK)
        found = classify_table(model, tables[1])
        assert (found.probabilities.argmax(axis=1) == found.truth).mean() > 0.9
        back = load_model(model.save(tmp_path / "m"))
        assert back.spec.context == (2.0,)
        np.testing.assert_array_equal(classify_table(back, tables[1]).probabilities, found.probabilities)

    def test_a_table_without_the_scale_says_how_to_sample(self, train):
        with pytest.raises(ModelError, match=r"at 2 µm/px, but the table was sampled with none.*mpp=\[1, 2\]"):
            fit(replace(TINY, context=(2.0,)), train, **QUICK)


class TestCache:
    def test_pictures_of_every_scale_are_read_once_and_masks_of_others_are_left_alone(self, train, tmp_path):
        tables = scale_tables(replace(train, context=(2.0,)), (2.0,))
        labels = patch_labels(train)
        first = ClassifiedPatches(tables, labels, cache=tmp_path)
        pixels, _ = first[3, 0]
        second = ClassifiedPatches(tables, labels, cache=tmp_path)
        second._read = None  # type: ignore[assignment,method-assign]  # what is stored needs no reading
        assert torch.equal(second[3, 0][0], pixels)
        assert len(list(tmp_path.glob("*.patches"))) == 2
        assert PatchCache(tmp_path, train, px=SIDE).get(3) is None  # a segmentation's file is another one


class TestTuning:
    @pytest.mark.parametrize("tune", ["frozen", "probe"])
    def test_a_fixed_encoder_does_not_change_nor_do_its_batch_statistics(self, train, tune):
        spec = replace(TINY, tune=tune)
        torch.manual_seed(0)
        before = spec.build().encoder.state_dict()
        after = fit(spec, train, **QUICK | {"epochs": 1, "seed": 0}).net.encoder.state_dict()
        assert all(torch.equal(before[k], after[k]) for k in before)

    def test_frozen_has_a_hidden_layer_and_probe_has_none(self):
        linear = {
            t: sum(isinstance(m, torch.nn.Linear) for m in replace(TINY, tune=t).build().head)
            for t in ("full", "probe", "frozen")
        }
        assert linear == {"full": 1, "probe": 1, "frozen": 2}

    def test_first_layers_move_least(self):
        net = Classification(LABELS, encoder="test_vit", encoder_weights=None).build()
        groups = net.parameter_groups(lr=1.0, weight_decay=0.1, layer_decay=0.5)
        rate = {id(p): g["lr"] for g in groups for p in g["params"]}
        assert len(rate) == sum(1 for _ in net.parameters())
        assert rate[id(net.head[-1].weight)] == 1.0
        rates = [rate[id(b.attn.qkv.weight)] for b in net.encoder.blocks]
        assert all(b == 2 * a for a, b in pairwise(rates))
        assert rate[id(net.encoder.patch_embed.proj.weight)] == rates[0] / 2

    def test_without_decay_there_is_one_rate(self):
        groups = TINY.build().parameter_groups(lr=0.5, weight_decay=0.1, layer_decay=1.0)
        assert {g["lr"] for g in groups} == {0.5}


class TestSpec:
    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"tune": "half"}, "tune must be one of full, frozen, probe, lora"),
            ({"dropout": 1.0}, "dropout must be from 0"),
            ({"lora_rank": 0}, "lora_rank at least 1"),
            ({"share": 0.0}, "share must be above 0"),
            ({"context": (0.0,)}, "context must be"),
            ({"options": {"act_layer": torch.nn.SiLU}}, "plain numbers"),
            ({"options": {"checkpoint_path": "/x.pth"}}, "'checkpoint_path' is no option of a network"),
            ({"mixup": -1.0}, "mixup must be 0"),
            ({"context": 1.0}, "context must be a list, not 1.0"),
            ({"context": None}, "context must be a list, not None"),
            ({"dropout": "0.1"}, "dropout must be a number, not '0.1'"),
            ({"labels": ["Tumor"]}, "labels must be a LabelMap"),
            ({"encoder": None}, "encoder must be a text, not None"),
            ({"encoder_weights": True}, "encoder_weights must be a text or None, not True"),
        ],
    )
    def test_what_cannot_be_is_named(self, wrong, said):
        with pytest.raises(ModelError, match=said):
            Classification(**{"labels": LABELS, "encoder_weights": None} | wrong)

    def test_weights_that_timm_does_not_have(self):
        with pytest.raises(ModelError, match=r"timm has no weights named 'resnet18\.nonsense'"):
            replace(TINY, encoder="resnet18.nonsense").build()

    def test_a_patch_size_that_a_transformer_cannot_take(self):
        net = Classification(LABELS, encoder="test_vit", encoder_weights=None).build()
        net.check_size(48)
        with pytest.raises(ModelError, match="patches of 50 px; 48 and 64 px"):
            net.check_size(50)

    def test_pixels_of_another_number_of_scales(self):
        with pytest.raises(ModelError, match="reads 1 scales, not 2"):
            TINY.build()(torch.zeros(1, 2, 3, SIDE, SIDE))

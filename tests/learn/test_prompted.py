"""Networks for prompts: what they are shown, how clicks are simulated, and that they learn."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import FakeEntry, square, write_png
from shapely.geometry import LineString, Point

from qp2train import Annotation, LabelMap, Model, PatchTable, fit, load_model, sample_patches
from qp2train.core.geometry import Box
from qp2train.core.labels import IGNORE
from qp2train.errors import ModelError, NoAnnotationError, Qp2trainError
from qp2train.learn import checkpoints
from qp2train.learn.augment import Augmentation
from qp2train.learn.objects import OBJECT, OTHER, ObjectViews, objects_of
from qp2train.learn.prompted import Prompted
from qp2train.learn.promptguide import guide
from qp2train.learn.prompting import PromptedTask, prompted_loss
from qp2train.learn.promptsim import degraded, error_click, first_prompt, loose_box

SMALL = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}


@pytest.fixture(scope="module")
def prompted(labels) -> Prompted:
    return Prompted(labels, encoder="resnet18", encoder_weights=None, options=SMALL)


@pytest.fixture(scope="module")
def trained(prompted, train_val, tmp_path_factory) -> Model:
    train, val = train_val
    run = tmp_path_factory.mktemp("run") / "clicks"
    return fit(prompted, train, val, epochs=12, batch_size=8, out=run, progress=False, track="csv", name="clicks")


def one_slide(tmp_path, drawn: list[Annotation], labels: LabelMap, *, size: int = 200) -> PatchTable:
    array = np.full((size, size, 3), 200, np.uint8)
    path = write_png(tmp_path / "s.png", array)
    region = square(0, 0, size, "Region*", id="region")
    entry = FakeEntry("s", [region, *drawn], array, 1.0, {"patient": "P"}, str(path))
    return sample_patches([entry], labels, size=32, per_class=2)


# What is shown


def test_a_guide_draws_disks_the_box_and_the_mask_each_in_a_channel_of_its_own() -> None:
    mask = np.zeros((64, 64), np.bool_)
    mask[:, :5] = True
    drawn = guide(64, [(10.5, 20.5), (40.5, 50.5)], [1, 0], (2.2, 3.0, 30.0, 99.0), mask)
    assert drawn.shape == (4, 64, 64)
    assert set(np.unique(drawn)) == {0, 1}
    radius = 5 / 256 * 64
    rows, columns = np.nonzero(drawn[0])
    assert np.hypot(rows - 20, columns - 10).max() <= radius
    assert drawn[0, 20, 10] == 1
    assert drawn[1, 50, 40] == 1
    assert drawn[0].sum() == drawn[1].sum() == 5  # all pixels whose middles are less than 1.25 px away
    assert drawn[2].sum() == (30 - 2) * (64 - 3)
    np.testing.assert_array_equal(drawn[3] > 0, mask)


@pytest.mark.parametrize("point", [(-0.1, 5.0), (5.0, 64.0), (1e9, 0.0), (-3.0, -3.0)])
def test_a_click_outside_of_the_view_is_not_drawn(point) -> None:
    assert guide(64, [point], [1], None, None).sum() == 0


def test_objects_are_the_areas_of_all_classes_and_nothing_else(tmp_path) -> None:
    labels = LabelMap(["Tumor", "Stroma"])
    drawn = [
        square(10, 10, 20, "Tumor", id="a"),
        square(100, 40, 30, "Stroma", id="b"),
        square(190, 100, 60, "Tumor", id="over the edge"),
        square(300, 300, 20, "Tumor", id="beyond"),
        square(60, 60, 10, "Ignore*", id="ignored"),
        Annotation(LineString([(0, 0), (50, 50)]), "Tumor", id="line"),
        Annotation(Point(5, 5), "Tumor", id="point"),
    ]
    objects = objects_of(one_slide(tmp_path, drawn, labels))
    assert objects.table.rows["annotation"].tolist() == ["a", "b", "over the edge"]
    assert objects.table.rows["label"].tolist() == ["Tumor", "Stroma", "Tumor"]
    assert objects.sides.tolist() == [20, 30, 60]
    assert objects.view(0) == Box(20 - 14, 20 - 14, 28, 28)


def test_a_project_of_points_and_lines_has_no_object(tmp_path, labels) -> None:
    table = one_slide(tmp_path, [square(10, 10, 20, id="a")], labels)
    ref = replace(table.slides["s"], annotations=[Annotation(Point(5, 5), "Tumor", id="p")])
    with pytest.raises(NoAnnotationError, match="not by points and lines"):
        objects_of(replace(table, slides={"s": ref}))


def test_a_view_says_what_is_the_object_what_is_not_and_what_nobody_knows(tmp_path, labels) -> None:
    drawn = [square(10, 10, 20, id="a"), square(32, 10, 20, id="neighbour"), square(24, 31, 4, "Ignore*", id="i")]
    table = one_slide(tmp_path, drawn, labels)
    views = ObjectViews(objects_of(table), 28)
    image, mask, _seed = views[0, 0]
    assert image.shape == (3, 28, 28)
    expected = np.full((28, 28), OTHER)
    expected[4:24, 4:24] = OBJECT  # the neighbour, of the same class, is another one
    expected[25:28, 18:22] = IGNORE
    np.testing.assert_array_equal(mask.numpy(), expected)


def test_what_lies_under_ignore_is_neither_learnt_nor_judged(tmp_path, labels) -> None:
    table = one_slide(tmp_path, [square(10, 10, 20, id="a"), square(20, 0, 50, "Ignore*", id="i")], labels)
    _, mask, _ = ObjectViews(objects_of(table), 28)[0, 0]
    expected = np.full((28, 28), OTHER)
    expected[4:24, 4:24] = OBJECT
    expected[:, 14:] = IGNORE
    np.testing.assert_array_equal(mask.numpy(), expected)


def test_a_view_that_strays_holds_the_same_object_at_the_place_where_the_picture_has_it(two_colours) -> None:
    """The picture's red squares are the objects: whatever the view, red and object must lie together."""
    views = ObjectViews(objects_of(two_colours), 64, Augmentation(64, "flips"))
    agreeing = []
    for row in range(0, len(views), 3):
        for seed in range(4):
            image, mask, _ = views[row, seed]
            red = (image[0].int() - image[2].int()).numpy() > 0
            inside = mask.numpy() == OBJECT
            assert inside.any()
            agreeing.append(red[inside].mean())
    assert np.mean(agreeing) > 0.97
    first, again = views[0, 7], ObjectViews(objects_of(two_colours), 64, Augmentation(64, "flips"))[0, 7]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], views[0, 8][0])


# How prompts are simulated


@pytest.fixture
def disc() -> np.ndarray:
    y, x = np.mgrid[:64, :64]
    return (x - 30) ** 2 + (y - 34) ** 2 < 15**2


def test_a_training_click_lies_in_the_inner_half_of_what_is_most_wrong(disc) -> None:
    known = np.ones_like(disc)
    for seed in range(50):
        x, y, label = error_click(np.zeros_like(disc), disc, known, np.random.default_rng(seed))
        assert label == 1
        assert np.hypot(x - 30.5, y - 34.5) <= 15 / 2 + 1
    surplus = disc.copy()
    surplus[:10] = True
    x, y, label = error_click(surplus, disc, known, np.random.default_rng(0))
    assert label == 0
    assert y < 10
    assert error_click(disc, disc, known, np.random.default_rng(0)) is None
    known[:20] = False  # where nobody knows, nothing is wrong
    assert error_click(surplus, disc, known, np.random.default_rng(0)) is None


def test_a_loose_box_stays_within_15_per_cent_of_the_sides(disc) -> None:
    for seed in range(50):
        box = loose_box(disc, np.random.default_rng(seed))
        assert np.abs(np.array(box) - [16, 20, 45, 49]).max() <= 0.15 * 29


def test_degraded_outlines_differ_but_mean_the_same_object(disc) -> None:
    found = [degraded(disc, np.random.default_rng(seed)) for seed in range(100)]
    ious = np.array([(f & disc).sum() / (f | disc).sum() for f in found])
    assert all(f.any() for f in found)
    assert 0.5 < ious.mean() < 0.9
    assert len({f.tobytes() for f in found}) > 80


def test_training_begins_with_clicks_boxes_and_outlines_in_their_shares(disc) -> None:
    known = np.ones_like(disc)
    prompts = [first_prompt(disc, known, np.random.default_rng(seed)) for seed in range(1000)]
    kinds = ["box" if p.box else "outline" if p.mask is not None else "click" for p in prompts]
    shares = {kind: kinds.count(kind) / 1000 for kind in ("click", "box", "outline")}
    assert shares == pytest.approx({"click": 0.55, "box": 0.2, "outline": 0.25}, abs=0.04)
    assert all(p.points for p, kind in zip(prompts, kinds, strict=True) if kind == "click")


def test_the_loss_is_blind_to_unknown_pixels_and_least_where_all_is_right(disc) -> None:
    mask = torch.from_numpy(np.where(disc, OBJECT, OTHER).astype(np.uint8))[None]
    right = torch.from_numpy(np.where(disc, 8.0, -8.0)).float()[None, None]
    said = torch.ones(1)
    assert prompted_loss(right, said, mask) < 0.05
    assert prompted_loss(-right, said, mask) > 2
    mask[:, :8], wrong = IGNORE, right.clone()
    wrong[..., :8, :] = 9
    assert prompted_loss(wrong, said, mask) == pytest.approx(float(prompted_loss(right, said, mask)), abs=1e-6)


# Learning


def test_it_learns_in_seconds_what_a_click_on_a_red_square_means(trained) -> None:
    assert trained.about["history"][-1]["val/iou@1"] > 0.6
    assert trained.task == "prompted"


def test_the_model_folder_is_an_ordinary_one(trained, tmp_path) -> None:
    again = load_model(trained.save(tmp_path / "model"))
    assert again.id == trained.id
    assert again.spec == trained.spec
    pixels, guides = torch.randint(0, 255, (1, 3, 64, 64)), torch.zeros(1, 4, 64, 64)
    with torch.no_grad():
        for a, b in zip(again.net(pixels, guides), trained.net(pixels, guides), strict=True):
            assert torch.equal(a, b)


def test_the_same_seed_gives_the_same_network(prompted, train_val) -> None:
    models = [fit(prompted, train_val[0], epochs=1, batch_size=8, progress=False, track="csv") for _ in range(2)]
    assert models[0].id == models[1].id


def test_a_trained_encoders_weights_are_taken_and_the_prompts_channels_stay_as_they_began(
    labels, prompted, tmp_path
) -> None:
    torch.manual_seed(0)
    file = tmp_path / "encoder.pth"
    plain = prompted._plain(None).build()
    torch.save(plain.net.get_submodule("encoder").state_dict(), file)
    net = replace(prompted, encoder_weights=str(file)).build()
    widened = net.net.get_submodule("encoder").conv1.weight
    assert widened.shape[1] == 7
    assert torch.equal(widened[:, :3], plain.net.get_submodule("encoder").conv1.weight)
    assert widened[:, 3:].abs().sum() > 0


def test_outlines_without_any_outside_are_warned_of(tmp_path, labels, prompted, caplog) -> None:
    table = one_slide(tmp_path, [square(50, 50, 60, id="a")], labels)
    ref = replace(table.slides["s"], annotations=[a for a in table.slides["s"].annotations if a.id == "a"])
    with caplog.at_level(logging.WARNING):
        fit(prompted, replace(table, slides={"s": ref}), epochs=1, batch_size=2, progress=False, track="csv")
    assert "unannotated: background" in caplog.text


@pytest.mark.parametrize(
    ("argument", "value"),
    [("loss", "ce"), ("class_weights", "auto"), ("label_smoothing", 0.1), ("layer_decay", 0.5), ("cache", "there")],
)
def test_arguments_that_say_nothing_to_prompts_are_refused(prompted, train_val, argument, value) -> None:
    with pytest.raises(Qp2trainError, match=f"{argument} is not for prompts"):
        fit(prompted, train_val[0], progress=False, **{argument: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arch": "dpt"}, "cannot take prompts"),
        ({"arch": "pan"}, "cannot take prompts"),
        ({"arch": "nonsense"}, "cannot build"),
        ({"options": {"in_channels": 3}}, "in_channels"),
    ],
)
def test_networks_that_cannot_be_are_refused(prompted, change, said) -> None:
    with pytest.raises(ModelError, match=said):
        replace(prompted, **change).build()


def test_a_training_that_was_stopped_goes_on_as_if_it_never_had_been(prompted, train_val, tmp_path, monkeypatch):
    train = train_val[0].take(range(8))
    how = {"epochs": 3, "batch_size": 2, "augment": "medium", "ema": 0.9, "track": "csv", "progress": False}
    whole = fit(prompted, train, out=tmp_path / "whole", **how)
    monkeypatch.setattr(checkpoints, "PAUSE", 0)
    step = PromptedTask.training_step

    def failing(self, batch, number):
        if (self.current_epoch, number) == (2, 1):
            raise KeyError("the computer failed")
        return step(self, batch, number)

    monkeypatch.setattr(PromptedTask, "training_step", failing)
    with pytest.raises(KeyError):
        fit(prompted, train, out=tmp_path / "run", **how)
    monkeypatch.setattr(PromptedTask, "training_step", step)
    seen = []
    monkeypatch.setattr(
        PromptedTask, "on_train_epoch_start", lambda self: seen.append(self.current_epoch), raising=False
    )
    resumed = fit(prompted, train, out=tmp_path / "run", resume=True, **how)
    assert seen == [2]
    mine, theirs = whole.net.state_dict(), resumed.net.state_dict()
    assert max((mine[k].float() - theirs[k].float()).abs().max().item() for k in mine) < 1e-4

"""Classes that overlap: from annotations to layers, to a network, to polygons that overlap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely
import torch
from fakes import FakeEntry, square, write_png

from qp2train import (
    Annotation,
    Box,
    LabelMap,
    Segmentation,
    fit,
    load_model,
    open_slide,
    predict,
    sample_patches,
    vectorise,
)
from qp2train.core.scores import ScoreMap
from qp2train.learn.augment import Augmentation, apply
from qp2train.learn.data import PatchDataset
from qp2train.sampling.layers import LayerPainter

LABELS = LabelMap(["Tumor", "Immune"])
SMALL = {"encoder_depth": 3, "decoder_channels": (16, 8, 8)}


def row(*boxes: tuple[float, float, str]) -> list[Annotation]:
    """Annotations along a strip one pixel high: (left, right, class)."""
    return [Annotation(shapely.box(left, 0, right, 1), name) for left, right, name in boxes]


class TestLayers:
    def painted(self, *boxes: tuple[float, float, str], labels: LabelMap = LABELS, width: int = 8) -> list[list[int]]:
        return LayerPainter(row(*boxes), labels).paint(Box(0, 0, width, 1), (width, 1))[:, 0].tolist()

    def test_where_they_overlap_a_pixel_is_of_both(self):
        assert self.painted((0, 8, "Region*"), (1, 5, "Tumor"), (3, 7, "Immune")) == [
            [0, 1, 1, 1, 1, 0, 0, 0],
            [0, 0, 0, 1, 1, 1, 1, 0],
        ]

    def test_outside_a_region_another_class_says_nothing(self):
        assert self.painted((1, 3, "Tumor"), (2, 4, "Immune")) == [
            [255, 1, 1, 255, 255, 255, 255, 255],
            [255, 255, 1, 1, 255, 255, 255, 255],
        ]

    def test_what_is_ignored_is_ignored_in_all(self):
        assert self.painted((0, 8, "Region*"), (1, 5, "Tumor"), (4, 6, "Ignore*")) == [
            [0, 1, 1, 1, 255, 255, 0, 0],
            [0, 0, 0, 0, 255, 255, 0, 0],
        ]

    def test_background_is_neither_class(self):
        labels = LabelMap(["Tumor", "Immune"], background=["Stroma"])
        assert self.painted((0, 2, "Stroma"), (2, 4, "Tumor"), labels=labels, width=4) == [
            [0, 0, 1, 1],
            [0, 0, 255, 255],
        ]

    def test_unannotated_may_be_background(self):
        labels = LabelMap(["Tumor", "Immune"], unannotated="background")
        assert self.painted((1, 2, "Tumor"), labels=labels, width=3) == [[0, 1, 0], [0, 0, 0]]

    def test_a_derived_class_counts_as_its_base_unless_it_is_a_class_itself(self):
        assert self.painted((0, 1, "Tumor: Positive"), width=1) == [[1], [255]]
        own = LabelMap(["Tumor", "Tumor: Positive"])
        assert self.painted((0, 1, "Tumor: Positive"), labels=own, width=1) == [[255], [1]]


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory):
    """Two patients: red is tumour, green is immune, yellow is both; all else is black."""
    folder = tmp_path_factory.mktemp("overlapping")
    rng = np.random.default_rng(0)
    entries = []
    for i in range(4):
        array = np.zeros((192, 192, 3), np.uint8)
        drawn = [square(-9, -9, 400, "Region*", id=f"r{i}")]
        for n in range(5):
            for channel, name in enumerate(LABELS.classes):
                x, y = (int(v) for v in rng.integers(0, 140, 2))
                array[y : y + 40, x : x + 40, channel] = 220
                drawn.append(square(x, y, 40, name, id=f"{name}{i}{n}"))
        path = write_png(folder / f"{i}.png", array)
        entries.append(FakeEntry(f"s{i}", drawn, array, 1.0, {}, str(path)))
    table = sample_patches(entries, LABELS, size=64, per_class=8)
    return replace(table, rows=table.rows.assign(group=table.rows["entry"])), entries


class TestPatches:
    def test_the_mask_has_a_layer_per_class_that_lies_over_the_picture(self, overlapping):
        table, _ = overlapping
        dataset = PatchDataset(table, multilabel=True)
        seen = 0
        for i in range(len(table)):
            image, mask = dataset[i, 0]
            assert mask.shape == (2, 64, 64)
            known = mask != 255
            assert ((image[:2] > 100) == (mask == 1))[known].all()
            seen += int((mask == 1).all(dim=0).sum())
        assert seen > 100  # both at once

    @pytest.mark.parametrize("strength", ["flips", "medium"])
    def test_augmentation_moves_all_layers_alike(self, strength):
        augmentation = Augmentation(64, strength)
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (augmentation.read_px, augmentation.read_px, 3), dtype=np.uint8)
        layer = (np.kron(rng.random((10, 10)), np.ones((9, 9)))[: len(image), : len(image)] > 0.5).astype(np.uint8)
        layer = np.resize(layer, image.shape[:2])
        for seed in range(10):
            turned, several = apply(augmentation.compose(), image, np.stack([layer, 1 - layer, layer]), seed=seed)
            same, one = apply(augmentation.compose(), image, layer, seed=seed)
            assert np.array_equal(turned, same)
            assert np.array_equal(several[0], one)
            assert np.array_equal(several[2], one)
            assert np.array_equal(several[1] != 255, one != 255)

    def test_the_folder_of_read_patches_keeps_the_pictures(self, overlapping, tmp_path):
        from qp2train.sampling.patchcache import PatchCache

        table, _ = overlapping
        cache = PatchCache(tmp_path, table, px=64, limit_gb=1)
        plain = PatchDataset(table, cache=cache)
        stored = [plain[0, 0] for _ in range(2)][1]
        layers = PatchDataset(table, cache=cache, multilabel=True)[0, 0]
        assert torch.equal(stored[0], layers[0])
        assert layers[1].shape == (2, 64, 64)


@pytest.mark.slow
def test_a_network_learns_what_overlaps_and_predicts_it(overlapping, tmp_path):
    table, entries = overlapping
    train, val = table.split(fractions=(0.75, 0.25))
    spec = Segmentation(LABELS, "unet", "resnet18", None, SMALL, multilabel=True)
    fit(spec, train, val, epochs=15, batch_size=4, lr=5e-3, augment="flips", progress=False, out=tmp_path / "run")
    model = load_model(tmp_path / "run")
    assert model.spec.multilabel
    last = model.about["history"][-1]
    assert last["val/dice"] == pytest.approx((last["val/dice/Tumor"] + last["val/dice/Immune"]) / 2, abs=1e-4)
    assert last["val/dice"] > 0.85
    held = next(e for e in entries if e.id == val.rows["entry"].iloc[0])
    for tta in ("none", "dihedral"):
        scores = predict(model, open_slide(held.path, mpp=1.0), tissue=False, tta=tta)
        truth = held.array[..., :2] > 100
        for channel, name in enumerate(LABELS.classes):
            assert ((scores.probability(name) > 0.5) == truth[..., channel]).mean() > 0.9
        both = truth.all(axis=2)
        assert all((scores.probability(name) > 0.5)[both].mean() > 0.7 for name in LABELS.classes)


class TestMap:
    @pytest.fixture
    def scores(self) -> ScoreMap:
        """Tumour in the columns 0 to 2, immune in 1 to 3, of 5; the last column was not predicted."""
        tumor, immune = np.array([200, 200, 200, 10, 0]), np.array([10, 250, 150, 180, 0])
        planes = np.stack([255 - np.maximum(tumor, immune), tumor, immune])[:, None].repeat(2, axis=1).astype(np.uint8)
        classmap = np.array([[1, 2, 1, 2, 255]] * 2, np.uint8)
        return ScoreMap(planes, classmap, Box(0, 0, 10, 4), 1.0, 0.5, LABELS, overlapping=True)

    def test_each_class_has_polygons_of_its_own(self, scores):
        found = {a.class_name: a for a in vectorise(scores)}
        assert {name: a.geometry.bounds for name, a in found.items()} == {
            "Tumor": (0, 0, 6, 4),
            "Immune": (2, 0, 8, 4),
        }
        # (250 + 150 + 180) / 3 / 255
        assert found["Immune"].measurements["Mean probability"] == pytest.approx(0.7582, abs=1e-4)

    def test_areas_count_a_pixel_for_each_of_its_classes(self, scores):
        # A map pixel is 2 × 2 pixels of 0.5 µm: 1 µm². Six of each class.
        assert scores.areas_mm2() == pytest.approx({"Background": 0, "Tumor": 6e-6, "Immune": 6e-6})


def test_a_class_without_a_validation_pixel_takes_no_part_in_the_score(overlapping, caplog):
    table, _ = overlapping
    train, val = table.split(fractions=(0.75, 0.25))
    only = {
        k: replace(s, annotations=[a for a in s.annotations if a.class_name != "Immune"]) for k, s in val.slides.items()
    }
    spec = Segmentation(LABELS, "unet", "resnet18", None, SMALL, multilabel=True)
    how = {"epochs": 1, "batch_size": 4, "augment": "none", "progress": False}
    last = fit(spec, train, replace(val, slides=only), **how).about["history"][-1]
    assert last["val/dice"] == last["val/dice/Tumor"]
    assert "no validation pixel is Immune" in caplog.text


def test_class_weights_leave_out_the_background(overlapping):
    from qp2train.learn.schedule import Optimisation
    from qp2train.learn.tasks import prepare

    table, _ = overlapping
    spec = Segmentation(LABELS, "unet", "resnet18", None, SMALL, multilabel=True)
    how = {"augmentation": Augmentation(64, "none"), "batch_size": 4, "seed": 0, "weights": {"Immune": 3}}
    task = prepare(spec, spec.build(), table, None, Optimisation(), **how).task
    assert task.loss.class_weights.tolist() == [1, 3]

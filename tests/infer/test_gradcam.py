from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from discs import LABELS, RADIUS, SIDE, disc_table, tile

from qp2train import ArraySlide, fit, predict, tiles, vectorise
from qp2train.errors import ModelError
from qp2train.infer.gradcam import as_segmentation, gradcam
from qp2train.learn.classification import Classification

torch.set_num_threads(1)
MADE = {"batch_size": 12, "augment": "flips", "progress": False, "track": "csv"}
PLACES = [(14, 14), (34, 14), (14, 34), (34, 34), (24, 24)]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return disc_table(tmp_path_factory.mktemp("discs"), ["Stroma", "Tumor", "Background"] * 12)


@pytest.fixture(scope="module")
def convolutional(table):
    # Maps of 8 px instead of 32, so that a disc of 18 px has a place on them.
    spec = Classification(LABELS, encoder="resnet10t", encoder_weights=None, options={"output_stride": 8})
    return fit(spec, table, epochs=6, lr=2e-3, **MADE)


@pytest.fixture(scope="module")
def transformer(table):
    spec = Classification(LABELS, encoder="test_vit", encoder_weights=None, options={"patch_size": 8})
    return fit(spec, table, epochs=15, lr=2e-3, **MADE)


def pictures(label: str) -> torch.Tensor:
    rng = np.random.default_rng(3)
    return torch.from_numpy(np.stack([tile(label, rng, place) for place in PLACES])).permute(0, 3, 1, 2)


def share_near(cams: np.ndarray) -> list[float]:
    """Of each map the share of its mass that is within 1.5 radii of the disc; an even map has 572 of 48² px, 0.25."""
    rows, columns = np.ogrid[:SIDE, :SIDE]
    near = [(columns - x) ** 2 + (rows - y) ** 2 <= (1.5 * RADIUS) ** 2 for x, y in PLACES]
    return [float(cam[inside].sum() / cam.sum()) for cam, inside in zip(cams, near, strict=True)]


@pytest.mark.parametrize("network", ["convolutional", "transformer"])
@pytest.mark.parametrize(("index", "label"), [(1, "Stroma"), (2, "Tumor")])
def test_the_mass_of_the_map_lies_on_the_disc_that_decides(request, network, index, label):
    cams = gradcam(request.getfixturevalue(network), pictures(label))
    assert cams.shape == (len(PLACES), 3, SIDE, SIDE)
    assert cams.min() >= 0
    assert cams[:, index].max(axis=(1, 2)) == pytest.approx(1)
    assert min(share_near(cams[:, index])) > 0.5


def test_the_strongest_place_is_on_the_disc(convolutional):
    for cam, (x, y) in zip(gradcam(convolutional, pictures("Tumor"))[:, 2], PLACES, strict=True):
        row, column = np.unravel_index(cam.argmax(), cam.shape)
        assert (column - x) ** 2 + (row - y) ** 2 <= (RADIUS + 4) ** 2  # half a map pixel beyond at most


def test_a_frozen_encoder_has_maps_too(table):
    spec = Classification(LABELS, encoder="test_byobnet", encoder_weights=None, tune="probe")
    model = fit(spec, table, epochs=1, lr=1e-2, **MADE)
    assert gradcam(model, pictures("Tumor")).shape == (5, 3, SIDE, SIDE)


def test_of_several_scales_the_patchs_own_is_shown(table):
    spec = Classification(LABELS, encoder="test_byobnet", encoder_weights=None, context=(2.0,))
    model = fit(spec, replace(table, context=(2.0,)), epochs=1, lr=1e-3, **MADE)
    pixels = torch.stack([pictures("Tumor")] * 2, dim=1)
    assert gradcam(model, pixels).shape == (5, 3, SIDE, SIDE)
    with pytest.raises(ModelError, match="reads its context too"):
        as_segmentation(model)


class TestPixels:
    @pytest.mark.parametrize(
        ("pixels", "said"),
        [
            (np.zeros((1, 3, SIDE, SIDE), np.uint8), r"a torch tensor \(B, 3, H, W\), not ndarray"),
            (torch.zeros(1, SIDE, SIDE, 3), "not \\(1, 48, 48, 3\\)"),
            (torch.zeros(3, SIDE, SIDE), "not \\(3, 48, 48\\)"),
            (torch.zeros(0, 3, SIDE, SIDE), "at least one patch"),
            (torch.zeros(1, 2, 3, SIDE, SIDE), "not \\(1, 2, 3, 48, 48\\)"),
        ],
    )
    def test_of_another_form_are_named(self, convolutional, pixels, said):
        with pytest.raises(ModelError, match=said):
            gradcam(convolutional, pixels)

    @pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
    def test_maps_are_the_same_where_gradients_are_off(self, convolutional, mode):
        with mode():
            found = gradcam(convolutional, pictures("Tumor"))
        np.testing.assert_array_equal(found, gradcam(convolutional, pictures("Tumor")))


class TestWeakSegmentation:
    """A slide of three tiles: a blue disc, a red one, none."""

    @pytest.fixture
    def slide(self):
        rng = np.random.default_rng(5)
        row = [tile("Stroma", rng, (24, 24)), tile("Tumor", rng, (24, 24)), tile("Background", rng)]
        return ArraySlide(np.concatenate(row, axis=1), mpp=1.0)

    def test_discs_become_annotations_though_only_patches_were_labelled(self, convolutional, slide):
        found = predict(as_segmentation(convolutional), slide, overlap=0.5, tissue=False)
        assert found.shape == (SIDE, 3 * SIDE)
        for i, name in ((1, "Stroma"), (2, "Tumor")):
            (largest,) = sorted((a for a in vectorise(found) if a.class_name == name), key=lambda a: a.geometry.area)[
                -1:
            ]
            centre = largest.geometry.centroid
            assert abs(centre.x - (SIDE * (i - 1) + 24)) < RADIUS
            assert abs(centre.y - 24) < RADIUS
        assert (found.classmap[:, -SIDE // 2 :] == 0).all()

    def test_and_heatmap_tiles(self, convolutional, slide):
        measured = tiles(predict(as_segmentation(convolutional), slide, overlap=0, tissue=False), size_um=SIDE)
        tumor = [t.measurements["Probability Tumor"] for t in measured]
        assert tumor.index(max(tumor)) == 1

    def test_a_higher_threshold_gives_less(self, convolutional, slide):
        areas = [
            predict(as_segmentation(convolutional, threshold=t), slide, tissue=False).areas_mm2()["Tumor"]
            for t in (0.3, 0.6)
        ]
        assert areas[0] > areas[1] > 0

    @pytest.mark.parametrize("temperature", ["x", 0, -1, None, float("nan")])
    def test_what_is_no_temperature(self, convolutional, temperature):
        with pytest.raises(ModelError, match=r"temperature of .* must be a number above 0"):
            as_segmentation(replace(convolutional, about={"temperature": temperature}))

    def test_it_has_no_files_of_its_own(self, convolutional, tmp_path):
        with pytest.raises(ModelError, match="save the classifier itself"):
            as_segmentation(convolutional).save(tmp_path / "m")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("threshold", [0, 1, -1, float("nan"), "0.5", None])
    def test_what_is_no_threshold(self, convolutional, threshold):
        with pytest.raises(ModelError, match="threshold must be"):
            as_segmentation(convolutional, threshold=threshold)

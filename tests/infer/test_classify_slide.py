from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fakes import BLUE, RED
from torch import nn

from qp2train import ArraySlide, LabelMap, Model, predict, tiles, vectorise
from qp2train.core.labels import IGNORE
from qp2train.errors import ModelError
from qp2train.infer.classify import probabilities
from qp2train.learn.classification import Classification, ClassificationNet
from qp2train.learn.foundation import Architecture

LABELS = LabelMap(["Tumor"])


class _MeanColour(nn.Module):
    """An encoder that sees a patch's mean colour, and nothing else."""

    head_hidden_size = 3

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward_head(self, x: torch.Tensor, *, pre_logits: bool) -> torch.Tensor:
        return x.mean(dim=(2, 3))


def by_mean_colour(context: tuple[float, ...] = (), **about: Any) -> Model:
    """The redder the patch, the more tumour; of several scales only the last one counts."""
    spec = Classification(LABELS, encoder="resnet18", encoder_weights=None, context=context)
    net = ClassificationNet(spec, Architecture("resnet18", mean=(0, 0, 0), std=(1, 1, 1)), _MeanColour()).eval()
    last = net.head[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    last.weight.data[1, -3], last.weight.data[1, -1] = 8.0, -8.0
    return Model("mean-0", spec, net, 10, 1.0, about)


@pytest.fixture
def slide() -> ArraySlide:
    """4 × 2 patches of 10 px: red, blue, red, red over blue, blue, blue, red."""
    colours = np.array([[RED, BLUE, RED, RED], [BLUE, BLUE, BLUE, RED]], np.uint8)
    return ArraySlide(colours.repeat(10, axis=0).repeat(10, axis=1), mpp=1.0)


def test_each_patch_is_a_pixel_of_the_map(slide):
    found = predict(by_mean_colour(), slide, overlap=0, tissue=False)
    assert found.classmap.tolist() == [[1, 0, 1, 1], [0, 0, 0, 1]]
    assert found.mpp == 10
    assert found.scale == (10, 10)
    # Red (200, 40, 60): logit 8 · 140/255; its sigmoid in 255ths.
    assert found.scores[1, 0, 0] == round(255 / (1 + np.exp(-8 * 140 / 255)))


def test_with_overlap_the_map_is_finer_and_each_pixel_is_the_middle_of_its_patch(slide):
    found = predict(by_mean_colour(), slide, overlap=0.5, tissue=False)
    assert found.shape == (4, 8)
    # The pixel over x = 5…10 is of the patch 2.5…12.5: three quarters red, one blue, so still tumour; at x = 10…15
    # of 7.5…17.5 with the blue ones ahead.
    assert found.classmap[0].tolist() == [1, 1, 0, 0, 1, 1, 1, 1]


def test_it_comes_back_as_heatmap_tiles_and_as_annotations(slide):
    found = predict(by_mean_colour(), slide, overlap=0, tissue=False)
    measured = tiles(found, size_um=10)
    assert [t.class_name for t in measured] == ["Tumor", None, "Tumor", "Tumor", None, None, None, "Tumor"]
    assert measured[0].geometry.bounds == (0, 0, 10, 10)
    assert sorted(a.geometry.area for a in vectorise(found)) == [100, 300]


def test_glass_is_left_out():
    array = np.full((200, 200, 3), 255, np.uint8)
    array[:100, :100] = RED
    found = predict(by_mean_colour(), ArraySlide(array, mpp=4.0), overlap=0)
    assert found.shape == (80, 80)
    assert (found.classmap[:39, :39] == 1).all()
    assert (found.classmap[60:, 60:] == IGNORE).all()
    assert found.scores[:, found.classmap == IGNORE].max() == 0


def test_progress_and_tta(slide):
    seen = []
    plain = predict(by_mean_colour(), slide, overlap=0, tissue=False, batch_size=3, progress=lambda *a: seen.append(a))
    assert seen == [(3, 8), (6, 8), (8, 8)]
    turned = predict(by_mean_colour(), slide, overlap=0, tissue=False, tta="dihedral")
    assert (turned.scores == plain.scores).all()  # a mean colour knows no direction


def test_the_surroundings_are_read_round_the_same_centre(slide):
    found = predict(by_mean_colour(context=(2.0,)), slide, overlap=0, tissue=False)
    # Red is 140 redder than blue, blue 160 bluer than red, white neither. At 2 µm/px the first patch, red itself, is
    # seen with 5 µm each way: 100 µm² of red and 125 of blue, so 100·140 < 125·160. The last of that row: 200 and 25.
    assert found.classmap[0, 0] == 0
    assert found.classmap[0, 3] == 1


def test_the_temperature_softens():
    pixels = torch.tensor(RED, dtype=torch.uint8).reshape(1, 3, 1, 1).expand(1, 3, 10, 10)
    sharp, soft = (probabilities(by_mean_colour(temperature=t), pixels)[0, 1] for t in (1.0, 2.0))
    logit = 8 * 140 / 255
    assert sharp == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)
    assert soft == pytest.approx(1 / (1 + np.exp(-logit / 2)), rel=1e-5)


def test_a_segmentation_model_is_refused(by_colour):
    with pytest.raises(ModelError, match="is a segmentation model"):
        probabilities(by_colour, torch.zeros(1, 3, 16, 16))

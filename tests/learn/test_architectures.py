"""Every architecture of segmentation-models-pytorch is built by its name, and learns."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch

from qp2train import LabelMap, Segmentation
from qp2train.learn.losses import SegmentationLoss

LABELS = LabelMap(["Stroma", "Tumor"])
THREE = {"encoder_depth": 3, "decoder_channels": (16, 8, 8)}

# The smallest options that are quick; some architectures want all five levels of the encoder.
SMALL: dict[str, dict[str, object]] = {
    "unet": THREE,
    "unetplusplus": THREE,
    "manet": THREE | {"decoder_pab_channels": 8},
    "linknet": {"encoder_depth": 3},
    "fpn": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32},
    "pspnet": {"psp_out_channels": 16, "psp_dropout": 0.0},
    "pan": {"decoder_channels": 8},
    "deeplabv3": {"decoder_channels": 16},
    "deeplabv3plus": {"decoder_channels": 16},
    "upernet": {"decoder_channels": 16},
    "segformer": {"decoder_segmentation_channels": 16},
    "dpt": {"decoder_intermediate_channels": (16, 16, 16, 16), "decoder_fusion_channels": 16},
}


def learns_in_one_step(spec: Segmentation, side: int = 64) -> None:
    """The output has the right shape, every trained part of the decoder has a gradient, and the loss falls."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = spec.build()
        net.check_size(side)
        pixels = torch.randint(0, 256, (2, 3, side, side)).float()
        mask = torch.randint(0, 3, (2, side, side))
        loss = SegmentationLoss()
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
        logits = net.train()(pixels)
        assert logits.shape == (2, 3, side, side)
        before = loss(logits, mask)
        before.backward()
        assert all(p.grad is not None for p in net.net.segmentation_head.parameters())
        assert sum(p.grad.abs().sum() for p in net.net.encoder.parameters() if p.grad is not None) > 0
        optimizer.step()
        assert loss(net(pixels), mask) < before


def test_all_of_them_are_here():
    assert set(SMALL) == set(smp.MODEL_ARCHITECTURES_MAPPING)


@pytest.mark.parametrize("arch", [name for name in SMALL if name != "dpt"])
def test_by_name(arch):
    # A PAN halves the picture once more than the others, twice.
    learns_in_one_step(Segmentation(LABELS, arch, "resnet18", None, SMALL[arch]), 128 if arch == "pan" else 64)


@pytest.mark.parametrize("arch", ["unet", "fpn"])
def test_a_timm_encoder(arch):
    learns_in_one_step(Segmentation(LABELS, arch, "tu-resnet10t", None, SMALL[arch]))


def test_a_transformers_encoder_of_its_own():
    learns_in_one_step(Segmentation(LABELS, "segformer", "mit_b0", None, SMALL["segformer"]))


def test_dpt_has_a_vision_transformer_of_timm():
    options = SMALL["dpt"] | {"dynamic_img_size": True}
    learns_in_one_step(Segmentation(LABELS, "dpt", "tu-vit_tiny_patch16_224", None, options))

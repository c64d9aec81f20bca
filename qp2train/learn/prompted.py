"""Prompted: a network that outlines what is clicked on; no class, one object at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from qp2train.core.labels import LabelMap
from qp2train.errors import ModelError
from qp2train.learn.promptguide import GUIDES
from qp2train.learn.segmentation import Segmentation, SegmentationNet, SmpNet
from qp2train.learn.typed import check_types

# Architectures that cannot be used, and why.
UNFIT = {"dpt": "its encoders read RGB only", "pan": "it cannot learn from a single view"}
# Of the head that says how well an outline fits.
_HIDDEN = 64
# Of channels that a decoder's layers are normalised in.
_GROUPS = 8


@dataclass(frozen=True)
class Prompted:
    """A network for prompts, not yet trained: a picture, clicks, a box and an earlier mask in, an outline out.

    It learns from the annotated objects of all classes of `labels`, whatever their class.

    Args:
        labels: Classes whose annotated areas are objects; a prompt says which one is meant, not of which class it is.
        arch: Architecture of segmentation-models-pytorch, such as "unet" or "fpn".
        encoder: Its encoder; small ones answer a click sooner.
        encoder_weights: As for `Segmentation`.
        options: Further keyword arguments of the architecture.

    Sources: Sofiiuk et al., Reviving Iterative Training with Mask Guidance for Interactive Segmentation, ICIP 2022
    (click disks, earlier mask, clicks simulated during training); Koohbanani et al., NuClick, MedIA 2020.
    """

    labels: LabelMap
    arch: str = "unet"
    encoder: str = "resnet18"
    encoder_weights: str | None = "imagenet"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weights: object = self.encoder_weights
        if isinstance(weights, os.PathLike):
            object.__setattr__(self, "encoder_weights", os.fspath(weights))
        check_types(Prompted, vars(self), ModelError)
        if self.arch.lower() in UNFIT:
            raise ModelError(f"{self.arch!r} cannot take prompts: {UNFIT[self.arch.lower()]}; use 'unet' or another")
        self._plain(self.encoder_weights)  # raises what a segmentation would

    @property
    def stain(self) -> None:
        """None: a view that comes from elsewhere, as over the server, does not tell its slide's stain."""

    @classmethod
    def from_dict(cls, labels: LabelMap, network: Mapping[str, Any]) -> Prompted:
        """The description of a saved model; to build it, nothing is fetched and no file is opened.

        Raises:
            ModelError, KeyError, TypeError, ValueError, AttributeError: The data are none.
        """
        spec = cls(labels, encoder_weights=None, **network)
        Segmentation.from_dict(_OBJECT, {k: network[k] for k in ("arch", "encoder", "options") if k in network})
        return spec

    def build(self) -> PromptedNet:
        """The network, with pretrained encoder weights where they can be had.

        Of those the first layer's weights of the colours are taken; those of the prompts begin at random.

        Raises:
            ModelError: An unknown architecture, encoder or option, or a weights file that does not fit.
        """
        plain = self._plain(self.encoder_weights).build()
        described = plain.plain or self._plain(None)  # of the hub's encoders
        net = described.create(None, **described.options, in_channels=3 + GUIDES)
        if self.encoder_weights is not None:
            _widen(net.get_submodule("encoder"), plain.net.get_submodule("encoder"))
        _group_norm(net.get_submodule("decoder"))
        return PromptedNet(net, plain)

    def _plain(self, weights: str | None) -> Segmentation:
        return Segmentation(_OBJECT, self.arch, self.encoder, weights, self.options, multilabel=True)


class PromptedNet(SmpNet):
    """RGB pixels in 0–255 (B, 3, H, W) and guides (B, 4, H, W) → logits (B, 1, H, W) and predicted IoU (B,).

    Args:
        net: The network of smp, of seven channels.
        plain: The same of three, for its normalisation and its description.
    """

    def __init__(self, net: nn.Module, plain: SegmentationNet) -> None:
        mean, std = ((getattr(plain, key).flatten() / 255).tolist() for key in ("mean", "std"))
        super().__init__(net, mean=mean, std=std, plain=plain.plain)
        encoder: Any = net.get_submodule("encoder")
        channels = 2 * encoder.out_channels[-1]
        self.seen = nn.LayerNorm(channels)
        self.fit = nn.Sequential(nn.Linear(channels + 2, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1))

    def forward(self, pixels: torch.Tensor, guides: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        net: Any = self.net
        features = net.encoder(torch.cat([(pixels.float() - self.mean) / self.std, guides], dim=1))
        logits: torch.Tensor = net.segmentation_head(net.decoder(features))
        # How well it fits is judged from what was seen inside and all over, and says nothing to the outline.
        share = logits.detach().sigmoid()
        last = features[-1].detach()
        small = torch.nn.functional.adaptive_avg_pool2d(share, last.shape[-2:])
        inside = (last * small).sum((2, 3)) / small.sum((2, 3)).clamp(min=1e-3)
        unsure = (share * (1 - share)).mean((1, 2, 3)) / share.mean((1, 2, 3)).clamp(min=1e-3)
        seen = self.seen(torch.cat([last.mean((2, 3)), inside], dim=1))
        told = torch.cat([seen, unsure[:, None], share.mean((2, 3))], dim=1)
        return logits, self.fit(told).squeeze(1).sigmoid()


_OBJECT = LabelMap(["Object"])


def _widen(encoder: nn.Module, trained: nn.Module) -> None:
    """Take a trained encoder's weights; where it reads three channels, those of the others stay as they are."""
    own = encoder.state_dict()
    for name, weight in trained.state_dict().items():
        if own[name].shape == weight.shape:
            own[name].copy_(weight)
        else:
            own[name][:, : weight.shape[1]].copy_(weight)


def _group_norm(module: nn.Module) -> None:
    """Normalise by picture: batches are small, and an object's rounds of clicks no good measure of the next one's."""
    for name, part in module.named_children():
        if isinstance(part, nn.BatchNorm2d):
            channels = part.num_features
            setattr(module, name, nn.GroupNorm(math.gcd(_GROUPS, channels), channels))
        else:
            _group_norm(part)

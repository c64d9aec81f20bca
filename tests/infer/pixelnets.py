"""Networks whose answer is known for each pixel, as stand-ins for trained ones."""

from __future__ import annotations

import torch
from torch import nn

from qp2train import LabelMap, Model, Segmentation


class ByColour(nn.Module):
    """A network that looks at each pixel alone: the redder, the more tumour; white is in between."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        red = (pixels[:, 0].float() - pixels[:, 2].float()) / 40
        return torch.stack([torch.zeros_like(red), red], dim=1)


class Constant(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(pixels[:, :2].float()) + torch.tensor([0.0, 2.0]).reshape(1, 2, 1, 1)


class LeftRight(nn.Module):
    """A network that prefers its window's left half: what averaging over flips cures."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(-2, 2, pixels.shape[-1]).expand(len(pixels), *pixels.shape[-2:])
        return torch.stack([torch.zeros_like(ramp), ramp], dim=1)


def model_of(net: nn.Module, *, size_px: int = 16, mpp: float = 1.0) -> Model:
    spec = Segmentation(LabelMap(["Tumor"]), encoder_weights=None)
    return Model(f"{type(net).__name__}-0", spec, net, size_px, mpp, {})  # type: ignore[arg-type]

"""Grad-CAM: where in a patch a classifier sees what it says, and a segmentation from nothing but patch labels.

Sources: Selvaraju et al., Grad-CAM, ICCV 2017; of a transformer's tokens gradient × activation (as HiResCAM, Draelos
and Carin, 2020). The way to a segmentation follows Chan et al., HistoSegNet, ICCV 2019: maps scaled by the patch's
probabilities, and a background where all of them are weak.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import interpolate

from qp2train.core.labels import BACKGROUND
from qp2train.errors import ModelError
from qp2train.infer.classify import net_of
from qp2train.infer.predict import temperature_of
from qp2train.learn.classification import ClassificationNet
from qp2train.learn.models import Model
from qp2train.learn.segmentation import Segmentation

_TINY = 1e-6


def gradcam(model: Model, pixels: torch.Tensor) -> NDArray[np.float32]:
    """Where in patches the evidence for each class lies.

    Args:
        model: A classification model.
        pixels: (B, 3, H, W), or (B, S, 3, H, W) of a model that reads several scales; RGB in 0–255.

    Returns:
        (B, C, H, W) float32: of each class how much a place speaks for it, from 0 to 1 at the strongest; all 0 where
        nothing does, and of classes that the model never predicts. Of several scales, the patch's own.

    Raises:
        ModelError: The model is none of classification, its encoder has no maps, or the pixels have another form.
    """
    net = net_of(model).eval()
    _check_pixels(pixels, scales=net.scales)
    with torch.inference_mode(False):
        maps, _ = _maps(net, pixels.clone())
    return np.asarray(maps.cpu().numpy(), dtype=np.float32)


def as_segmentation(model: Model, *, threshold: float = 0.5) -> Model:
    """A classifier as a segmentation model: `predict`, `tiles`, `vectorise` and `evaluate` take it as any other.

    A pixel's score of a class is its Grad-CAM times the patch's probability of the class; where all are below
    `threshold` it is background. Maps are as fine as the encoder's last layer: 32 px of most convolutional networks,
    8 with `Classification(options={"output_stride": 8})` where timm has that; of a vision transformer its patches.

    Args:
        model: A classification model that reads one scale.
        threshold: From which score on a pixel is no background, 0 < threshold < 1.

    Raises:
        ModelError: A threshold or temperature out of range, no classification model, or one that reads several scales.
    """
    if not (isinstance(threshold, int | float) and 0 < threshold < 1):
        raise ModelError(f"threshold must be a number above 0 and below 1, not {threshold!r}")
    net = net_of(model)
    if net.scales > 1:
        raise ModelError("a slide's Grad-CAM needs a classifier that reads one scale; this one reads its context too")
    cams: Any = _CamNet(net, threshold, temperature_of(model))
    spec = Segmentation(
        model.labels, arch="gradcam", encoder=net.architecture.name, encoder_weights=None, stain=net.spec.stain
    )
    about = {k: v for k, v in model.about.items() if k != "temperature"}
    return replace(model, spec=spec, net=cams, about=about)


class _CamNet(nn.Module):
    """Pixels (B, 3, H, W) → logits (B, C, H, W) whose softmax are the scores of `as_segmentation`."""

    def __init__(self, net: ClassificationNet, threshold: float, temperature: float) -> None:
        super().__init__()
        self.net, self.threshold, self.temperature = net, threshold, temperature

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # Prediction runs without gradients, of which these maps consist.
        with torch.inference_mode(False):
            maps, logits = _maps(self.net, pixels.clone())
        score = maps * (logits / self.temperature).softmax(dim=1)[:, :, None, None]
        strongest = score[:, BACKGROUND + 1 :].amax(dim=1)
        # As high as the strongest class where that is just at the threshold.
        score[:, BACKGROUND] = (1 - strongest) * self.threshold / (1 - self.threshold)
        return score.clamp_min(_TINY).log()


def _check_pixels(pixels: object, *, scales: int) -> None:
    form = "(B, 3, H, W)" if scales == 1 else f"(B, {scales}, 3, H, W)"
    if not isinstance(pixels, torch.Tensor):
        raise ModelError(f"pixels must be a torch tensor {form}, not {type(pixels).__name__}")
    channels = (3,) if scales == 1 else (scales, 3)
    if pixels.ndim != 3 + len(channels) or pixels.shape[1:-2] != channels or 0 in pixels.shape:
        raise ModelError(f"pixels must be {form} with at least one patch, not {tuple(pixels.shape)}")


def _maps(net: ClassificationNet, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Grad-CAM (B, C, H, W) and logits (B, C)."""
    encoder: Any = net.encoder
    with torch.enable_grad():
        normalised = net.normalised(pixels).requires_grad_()  # so that a frozen encoder has gradients too
        kept: list[torch.Tensor] = []
        # After the last block only the class token speaks for a transformer's answer; before it, all tokens do.
        inner = encoder.blocks[-1].norm1 if _has_tokens(encoder) else None
        hook = inner.register_forward_hook(lambda _m, _i, out: kept.append(out)) if inner is not None else None
        try:
            features = encoder.forward_features(normalised)
        finally:
            if hook is not None:
                hook.remove()
        seen = kept[0] if kept else features
        logits = net.classified(net.pooled(features, len(pixels)))
        maps = [
            _map(encoder, seen, *torch.autograd.grad(logits[:, c].sum(), seen, retain_graph=True))
            if bool(net.known[c])
            else None
            for c in range(logits.shape[1])
        ]
    some = next(m for m in maps if m is not None)
    cams = torch.stack([torch.zeros_like(some) if m is None else m for m in maps], dim=1).detach()
    cams = cams.reshape(len(pixels), net.scales, *cams.shape[1:])[:, 0]
    cams = interpolate(cams, pixels.shape[-2:], mode="bilinear", align_corners=False)
    return cams / cams.amax(dim=(-2, -1), keepdim=True).clamp_min(_TINY), logits.detach()


def _has_tokens(encoder: Any) -> bool:
    return hasattr(encoder, "num_prefix_tokens") and hasattr(encoder, "blocks") and hasattr(encoder.blocks[-1], "norm1")


def _map(encoder: Any, seen: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """(N, h, w): how much each place speaks for the class, where it does."""
    if seen.ndim == 3:
        # Of tokens the mean gradient says little: each counts with its own.
        said = (seen * gradient).sum(dim=2)[:, encoder.num_prefix_tokens :]
        side = round(said.shape[1] ** 0.5)
        if side * side != said.shape[1]:
            raise ModelError(f"the encoder's {said.shape[1]} tokens form no square")
        return said.reshape(-1, side, side).relu()
    if getattr(encoder, "output_fmt", "NCHW") == "NHWC":
        seen, gradient = seen.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
    if seen.ndim != 4:
        raise ModelError(f"{type(encoder).__name__} has no maps that Grad-CAM could show")
    return (seen * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1).relu()

"""Pretrained encoders: their normalisation, and their weights from files."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from qp2train.errors import ModelError

# What pretrained encoders of torchvision, timm and smp were trained with (ImageNet), of pixels in 0–1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_encoder(encoder: nn.Module, file: Path) -> None:
    """Load an encoder's weights, from .safetensors or a tensors-only .pth.

    Raises:
        ModelError: The file is damaged, or its keys are not the encoder's; the first that differ are named.
    """
    try:
        weights = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
        if not isinstance(weights, Mapping):
            raise TypeError(f"it holds a {type(weights).__name__}, not named tensors")
        encoder.load_state_dict(weights)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, TypeError, ValueError) as error:
        raise ModelError(f"{file} does not hold weights of this encoder: {str(error)[:300]}") from error

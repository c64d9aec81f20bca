"""Mixup: training on pictures laid over one another, and on both their classes."""

from __future__ import annotations

import torch
from torch.nn.functional import one_hot

from qp2train.errors import ModelError


def check_mixup(alpha: float) -> None:
    """Refuse a strength that the beta distribution has not.

    Raises:
        ModelError: It is negative or not finite.
    """
    if not 0 <= alpha < float("inf"):
        raise ModelError(f"mixup must be 0 (off) or more, not {alpha}")


def mixed(
    pixels: torch.Tensor, labels: torch.Tensor, *, classes: int, alpha: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each picture λ·a + (1 − λ)·b of itself and another of the batch, and the share of each class in it.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018; λ from Beta(α, α), one per batch.

    Args:
        pixels: (B, …), any type.
        labels: (B,) int64.
        classes: How many there are.
        alpha: Strength; 0 = nothing is mixed.

    Returns:
        (B, …) float32, and (B, classes) float32 whose rows add up to 1.
    """
    shares = one_hot(labels, classes).float()
    if alpha == 0:
        return pixels.float(), shares
    weight = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(labels), device="cpu").to(labels.device)
    pictures = pixels.float()
    return weight * pictures + (1 - weight) * pictures[other], weight * shares + (1 - weight) * shares[other]

"""An exponential moving average of the weights, which is what is validated and kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning.pytorch.callbacks import WeightAveraging


class Averaging(WeightAveraging):
    """Lightning's EMAWeightAveraging, in a form that can be sent to other processes.

    Args:
        decay: Share of the average that stays at each step.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(avg_fn=_Decay(decay))


@dataclass(frozen=True)
class _Decay:
    decay: float

    def __call__(self, average: torch.Tensor, current: torch.Tensor, averaged: int | torch.Tensor) -> torch.Tensor:
        return self.decay * average + (1 - self.decay) * current

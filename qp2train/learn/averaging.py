"""An exponential moving average of the weights, which is what is validated and kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning.pytorch.callbacks import WeightAveraging


class Averaging(WeightAveraging):
    """An average of the weights after each step, in which a step counts `decay` times as much as the next one.

    It is corrected as Adam's averages are: the first step's weights do not stand for all those before them, which would
    be most of the average for the first 1 / (1 - decay) steps.

    Args:
        decay: Share of the average that stays at each step, after many of them.

    Source: Kingma and Ba, Adam, ICLR 2015, section 3 (initialization bias correction).
    """

    def __init__(self, decay: float) -> None:
        super().__init__(avg_fn=_Decay(decay))


@dataclass(frozen=True)
class _Decay:
    decay: float

    def __call__(self, average: torch.Tensor, current: torch.Tensor, averaged: int | torch.Tensor) -> torch.Tensor:
        share = (1 - self.decay) / (1 - self.decay ** (averaged + 1))
        return (1 - share) * average + share * current

"""SegmentationTask: one training or validation step, for Lightning."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from qp2train.core.confusion import Confusion
from qp2train.learn.losses import SegmentationLoss
from qp2train.learn.segmentation import SegmentationNet

# Share of the steps in which the learning rate rises: Adam's first estimates are poor.
WARM_UP = 0.1


class SegmentationTask(pl.LightningModule):
    """Network, loss and schedule.

    Args:
        net: The network.
        names: Class names, background first.
        lr: Highest learning rate; it rises linearly over the first tenth of the steps, then falls as a cosine.
        weight_decay: Of AdamW.
        label_smoothing: Of the cross-entropy.
    """

    def __init__(
        self, net: SegmentationNet, names: tuple[str, ...], *, lr: float, weight_decay: float, label_smoothing: float
    ) -> None:
        super().__init__()
        self.net = net
        self.loss = SegmentationLoss(label_smoothing=label_smoothing)
        self.names, self.lr, self.weight_decay = names, lr, weight_decay
        self.confusion = Confusion.empty(names)

    def step(self, batch: tuple[torch.Tensor, torch.Tensor], stage: str) -> torch.Tensor:
        pixels, mask = batch
        logits = self.net(pixels.contiguous())
        loss: torch.Tensor = self.loss(logits, mask.long())
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, batch_size=len(mask), prog_bar=True)
        if stage == "val":
            predicted = logits.argmax(dim=1).cpu().numpy().astype(np.uint8)
            self.confusion += Confusion.of(mask.cpu().numpy(), predicted, self.names)
        return loss

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        return self.step(batch, "val")

    def on_validation_epoch_start(self) -> None:
        self.confusion = Confusion.empty(self.names)

    def on_validation_epoch_end(self) -> None:
        """Dice over all validation pixels together, so that a small class weighs as much as a large one."""
        for name, value in self.confusion.dice().items():
            if not np.isnan(value):
                self.log(f"val/dice/{name}", value)
        mean = self.confusion.mean_dice()
        self.log("val/dice", 0.0 if np.isnan(mean) else mean, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate(step: int, steps: int) -> float:
    """The share of the highest learning rate at a step: a linear rise, then half a cosine down to 0."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))

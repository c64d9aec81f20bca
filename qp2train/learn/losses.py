"""Cross-entropy + Dice, both blind to ignored pixels."""

from __future__ import annotations

import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import nn
from torch.nn.functional import cross_entropy

from qp2train.core.labels import IGNORE


class SegmentationLoss(nn.Module):
    """Mean cross-entropy of the annotated pixels + mean soft Dice loss of the classes in the batch.

    Args:
        label_smoothing: Of the cross-entropy, 0–1.

    Sources: torch.nn.functional.cross_entropy; segmentation_models_pytorch.losses.DiceLoss (multiclass,
    over the whole batch; a class without a true pixel in the batch adds nothing).
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.dice = DiceLoss("multiclass", ignore_index=IGNORE)

    def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, H, W), mask (B, H, W) int64 with 255 = ignore → a scalar; 0 if all is ignored."""
        logits = logits.float()  # in 16 bits the sums over a batch's pixels would be too coarse
        if not (mask != IGNORE).any():
            return logits.sum() * 0
        ce = cross_entropy(logits, mask, ignore_index=IGNORE, label_smoothing=self.label_smoothing)
        dice: torch.Tensor = self.dice(logits, mask)
        return ce + dice

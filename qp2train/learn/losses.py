"""Losses of segmentation and their sums, all blind to ignored pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from segmentation_models_pytorch.losses import DiceLoss, JaccardLoss, LovaszLoss, TverskyLoss
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from qp2train.core.labels import IGNORE
from qp2train.errors import Qp2trainError

# How much less a pixel counts the surer it is already: (1 − p)² (Lin et al., 2017, section 3.2).
FOCUS = 2.0
# Weight of a wrongly and of a wrongly not predicted pixel: what is missed costs more (Salehi et al., 2017).
FALSE_POSITIVE, FALSE_NEGATIVE = 0.3, 0.7

# What a segmentation network is trained by unless something else is asked for.
CE_AND_DICE = "ce + dice"
LOSSES = ("ce", "dice", "jaccard", "focal", "tversky", "lovasz")
Term = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class SegmentationLoss(nn.Module):
    """A weighted sum of losses, such as "ce + dice" or "focal + 0.5*lovasz".

    - "ce": cross-entropy, the mean over the annotated pixels.
    - "focal": the same, times (1 − p)² of the true class's probability p.
    - "dice", "jaccard", "tversky": 1 − the soft score of each class over the whole batch, the mean over the classes; a
      class without a true pixel in the batch adds nothing.
    - "lovasz": Lovász-Softmax, the mean over the classes in the batch; of overlapping classes the mean of each one's
      Lovász hinge, over those that the batch says something about.

    Args:
        terms: Names joined by "+", each perhaps with a factor before it.
        label_smoothing: Of the cross-entropy, 0–1.
        class_weights: A weight per class (background first): of its pixels in "ce" and "focal", of its score in "dice",
            "jaccard" and "tversky"; each is divided by the sum of the weights. "lovasz" has none.
        multilabel: Classes may overlap: each is told from all else, by a sigmoid of its own.

    Raises:
        Qp2trainError: Terms that cannot be read.

    Sources: torch.nn.functional; segmentation_models_pytorch.losses, apart from the focal loss, which there is one
    sigmoid per class and not of the softmax that predicts here. Lin et al., Focal Loss for Dense Object Detection, ICCV
    2017; Salehi et al., Tversky loss function for image segmentation, MLMI 2017; Berman et al., The Lovász-Softmax
    loss, CVPR 2018.
    """

    def __init__(
        self,
        terms: str = CE_AND_DICE,
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        multilabel: bool = False,
    ) -> None:
        super().__init__()
        self.label_smoothing, self.multilabel = label_smoothing, multilabel
        self.class_weights: torch.Tensor | None
        weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        mode = "multilabel" if multilabel else "multiclass"
        overlap: dict[str, Any] = {"mode": mode, "ignore_index": IGNORE}
        if class_weights is not None:
            overlap["class_weights"] = list(class_weights)
        known: dict[str, Callable[[], Term]] = {
            "ce": lambda: self._cross_entropy,
            "focal": lambda: self._focal,
            "dice": lambda: DiceLoss(**overlap),
            "jaccard": lambda: JaccardLoss(**overlap),
            "tversky": lambda: TverskyLoss(**overlap, alpha=FALSE_POSITIVE, beta=FALSE_NEGATIVE),
            "lovasz": lambda: _hinges if multilabel else LovaszLoss(mode, ignore_index=IGNORE),
        }
        self.terms = [(factor, known[name]()) for factor, name in parse(terms)]

    def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, a scalar; 0 if all is ignored.

        Args:
            logits: (B, C, H, W).
            mask: (B, H, W) int64, with 255 = ignore; for `multilabel` (B, C, H, W) of 0, 1 and 255.
        """
        logits = logits.float()  # in 16 bits the sums over a batch's pixels would be too coarse
        if not (mask != IGNORE).any():
            return logits.sum() * 0
        first, *rest = (factor * term(logits, mask) for factor, term in self.terms)
        return sum(rest, start=first)

    def _cross_entropy(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.multilabel:
            return self._mean(*self._binary(logits, mask))
        return cross_entropy(
            logits, mask, ignore_index=IGNORE, label_smoothing=self.label_smoothing, weight=self.class_weights
        )

    def _focal(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.multilabel:
            target = (mask == 1).float()
            loss, weight = self._binary(logits, mask)
            missed = (logits.sigmoid() - target).abs()
            return self._mean(missed**FOCUS * loss, weight)
        there = mask != IGNORE
        plain = cross_entropy(logits, mask, ignore_index=IGNORE, reduction="none")
        weight = there.float() if self.class_weights is None else self.class_weights[mask * there] * there
        return self._mean((1 - torch.exp(-plain)) ** FOCUS * plain, weight)

    def _binary(self, logits: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each class's own cross-entropy and its weight, both (B, C, H, W)."""
        target = (mask == 1).float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        weight = (mask != IGNORE).float()
        if self.class_weights is not None:
            weight = weight * self.class_weights[:, None, None]
        return binary_cross_entropy_with_logits(logits, target, reduction="none"), weight

    @staticmethod
    def _mean(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (loss * weight).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)


def _hinges(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of the classes' Lovász hinges; smp has one over the pixels of all, in which large classes decide."""
    own = LovaszLoss("binary", per_image=False, ignore_index=IGNORE)
    known = (mask != IGNORE).transpose(0, 1).flatten(1).any(dim=1)
    return torch.stack([own(logits[:, c], mask[:, c]) for c in torch.nonzero(known).flatten().tolist()]).mean()


def parse(text: str) -> list[tuple[float, str]]:
    """The (factor, name) of each term of a sum such as "ce + 0.5*dice".

    Raises:
        Qp2trainError: No sum of known losses with factors above 0.
    """
    terms = []
    for term in text.split("+"):
        match = re.fullmatch(r"(?:([0-9.]+)\s*\*)?\s*([a-z]+)", term.strip())
        try:
            factor, name = float(match[1] or 1) if match else 0.0, match[2] if match else ""
        except ValueError:
            factor = 0.0
        if match is None or factor <= 0 or name not in LOSSES:
            raise Qp2trainError(
                f"loss must be a sum such as 'ce + 0.5*dice' of {', '.join(LOSSES)} with factors above 0, not {text!r}"
            )
        terms.append((factor, name))
    return terms

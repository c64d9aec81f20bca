"""tune_sam: a SAM's mask decoder is trained on outlined objects; its image encoder stays as it is."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from qp2train.core.clicks import BitMask
from qp2train.errors import ModelError, PromptError
from qp2train.learn.promptsim import MORE_CLICKS, Prompting, first_prompt
from qp2train.refine.examples import Example
from qp2train.refine.prompts import Pixels, Prompt, check_image
from qp2train.refine.sam import SamPrompts
from qp2train.refine.samcache import EmbeddingCache
from qp2train.refine.samframe import Frame, question

log = logging.getLogger(__name__)

# Of the focal loss: how much less a pixel counts the better it is answered.
GAMMA = 2.0
# Share of the steps in which the learning rate rises; it then falls to nothing, as a cosine.
WARM_UP = 0.05
WEIGHT_DECAY = 0.01
# Longer gradients are shortened: one odd outline does not undo the training.
CLIP = 1.0


def tune_sam(
    model: SamPrompts,
    examples: Sequence[Example],
    *,
    steps: int = 1000,
    lr: float = 1e-4,
    batch: int = 4,
    seed: int = 0,
    cache: str | Path | None = None,
    cache_gb: float = 10.0,
    name: str | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> SamPrompts:
    """Train the mask decoder on outlined objects.

    Each step draws objects and simulates what somebody points at (a click, a box, or a rough outline and a click),
    then up to three corrections, each in the largest error of the answer before; the next answer is learnt from. The
    image encoder and the prompt encoder stay bit for bit as they are. The same seed gives the same weights, on a CPU.

    Args:
        model: From `load_sam`; it is not changed.
        examples: `ObjectExamples` of a patch table, or of each object the view, its mask and where that is known (None
            = everywhere). Read when drawn, so that a sequence may read slides. Those for evaluation should be of other
            slides.
        steps: Steps of the optimiser.
        lr: Learning rate at its highest.
        batch: Objects per step.
        seed: Of the order of objects, and of the prompts.
        cache: Folder that keeps the encoder's answers: it then runs once per view, not each time. About 4 MB per view
            for SAM and MobileSAM, 17 MB for SAM 2.
        cache_gb: Most that it may hold.
        name: Of the trained model, for its `id`; best the folder's that it will be saved in. None = "NAME-tuned".
        progress: Called with (steps done, steps in all, loss of the step).

    Returns:
        The trained model; `save` it.

    Raises:
        PromptError: There is no example, or one that is no picture with an object in it.
        ModelError: A number makes no sense, or the training diverged.
        Qp2trainError: The cache's folder cannot be written to.
    """
    if not (steps >= 1 and batch >= 1 and 0 < lr < math.inf):
        raise ModelError(f"steps and batch must be at least 1, lr above 0, not {steps}, {batch}, {lr}")
    if not len(examples):
        raise PromptError("there is no object to learn from")
    kept, rng = EmbeddingCache(model, cache, limit_gb=cache_gb), np.random.default_rng(seed)
    tuned = model.with_own_decoder()
    tuned.name = f"{model.name}-tuned" if name is None else name
    decoder = tuned.net.mask_decoder.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    order: list[int] = []
    for step in range(steps):
        total = 0.0
        for _ in range(batch):
            if not order:  # every object once before any comes again
                order = rng.permutation(len(examples)).tolist()
            which = order.pop()
            image, truth, valid = _checked(examples[which], which)
            frame, embeddings = kept.get(image)
            loss = example_loss(tuned, embeddings, frame, truth, valid, rng) / batch
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        if not math.isfinite(total):
            raise ModelError(f"the training diverged in step {step + 1} (loss {total}): take a lower lr than {lr}")
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), CLIP)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        if progress is not None:
            progress(step + 1, steps, total)
    return SamPrompts(tuned.name, tuned.net, model.images, device=model.device)


def example_loss(
    model: SamPrompts,
    embeddings: Sequence[torch.Tensor],
    frame: Frame,
    truth: BitMask,
    valid: BitMask,
    rng: np.random.Generator,
) -> torch.Tensor:
    """What is wrong with the answer to a simulated prompt, with gradients for the mask decoder.

    Args:
        model: Whose decoder answers.
        embeddings: Of the view.
        frame: Of the view.
        truth: (H, W) bool, the object.
        valid: (H, W) bool, where it is known.
        rng: Decides which prompt it is, and how often it was corrected.
    """
    prompt = first_prompt(truth, valid, rng)
    for _ in range(int(rng.choice(len(MORE_CLICKS), p=MORE_CLICKS))):
        with torch.no_grad():
            logits, ious = model.answer(embeddings, _asked(prompt, frame, truth))
            answer = frame.to_view(logits[ious.argmax()][None])[0, : truth.shape[0], : truth.shape[1]] > 0
        prompt.mask = answer.cpu().numpy()
        prompt.click(prompt.mask, truth, valid, rng)
    logits, ious = model.answer(embeddings, _asked(prompt, frame, truth))
    # An object that is smaller than the grid's cells is where most of it is.
    share, known = frame.share(truth), (frame.share(valid) > 0.5) | (frame.share(truth & valid) > 0)
    meant = share >= min(0.5, float(share[known].max()))
    return mask_loss(logits, ious, meant.to(logits.device), known.to(logits.device))


def mask_loss(logits: torch.Tensor, ious: torch.Tensor, truth: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Normalised focal loss and Dice loss of the best mask, and squared error of the predicted IoU of all.

    Of several masks for an ambiguous prompt only the best is learnt from, as in SAM's own training. The focal loss is
    normalised by the sum of its weights, so that small objects count as much as large ones (RITM, 2021).

    Args:
        logits: (N, h, w).
        ious: (N,), predicted.
        truth: (h, w) bool.
        known: (h, w) bool: the other pixels do not count, the padding among them.
    """
    said, meant = logits[:, known], truth[known].float().expand(len(logits), -1)
    chance = said.sigmoid()
    weights = ((chance - meant).abs() ** GAMMA).detach()
    entropy = binary_cross_entropy_with_logits(said, meant, reduction="none")
    focal = (weights * entropy).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-6)
    dice = 1 - (2 * (chance * meant).sum(dim=1) + 1) / ((chance + meant).sum(dim=1) + 1)
    found = said > 0
    both, either = (found & (meant > 0)).sum(dim=1), (found | (meant > 0)).sum(dim=1)
    error = (ious - both / either.clamp_min(1)) ** 2
    return (focal + dice).min() + error.mean()


def _asked(prompt: Prompting, frame: Frame, truth: BitMask) -> dict[str, Any]:
    given = Prompt(prompt.points, prompt.labels, prompt.box, prompt.mask)
    asked = question(given.within(*truth.shape), frame)
    assert asked is not None, "a simulated prompt says where the object is"
    return asked


def _checked(example: Example, which: int) -> tuple[Pixels, BitMask, BitMask]:
    image, truth, valid = example
    check_image(image)
    valid = np.ones_like(truth) if valid is None else valid
    if truth.dtype != np.bool_ or valid.dtype != np.bool_ or not truth.shape == valid.shape == image.shape[:2]:
        raise PromptError(
            f"example {which}: the masks must be bool and of the view's size {image.shape[:2]}, not "
            f"{truth.dtype} {truth.shape} and {valid.dtype} {valid.shape}"
        )
    if not (truth & valid).any():
        raise PromptError(f"example {which} has no object where it is known")
    return image, truth, valid


def _rate(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

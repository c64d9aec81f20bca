"""The loss against values worked by hand, and its blindness to what nobody annotated."""

import math

import pytest
import torch

from qp2train.learn.losses import SegmentationLoss


def logits_of(*probability_of_one: float) -> torch.Tensor:
    """(1, 2, 1, N) logits with these probabilities of class 1."""
    p = torch.tensor(probability_of_one, dtype=torch.float64)
    return torch.stack([torch.log(1 - p), torch.log(p)]).reshape(1, 2, 1, -1).float()


def mask_of(*values: int) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, -1)


def test_by_hand():
    # Two pixels, background and class 1, both predicted with ¾.
    # Cross-entropy: −ln ¾. Dice of each class: (2·¾) / (1 + (¾ + ¼)) = ¾.
    loss = SegmentationLoss()(logits_of(0.25, 0.75), mask_of(0, 1))
    assert loss.item() == pytest.approx(-math.log(0.75) + (1 - 0.75), abs=1e-5)


def test_a_class_without_a_true_pixel_adds_no_dice_loss():
    # Only class 1 is there: its Dice is 2·½ / (1 + ½) = ⅔; the mean is over two classes.
    loss = SegmentationLoss()(logits_of(0.5), mask_of(1))
    assert loss.item() == pytest.approx(math.log(2) + (1 - 2 / 3) / 2, abs=1e-5)


def test_a_perfect_prediction_costs_nothing():
    assert SegmentationLoss()(logits_of(1e-7, 1 - 1e-7), mask_of(0, 1)).item() == pytest.approx(0, abs=1e-4)


def test_smoothing_by_hand():
    # ε = 0.2 over two classes: targets 0.9 and 0.1.
    loss = SegmentationLoss(label_smoothing=0.2)(logits_of(0.25, 0.75), mask_of(0, 1))
    ce = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    assert loss.item() == pytest.approx(ce + 0.25, abs=1e-5)


class TestIgnored:
    @pytest.mark.parametrize("there", [0.001, 0.5, 0.999])
    def test_the_loss_is_the_same_whatever_is_predicted_there(self, there):
        with_ignored = SegmentationLoss()(logits_of(0.25, 0.75, there), mask_of(0, 1, 255))
        assert with_ignored.item() == pytest.approx(-math.log(0.75) + 0.25, abs=1e-5)

    def test_the_gradient_there_is_zero(self):
        logits = torch.randn(2, 3, 8, 8, generator=torch.manual_seed(0), requires_grad=True)
        mask = torch.randint(0, 3, (2, 8, 8), generator=torch.manual_seed(1))
        mask[:, :, 4:] = 255
        SegmentationLoss(label_smoothing=0.1)(logits, mask).backward()
        assert logits.grad[..., 4:].abs().max() == 0
        assert logits.grad[..., :4].abs().min() > 0

    def test_a_batch_that_is_all_ignored_costs_nothing_and_still_has_a_gradient(self):
        logits = torch.randn(1, 2, 4, 4, requires_grad=True)
        loss = SegmentationLoss()(logits, torch.full((1, 4, 4), 255))
        loss.backward()
        assert loss.item() == 0
        assert logits.grad.abs().max() == 0

    def test_a_patch_that_is_all_ignored_adds_nothing_to_the_batch(self):
        logits, mask = torch.randn(1, 2, 4, 4), torch.randint(0, 2, (1, 4, 4))
        other = torch.cat([logits, torch.randn(1, 2, 4, 4)]), torch.cat([mask, torch.full((1, 4, 4), 255)])
        assert SegmentationLoss()(*other).item() == pytest.approx(SegmentationLoss()(logits, mask).item(), abs=1e-6)


def test_half_precision_is_summed_in_single():
    logits, mask = torch.randn(1, 2, 256, 256), torch.randint(0, 2, (1, 256, 256))
    loss = SegmentationLoss()(logits.half(), mask)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(SegmentationLoss()(logits.half().float(), mask).item())

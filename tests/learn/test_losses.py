"""The loss against values worked by hand, and its blindness to what nobody annotated."""

import math

import numpy as np
import pytest
import torch
from fakes import FakeEntry, square

from qp2train import LabelMap, sample_patches
from qp2train.errors import LabelError, Qp2trainError
from qp2train.learn.classweights import annotated_pixels, class_weights, from_pixels
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


# Two pixels, background and class 1, predicted with ½ and ¾. Class 0: TP ½, FP ¼, FN ½. Class 1: TP ¾, FP ½, FN ¼.
UNEQUAL, TRUTH = (0.5, 0.75), (0, 1)
BY_HAND = {
    "ce": -(math.log(0.5) + math.log(0.75)) / 2,
    "focal": -(0.5**2 * math.log(0.5) + 0.25**2 * math.log(0.75)) / 2,
    "dice": 1 - (0.5 / (0.5 + 0.125 + 0.25) + 0.75 / (0.75 + 0.25 + 0.125)) / 2,
    "jaccard": 1 - (0.5 / 1.25 + 0.75 / 1.5) / 2,
    "tversky": 1 - (0.5 / (0.5 + 0.3 * 0.25 + 0.7 * 0.5) + 0.75 / (0.75 + 0.3 * 0.5 + 0.7 * 0.25)) / 2,
    # Class 0: errors ½ (its pixel), ¼ (not): the Jaccard loss of the first is already 1, so 1·½ + 0·¼. Class 1: errors
    # ½ (not its pixel), ¼ (its): the first alone makes ½, both make 1, so ½·½ + ½·¼.
    "lovasz": (0.5 + 0.375) / 2,
}


class TestEach:
    @pytest.mark.parametrize("name", BY_HAND)
    def test_by_hand(self, name):
        assert SegmentationLoss(name)(logits_of(*UNEQUAL), mask_of(*TRUTH)).item() == pytest.approx(
            BY_HAND[name], abs=1e-5
        )

    @pytest.mark.parametrize("name", BY_HAND)
    @pytest.mark.parametrize("there", [0.001, 0.5, 0.999])
    def test_blind_to_what_is_ignored(self, name, there):
        with_ignored = SegmentationLoss(name)(logits_of(*UNEQUAL, there), mask_of(*TRUTH, 255))
        assert with_ignored.item() == pytest.approx(BY_HAND[name], abs=1e-5)

    @pytest.mark.parametrize("name", BY_HAND)
    @pytest.mark.parametrize("weights", [None, (1.0, 2.0, 3.0)])
    @pytest.mark.parametrize("multilabel", [False, True])
    def test_the_gradient_is_zero_where_ignored_and_nowhere_else(self, name, weights, multilabel):
        logits = torch.randn(2, 3, 8, 8, generator=torch.manual_seed(0), requires_grad=True)
        classes = torch.randint(0, 3, (2, 8, 8), generator=torch.manual_seed(1))
        mask = torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).clone() if multilabel else classes
        mask[..., 4:] = 255
        loss = SegmentationLoss(name, class_weights=weights, multilabel=multilabel, label_smoothing=0.1)(logits, mask)
        loss.backward()
        assert loss.item() > 0
        assert logits.grad[..., 4:].abs().max() == 0
        # The Lovász hinge is flat where a pixel is right by more than 1.
        assert (logits.grad[..., :4] != 0).float().mean() > (0.5 if name == "lovasz" else 0.99)

    @pytest.mark.parametrize("name", BY_HAND)
    @pytest.mark.parametrize("multilabel", [False, True])
    def test_nothing_annotated_costs_nothing(self, name, multilabel):
        logits = torch.randn(1, 2, 4, 4, requires_grad=True)
        mask = torch.full((1, 2, 4, 4) if multilabel else (1, 4, 4), 255)
        loss = SegmentationLoss(name, multilabel=multilabel)(logits, mask)
        loss.backward()
        assert loss.item() == 0
        assert logits.grad.abs().max() == 0


class TestSum:
    def test_factors(self):
        loss = SegmentationLoss(" 2*ce+0.5 * lovasz + jaccard")(logits_of(*UNEQUAL), mask_of(*TRUTH))
        by_hand = 2 * BY_HAND["ce"] + 0.5 * BY_HAND["lovasz"] + BY_HAND["jaccard"]
        assert loss.item() == pytest.approx(by_hand, abs=1e-5)

    @pytest.mark.parametrize("text", ["", "ce +", "mse", "-1*ce", "0*ce", "1.2.3*ce", "ce dice", "ce - dice", "2*"])
    def test_what_is_no_sum_of_losses_is_refused(self, text):
        with pytest.raises(Qp2trainError, match=r"a sum such as 'ce \+ 0.5\*dice' of ce, dice"):
            SegmentationLoss(text)


class TestClassWeights:
    """Background counts 1, class 1 counts 3."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("ce", -(math.log(0.5) + 3 * math.log(0.75)) / 4),
            ("focal", -(0.5**2 * math.log(0.5) + 3 * 0.25**2 * math.log(0.75)) / 4),
            ("dice", ((1 - 4 / 7) + 3 * (1 - 2 / 3)) / 4),
            ("jaccard", ((1 - 0.4) + 3 * (1 - 0.5)) / 4),
            ("lovasz", BY_HAND["lovasz"]),
        ],
    )
    @pytest.mark.parametrize("ignored", [(), (255,)])
    def test_by_hand(self, name, value, ignored):
        logits = logits_of(*UNEQUAL, *(0.9 for _ in ignored))
        loss = SegmentationLoss(name, class_weights=(1, 3))(logits, mask_of(*TRUTH, *ignored))
        assert loss.item() == pytest.approx(value, abs=1e-5)

    def test_auto_is_the_median_share_over_the_share(self):
        # Median of 100, 900 and 400 is 400. A class that is not there has 1, and the rarest at most 10.
        assert from_pixels(np.array([100, 900, 400, 0])) == pytest.approx((4, 4 / 9, 1, 1))
        assert from_pixels(np.array([1, 900, 900])) == pytest.approx((10, 1, 1))
        assert from_pixels(np.array([0, 0])) == (1, 1)

    def test_auto_counts_the_annotated_pixels_of_the_table(self):
        # Two patches of 20 × 20 in a Region* of 20 × 20: the first has 10 × 10 of tumour and the rest background, the
        # second one lies beyond, where nobody annotated.
        drawn = [square(0, 0, 20, "Region*"), square(0, 0, 10)]
        entry = FakeEntry("a", drawn, np.zeros((40, 40, 3), np.uint8))
        table = sample_patches([entry], LabelMap(["Tumor"]), size=20, strategy="grid", min_annotated=0)
        assert annotated_pixels(table).tolist() == [300, 100]
        assert class_weights("auto", table) == pytest.approx((200 / 300, 2))

    def test_auto_is_seeded(self, two_colours):
        counted = [annotated_pixels(two_colours, seed=s, sample=4).tolist() for s in (0, 0, 1)]
        assert counted[0] == counted[1] != counted[2]

    def test_by_name(self, two_colours):
        assert class_weights({"Tumor": 5}, two_colours) == (1, 5)
        assert class_weights({"Background": 0.5}, two_colours) == (0.5, 1)
        assert class_weights(None, two_colours) is None

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"Tumour": 1}, "'Tumour'; the classes are Background, Tumor"),
            ({"Tumor": 0}, "above 0"),
            ("equal", "'auto'"),
        ],
    )
    def test_refused(self, given, said, two_colours):
        with pytest.raises(LabelError, match=said):
            class_weights(given, two_colours)


class TestOverlappingClasses:
    """Two pixels (columns) and two classes (rows): probabilities ¼ ¾ / ½ 0.9; truth 0 1 / 1 ignored."""

    LOGITS = torch.logit(torch.tensor([[0.25, 0.75], [0.5, 0.9]])).reshape(1, 2, 1, 2)
    TRUTH = torch.tensor([[0, 1], [1, 255]]).reshape(1, 2, 1, 2)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("ce", -(2 * math.log(0.75) + math.log(0.5)) / 3),
            ("focal", -(2 * 0.25**2 * math.log(0.75) + 0.5**2 * math.log(0.5)) / 3),
            # Class 0: TP ¾, FP ¼, FN ¼. Class 1: TP ½, FN ½.
            ("dice", 1 - (0.75 + 2 / 3) / 2),
            ("jaccard", 1 - (0.6 + 0.5) / 2),
            ("tversky", 1 - (0.75 + 0.5 / (0.5 + 0.7 * 0.5)) / 2),
        ],
    )
    def test_by_hand(self, name, value):
        assert SegmentationLoss(name, multilabel=True)(self.LOGITS, self.TRUTH).item() == pytest.approx(value, abs=1e-5)

    def test_the_hinge_of_an_undecided_prediction_is_1(self):
        # All errors are 1, so their weights add up to the Jaccard loss of everything wrong.
        loss = SegmentationLoss("lovasz", multilabel=True)(torch.zeros(1, 2, 1, 2), self.TRUTH)
        assert loss.item() == pytest.approx(1)

    def test_a_small_class_has_a_hinge_of_its_own(self):
        """Class 0: nine pixels, all found. Class 1: one of nine pixels, which is missed."""
        logits, truth = torch.full((1, 2, 3, 3), -5.0), torch.zeros(1, 2, 3, 3, dtype=torch.int64)
        logits[0, 0], truth[0, 0] = 5, 1
        logits[0, 1, 0, 0], truth[0, 1, 0, 0] = -2, 1
        # An error of 1 + 2, times the Jaccard loss of a class that was missed altogether.
        assert SegmentationLoss("lovasz", multilabel=True)(logits, truth).item() == pytest.approx((0 + 3) / 2)

    def test_a_class_of_which_nothing_is_known_takes_no_part(self):
        truth = torch.stack([torch.zeros(1, 2, dtype=torch.int64), torch.full((1, 2), 255)])[None]
        logits = torch.zeros(1, 2, 1, 2, requires_grad=True)
        loss = SegmentationLoss("lovasz", multilabel=True)(logits, truth)
        loss.backward()
        assert loss.item() == pytest.approx(1)
        assert (logits.grad[0, 1] == 0).all()

    def test_weights(self):
        loss = SegmentationLoss("ce", multilabel=True, class_weights=(1, 3))(self.LOGITS, self.TRUTH)
        assert loss.item() == pytest.approx(-(2 * math.log(0.75) + 3 * math.log(0.5)) / 5, abs=1e-5)

    def test_smoothing(self):
        # ε = 0.2: targets 0.9 and 0.1.
        loss = SegmentationLoss("ce", multilabel=True, label_smoothing=0.2)(self.LOGITS, self.TRUTH)
        sure = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
        assert loss.item() == pytest.approx((2 * sure - math.log(0.5)) / 3, abs=1e-5)

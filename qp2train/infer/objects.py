"""Object-level agreement of two label images: what a pathologist counts are glands and nuclei, not pixels."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

from qp2train.core.agreement import Floats, ratio
from qp2train.infer.objectdistance import best_matches, weighted_distances

Labels = NDArray[np.integer]


@dataclass(frozen=True)
class ObjectCounts:
    """What was counted of true and predicted objects. It adds up over images; the scores follow from the sums.

    Args:
        true: Number of true objects.
        said: Number of predicted objects.
        found: Predicted objects that cover more than half of the true object that they overlap most.
        matched: Pairs with an IoU above 0.5; an object is in one pair at most.
        matched_iou: Sum of these pairs' IoU.
        true_area: Pixels of true objects.
        said_area: Pixels of predicted objects.
        true_dice: Sum over true objects of area · Dice with the predicted object that overlaps it most.
        said_dice: Likewise over predicted objects.
        true_far: Sum over true objects of area · Hausdorff distance, in px, from the predicted object that overlaps it
            most, else from the nearest one.
        said_far: Likewise over predicted objects.
        true_far_area: Pixels of the true objects in `true_far`: those of images that were measured and have predicted
            objects.
        said_far_area: Likewise of predicted objects.
    """

    true: float = 0
    said: float = 0
    found: float = 0
    matched: float = 0
    matched_iou: float = 0
    true_area: float = 0
    said_area: float = 0
    true_dice: float = 0
    said_dice: float = 0
    true_far: float = 0
    said_far: float = 0
    true_far_area: float = 0
    said_far_area: float = 0

    @classmethod
    def of(cls, predicted: Labels, truth: Labels, *, hausdorff: bool = True, most: float = np.inf) -> ObjectCounts:
        """Count two label images, H×W, 0 = background, each other number one object.

        Args:
            predicted: A model's objects.
            truth: A human's.
            hausdorff: Also measure distances, which takes the most time.
            most: Not of images with more objects than this on either side.
        """
        there, said = _consecutive(truth), _consecutive(predicted)
        areas, said_areas = np.bincount(there.ravel())[1:], np.bincount(said.ravel())[1:]
        n, m = areas.size, said_areas.size
        if n == 0 or m == 0:
            return cls(true=n, said=m, true_area=int(areas.sum()), said_area=int(said_areas.sum()))
        match = best_matches(there, said, n, m)
        dice = 2 * match.overlap / (areas[match.true] + said_areas[match.said])
        iou = match.overlap / (areas[match.true] + said_areas[match.said] - match.overlap)
        of_true, of_said = match.best_of_true, match.best_of_said
        counts = cls(
            true=n,
            said=m,
            found=int((match.overlap[of_said] > areas[match.true[of_said]] / 2).sum()),
            matched=int((iou > 0.5).sum()),
            matched_iou=float(iou[iou > 0.5].sum()),
            true_area=int(areas.sum()),
            said_area=int(said_areas.sum()),
            true_dice=float(dice[of_true] @ areas[match.true[of_true]]),
            said_dice=float(dice[of_said] @ said_areas[match.said[of_said]]),
        )
        if not hausdorff or max(n, m) > most:
            return counts
        return replace(counts, **weighted_distances(there, said, match))

    def __add__(self, other: ObjectCounts) -> ObjectCounts:
        return ObjectCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def scores(self) -> dict[str, float]:
        """All scores, see `object_scores`."""
        return {name: float(v) for name, v in object_scores(np.array(astuple(self), dtype=np.float64)).items()}


# Places of the counts in an array of them, for sums over many images at once.
_PLACE = {f.name: i for i, f in enumerate(fields(ObjectCounts))}


def object_scores(counts: NDArray[Any]) -> dict[str, Floats]:
    """Score → (…) from `ObjectCounts` as arrays (…, 13). NaN where there is no object in either, or no distance.

    - dice: the GlaS challenge's object-level Dice, see `object_dice`.
    - f1: the challenge's detection score, 2·TP / (true + predicted), TP = `found`.
    - pq = sq · rq, panoptic quality: sq = mean IoU of the matched pairs, rq = their F1. 0 if there is no pair.
    - hausdorff_px: the challenge's object-level Hausdorff distance, of images with objects on both sides.

    Sources: Sirinukunwattana et al., "Gland segmentation in colon histology images: The GlaS challenge contest",
    Medical Image Analysis 35 (2017) 489–502, section 4; Kirillov et al., "Panoptic segmentation", CVPR 2019.
    """

    def of(name: str) -> Floats:
        return np.asarray(counts[..., _PLACE[name]], dtype=np.float64)

    any_ = np.where(of("true") + of("said") > 0, 1.0, np.nan)

    def share(over: str, under: str) -> Floats:
        return np.nan_to_num(ratio(of(over), of(under)))

    rq = 2 * ratio(of("matched"), of("true") + of("said"))
    return {
        "dice": any_ * (share("true_dice", "true_area") + share("said_dice", "said_area")) / 2,
        "f1": 2 * ratio(of("found"), of("true") + of("said")),
        "pq": 2 * ratio(of("matched_iou"), of("true") + of("said")),
        "sq": any_ * share("matched_iou", "matched"),
        "rq": rq,
        "hausdorff_px": (ratio(of("true_far"), of("true_far_area")) + ratio(of("said_far"), of("said_far_area"))) / 2,
    }


def components(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The connected parts of a mask as objects 1, 2, …; pixels that touch by a corner only are apart."""
    parts: NDArray[np.int32] = label(mask, connectivity=1).astype(np.int32)
    return parts


def object_dice(predicted: Labels, truth: Labels) -> float:
    """Object-level Dice of the GlaS challenge: area-weighted Dice of each object with its best match, both ways.

    Each true object is compared with the predicted object that overlaps it most, weighted by its share of
    the true area, and each predicted object with the true one that overlaps it most, weighted by its share of
    the predicted area; the mean of both sums. An object that nothing overlaps counts 0.

    Args:
        predicted: H×W, 0 = background, each other number one object.
        truth: H×W, likewise.

    Returns:
        0–1; 1 if there is no object in either, 0 if only one has objects.

    Source: Sirinukunwattana et al., "Gland segmentation in colon histology images: The GlaS challenge
    contest", Medical Image Analysis 35 (2017) 489–502, section 4.2.
    """
    return _or_one(ObjectCounts.of(predicted, truth, hausdorff=False).scores()["dice"])


def object_f1(predicted: Labels, truth: Labels) -> float:
    """Detection score of the GlaS challenge, 0–1; 1 if there is no object in either.

    A predicted object is right if it covers more than half of the true object that it overlaps most. It may be much
    larger than that one: `panoptic_quality` asks for more.

    Source: as `object_dice`, section 4.1; "more than", as in the organisers' program.
    """
    return _or_one(ObjectCounts.of(predicted, truth, hausdorff=False).scores()["f1"])


def panoptic_quality(predicted: Labels, truth: Labels) -> tuple[float, float, float]:
    """(PQ, SQ, RQ), each 0–1: PQ = SQ · RQ, SQ the mean IoU of pairs with IoU > 0.5, RQ their F1.

    All 1 if there is no object in either.

    Source: Kirillov et al., "Panoptic segmentation", CVPR 2019.
    """
    scores = ObjectCounts.of(predicted, truth, hausdorff=False).scores()
    return _or_one(scores["pq"]), _or_one(scores["sq"]), _or_one(scores["rq"])


def object_hausdorff(predicted: Labels, truth: Labels) -> float:
    """Object-level Hausdorff distance of the GlaS challenge, in pixels.

    As `object_dice`, with the Hausdorff distance of all pixels of an object and its best match; an object that nothing
    overlaps is compared with the one of the other side that is nearest by this distance.

    Returns:
        0 if there is no object in either, NaN if only one has objects (the organisers' program says infinite).

    Source: as `object_dice`, section 4.3.
    """
    counts = ObjectCounts.of(predicted, truth)
    return 0.0 if counts.true == counts.said == 0 else counts.scores()["hausdorff_px"]


def _or_one(score: float) -> float:
    return 1.0 if np.isnan(score) else score


def _consecutive(labels: Labels) -> NDArray[np.intp]:
    """The same objects as 1, 2, 3 and so on, background 0."""
    ids, inverse = np.unique(labels, return_inverse=True)
    return inverse.reshape(labels.shape) + int(0 not in ids)

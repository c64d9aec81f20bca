"""Tally: what is counted of each patch, by hand on tiny ones."""

import numpy as np
import pytest
from fakes import table_of

from qp2train.errors import EvaluationError
from qp2train.infer.scoring import Tally, slide_keys

BOTH = ("Gland", "Tumor")


def tally(groups, names=BOTH, **more):
    table = table_of(groups)
    return Tally(table, names, rows=np.arange(len(table)), **more)


class TestOverlappingClasses:
    @pytest.fixture
    def found(self):
        """A patch of 1 × 4 px. Gland: true in 2, found 1 and one more. Tumour: true in 3, one ignored, found 2."""
        truth = np.array([[[1, 1, 0, 0]], [[1, 1, 1, 255]]], np.uint8)
        scores = np.array([[[0.9, 0.2, 0.7, 0.1]], [[0.8, 0.6, 0.4, 0.9]]], np.float32)
        counted = tally({"a": 1}, multilabel=True)
        counted.add(truth, scores)
        return counted.evaluation(model="m-0", temperature=1.0)

    def test_each_class_has_a_confusion_of_its_own(self, found):
        assert found.confusions[0].tolist() == [[[1, 1], [1, 1]], [[0, 0], [1, 2]]]

    def test_scores(self, found):
        data = found.to_dict()["pooled"]
        assert data["dice"] == pytest.approx({"Gland": 2 / 4, "Tumor": 4 / 5, "mean": (2 / 4 + 4 / 5) / 2})
        assert data["recall"]["Tumor"] == pytest.approx(2 / 3)
        assert data["accuracy"]["all"] == pytest.approx((2 / 4 + 2 / 3) / 2)

    def test_curves(self, found):
        # Gland, from the top: hit .9, miss .7, hit .2, miss .1: three of four pairs in order.
        data = found.to_dict()
        assert data["roc"]["Gland"]["auc"] == pytest.approx(3 / 4)
        assert data["roc"]["Tumor"]["auc"] is None  # nothing annotated is no tumour

    def test_calibration_counts_both_ways(self, found):
        # Sure by .9 .8 .7 .9 (right, wrong, wrong, right) and .8 .6 .6 (right, right, wrong).
        bins = {
            round(b["confidence"], 4): (b["accuracy"], b["share"])
            for b in found.to_dict()["calibration"]["bins"]
            if b["share"]
        }
        assert bins == {
            0.6: (pytest.approx(1 / 2), pytest.approx(2 / 7)),
            0.7: (pytest.approx(0), pytest.approx(1 / 7)),
            0.8: (pytest.approx(1 / 2), pytest.approx(2 / 7)),
            0.9: (pytest.approx(1), pytest.approx(2 / 7)),
        }

    def test_there_is_no_common_confusion(self, found):
        with pytest.raises(EvaluationError, match="overlapping"):
            _ = found.pooled
        data = found.to_dict()["confusion"]
        assert data["pixels"] is None
        assert data["each"]["Tumor"]["pixels"] == [[0, 0], [1, 2]]

    def test_its_table(self, found):
        assert found.table().columns.tolist() == ["Gland", "Tumor", "mean"]


def test_patches_of_a_patient_are_counted_together():
    counted = tally({"b": 1, "a": 2}, ("Background", "Tumor"))
    for hit in (0, 1, 1):
        counted.add(np.array([[1]]), np.array([[[1 - hit]], [[hit]]], np.float32))
    found = counted.evaluation(model="m-0", temperature=1.0)
    assert found.patients == ("a", "b")
    assert {p: c.recall()["Tumor"] for p, c in found.groups.items()} == {"a": 1, "b": 0}
    assert found.to_dict()["patients"]["a"]["pr_auc"]["Tumor"] == 1


def test_a_patch_without_annotation_scores_nothing_and_is_still_uncertain():
    counted = tally({"a": 1}, ("Background", "Tumor"))
    counted.add(np.full((2, 2), 255), np.full((2, 2, 2), 0.5, np.float32))
    found = counted.evaluation(model="m-0", temperature=1.0)
    assert found.confusions.sum() == found.histograms.sum() == found.objects.sum() == 0
    assert found.patches["uncertainty"].tolist() == pytest.approx([1.0])
    assert found.to_dict()["pooled"]["dice"]["Tumor"] is None


def test_three_equal_chances_are_as_uncertain_as_can_be():
    counted = tally({"a": 1}, ("Background", "A", "B"))
    counted.add(np.array([[1]]), np.full((3, 1, 1), 1 / 3, np.float32))
    assert counted.evaluation(model="m-0", temperature=1.0).patches["uncertainty"][0] == pytest.approx(1)


def test_names_of_slides():
    assert slide_keys(table_of({"a": 1, "b": 1})) == {"a": "a.svs", "b": "b.svs"}

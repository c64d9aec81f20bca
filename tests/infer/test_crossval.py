import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from qp2train.core.curves import BINS
from qp2train.errors import EvaluationError
from qp2train.infer.crossval import Comparison, compare_evaluations, pool_folds
from qp2train.infer.evaluation import Evaluation

NAMES = ("Background", "Tumor")


def evaluation(hits, *, model="m-0", of=10, entries=None, names=NAMES, mpp=0.5):
    """A patch per patient, of 100 px; of its 10 tumour pixels so many are found, and nothing else is called tumour."""
    patients = list(hits)
    n = len(patients)
    confusions = np.array([[[100 - of, 0], [of - h, h]] for h in hits.values()], dtype=np.int64).reshape(n, 2, 2)
    patches = pd.DataFrame(
        {
            "row": range(n),
            "entry": entries or [f"e{p}" for p in patients],
            "slide": patients,
            "patient": patients,
            "x": 0.0,
            "y": 0.0,
            "dice": [2 * h / (of + h) for h in hits.values()],
            "score": math.nan,
            "uncertainty": 0.5,
        }
    )
    order = np.argsort(patients)
    histograms = np.zeros((n, 2, 2, BINS), dtype=np.int64)
    histograms[:, 1, 0, 100] = 100 - of
    histograms[:, 1, 1, 100] = of - np.array([*hits.values()])
    histograms[:, 1, 1, 900] = [*hits.values()]
    reliabilities = np.zeros((n, 3, 15))
    reliabilities[:, 0, 14], reliabilities[:, 1, 14] = 100, 98
    reliabilities[:, 2, 14] = 100 - of + np.array([*hits.values()])
    return Evaluation(
        "segmentation",
        model,
        "val",
        names,
        mpp,
        1.0,
        patches,
        confusions,
        histograms[order],
        reliabilities[order],
        np.full((n, 2, 2), np.nan),
        np.zeros((n, 2, 13)),
    )


class TestFolds:
    FOLDS = (evaluation({"P3": 6, "P1": 10}, model="a"), evaluation({"P2": 2}, model="b"))

    def test_every_patient_is_there_once_in_order(self):
        pooled = pool_folds(self.FOLDS)
        assert pooled.patients == ("P1", "P2", "P3")
        assert [c.recall()["Tumor"] for c in pooled.groups.values()] == [1.0, 0.2, 0.6]
        assert (pooled.model, pooled.split) == ("a, b", "cross-validation")

    def test_counts_are_added_not_scores(self):
        # 18 of 30 pixels are found.
        assert pool_folds(self.FOLDS).pooled.dice()["Tumor"] == pytest.approx(2 * 18 / (30 + 18))

    def test_curves_stay_with_their_patients(self):
        data = pool_folds(self.FOLDS).to_dict()
        assert data["patients"]["P1"]["roc_auc"]["Tumor"] == 1
        assert data["patients"]["P2"]["roc_auc"]["Tumor"] == pytest.approx((0.2 + 1) / 2)
        assert data["patients"]["P3"]["roc_auc"]["Tumor"] == pytest.approx((0.6 + 1) / 2)

    def test_the_interval_is_over_all_patients(self):
        data = pool_folds(self.FOLDS).to_dict()["intervals"]
        assert data["patients"] == 3
        recall = data["recall"]["Tumor"]
        # P2 three times (1 of 27 draws, 3.7 %) reaches below the lower limit; P1 three times above the upper.
        assert (recall["low"], recall["value"], recall["high"]) == pytest.approx((0.2, 0.6, 1.0))

    def test_the_order_of_folds_does_not_matter(self):
        one, other = pool_folds(self.FOLDS), pool_folds(self.FOLDS[::-1])
        assert one.to_dict()["intervals"] == other.to_dict()["intervals"]
        assert one.table().equals(other.table())

    def test_it_can_be_saved_and_compared(self, tmp_path):
        pooled = pool_folds(self.FOLDS)
        back = Evaluation.load(pooled.save(tmp_path))
        assert compare_evaluations(pooled, back).difference.value == 0
        assert back.to_dict() == pooled.to_dict()
        assert back.patches["fold"].tolist() == [0, 0, 1]

    def test_a_patient_in_two_folds_is_refused(self):
        with pytest.raises(EvaluationError, match="P1 of fold 2"):
            pool_folds([evaluation({"P1": 3}), evaluation({"P1": 3, "P2": 3})])

    def test_other_classes_or_no_fold_are_refused(self):
        with pytest.raises(EvaluationError, match="Stroma"):
            pool_folds([evaluation({"P1": 3}), evaluation({"P2": 3}, names=("Background", "Stroma"))])
        with pytest.raises(EvaluationError, match="no fold"):
            pool_folds([])


class TestComparison:
    A = evaluation({"P1": 5, "P2": 5, "P3": 5}, model="a")
    B = evaluation({"P3": 4, "P1": 8, "P2": 7}, model="b")

    def test_by_hand(self):
        # Found are 15 and 19 of 30. Differences in recall +3, +2, −1 (of 10): 4 of 8 exchanges are as large.
        found = compare_evaluations(self.A, self.B, metric="recall")
        assert found.table.loc["Tumor"].tolist()[:3] == pytest.approx([0.5, 19 / 30, 4 / 30])
        assert found.difference.value == pytest.approx(4 / 30)
        assert found.p_value == pytest.approx(0.5)
        assert found.table.index.tolist() == ["Background", "Tumor", "mean"]
        assert found.table.columns.tolist() == ["a", "b", "difference", "low", "high", "p"]

    def test_the_interval_is_of_the_difference(self):
        found = compare_evaluations(self.A, self.B, metric="recall")
        assert (found.difference.low, found.difference.high) == pytest.approx((-0.1, 0.3))

    def test_the_other_way_round(self):
        there, back = compare_evaluations(self.A, self.B), compare_evaluations(self.B, self.A)
        assert there.difference.value == pytest.approx(-back.difference.value)
        assert there.p_value == pytest.approx(back.p_value)

    @pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "kappa"])
    def test_scores_of_all_classes_have_one_row(self, metric):
        assert compare_evaluations(self.A, self.B, metric=metric).table.index.tolist() == ["all"]

    def test_by_curves(self):
        found = compare_evaluations(self.A, self.B, metric="roc_auc")
        assert found.difference.value == pytest.approx((19 / 30 - 15 / 30) / 2)

    def test_few_patients_are_told_what_they_cannot_show(self):
        said = compare_evaluations(self.A, self.B).sentence
        assert "3 patients" in said
        assert "cannot give a p below 0.25" in said

    def test_a_clear_difference(self):
        many = [f"P{i}" for i in range(8)]
        found = compare_evaluations(
            evaluation(dict.fromkeys(many, 5), model="a"), evaluation(dict.fromkeys(many, 7), model="b")
        )
        assert found.p_value == pytest.approx(2 / 256)
        assert "hardly chance: b is better" in found.sentence

    def test_no_clear_difference(self):
        many = [f"P{i}" for i in range(8)]
        a, b = (evaluation({p: 5 + (i + k) % 2 for i, p in enumerate(many)}, model=str(k)) for k in (0, 1))
        assert "This may be chance" in compare_evaluations(a, b).sentence

    def test_one_patient_cannot_tell(self):
        found = compare_evaluations(evaluation({"P1": 3}), evaluation({"P1": 5}))
        assert math.isnan(found.p_value)
        assert "cannot be told from one patient" in found.sentence

    def test_two_runs_of_one_model_are_told_apart(self):
        found = compare_evaluations(self.A, self.A)
        assert found.names == ("a (1)", "a (2)")
        assert isinstance(found, Comparison)
        assert found.p_value == 1

    def test_text_and_notebook_views(self):
        found = compare_evaluations(self.A, self.B, names=("old", "new"))
        assert "new scores" in str(found)
        assert "<table" in found._repr_html_()


class TestRefused:
    A = evaluation({"P1": 5, "P2": 5})

    def test_other_patients(self):
        with pytest.raises(EvaluationError, match="P2, P3 are in one"):
            compare_evaluations(self.A, evaluation({"P1": 5, "P3": 5}))

    def test_other_patches(self):
        with pytest.raises(EvaluationError, match="same patches"):
            compare_evaluations(self.A, evaluation({"P1": 5, "P2": 5}, entries=["eP1", "another"]))

    def test_patches_at_other_places(self):
        moved = replace(self.A, patches=self.A.patches.assign(x=7.0))
        with pytest.raises(EvaluationError, match="same patches"):
            compare_evaluations(self.A, moved)

    def test_annotations_that_changed_in_between(self):
        with pytest.raises(EvaluationError, match="annotations of P1, P2"):
            compare_evaluations(self.A, evaluation({"P1": 5, "P2": 5}, of=11))

    def test_another_resolution_or_class(self):
        with pytest.raises(EvaluationError, match="µm/px"):
            compare_evaluations(self.A, evaluation({"P1": 5, "P2": 5}, mpp=1.0))
        with pytest.raises(EvaluationError, match="classes"):
            compare_evaluations(self.A, evaluation({"P1": 5, "P2": 5}, names=("Background", "Stroma")))

    def test_an_unknown_metric(self):
        with pytest.raises(EvaluationError, match="dice, iou"):
            compare_evaluations(self.A, self.A, metric="beauty")


class TestClassesThatOnlyOneHasAScoreOf:
    """A never says Necrosis, so that it has no precision there; B does, and is better at Tumor too."""

    NAMES = ("Background", "Tumor", "Necrosis")

    def evaluations(self):
        a, b = [[60, 10, 0], [2, 18, 0], [5, 5, 0]], [[62, 8, 0], [1, 19, 0], [1, 0, 9]]
        found = []
        for model, matrix in (("a", a), ("b", b)):
            one = evaluation({f"P{i}": 5 for i in range(6)}, model=model)
            confusions = np.stack([np.array(matrix, dtype=np.int64)] * 6)
            found.append(
                replace(
                    one,
                    names=self.NAMES,
                    confusions=confusions,
                    histograms=np.zeros((6, 3, 2, BINS), dtype=np.int64),
                    boundaries=np.full((6, 3, 2), np.nan),
                    objects=np.zeros((6, 3, 13)),
                )
            )
        return found

    def test_the_mean_is_of_the_classes_that_both_have(self):
        found = compare_evaluations(*self.evaluations(), metric="precision")
        assert found.difference.value == pytest.approx(19 / 27 - 18 / 33)
        assert found.left_out == ("Necrosis",)
        assert "without Necrosis, of which one of them has no precision" in found.sentence
        assert "b is better" in found.sentence

    def test_where_both_have_all_of_them_none_is_left_out(self):
        found = compare_evaluations(*self.evaluations(), metric="recall")
        assert found.left_out == ()
        assert found.difference.value == pytest.approx((0.95 + 0.9) / 2 - (0.9 + 0) / 2)


def test_an_interval_of_the_mean_is_of_the_same_classes_in_every_draw():
    """Only P0 has Necrosis, which is never found: without P0 the mean would be 1."""
    one = evaluation({f"P{i}": 10 for i in range(3)})
    confusions = np.zeros((3, 3, 3), dtype=np.int64)
    confusions[:, 0, 0], confusions[:, 1, 1] = 50, 10
    confusions[0, 2, 0] = 10
    found = replace(
        one,
        names=("Background", "Tumor", "Necrosis"),
        confusions=confusions,
        histograms=np.zeros((3, 3, 2, BINS), dtype=np.int64),
        boundaries=np.full((3, 3, 2), np.nan),
        objects=np.zeros((3, 3, 13)),
    )
    mean = found.to_dict()["intervals"]["recall"]["mean"]
    assert (mean["value"], mean["low"], mean["high"]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["low", "high", "p", "difference"])
def test_a_run_may_be_called_as_a_column_is(name):
    a, b = evaluation({"P1": 4, "P2": 5}, model="a"), evaluation({"P1": 6, "P2": 8}, model="b")
    found = compare_evaluations(a, b, names=(name, "other"))
    assert found.table.columns[0] == f"{name} (run)"
    assert f"{name} (run) " in found.sentence
    assert f"{found.table.iloc[-1, 1]:.3f}" in found.sentence


def test_names_are_text_in_a_notebook():
    a, b = evaluation({"P1": 4, "P2": 5}, model="a"), evaluation({"P1": 6, "P2": 8}, model="b")
    assert "<img" not in compare_evaluations(a, b, names=("<img src=x>", "other"))._repr_html_()
    assert repr(compare_evaluations(a, b)).startswith("Comparison(a and b: dice +")

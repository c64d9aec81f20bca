"""What an evaluation says, with two patients of 32 × 32 px; of each 16 × 16 are tumour.

The model finds all of patient Pa's tumour, and the upper half of Pb's. What is red gets a logit of 3.5, the rest of −4.
"""

import contextlib
import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import BLUE, RED, FakeEntry, square, write_png
from pixelnets import ByColour, Constant, model_of
from torch import nn

from qp2train import ArraySlide, LabelMap, evaluate, predict, sample_patches
from qp2train.core.scores import STEPS
from qp2train.errors import EvaluationError, ModelError, NoAnnotationError
from qp2train.infer.evaluate import fit_temperature
from qp2train.infer.evaluation import Evaluation
from qp2train.learn.data import plain_loader

LABELS = LabelMap(["Tumor"])
P_RED, P_BLUE = 1 / (1 + math.exp(-3.5)), 1 / (1 + math.exp(4))


def bits(p):
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


@pytest.fixture
def entries(tmp_path):
    found = []
    for name, rows in (("a", 16), ("b", 8)):
        array = np.full((32, 32, 3), BLUE, np.uint8)
        array[:rows, :16] = RED
        path = write_png(tmp_path / f"{name}.png", array)
        drawn = [square(0, 0, 32, "Region*"), square(0, 0, 16)]
        found.append(FakeEntry(name, drawn, array, 1.0, {"patient": f"P{name}"}, str(path)))
    return found


def table_of_size(entries, size):
    table = sample_patches(entries, LABELS, size=size, strategy="grid")
    return replace(table, rows=table.rows.assign(group=["P" + e for e in table.rows["entry"]], split="test"))


@pytest.fixture
def quarters(entries):
    return table_of_size(entries, 16)


@pytest.fixture
def whole(entries):
    return table_of_size(entries, 32)


@pytest.fixture
def found(quarters):
    return evaluate(model_of(ByColour()), quarters, device="cpu")


class TestScores:
    def test_of_all_pixels(self, found):
        # TP 384, FN 128, TN 1536.
        pooled = found.to_dict()["pooled"]
        assert pooled["dice"]["Tumor"] == pooled["f1"]["Tumor"] == pytest.approx(2 * 384 / (2 * 384 + 128))
        assert pooled["iou"]["Tumor"] == pytest.approx(384 / 512)
        assert pooled["precision"]["Tumor"] == 1
        assert pooled["recall"]["Tumor"] == pytest.approx(384 / 512)
        assert pooled["specificity"]["Tumor"] == 1
        assert pooled["accuracy"] == {"all": pytest.approx(1920 / 2048)}
        assert pooled["balanced_accuracy"] == {"all": pytest.approx((1 + 0.75) / 2)}
        chance = (1536 * 1664 + 512 * 384) / 2048**2
        assert pooled["kappa"] == {"all": pytest.approx((1920 / 2048 - chance) / (1 - chance))}

    def test_the_mean_is_without_background(self, found):
        pooled = found.to_dict()["pooled"]
        assert all(pooled[m]["mean"] == pooled[m]["Tumor"] for m in ("dice", "recall", "roc_auc", "pr_auc"))

    def test_the_areas_under_the_curves(self, found):
        # Red first: 3/4 of the tumour and nothing else; then all the rest at once.
        data = found.to_dict()
        assert data["pooled"]["roc_auc"]["Tumor"] == data["roc"]["Tumor"]["auc"] == pytest.approx((0.75 + 1) / 2)
        assert data["pooled"]["pr_auc"]["Tumor"] == data["pr"]["Tumor"]["ap"] == pytest.approx(0.75 + 0.25 * 512 / 2048)
        assert (data["roc"]["Tumor"]["fpr"][-1], data["roc"]["Tumor"]["tpr"][-1]) == (1, 1)

    def test_the_confusion_in_pixels_and_mm2(self, found):
        data = found.to_dict()["confusion"]
        assert data["pixels"] == [[1536, 0], [128, 384]]
        assert data["mm2"][1] == pytest.approx([128e-6, 384e-6])

    def test_of_each_patient_and_slide(self, found):
        data = found.to_dict()
        assert data["patients"]["Pa"]["dice"]["Tumor"] == 1
        assert data["patients"]["Pb"]["dice"]["Tumor"] == pytest.approx(2 * 128 / (256 + 128))
        assert data["patients"]["Pb"]["roc_auc"]["Tumor"] == pytest.approx((0.5 + 1) / 2)
        assert list(data["slides"]) == ["a.png", "b.png"] or list(data["slides"]) == ["slide a", "slide b"]
        assert [s["recall"]["Tumor"] for s in data["slides"].values()] == [1, 0.5]

    def test_of_each_patch(self, found):
        patches = found.to_dict()["patches"]
        assert [p["row"] for p in patches] == list(range(8))
        assert {p["patient"] for p in patches if p["entry"] == "b"} == {"Pb"}
        (corner,) = (p for p in patches if p["entry"] == "b" and (p["x"], p["y"]) == (0, 0))
        assert corner["dice"] == pytest.approx(2 * 128 / (256 + 128))
        assert corner["uncertainty"] == pytest.approx((bits(P_RED) + bits(P_BLUE)) / 2, rel=1e-5)
        (empty,) = (p for p in patches if p["entry"] == "b" and (p["x"], p["y"]) == (16, 16))
        assert empty["dice"] is None
        assert empty["uncertainty"] == pytest.approx(bits(P_BLUE), rel=1e-5)

    def test_calibration(self, found):
        # Red (384 px, sure by P_RED) is always right; of the 1664 blue ones 1536 are.
        data = found.to_dict()["calibration"]
        share = 384 / 2048
        both = abs(share * (1 - P_RED) + (1 - share) * (1536 / 1664 - (1 - P_BLUE)))  # both in the last bin
        assert data["ece"] == pytest.approx(both, rel=1e-4)
        assert data["bins"][-1]["share"] == pytest.approx(1)
        assert data["bins"][0]["accuracy"] is None
        assert data["temperature"] == 1

    def test_slides_of_one_name_stay_apart(self, quarters):
        slides = {k: replace(s, name="slide") for k, s in quarters.slides.items()}
        data = evaluate(model_of(ByColour()), replace(quarters, slides=slides), device="cpu").to_dict()
        assert list(data["slides"]) == ["slide (a)", "slide (b)"]


class TestOutlinesAndObjects:
    @pytest.fixture
    def data(self, whole):
        return evaluate(model_of(ByColour(), size_px=32), whole, device="cpu").to_dict()

    def test_outlines(self, data):
        # Pa: 0. Pb: the lower edge is 8 px too high. From the truth's 31 px: 15 of the lower edge 8 each, the right
        # edge 8 × 0 and 1 + … + 8; from the prediction's 23: its lower edge 8 × 8 and 7 + … + 1, the rest 0.
        assert data["boundary"]["Tumor"]["hd95_um"] == pytest.approx((0 + 8) / 2)
        assert data["boundary"]["Tumor"]["assd_um"] == pytest.approx((0 + (120 + 36 + 64 + 28) / (31 + 23)) / 2)

    def test_objects(self, data):
        # Two objects, 256 px each; the one of Pb is found by half: Dice 2/3, IoU 1/2.
        objects = data["objects"]["Tumor"]
        assert objects["dice"] == pytest.approx(((256 + 256 * 2 / 3) / 512 + (256 + 128 * 2 / 3) / 384) / 2)
        assert objects["f1"] == pytest.approx(1 / 2)
        assert (objects["pq"], objects["sq"], objects["rq"]) == (0.5, 1, 0.5)
        assert objects["hausdorff_um"] == pytest.approx((8 * 256 / 512 + 8 * 128 / 384) / 2)

    def test_not_of_background(self, data):
        assert list(data["boundary"]) == list(data["objects"]) == ["Tumor"]

    def test_they_can_be_left_out(self, whole):
        data = evaluate(model_of(ByColour(), size_px=32), whole, device="cpu", boundary=False, objects=False).to_dict()
        assert set(data["boundary"]["Tumor"].values()) == set(data["objects"]["Tumor"].values()) == {None}

    def test_a_class_that_fills_the_patch_has_no_outline(self, found):
        assert found.to_dict()["boundary"]["Tumor"] == {"hd95_um": None, "assd_um": None}

    def test_what_nobody_annotated_is_no_object_and_no_outline(self, whole):
        # Only the tumour is annotated: right of and below it there is no outline, and it is one object.
        slides = {k: replace(s, annotations=(s.annotations[1],)) for k, s in whole.slides.items()}
        data = evaluate(model_of(ByColour(), size_px=32), replace(whole, slides=slides), device="cpu").to_dict()
        assert data["boundary"]["Tumor"]["hd95_um"] is None
        assert data["objects"]["Tumor"]["f1"] == pytest.approx(1 / 2)


class TestIntervals:
    def test_over_patients(self, found):
        # Drawn are Pa twice (Dice 1), Pb twice (2/3), or both.
        data = found.to_dict()["intervals"]
        assert data["dice"]["Tumor"] == {
            "value": pytest.approx(768 / 896),
            "low": pytest.approx(2 / 3),
            "high": pytest.approx(1),
        }
        assert data["recall"]["mean"]["low"] == pytest.approx(0.5)
        assert data["roc_auc"]["Tumor"]["low"] == pytest.approx(0.75)
        assert data["accuracy"]["all"]["low"] == pytest.approx(896 / 1024)
        assert (data["patients"], data["resamples"]) == (2, 2000)
        assert data["method"] == "percentile bootstrap over patients"

    def test_every_score_has_one(self, found):
        data = found.to_dict()
        for metric, values in data["pooled"].items():
            assert {k: v["value"] for k, v in data["intervals"][metric].items()} == values

    def test_one_patient_has_none_and_it_is_said_why(self, quarters):
        one = quarters.take(quarters.rows["entry"] == "a")
        data = evaluate(model_of(ByColour()), one, device="cpu").to_dict()["intervals"]
        assert data["dice"]["Tumor"] == {"value": 1, "low": None, "high": None}
        assert "at least 2 patients; there is 1" in data["why_none"]


class TestFolder:
    def test_what_is_saved_comes_back(self, found, tmp_path):
        back = Evaluation.load(found.save(tmp_path / "evaluation" / "test"))
        assert back.to_dict() == found.to_dict()
        assert back.table().equals(found.table())

    def test_metrics_json_is_what_to_dict_says_without_nan(self, found, tmp_path):
        text = (found.save(tmp_path) / "metrics.json").read_text()
        assert json.loads(text, parse_constant=pytest.fail) == found.to_dict()

    def test_it_names_model_task_split_and_classes(self, found):
        data = found.to_dict()
        assert [data[k] for k in ("format", "task", "model", "split")] == [1, "segmentation", "ByColour-0", "test"]
        assert data["classes"] == ["Background", "Tumor"]

    def test_no_evaluation(self, tmp_path):
        with pytest.raises(EvaluationError, match="holds no evaluation"):
            Evaluation.load(tmp_path)

    def test_damaged(self, found, tmp_path):
        found.save(tmp_path)
        (tmp_path / "counts.npz").write_bytes(b"nothing")
        with pytest.raises(EvaluationError, match="readable"):
            Evaluation.load(tmp_path)

    def test_of_a_newer_version(self, found, tmp_path):
        found.save(tmp_path)
        data = json.loads((tmp_path / "metrics.json").read_text())
        (tmp_path / "metrics.json").write_text(json.dumps(data | {"format": 99}))
        with pytest.raises(EvaluationError, match="newer"):
            Evaluation.load(tmp_path)

    def test_files_of_two_evaluations(self, found, whole, tmp_path):
        found.save(tmp_path / "one")
        other = evaluate(model_of(ByColour(), size_px=32), whole, device="cpu").save(tmp_path / "other")
        (tmp_path / "one" / "counts.npz").write_bytes((other / "counts.npz").read_bytes())
        with pytest.raises(EvaluationError, match="same evaluation"):
            Evaluation.load(tmp_path / "one")

    def test_files_of_two_models_on_the_same_patches(self, found, quarters, tmp_path):
        found.save(tmp_path / "one")
        other = evaluate(model_of(Constant()), quarters, device="cpu").save(tmp_path / "other")
        (tmp_path / "one" / "counts.npz").write_bytes((other / "counts.npz").read_bytes())
        with pytest.raises(EvaluationError, match="same evaluation"):
            Evaluation.load(tmp_path / "one")


class TestTemperature:
    def test_patches_that_cannot_tell_it_leave_it(self, quarters, caplog):
        # Only blue pixels of Pb's corner: 128 of 256 are tumour, the others are not annotated. The logit of tumour is
        # −4, and the truth always tumour: the hottest temperature is the best.
        slides = {k: replace(s, annotations=(square(0, 8, 8),)) for k, s in quarters.slides.items()}
        table = replace(quarters, slides=slides).take(quarters.rows["entry"] == "b")
        # … which says that the patches are no measure, not that the model should never be sure.
        model = model_of(ByColour())
        with caplog.at_level(logging.WARNING):
            assert fit_temperature(model, table, device="cpu") is model
        assert "too few, or too easy" in caplog.text

    def test_where_all_is_right_ever_more_certainty_would_be_better(self, quarters, caplog):
        slides = {k: replace(s, annotations=(square(0, 0, 8),)) for k, s in quarters.slides.items()}
        model = model_of(ByColour())
        with caplog.at_level(logging.WARNING):
            assert fit_temperature(model, replace(quarters, slides=slides), device="cpu") is model
        assert "too few, or too easy" in caplog.text

    def test_it_mends_what_was_too_sure(self, quarters):
        # Red is always right, blue is so for 1536 of 1664 pixels; a logit of −4 claims 98 %.
        before = model_of(ByColour())
        after = fit_temperature(before, quarters, device="cpu")
        assert after.about["temperature"] > 1
        assert before.about == {}
        loss = []
        for model in (before, after):
            t = model.about.get("temperature", 1.0)
            blue, red = 1 / (1 + math.exp(-4 / t)), 1 / (1 + math.exp(-3.5 / t))
            loss.append(-(1536 * math.log(blue) + 128 * math.log(1 - blue) + 384 * math.log(red)) / 2048)
        assert loss[1] < loss[0]

    def test_evaluation_divides_by_it_and_predicts_the_same(self, quarters, found):
        warm = replace(model_of(ByColour()), about={"temperature": 2.0})
        data = evaluate(warm, quarters, device="cpu").to_dict()
        assert data["calibration"]["temperature"] == 2
        assert data["confusion"] == found.to_dict()["confusion"]
        assert data["patches"][3]["uncertainty"] != found.to_dict()["patches"][3]["uncertainty"]

    @pytest.mark.parametrize("tta", ["none", "dihedral"])
    def test_prediction_divides_by_it(self, tta):
        red = ArraySlide(np.full((16, 16, 3), RED, np.uint8), mpp=1.0)
        warm = replace(model_of(ByColour()), about={"temperature": 2.0})
        scores = predict(warm, red, tissue=False, tta=tta, device="cpu").scores[1] / STEPS
        assert scores == pytest.approx(1 / (1 + math.exp(-3.5 / 2)), abs=1 / STEPS)

    def test_a_sample_of_the_pixels_is_enough_and_seeded(self, quarters):
        few, same = (
            fit_temperature(model_of(ByColour()), quarters, device="cpu", pixels=400, seed=3).about for _ in range(2)
        )
        all_ = fit_temperature(model_of(ByColour()), quarters, device="cpu").about
        assert few == same != all_
        assert few["temperature"] == pytest.approx(all_["temperature"], rel=0.3)

    def test_nothing_annotated_is_an_error(self, quarters):
        slides = {k: replace(s, annotations=()) for k, s in quarters.slides.items()}
        with pytest.raises(NoAnnotationError, match="temperature"):
            fit_temperature(model_of(ByColour()), replace(quarters, slides=slides), device="cpu")

    @pytest.mark.parametrize("wrong", [0, -1.0, "warm", math.inf, math.nan])
    def test_one_that_is_no_temperature_is_refused(self, quarters, wrong):
        with pytest.raises(ModelError, match="temperature"):
            evaluate(replace(model_of(ByColour()), about={"temperature": wrong}), quarters, device="cpu")


class TestSureNetworks:
    """Scores next to 0 and 1 are told apart, so that curves say the same of a network at any temperature."""

    @pytest.mark.parametrize("temperature", [1.0, 0.2, 0.05, 5.0])
    def test_curves_do_not_depend_on_the_temperature(self, quarters, temperature):
        plain_, other = (
            evaluate(replace(model_of(Ramp()), about={"temperature": t}), quarters, device="cpu").to_dict()["pooled"]
            for t in (1.0, temperature)
        )
        assert 0.5 < plain_["roc_auc"]["Tumor"] < 1
        for metric in ("roc_auc", "pr_auc"):
            assert other[metric]["Tumor"] == pytest.approx(plain_[metric]["Tumor"], abs=0.01)

    def test_they_are_the_exact_ones(self, quarters):
        from sklearn.metrics import average_precision_score, roc_auc_score

        found = evaluate(model_of(Ramp()), quarters, device="cpu").to_dict()["pooled"]
        truths, scores = [], []
        with torch.inference_mode():
            for pixels, masks in plain_loader(quarters, batch_size=8):
                logits = Ramp()(pixels)
                known = masks.numpy() != 255
                truths.append(masks.numpy()[known] == 1)
                scores.append((logits[:, 1] - logits[:, 0]).numpy()[known])
        truth, score = np.concatenate(truths), np.concatenate(scores)
        assert found["roc_auc"]["Tumor"] == pytest.approx(roc_auc_score(truth, score), abs=0.002)
        assert found["pr_auc"]["Tumor"] == pytest.approx(average_precision_score(truth, score), abs=0.01)

    def test_a_broken_network_is_named(self, quarters):
        with pytest.raises(ModelError, match="Broken-0 answers with what is no number"):
            evaluate(model_of(Broken()), quarters, device="cpu")


class Ramp(nn.Module):
    """Very sure, and often wrong: logits from −60 to 60."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        noise = 25 * torch.randn(1, *pixels.shape[-2:], generator=generator)
        red = (pixels[:, 0].float() - pixels[:, 2].float()) / 8 + noise
        return torch.stack([torch.zeros_like(red), red], dim=1)


class Broken(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.full_like(pixels[:, :2].float(), torch.nan)


class TestWhoseTissueItIs:
    def test_patients_are_those_of_the_slides_also_where_nothing_was_split(self, quarters):
        slides = {k: replace(s, metadata={"patient": "P"}) for k, s in quarters.slides.items()}
        rows = quarters.rows.assign(group=quarters.rows["entry"])
        found = evaluate(model_of(ByColour()), replace(quarters, rows=rows, slides=slides, grouped_by=()), device="cpu")
        assert found.patients == ("P",)
        assert "why_none" in found.to_dict()["intervals"]

    def test_a_split_by_patch_makes_no_patients(self, quarters):
        slides = {k: replace(s, metadata={}) for k, s in quarters.slides.items()}
        rows = quarters.rows.assign(group=[str(i) for i in range(len(quarters))])
        table = replace(quarters, rows=rows, slides=slides, grouped_by=("patch",))
        assert evaluate(model_of(ByColour()), table, device="cpu").patients == ("a", "b")


class TestFiles:
    def test_what_was_scored_is_counted(self, found):
        data = found.to_dict()
        assert data["scored"] == {"patients": 2, "slides": 2, "patches": 8}

    def test_damage_anywhere_is_a_named_error(self, found, tmp_path):
        file = found.save(tmp_path) / "counts.npz"
        data = file.read_bytes()
        rng = np.random.default_rng(0)
        for place in [0, *rng.integers(0, len(data), 60).tolist()]:
            file.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
            with contextlib.suppress(EvaluationError):  # what is not in use, such as a date, may change
                Evaluation.load(tmp_path)
        file.write_bytes(b"")
        with pytest.raises(EvaluationError):
            Evaluation.load(tmp_path)

    def test_a_full_disk_leaves_the_older_one(self, found, tmp_path, monkeypatch):
        found.save(tmp_path)
        monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError("No space left")))
        with pytest.raises(OSError, match="No space"):
            found.save(tmp_path)
        monkeypatch.undo()
        assert Evaluation.load(tmp_path).model == found.model

    def test_its_name_is_short(self, found):
        assert repr(found) == "Evaluation('ByColour-0', test: 8 patches of 2 patients)"


def test_outlines_say_in_how_many_patches_they_were_measured(found):
    data = found.to_dict()
    assert data["outlined"]["Tumor"]["patches"] <= data["outlined"]["Tumor"]["of"]
    assert data["outlined"]["Tumor"]["of"] == 2
    interval = data["intervals"]["objects"]["Tumor"]["dice"]
    assert interval["low"] <= data["objects"]["Tumor"]["dice"] <= interval["high"]
    assert set(data["patients"]["Pa"]["boundary"]["Tumor"]) == {"hd95_um", "assd_um"}

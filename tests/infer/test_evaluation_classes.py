"""Evaluation of a patch classifier: 8 patches of two patients, one corner each is tumour; Pb's is only half red."""

import math

import numpy as np
import pytest
import torch
from fakes import BLUE, RED, FakeEntry, square, write_png
from torch import nn

from qp2train import LabelMap, Model, evaluate, sample_patches
from qp2train.errors import NoAnnotationError
from qp2train.infer.evaluate import fit_temperature
from qp2train.infer.evaluation import Evaluation
from qp2train.learn.classification import Classification

LABELS = LabelMap(["Tumor"])


class MeanColour(nn.Module):
    """Logit of tumour: 3.5 for a red patch, −4 for a blue one, in between by share."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        red = ((pixels[:, 0].float() - pixels[:, 2].float()) / 40).mean(dim=(1, 2))
        return torch.stack([torch.zeros_like(red), red], dim=1)


def model(share=0.5):
    spec = Classification(LABELS, encoder_weights=None, share=share)
    return Model("MeanColour-0", spec, MeanColour(), 16, 1.0, {})


@pytest.fixture
def table(tmp_path):
    entries = []
    for name, rows in (("a", 16), ("b", 8)):
        array = np.full((32, 32, 3), BLUE, np.uint8)
        array[:rows, :16] = RED
        path = write_png(tmp_path / f"{name}.png", array)
        drawn = [square(0, 0, 32, "Region*"), square(0, 0, 16)]
        entries.append(FakeEntry(name, drawn, array, 1.0, {"patient": f"P{name}"}, str(path)))
    found = sample_patches(entries, LABELS, size=16, strategy="grid")
    found.rows["group"] = ["P" + e for e in found.rows["entry"]]
    return found


def test_patches_are_counted(table):
    data = evaluate(model(), table, device="cpu").to_dict()
    assert data["task"] == "classification"
    assert data["confusion"] == {"pixels": [[6, 0], [1, 1]], "mm2": None}
    assert data["pooled"]["recall"]["Tumor"] == 0.5
    assert data["pooled"]["roc_auc"]["Tumor"] == 1  # half red is still redder than blue
    assert data["pooled"]["balanced_accuracy"]["all"] == pytest.approx(0.75)
    assert data["intervals"]["recall"]["Tumor"] == {"value": 0.5, "low": 0, "high": 1}


def test_each_patch_has_the_probability_of_its_class(table):
    patches = evaluate(model(), table, device="cpu").patches
    corner = patches[(patches["entry"] == "b") & (patches["x"] == 0) & (patches["y"] == 0)]
    assert corner["score"].item() == pytest.approx(1 / (1 + math.exp(0.25)), rel=1e-5)
    assert corner["uncertainty"].item() > patches["uncertainty"].median()


def test_there_are_no_outlines_and_no_objects(table):
    data = evaluate(model(), table, device="cpu").to_dict()
    assert set(data["boundary"]["Tumor"].values()) == set(data["objects"]["Tumor"].values()) == {None}


def test_patches_without_a_class_are_left_out_and_rows_stay_those_of_the_table(table):
    table.rows.loc[[0, 3], "label"] = ""
    found = evaluate(model(share=None), table, device="cpu")
    assert found.patches["row"].tolist() == [1, 2, 4, 5, 6, 7]
    assert found.patches["x"].tolist() == table.rows["x"][[1, 2, 4, 5, 6, 7]].tolist()
    assert found.pooled.matrix.sum() == 6


def test_no_patch_has_a_class(table):
    table.rows["label"] = ""
    with pytest.raises(NoAnnotationError, match="8 patches"):
        evaluate(model(share=None), table, device="cpu")


def test_its_table_and_folder(table, tmp_path):
    found = evaluate(model(), table, device="cpu")
    assert found.table().index.tolist() == ["Pa", "Pb", "all patches"]
    assert Evaluation.load(found.save(tmp_path / "e")).to_dict() == found.to_dict()


def test_a_temperature_is_fitted_to_patches(table):
    # Logits of the true class: 3.5, −0.25 and 6 × 4; T makes the least of Σ ln(1 + e^(−z/T)).
    fitted = fit_temperature(model(), table, device="cpu").about["temperature"]
    z = np.array([3.5, -0.25] + [4.0] * 6)
    tried = np.exp(np.linspace(np.log(0.05), np.log(20), 20_001))
    best = tried[np.log1p(np.exp(-z / tried[:, None])).sum(axis=1).argmin()]
    assert fitted == pytest.approx(best, rel=1e-3)

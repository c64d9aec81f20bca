"""Evaluation where classes overlap: 8 × 16 px tumour, the lower half of it immune as well, in a region of 16 × 16."""

import numpy as np
import pytest
import shapely
import torch
from fakes import BLUE, RED, FakeEntry, write_png
from torch import nn

from qp2train import Annotation, LabelMap, Model, Segmentation, evaluate, sample_patches
from qp2train.core.labels import REGION
from qp2train.infer.evaluate import fit_temperature
from qp2train.infer.evaluation import Evaluation

LABELS = LabelMap(["Tumor", "Immune"])


class Red(nn.Module):
    """Calls what is red both tumour and immune; two logits, none for background."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        red = (pixels[:, 0].float() - pixels[:, 2].float()) / 70
        return torch.stack([red, red], dim=1)


MODEL = Model("Red-0", Segmentation(LABELS, encoder_weights=None, multilabel=True), Red(), 16, 1.0, {})  # type: ignore[arg-type]


@pytest.fixture
def table(tmp_path):
    array = np.full((16, 16, 3), BLUE, np.uint8)
    array[:8] = RED
    boxes = ((0, 0, 16, 16, REGION), (0, 0, 16, 8, "Tumor"), (0, 4, 16, 8, "Immune"))
    drawn = [Annotation(shapely.box(*box), name) for *box, name in boxes]
    entry = FakeEntry("a", drawn, array, 1.0, {}, str(write_png(tmp_path / "a.png", array)))
    return sample_patches([entry], LABELS, size=16, strategy="grid")


def test_each_class_is_scored_by_itself(table):
    data = evaluate(MODEL, table, device="cpu").to_dict()
    assert data["classes"] == ["Tumor", "Immune"]
    assert data["confusion"]["each"]["Tumor"]["pixels"] == [[128, 0], [0, 128]]
    assert data["confusion"]["each"]["Immune"]["pixels"] == [[128, 64], [0, 64]]
    assert data["pooled"]["dice"] == pytest.approx({"Tumor": 1, "Immune": 2 * 64 / (2 * 64 + 64), "mean": 5 / 6})
    # Immune is annotated in rows 4–7 and predicted in 0–7. Its outline is row 4 and row 7; of the prediction only
    # row 7, as row 0 is at the border: 16 px of 48 are 3 px off.
    assert data["boundary"]["Immune"] == pytest.approx({"hd95_um": 3, "assd_um": 1})
    assert data["boundary"]["Tumor"] == {"hd95_um": 0, "assd_um": 0}
    assert data["objects"]["Immune"]["pq"] == 0  # its IoU is a half, not more


def test_it_can_be_saved_and_calibrated(table, tmp_path):
    found = evaluate(MODEL, table, device="cpu")
    assert Evaluation.load(found.save(tmp_path / "e")).to_dict() == found.to_dict()
    # Logits of the true answer: 2 (140 / 70) for red, −2 for red that is not immune, 160 / 70 for blue.
    z = np.concatenate([np.full(192, 2.0), np.full(64, -2.0), np.full(256, 160 / 70)])
    tried = np.exp(np.linspace(np.log(0.05), np.log(20), 20_001))
    best = tried[np.log1p(np.exp(-z / tried[:, None])).sum(axis=1).argmin()]
    assert fit_temperature(MODEL, table, device="cpu").about["temperature"] == pytest.approx(best, rel=1e-3)

"""Annotations of a cropped, rotated, mirrored image meet its pixels, from sampling through workers to evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import BLUE, RED, square

from qp2train import LabelMap, Model, PatchTable, ScoreMap, Segmentation, evaluate, predict
from qp2train import sample_patches as sample
from qp2train.errors import ProjectError
from qp2train.learn.augment import Augmentation
from qp2train.learn.data import PatchDataset, plain_loader
from qp2train.preview import contact_sheet_of
from qp2train.qupath.project import Project

from .derived import cropped, flipped, leaf, project_of, rotated

SIZE = (150, 110)  # of the image as QuPath shows it
DRAWN = (square(10, 20, 30), square(90, 15, 24), square(60, 70, 37), square(-99, -99, 999, "Region*"))
LABELS = LabelMap(["Tumor"])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An image that is red where it is annotated, and else blue, once it is mirrored, cropped and rotated."""
    shown = np.full((SIZE[1], SIZE[0], 3), BLUE, np.uint8)
    for annotation in DRAWN[:3]:
        x0, y0, x1, y1 = map(int, annotation.geometry.bounds)
        shown[y0:y1, x0:x1] = RED
    below = np.full((230, 200, 3), 255, np.uint8)
    below[40 : 40 + SIZE[0], 30 : 30 + SIZE[1]] = np.rot90(shown, 1)  # before QuPath turned it clockwise
    below = below[:, ::-1]  # before QuPath mirrored it
    builder = rotated(cropped(flipped(leaf(tmp_path, below), "HORIZONTAL"), 30, 40, SIZE[1], SIZE[0]), 90)
    return project_of(tmp_path, builder, SIZE, mpp=0.5, annotations=DRAWN)


class Redness(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        red = (pixels[:, 0].float() - pixels[:, 2].float()) / 10
        return torch.stack([torch.zeros_like(red), red], dim=1)


MODEL = Model("red-1", Segmentation(LABELS, encoder_weights=None), Redness(), 32, 0.5, {})  # type: ignore[arg-type]


@pytest.fixture
def table(project: Project, tmp_path: Path) -> PatchTable:
    """Patches, as read from disk again by a later run."""
    made = sample(project, LABELS, size=32, mpp=0.5, per_class=8)
    return PatchTable.load(made.save(tmp_path / "patches.parquet"))


def on_slide(table: PatchTable, row: int) -> bool:
    box = table.box(row)
    return min(box.x, box.y) >= 0 and box.right <= SIZE[0] and box.bottom <= SIZE[1]


def test_the_table_remembers_the_view(project: Project, table: PatchTable) -> None:
    assert table.slides["1"].view == "60,40 110x150 mirrored turned 90"
    assert table.slides["1"].size == SIZE
    assert table.digest() != replace(table, slides={"1": replace(table.slides["1"], view="")}).digest()


@pytest.mark.parametrize("workers", [0, 2])
def test_picture_and_mask_agree_to_the_pixel(table: PatchTable, workers: int) -> None:
    images, masks = (
        torch.cat(parts) for parts in zip(*plain_loader(table, batch_size=4, workers=workers), strict=True)
    )
    inside = torch.tensor([on_slide(table, row) for row in range(len(table))])
    assert inside.sum() > 4
    assert torch.equal((images[:, 0] == RED[0])[inside], (masks == 1)[inside])
    assert (masks == 1)[inside].any()


def test_with_a_margin_for_augmentation(table: PatchTable) -> None:
    dataset = PatchDataset(table, Augmentation(32, "medium"))
    for row in (row for row in range(len(table)) if on_slide(table, row)):
        image, mask = dataset.raw(row)
        known = mask != 255
        assert np.array_equal((image[..., 0] == RED[0])[known], (mask == 1)[known])


def test_prediction_and_evaluation_see_the_same(project: Project, table: PatchTable) -> None:
    with project["1"].slide() as slide:
        scores: ScoreMap = predict(MODEL, slide, tissue=False)
    truth = np.zeros((SIZE[1], SIZE[0]), bool)
    for annotation in DRAWN[:3]:
        x0, y0, x1, y1 = map(int, annotation.geometry.bounds)
        truth[y0:y1, x0:x1] = True
    assert np.array_equal(scores.classmap == 1, truth)
    assert evaluate(MODEL, table).table().loc["all pixels", "Tumor"] == pytest.approx(1.0)


def test_the_contact_sheet_opens_the_view(table: PatchTable) -> None:
    assert contact_sheet_of(table, count=4) is not None


def test_an_image_that_cannot_be_made_can_be_left_out(project: Project, tmp_path: Path) -> None:
    other = project_of(tmp_path / "other", {"builderType": "channels"}, SIZE, annotations=DRAWN)
    entries = [*project, *other]
    with pytest.raises(ProjectError, match=r"1 of 2 slides cannot be used:\n  tiny.png: .*'channels'"):
        sample(entries, LABELS, size=32, mpp=0.5, per_class=2)
    kept = sample(entries, LABELS, size=32, mpp=0.5, per_class=2, skip_unreadable=True)
    assert [list(slide.annotations) for slide in kept.slides.values()] == [project["1"].annotations()]

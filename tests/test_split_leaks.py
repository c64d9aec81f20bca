"""`qp2train sample` says what may leak; training on a leaky table is refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import square, write_png
from typer.testing import CliRunner

import qp2train as qp
from qp2train import runs
from qp2train.cli import app
from qp2train.errors import SplitError
from qp2train.recipe import load_recipe


def picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(60, 200, (10, 10, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((10, 10, 1), np.uint8))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Four slides of two patients and a half; d is c once more, under another patient's name."""
    for name, seed in {"a": 0, "b": 1, "c": 2, "d": 2}.items():
        write_png(tmp_path / f"{name}.png", picture(seed))
        qp.write_geojson(tmp_path / f"{name}.geojson", [square(10, 10, 60)])
    patients = "slide,patient,mpp\na.png,P01,1\nb.png,p1,1\nc.png,P2,1\nd.png,P3,1\n"
    (tmp_path / "metadata.csv").write_text(patients, encoding="utf-8")
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "project: .\nlabels: {classes: [Tumor]}\nsample: {size: 16, mpp: 1, per_class: 40}\n"
        "split: {by: patient, assign: {p1: val, P3: val}}\nout: run\n",
        encoding="utf-8",
    )
    return file


def test_the_command_line_names_the_pictures_and_patients(recipe: Path) -> None:
    result = CliRunner().invoke(app, ["sample", str(recipe)], env={"COLUMNS": "300"}, catch_exceptions=False)
    assert result.exit_code == 0
    said = " ".join(result.output.split())
    assert (
        "c.png (train) and d.png (val) look the same" in said or "d.png (val) and c.png (train) look the same" in said
    )
    assert "patient 'P01' and 'p1' may be the same one" in said


def test_a_sound_split_is_not_commented_on(recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        runs.sample(load_recipe(recipe, ["split.assign={P2: val, P3: val}"]))
    assert not caplog.messages


def test_a_recipe_may_ask_for_stratified_parts_and_several_keys(recipe: Path) -> None:
    asked = "split={stratify: true, by: [patient, slide], fractions: [0.5, 0.5]}"
    table = runs.sample(load_recipe(recipe, [asked]))
    assert table.grouped_by == ("patient", "slide")
    assert table.counts().loc["Tumor", "train"] == pytest.approx(20, abs=10)


def test_a_table_changed_by_hand_is_not_trained_on(recipe: Path) -> None:
    asked = load_recipe(recipe)
    table = runs.sample(asked)
    half = np.where(np.arange(len(table)) % 2, "train", "test")
    with pytest.raises(SplitError, match=r"'P01' \(test and train\)"):
        runs.train(asked, replace(table, rows=table.rows.assign(split=half)), progress=False)
    assert not asked.out.exists()

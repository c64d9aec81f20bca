"""`qp2train crossval`, `compare` and `report` on six drawn slides of three patients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes import BLUE, RED, square, write_png
from typer.testing import CliRunner

import qp2train as qp
from qp2train import cli, runs
from qp2train.crossval import crossval
from qp2train.errors import EvaluationError, SplitError
from qp2train.recipe import load_recipe

SETTINGS = """
project: .
labels: {classes: [Tumor]}
sample: {size: 32, mpp: 1, per_class: 8}
model: {encoder: resnet18, encoder_weights: null, options: {encoder_depth: 3, decoder_channels: [16, 8, 8]}}
fit: {epochs: 2, batch_size: 4, augment: none, track: csv}
out: run
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Red squares on blue; a square is Tumor, the rest of its Region* is background."""
    monkeypatch.setattr(cli.console, "width", 400)
    rows = ["slide,patient,mpp"]
    for i in range(6):
        picture = np.random.default_rng(i).normal(0, 20, (96, 96, 3)) + BLUE
        picture[20 + i : 60, 20 + i : 60] += np.subtract(RED, BLUE)
        write_png(tmp_path / f"s{i}.png", picture.clip(0, 255).astype(np.uint8))
        drawn = [square(0, 0, 96, "Region*"), square(20 + i, 20 + i, 40 - i)]
        qp.write_geojson(tmp_path / f"s{i}.geojson", drawn)
        rows.append(f"s{i}.png,P{i % 3},1")
    (tmp_path / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    file = tmp_path / "recipe.yaml"
    file.write_text(SETTINGS, encoding="utf-8")
    return file


def call(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_every_patient_is_held_out_once_and_chooses_nothing(recipe: Path) -> None:
    seen = {}
    pooled = crossval(load_recipe(recipe), folds=3, told=lambda i, e: seen.update({i: e.patients}), bar=False)
    assert sorted(p for patients in seen.values() for p in patients) == ["P0", "P1", "P2"]
    assert pooled.patients == ("P0", "P1", "P2")
    for number, (patient,) in seen.items():
        table = qp.PatchTable.load(recipe.parent / "run" / f"fold-{number}" / "patches.parquet")
        parts = table.rows.groupby("split")["group"].agg(set)
        assert parts["train"] | parts["val"] == {"P0", "P1", "P2"} - {patient}  # another patient chose the epoch
        assert parts["held-out"] == {patient}
    metrics = json.loads((recipe.parent / "run/evaluation/cross-validation/metrics.json").read_text())
    assert metrics["intervals"]["patients"] == 3
    assert set(metrics["patients"]) == {"P0", "P1", "P2"}


def test_a_stopped_run_goes_on_where_it_stopped(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, trained = load_recipe(recipe), []
    fit = qp.fit

    def dying(*given: object, **how: object) -> qp.Model:
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(how["out"])
        return fit(*given, **how)  # type: ignore[arg-type]

    monkeypatch.setattr("qp2train.crossval.fit", dying)
    with pytest.raises(KeyboardInterrupt):
        crossval(asked, folds=3, bar=False)
    monkeypatch.setattr("qp2train.crossval.fit", lambda *a, **k: trained.append(k["out"]) or fit(*a, **k))
    crossval(asked, folds=3, bar=False)
    assert [Path(p).name for p in trained] == ["fold-1", "fold-2", "fold-3"]
    crossval(load_recipe(recipe, ["fit.seed=1"]), folds=3, bar=False)  # another recipe: nothing of it is there
    assert len(trained) == 6


def test_patients_that_were_corrected_meanwhile_are_dealt_out_anew(recipe: Path) -> None:
    """A fold of the old patients would leave some slides out, and hold others out twice."""
    crossval(load_recipe(recipe), folds=3, bar=False)
    table = recipe.parent / "metadata.csv"
    rows = [f"s{i}.png,Q{i // 2},1" for i in range(6)]
    table.write_text("\n".join(["slide,patient,mpp", *rows]), encoding="utf-8")
    pooled = crossval(load_recipe(recipe), folds=3, bar=False)
    assert pooled.patients == ("Q0", "Q1", "Q2")
    assert len(pooled.patches) == len(runs.all_patches(load_recipe(recipe)))
    assert pooled.patches.groupby("slide")["fold"].nunique().eq(1).all()


def test_a_project_that_was_moved_is_not_trained_again(
    recipe: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossval(load_recipe(recipe), folds=3, bar=False)
    moved = recipe.parent.rename(tmp_path_factory.mktemp("elsewhere") / "moved")
    monkeypatch.setattr("qp2train.crossval.fit", None)
    assert crossval(load_recipe(moved / recipe.name), folds=3, bar=False).patients == ("P0", "P1", "P2")


def test_a_fold_that_is_trained_again_is_not_finished_until_it_is(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossval(load_recipe(recipe), folds=3, bar=False)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("qp2train.crossval.evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            crossval(load_recipe(recipe, ["fit.seed=1"]), folds=3, bar=False)
    crossval(load_recipe(recipe), folds=3, bar=False)
    fold = recipe.parent / "run" / "fold-1"
    found = json.loads((fold / "evaluation/held-out/metrics.json").read_text(encoding="utf-8"))
    assert found["model"] == qp.load_model(fold).id


def test_what_a_cross_validation_does_not_use_is_said(recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    crossval(load_recipe(recipe, ["split.assign={P2: test}", "fit.epochs=1"]), folds=3, bar=False)
    assert "split.assign is not used" in caplog.text


def test_more_folds_than_patients(recipe: Path) -> None:
    with pytest.raises(SplitError, match="there are 3 groups"):
        crossval(load_recipe(recipe), folds=4, bar=False)


def test_the_command_line_trains_compares_and_reports(recipe: Path, tmp_path: Path) -> None:
    split = ["--set", "split.assign={P1: val, P2: test}"]
    said = call("train", str(recipe), *split)
    assert "report.html" in said
    call("train", str(recipe), *split, "--set", f"out={tmp_path / 'other'}", "--set", "fit.seed=1")
    said = call("compare", str(tmp_path / "run"), str(tmp_path / "other"))
    assert "Whether that is chance cannot be told from one patient" in said
    said = call("report", str(tmp_path / "run"), "--split", "val")
    assert "report.html" in said
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Tumor" in page


def test_a_comparison_wants_evaluations_of_the_same_patches(recipe: Path, tmp_path: Path) -> None:
    assert "report.html" in call("crossval", str(recipe), "--folds", "3", "--set", "fit.keep=last")
    for folder, pictures in (("run", False), ("run/fold-2", True)):
        page = (tmp_path / folder / "report.html").read_text(encoding="utf-8")
        assert ("data:image" in page) is pictures
    assert "report.html" in call("report", str(tmp_path / "run" / "fold-1"))
    with pytest.raises(EvaluationError, match="holds no evaluation"):
        runs.compare_runs(tmp_path / "run", tmp_path)
    said = call("compare", str(tmp_path / "run"), str(tmp_path / "run"))
    assert "a difference of +0.000" in said
    assert "So few patients cannot give a p below 0.25" in said


def test_patches_are_classified_by_the_same_commands(recipe: Path, tmp_path: Path) -> None:
    model = "model={encoder: resnet18, encoder_weights: null}"
    more = [f"out={tmp_path / 'patches'}", "split.assign={P1: val, P2: test}", model, "task=classification"]
    call("train", str(recipe), *(word for text in more for word in ("--set", text)))
    found = json.loads((tmp_path / "patches/evaluation/test/metrics.json").read_text())
    assert found["task"] == "classification"
    assert found["classes"] == ["Background", "Tumor"]

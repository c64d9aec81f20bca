"""`task: prompted` from recipe to report, and the run as what answers `qp2train refine`."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import BLUE, RED, square, write_png
from typer.testing import CliRunner

import qp2train as qp
from qp2train import cli, runs
from qp2train.crossval import crossval
from qp2train.errors import EvaluationError, ModelError, NoAnnotationError, Qp2trainError, RecipeError
from qp2train.learn.objects import objects_of
from qp2train.recipe import load_recipe
from qp2train.refining import refine_project

SETTINGS = """
task: prompted
project: .
labels: {classes: [Tumor]}
sample: {size: 32, mpp: 1, per_class: 8}
split: {by: patient, fractions: [0.5, 0.25, 0.25]}
model: {encoder: resnet18, encoder_weights: null, options: {encoder_depth: 3, decoder_channels: [16, 8, 8]}}
fit: {epochs: 3, batch_size: 4, augment: flips, track: csv}
out: run
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red squares on blue, eight slides of four patients; the command line has trained and scored once."""
    home = tmp_path_factory.mktemp("home")
    rows = ["slide,patient,mpp"]
    for i in range(8):
        picture = np.random.default_rng(i).normal(0, 20, (96, 96, 3)) + BLUE
        picture[20 + i : 60, 20 + i : 60] += np.subtract(RED, BLUE)
        write_png(home / f"s{i}.png", picture.clip(0, 255).astype(np.uint8))
        qp.write_geojson(home / f"s{i}.geojson", [square(0, 0, 96, "Region*"), square(20 + i, 20 + i, 40 - i)])
        rows.append(f"s{i}.png,P{i % 4},1")
    (home / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    (home / "recipe.yaml").write_text(SETTINGS, encoding="utf-8")
    said = CliRunner().invoke(cli.app, ["train", str(home / "recipe.yaml")], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    assert "Clicks on objects, test" in " ".join(said.output.split())
    return home


def test_a_run_has_all_that_other_runs_have(home: Path) -> None:
    run = home / "run"
    assert {f.name for f in run.iterdir()} >= {"recipe.yaml", "patches.parquet", "model", "logs", "evaluation"}
    metrics = json.loads((run / "evaluation" / "test" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["task"] == "prompted"
    assert metrics["scored"]["objects"] == 2
    assert {o["patient"] for o in metrics["clicked"]} == set(metrics["patients"])
    report = (run / "report.html").read_text(encoding="utf-8")
    assert 'id="clicks"' in report
    assert "Annotated area and objects of each class and part" in report
    data = json.loads((run / "evaluation" / "test" / "data.json").read_text(encoding="utf-8"))
    table = qp.PatchTable.load(run / "patches.parquet")
    for part, of in data["classes"]["Tumor"].items():
        assert of["objects"] == len(objects_of(table.take((table.rows["split"] == part).to_numpy())))
    assert qp.load_model(run).task == "prompted"


def test_nothing_of_the_tested_patients_was_learnt_from(home: Path) -> None:
    rows = qp.PatchTable.load(home / "run" / "patches.parquet").rows
    parts = rows.groupby("split")["group"].agg(set)
    assert not parts["train"] & parts["test"]
    assert not parts["train"] & parts["val"]


def test_scoring_again_gives_the_same_file(home: Path) -> None:
    file = home / "run" / "evaluation" / "test" / "metrics.json"
    before = file.read_bytes()
    runs.evaluate_run(home / "run", "test")
    assert file.read_bytes() == before


def test_the_run_answers_the_prompts_of_a_project(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = qp.SlideFolder(home)
    model = qp.load_prompt_model(home / "run")
    with caplog.at_level(logging.WARNING):
        outcomes = list(refine_project(folder, model=model, outlines=["Tumor"], entries=[folder["s0"]]))
    assert [o.error for o in outcomes] == [None]
    (found,) = outcomes[0].annotations
    assert found.class_name == "Tumor"
    assert "no trained model" not in caplog.text


def test_what_it_cannot_do_is_said(home: Path) -> None:
    model, folder = qp.load_model(home / "run"), qp.SlideFolder(home)
    with folder["s0"].slide() as slide, pytest.raises(ModelError, match="answers prompts"):
        qp.predict(model, slide)
    with pytest.raises(ModelError, match="evaluate_prompts"):
        qp.evaluate(model, qp.PatchTable.load(home / "run" / "patches.parquet"))
    with pytest.raises(RecipeError, match="not cross-validated"):
        crossval(load_recipe(home / "recipe.yaml"), folds=2, bar=False)
    with pytest.raises(EvaluationError, match="how many clicks"):
        runs.compare_runs(home / "run", home / "run")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.multilabel=true", "unknown key 'model.multilabel'"),
        ("model.stain=macenko", "unknown key 'model.stain'"),
        ("fit.loss=ce", "loss is not for prompts"),
        ("sample.mpp=[1, 2]", "one scale"),
        ("model.arch=dpt", "cannot take prompts"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_sampled(home: Path, override: str, said: str) -> None:
    with pytest.raises(Qp2trainError, match=said):
        load_recipe(home / "recipe.yaml", [override])


def test_a_part_without_objects_is_named_before_training(home: Path) -> None:
    recipe = load_recipe(home / "recipe.yaml", ["out=elsewhere"])
    table = runs.sample(recipe)
    test = set(table.rows["entry"][table.rows["split"] == "test"])
    slides = {
        e: replace(ref, annotations=[a for a in ref.annotations if e not in test or a.class_name != "Tumor"])
        for e, ref in table.slides.items()
    }
    with pytest.raises(NoAnnotationError, match="of the part 'test'"):
        runs.train(recipe, replace(table, slides=slides), progress=False)
    assert not recipe.out.exists()


def test_the_card_is_of_prompts(home: Path) -> None:
    card = (home / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: mask-generation" in card
    assert "qp2train refine path/to/project.qpproj --model" in card
    assert "On 2 objects of 1 patients of the part “test”" in card
    assert "| from nothing | " in card
    assert "qp2train predict" not in card

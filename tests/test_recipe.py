"""A recipe's keys are the keyword arguments of the public functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from qp2train.errors import RecipeError
from qp2train.recipe import Recipe, load_recipe

RECIPE = """
project: liver/project.qpproj
image_roots: [slides]
labels: {classes: {Gland: [Benign gland, Malignant gland]}}
sample: {size: 128, mpp: 2}
split: {by: patient, assign: {p01: val}}
fit: {epochs: 3}
predict: {tta: dihedral}
"""


def load(tmp_path: Path, text: str = RECIPE, *overrides: str) -> Recipe:
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return load_recipe(file, overrides)


def test_values_are_checked_and_converted_and_paths_start_at_the_recipe(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    assert recipe.project == tmp_path / "liver" / "project.qpproj"
    assert recipe.image_roots == (tmp_path / "slides",)
    assert recipe.labels.value_of("Malignant gland") == 1
    assert recipe["sample"] == {"size": 128, "mpp": 2.0}
    assert recipe["split"] == {"by": "patient", "assign": {"p01": "val"}}
    assert recipe["vectorise"] == {}


def test_overrides_replace_and_add(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE, "fit.epochs=5", "vectorise.min_area_um2=500", "out=runs/new")
    assert recipe["fit"] == {"epochs": 5}
    assert recipe["vectorise"] == {"min_area_um2": 500.0}
    assert recipe.out == tmp_path / "runs" / "new"
    again = load(tmp_path, recipe.text)
    assert (again["fit"], again.project, again.out) == (recipe["fit"], recipe.project, recipe.out)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("fit.epoch=5", "unknown key 'fit.epoch'. Did you mean 'epochs'?"),
        ("sampel.size=5", "unknown key 'sampel'. Did you mean 'sample'?"),
        ("fit.epochs=many", "fit.epochs: Input should be a valid integer"),
        ("fit.augment=wild", "'none', 'flips', 'medium' or 'strong'"),
        ("fit.out=x", "unknown key 'fit.out'"),
        ("labels.classes=[]", "at least one class"),
        ("labels.paint_order=[Nobody]", "paint_order names 'Nobody'"),
        ("fit=3", "fit: must hold 'key: value' lines"),
        ("fit.epochs", "write section.key=value"),
        ("project=7", "project must be a path"),
        ("image_roots=3", "image_roots must be a list of folders"),
        ("labels.classes=Gland", "labels.classes: 'str' instances are not allowed"),
        ("project.x=7", "'project' is a value, not a section"),
    ],
)
def test_a_wrong_setting_is_named_with_the_remedy(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, RECIPE, override)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("labels: {classes: [Tumor]}", "which project"),
        ("project: x", "which classes"),
        ("project: x\nlabels: {classes: Tumor}", "labels.classes"),
        ("just words", "'key: value' lines"),
        ("a: [1", "no YAML"),
    ],
)
def test_a_recipe_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load(tmp_path, text)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")

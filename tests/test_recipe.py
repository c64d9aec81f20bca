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
        ("fit.epochs=0", "fit: epochs must be at least 1, not 0"),
        ("fit.loss=cee", "fit: loss must be a sum such as"),
        ("fit.lr=-1", "fit: lr must be above 0"),
        ("fit.label_smoothing=1", "fit: label_smoothing must be from 0 to below 1"),
        ("fit.seed=-1", "fit: seed must not be negative"),
        ("fit.gradient_clip=.nan", "fit: gradient_clip must not be negative, nor infinite, not nan"),
        ("fit.layer_decay=0.5", "fit: layer_decay is for classifiers"),
        ("fit.class_weights={Stroma: 2}", "fit: class_weights names 'Stroma'; the classes are Background, Gland"),
        ("model.options={activation: softmax}", "model: 'activation' is no option of a network"),
        ("model.encoder=tu-local-dir:/x", "model: 'tu-local-dir:/x' names no encoder"),
    ],
)
def test_a_wrong_setting_is_named_with_the_remedy(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, RECIPE, override)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("fit.loss=dice", "fit: loss='dice' is for segmentation"),
        ("model.share=7", "model: share must be above 0"),
        ("model.context=[0]", "model: context must be"),
        ("model.mixup=-1", "model: mixup"),
    ],
)
def test_a_wrong_setting_of_a_classifier(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, RECIPE, "task=classification", override)
    assert said in str(caught.value)


class TestEncoderWeights:
    def test_a_file_or_folder_beside_the_recipe(self, tmp_path: Path) -> None:
        (tmp_path / "weights").mkdir()
        (tmp_path / "weights" / "r18.safetensors").touch()
        for named in ("weights/r18.safetensors", "weights"):
            recipe = load(tmp_path, RECIPE, f"model.encoder_weights={named}")
            assert recipe["model"]["encoder_weights"] == str(tmp_path / named)
            # The recipe that a run keeps lies in another folder.
            (tmp_path / "run").mkdir(exist_ok=True)
            assert load(tmp_path / "run", recipe.text)["model"] == recipe["model"]

    @pytest.mark.parametrize("named", ["imagenet", "ssl", "null"])
    def test_a_name_stays(self, tmp_path: Path, named: str) -> None:
        (tmp_path / "imagenet").mkdir()
        found = load(tmp_path, RECIPE, f"model.encoder_weights={named}")["model"]["encoder_weights"]
        assert found == (None if named == "null" else named)

    def test_an_absolute_path_stays(self, tmp_path: Path) -> None:
        (tmp_path / "e.pth").touch()
        recipe = load(tmp_path, RECIPE, f"model.encoder_weights={tmp_path / 'e.pth'}")
        assert recipe["model"]["encoder_weights"] == str(tmp_path / "e.pth")


def test_the_folder_of_read_patches_starts_at_the_recipe_also_in_the_text_that_a_run_keeps(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE, "fit.cache=read")
    (tmp_path / "run").mkdir()
    assert load(tmp_path / "run", recipe.text)["fit"]["cache"] == recipe["fit"]["cache"] == tmp_path / "read"


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

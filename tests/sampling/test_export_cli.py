"""qp2train sample RECIPE --export FOLDER --format …."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import square, write_png
from typer.testing import CliRunner

from qp2train import cli, import_png, write_geojson

RECIPE = """
project: slides
out: run
labels: {classes: [Tumor]}
sample: {size: 16, mpp: 0.5, strategy: grid}
split: {by: patient, fractions: [0.5, 0.5]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "slides").mkdir()
    for name in ("p1", "p2"):
        write_png(tmp_path / "slides" / f"{name}.png", np.full((32, 32, 3), 200, np.uint8))
        write_geojson(tmp_path / "slides" / f"{name}.geojson", [square(0, 0, 20, name="nest")])
    (tmp_path / "slides" / "metadata.csv").write_text("slide,patient,mpp\np1,P1,0.5\np2,P2,0.5\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def run(*arguments: object):
    return CliRunner().invoke(cli.app, ["sample", *map(str, arguments)])


def test_a_recipes_patches_are_exported_with_their_splits(recipe, tmp_path):
    said = run(recipe, "--export", tmp_path / "png")
    assert said.exit_code == 0, said.output
    assert f"png: {tmp_path / 'png'}" in said.output.replace("\n", "")
    table = import_png(tmp_path / "png")
    assert len(table) == 8
    assert sorted(set(table.rows["split"])) == ["train", "val"]
    assert (tmp_path / "png/masks/train").is_dir()


def test_another_format_is_chosen_by_name(recipe, tmp_path):
    assert run(recipe, "--export", tmp_path / "coco", "--format", "coco").exit_code == 0
    assert (tmp_path / "coco/annotations/instances_train.json").is_file()
    assert run(recipe, "--export", tmp_path / "x", "--format", "bmp").exit_code == 2


def test_a_folder_that_is_not_empty_is_refused_before_anything_is_read(tmp_path, capsys, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    monkeypatch.setattr("sys.argv", ["qp2train", "sample", "no.yaml", "--export", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        cli.main()
    assert "no empty folder" in capsys.readouterr().err

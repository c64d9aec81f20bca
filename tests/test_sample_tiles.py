"""`qp2train sample --tiles` and `--preview`, on a project that QuPath wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import qp2train as qp
from qp2train.cli import app

SOURCE = "qp2train-patches"


def run(*arguments: str | Path, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture
def recipe(shared_data: Path, tmp_path: Path) -> Path:
    for folder in ("project", "images"):
        shutil.copytree(shared_data / "qupath_written" / "0.6.0" / folder, tmp_path / folder, copy_function=shutil.copy)
    for path in [tmp_path, *tmp_path.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "project: project\nlabels: {classes: [Tumor, Stroma]}\n"
        "sample: {size: 32, mpp: 1.0, per_class: 6, skip_unreadable: true}\n"
        "split: {by: slide, assign: {'1': train}}\n",
        encoding="utf-8",
    )
    return recipe


def tiles_of(project: Path) -> dict[str, list[qp.Annotation]]:
    return {e.name: [a for a in e.annotations("all") if a.source == SOURCE] for e in qp.Project(project)}


def data_of(project: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in sorted(project.glob("data/*/data.qpdata"))}


def test_patches_become_tiles_that_the_next_run_replaces_and_clear_removes(recipe: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    before = data_of(project)
    said = run("sample", recipe, "--tiles", "--out", tmp_path / "t.parquet").output
    assert f"--source {SOURCE}" in said
    table = qp.PatchTable.load(tmp_path / "t.parquet")
    first = tiles_of(project)
    assert {name: len(tiles) for name, tiles in first.items() if tiles} == {
        table.slides[e].name: n for e, n in table.rows["entry"].value_counts().items()
    }
    shown = {(t.class_name, t.name, t.kind) for tiles in first.values() for t in tiles}
    assert shown == {(r.label, r.split, "tile") for r in table.rows.itertuples()}
    assert all(0 <= t.measurements["annotated"] <= 1 for tiles in first.values() for t in tiles)

    run("sample", recipe, "--tiles", "--set", "sample.seed=5", "--set", "sample.per_class=3")
    second = tiles_of(project)
    assert 0 < sum(map(len, second.values())) < sum(map(len, first.values()))

    run("clear", project, "--source", SOURCE)
    assert data_of(project) == before


def test_an_image_that_is_no_longer_sampled_loses_its_tiles(recipe: Path, tmp_path: Path) -> None:
    run("sample", recipe, "--tiles")
    assert sum(bool(tiles) for tiles in tiles_of(tmp_path / "project").values()) > 1
    recipe.write_text(recipe.read_text().replace("[Tumor, Stroma]", "['Tumor: Positive: CD3']"), encoding="utf-8")
    run("sample", recipe, "--tiles")
    assert [name for name, tiles in tiles_of(tmp_path / "project").items() if tiles] == ["small.svs"]


def test_a_dry_run_writes_nothing_and_a_mode_needs_tiles(recipe: Path, tmp_path: Path) -> None:
    before = data_of(tmp_path / "project")
    assert "dry run" in run("sample", recipe, "--tiles", "--mode", "dry-run").output
    assert data_of(tmp_path / "project") == before
    assert "add --tiles" in run("sample", recipe, "--mode", "add", exit_code=2).output


def test_a_preview_is_two_pictures_and_both_are_named(recipe: Path, tmp_path: Path) -> None:
    said = run("sample", recipe, "--preview", tmp_path / "p.png").output
    for name in ("p.png", "p_map.png"):
        assert str(tmp_path / name) in said
        assert (tmp_path / name).stat().st_size > 10_000

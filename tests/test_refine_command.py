"""`qp2train refine`: prompts become outlines beside them, again in place of the first, and out again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from shapely.geometry.base import BaseGeometry
from typer.testing import CliRunner

from qp2train import cli
from qp2train.core.annotation import Annotation
from qp2train.errors import PromptError
from qp2train.qupath.javanodes import JString
from qp2train.qupath.pathobject import walk
from qp2train.qupath.project import Project
from qp2train.qupath.qpdata import load
from tests.fakes import write_pyramid

PINK, PURPLE = (230, 180, 210), (110, 60, 140)
DISCS = [shapely.Point(x, 200).buffer(50) for x in (120, 320, 520)]
CLICK = Annotation(shapely.MultiPoint([(320, 200)]), "Prompt+: Gland")
BOX = Annotation(shapely.box(460, 140, 580, 260), "Prompt box: Tumor")
ROUGH = Annotation(shapely.box(80, 165, 170, 255), "Gland", name="mine")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Three purple discs: a rough outline, a click, a box; a second slide is missing."""
    monkeypatch.setattr(cli.console, "width", 400)
    rows, columns = np.mgrid[:400, :640] + 0.5
    picture = np.full((400, 640, 3), PINK, np.uint8)
    for disc in DISCS:
        picture[np.hypot(columns - disc.centroid.x, rows - disc.centroid.y) <= 50] = PURPLE
    slide = write_pyramid(tmp_path / "a.tiff", [picture], mpp=1.0)
    project = Project.create(tmp_path / "p")
    project.add_image(slide, width=640, height=400, mpp=1.0, annotations=[ROUGH, CLICK, BOX])
    project.add_image(tmp_path / "gone.tiff", width=10, height=10)
    return project


def call(*arguments: str) -> tuple[int, str]:
    said = CliRunner().invoke(cli.app, list(arguments))
    return said.exit_code, said.output


def drawn(project: Project) -> list[Annotation]:
    return next(e for e in Project(project.path) if e.name == "a.tiff").annotations()


def refined(project: Project) -> list[Annotation]:
    return sorted((a for a in drawn(project) if a.source), key=lambda a: a.geometry.bounds)


def fit(a: BaseGeometry, b: BaseGeometry) -> float:
    return float(a.intersection(b).area / a.union(b).area)


def test_without_write_it_only_says_what_it_would_do(project: Project) -> None:
    before = {f: f.read_bytes() for f in project.path.rglob("*") if f.is_file()}
    code, said = call("refine", str(project.path), "--image", "a.tiff")
    assert code == 0
    assert "a.tiff: 2 outlined" in said
    assert "nothing was written: add --write" in said
    assert {f: f.read_bytes() for f in project.path.rglob("*") if f.is_file()} == before


def test_a_model_that_is_none_is_named_before_anything_is_done(project: Project, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="there is no model at"):
        CliRunner().invoke(
            cli.app, ["refine", str(project.path), "--model", str(tmp_path / "gone")], catch_exceptions=False
        )


def test_clicks_boxes_and_rough_outlines_become_outlines_beside_them(project: Project) -> None:
    human = [a for a in drawn(project) if a.source is None]
    for _ in range(2):  # the second run replaces what the first one made
        code, said = call("refine", str(project.path), "--image", "a.tiff", "--from", "Gland", "--write")
        assert code == 0, said
        found = refined(project)
        assert [a.class_name for a in found] == ["Gland", "Gland", "Tumor"]
        assert [fit(a.geometry, disc) > 0.85 for a, disc in zip(found, DISCS, strict=True)] == [True] * 3
        assert all(0 < a.measurements["Predicted IoU"] <= 1 for a in found)
        assert [a for a in drawn(project) if a.source is None] == human
    code, _ = call("clear", str(project.path), "--source", "colour-fallback")
    assert code == 0
    assert refined(project) == []


def test_what_was_corrected_since_stays_and_is_not_doubled(project: Project) -> None:
    call("refine", str(project.path), "--image", "a.tiff", "--from", "Gland", "--write")
    first, before = refined(project)[0], len(drawn(project))
    entry = next(e for e in Project(project.path) if e.name == "a.tiff")
    data = load(entry.data_path.read_bytes())
    (corrected,) = (o for o in walk(data.root) if str(o.id) == first.id)
    corrected.node.contents[0] = JString("seen")
    entry.data_path.write_bytes(data.to_bytes())
    code, said = call("refine", str(project.path), "--image", "a.tiff", "--from", "Gland", "--write")
    assert code == 0, said
    assert len(drawn(project)) == before
    assert [a.name for a in drawn(project) if a.id == first.id] == ["seen"]


def test_the_class_can_be_given_for_prompts_that_say_none(project: Project) -> None:
    code, _ = call("refine", str(project.path), "--image", "a.tiff", "--class", "Lumen", "--write")
    assert code == 0
    assert [a.class_name for a in refined(project)] == ["Gland", "Tumor"]  # theirs say it


def test_an_image_that_fails_is_named_and_the_others_are_done(project: Project) -> None:
    code, said = call("refine", str(project.path), "--write")
    assert code == 1
    assert "gone.tiff" in said
    assert "1 of 2 images failed" in said
    assert len(refined(project)) == 2

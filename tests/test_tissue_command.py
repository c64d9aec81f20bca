"""`qp2train tissue`: outlines go into the project when asked, again in place of the first, and out again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from typer.testing import CliRunner

from qp2train import cli
from qp2train.core.annotation import Annotation
from qp2train.errors import LabelError
from qp2train.qupath.project import Project
from qp2train.runs import find_tissue
from tests.fakes import write_pyramid

GLASS, PINK = (242, 241, 243), (220, 150, 190)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Two pieces of tissue on a slide of 2 µm per pixel, beside a human's annotation; a second slide is missing."""
    monkeypatch.setattr(cli.console, "width", 400)
    picture = np.full((400, 600, 3), GLASS, np.uint8)
    picture[80:320, 80:240] = picture[80:320, 340:500] = PINK
    slide = write_pyramid(tmp_path / "a.tiff", [picture], mpp=2.0)
    project = Project.create(tmp_path / "p")
    project.add_image(
        slide, width=600, height=400, mpp=2.0, annotations=[Annotation(shapely.box(90, 90, 150, 150), "Tumor")]
    )
    project.add_image(tmp_path / "gone.tiff", width=10, height=10)
    return project


def call(*arguments: str) -> tuple[int, str]:
    said = CliRunner().invoke(cli.app, list(arguments))
    return said.exit_code, said.output


def outlines(project: Project) -> list[Annotation]:
    entry = next(e for e in Project(project.path) if e.name == "a.tiff")
    return [a for a in entry.annotations() if a.source is not None]


def test_a_class_without_name_is_refused(project):
    with pytest.raises(LabelError, match="must have a name"):
        next(find_tissue(project, class_name=" "))


def test_without_write_it_only_says_what_it_finds(project):
    before = {f: f.read_bytes() for f in project.path.rglob("*") if f.is_file()}
    code, said = call("tissue", str(project.path), "--image", "a.tiff")
    assert code == 0
    assert "a.tiff: 2 × Tissue, 0.31 mm²" in said
    assert "nothing was written: add --write" in said
    assert {f: f.read_bytes() for f in project.path.rglob("*") if f.is_file()} == before


def test_an_annotation_per_piece_that_a_second_run_replaces_and_clear_removes(project):
    for _ in range(2):
        code, said = call("tissue", str(project.path), "--image", "a.tiff", "--write")
        assert code == 0
        assert "--source qp2train-tissue" in said
        left, right = sorted(outlines(project), key=lambda a: a.geometry.bounds)
        assert left.class_name == right.class_name == "Tissue"
        assert (left.source, left.locked, left.kind) == ("qp2train-tissue", False, "annotation")
        assert left.geometry.bounds == pytest.approx((80, 80, 240, 320), abs=8)
        assert right.measurements["Area µm²"] == pytest.approx(right.geometry.area * 4)
    code, said = call("clear", str(project.path), "--source", "qp2train-tissue")
    assert code == 0
    assert outlines(project) == []
    entry = next(e for e in Project(project.path) if e.name == "a.tiff")
    assert [a.class_name for a in entry.annotations()] == ["Tumor"]


def test_another_class(project):
    call("tissue", str(project.path), "--image", "a.tiff", "--write", "--class", "Section")
    assert {a.class_name for a in outlines(project)} == {"Section"}


def test_a_slide_that_fails_is_said_and_the_others_are_done(project):
    code, said = call("tissue", str(project.path), "--write")
    assert code == 1
    assert "failed gone.tiff" in said
    assert "1 of 2 images failed" in said
    assert len(outlines(project)) == 2


def test_a_folder_of_slides_gets_a_geojson_file(tmp_path, monkeypatch):
    monkeypatch.setattr(cli.console, "width", 400)
    picture = np.full((400, 400, 3), GLASS, np.uint8)
    picture[80:320, 80:240] = PINK
    write_pyramid(tmp_path / "a.tiff", [picture], mpp=2.0)
    assert call("tissue", str(tmp_path))[0] == 0
    assert not list(tmp_path.glob("*.geojson"))
    assert call("tissue", str(tmp_path), "--write")[0] == 0
    assert [f.name for f in tmp_path.glob("*.geojson")] == ["a.qp2train-tissue.geojson"]

"""The sample project on disk: read back through the public readers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import shapely

from qp2train.core.annotation import Annotation
from qp2train.errors import ProjectError
from qp2train.qupath.geojson import read_geojson
from qp2train.qupath.project import Project
from qp2train.sample.cohort import SlidePlan, draw_cohort, plan_cohort
from qp2train.sample.project import make_project, project_folder, slide_file, truth_file
from qp2train.sample.tissue import DrawnSlide

SIZE = (800, 600)
Cohort = list[tuple[SlidePlan, DrawnSlide, list[Annotation]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "glands"
    assert make_project(folder, seed=1, size_px=SIZE) == project_folder(folder)
    return folder


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return list(draw_cohort(1, size_px=SIZE))


def test_cohort_splits_by_patient() -> None:
    plans = plan_cohort(3)
    assert [(p.name, p.annotated) for p in plans] == [
        ("P01-A", True),
        ("P01-B", True),
        ("P02-A", True),
        ("P03-A", False),
    ]
    assert len({p.stain for p in plans}) == 3
    with pytest.raises(ValueError, match="patients must be from 1 to 99, not 0"):
        plan_cohort(0)


def test_project_lists_calibrated_slides(folder: Path) -> None:
    project = Project(project_folder(folder))
    assert [e.name for e in project] == ["P01-A", "P01-B", "P02-A", "P03-A"]
    assert [e.metadata["patient"] for e in project] == ["P01", "P01", "P02", "P03"]
    for entry in project:
        assert entry.mpp == 0.5
        assert (entry.width, entry.height) == SIZE
        assert entry.path == slide_file(folder, entry.name)
    assert list(project.classes) == ["Gland", "Tumor", "Stroma", "Fat", "Vessel", "Region*", "Ignore*"]


def test_slides_open_through_the_project(folder: Path) -> None:
    with Project(project_folder(folder))["P01-A"].slide() as slide:
        assert slide.size == SIZE
        assert slide.mpp == pytest.approx(0.5)
        assert slide.downsamples == pytest.approx((1, 2, 4, 8))


def test_annotations_are_a_humans_and_read_back_as_drawn(folder: Path, cohort: Cohort) -> None:
    project = Project(project_folder(folder))
    for plan, _, drawn in cohort:
        found = project[plan.name].annotations()
        assert [(a.id, a.class_name, a.name, a.locked, a.source) for a in found] == [
            (a.id, a.class_name, a.name, a.locked, None) for a in drawn
        ]
        for one, two in zip(found, drawn, strict=True):
            # QuPath keeps simple outlines in float32
            assert shapely.hausdorff_distance(one.geometry, two.geometry) < 1e-3
    assert [e.name for e in project.select("unannotated")] == ["P03-A"]


def test_truth_lies_aside_for_every_slide(folder: Path, cohort: Cohort) -> None:
    for plan, slide, _ in cohort:
        found = read_geojson(truth_file(folder, plan.name))
        assert [(a.id, a.class_name) for a in found] == [(a.id, a.class_name) for a in slide.truth]
        assert all(one.geometry.equals(two.geometry) for one, two in zip(found, slide.truth, strict=True))


def test_same_seed_same_slides_truth_and_annotations(folder: Path, tmp_path: Path) -> None:
    make_project(tmp_path / "again", seed=1, size_px=SIZE)
    for part in ("slides", "truth"):
        files = sorted((folder / part).iterdir())
        assert len(files) == 4
        for file in files:
            assert file.read_bytes() == (tmp_path / "again" / part / file.name).read_bytes()
    one, two = Project(project_folder(folder)), Project(project_folder(tmp_path / "again"))
    assert [e.annotations() for e in one] == [e.annotations() for e in two]


def test_a_foreign_folder_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(ProjectError, match="not a sample project's"):
        make_project(tmp_path, size_px=SIZE, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.docx"]


def test_a_finished_project_is_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "glands"
    make_project(folder, patients=1, size_px=(300, 300))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ProjectError, match="overwrite=True"):
        make_project(folder, patients=1, size_px=(300, 300))
    assert (folder / "notes.txt").exists()
    make_project(folder, patients=1, size_px=(300, 300), overwrite=True)
    assert not (folder / "notes.txt").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["glands"]  # no stage left behind


def test_an_unfinished_project_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "glands"
    make_project(folder, patients=1, size_px=(300, 300))
    mark = folder / "sample.json"
    mark.write_text(mark.read_text().replace('"finished": true', '"finished": false'))
    (folder / "project" / "project.qpproj").unlink()
    make_project(folder, patients=1, size_px=(300, 300))
    assert len(Project(project_folder(folder))) == 2


@pytest.mark.slow
def test_script_makes_a_project(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "sample_projects" / "make.py"
    command = [sys.executable, str(script), str(tmp_path / "out"), "--seed", "2", "--patients", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "MB in" in done.stdout
    assert len(Project(project_folder(tmp_path / "out"))) == 2
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")

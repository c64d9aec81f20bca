"""Projects from public repositories: each is listed and read; what of their pixels cannot be had is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import write_png

from qp2train import open_slide
from qp2train.errors import ProjectError, SlideNotFoundError, UnreadableSlideError
from qp2train.qupath.project import Project

from .derived import TINY

PROJECTS = {
    "Qupath_to_LMD_demo/demo_Qupath_project": ("0.6.0", 1),
    "szakdolgozat_proj/qupath": ("0.5.1", 2),
    "SpleenFollicle": ("0.7.0", 14),
    "AndrewZhang419": ("0.5.1", 3),
    "stardist_example/qupath_example_project": ("0.2.0-m12", 2),
}


@pytest.fixture(params=PROJECTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_all_of_them_are_here(shared_data: Path) -> None:
    files = (shared_data / "qupath_public").rglob("*.qpproj")
    assert {str(file.parent.relative_to(shared_data / "qupath_public")) for file in files} == set(PROJECTS)


def test_each_is_listed_and_read(shared_data: Path, name: str) -> None:
    project = Project(shared_data / "qupath_public" / name)
    assert (project.version, len(project)) == PROJECTS[name]
    for entry in project:
        assert entry.annotations("all") or not entry.has_data or "stardist" in name
        assert entry.image_type in ("UNSET", "FLUORESCENCE", "BRIGHTFIELD_H_E", "BRIGHTFIELD_H_DAB", "OTHER")
        assert entry.uri.startswith("file:/")
        assert (entry.thumbnail() or b"\xff\xd8")[:2] == b"\xff\xd8"
    assert project.orphans() == []
    assert [at.entry for at in project.located()] == [entry.id for entry in project]
    found = "relative to project" if "stardist" in name else "not found"
    assert {at.how for at in project.located()} == {found}
    assert len(project.relink(dry_run=True)) == (2 if "stardist" in name else 0)
    assert project._repr_html_().count("<tr>") == len(project) + 1


def test_why_their_slides_do_not_open(shared_data: Path, name: str, tmp_path: Path) -> None:
    folder = shared_data / "qupath_public" / name
    if "stardist" not in name:
        for entry in Project(folder):
            with pytest.raises(SlideNotFoundError, match=r"not found\. Stored URI: file:/"):
                entry.slide()
    refused = {
        "Qupath_to_LMD_demo/demo_Qupath_project": "TD_01_verysmall_mIF.ome.tif are UINT16.*8-bit RGB",
        "SpleenFollicle": "HDL018_PC25.ome.tiff are UINT16.*8-bit RGB",
        "AndrewZhang419": "another image of this name",  # than the one we put in its place
        "stardist_example/qupath_example_project": "3 channels that are not red, green and blue.*8-bit RGB",
    }
    any_picture = write_png(tmp_path / "a.png", TINY)
    project = Project(folder)
    entry = project["2" if len(project) > 1 else "1"]
    entry = Project(folder, uri_map={entry.uri: any_picture})[entry.id]
    if name in refused:
        with pytest.raises(ProjectError, match=refused[name]):
            entry.slide()
    else:  # QuPath has noted nothing of this image: it may be anything
        assert entry.slide().size == (4, 3)


def test_plain_images_of_the_repositories_open_or_are_refused(shared_data: Path) -> None:
    files = [p for p in (shared_data / "qupath_public").rglob("*") if p.suffix in (".png", ".tif")]
    refused = set()
    for file in files:
        try:
            with open_slide(file) as slide:
                assert max(slide.thumbnail(16).shape[:2]) <= 16
        except UnreadableSlideError as error:
            refused.add(str(error).removeprefix(str(file))[:30])
    assert refused == {" has 3 channels; pictures to t"}
    assert len(files) > 10

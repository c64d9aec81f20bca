"""Moved slides: where they are, and writing that into the project as QuPath's "Update URIs" does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qp2train.errors import EntryChangedError
from qp2train.qupath.project import Project
from qp2train.qupath.qpproj import read_json, to_json
from qp2train.qupath.relink import Relinked
from qp2train.qupath.uris import project_uri

OLD = "file:/D:/study"


@pytest.fixture
def moved(tmp_path: Path) -> Project:
    """A study that came from Windows: one slide beside the project, one gone elsewhere, one of two files, one lost."""
    project = Project.create(tmp_path / "study" / "project")
    for name in "abcd":
        project.add_image(tmp_path / "x" / f"{name}.svs", width=4, height=3)
    data: dict[str, Any] = {"zebra": [1.0], **read_json(project.file), "uri": f"{OLD}/project/project.qpproj"}
    for image, name in zip(data["images"], "abcd", strict=True):
        image["serverBuilder"]["uri"] = f"{OLD}/slides/{name}%20ü.svs"
    one = data["images"][2]["serverBuilder"]
    two = {**one, "uri": "file:/E:/scans/c2.svs#1"}
    data["images"][2]["serverBuilder"] = {"builderType": "channels", "builder": one, "channels": [one, two], "odd": 1}
    project.file.write_bytes(to_json(data))
    for place in ("study/slides/a ü.svs", "archive/b ü.svs", "study/slides/c ü.svs", "archive/c2.svs"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    return Project(project.file, image_roots=[tmp_path / "archive"], uri_map={"E:\\scans": tmp_path / "archive"})


def test_the_report_names_every_file_of_every_image(moved: Project, tmp_path: Path) -> None:
    report = moved.located()
    assert [(at.entry, at.path, at.how) for at in report] == [
        ("1", tmp_path / "study/slides/a ü.svs", "relative to project"),
        ("2", tmp_path / "archive/b ü.svs", f"image_roots: {tmp_path / 'archive'}"),
        ("3", tmp_path / "study/slides/c ü.svs", "relative to project"),
        ("3", tmp_path / "archive/c2.svs", "uri_map: E:\\scans"),
        ("4", None, "not found"),
    ]
    lost = report[-1]
    assert (lost.name, lost.uri) == ("d.svs", f"{OLD}/slides/d%20ü.svs")
    assert str(tmp_path / "study/slides/d ü.svs") in lost.looked


def test_what_would_be_written_and_what_is(moved: Project, tmp_path: Path) -> None:
    before = moved.file.read_bytes()
    planned = moved.relink(dry_run=True)
    assert moved.file.read_bytes() == before
    assert planned[0] == Relinked(
        "1", "a.svs", f"{OLD}/slides/a%20ü.svs", (tmp_path / "study/slides/a ü.svs").as_uri(), "relative to project"
    )
    assert planned[3].new == (tmp_path / "archive/c2.svs").as_uri() + "#1"
    assert len(planned) == 4
    assert moved.relink() == planned
    assert (moved.path / "project.qpproj.backup").read_bytes() == before
    old, new = json.loads(before), read_json(moved.file)
    for change in planned:
        before = before.replace(f'"{change.old}"'.encode(), f'"{change.new}"'.encode())
    assert json.loads(before) == new  # the URIs are all that changed …
    assert list(new) == list(old)
    assert new["uri"] == old["uri"]  # … while the lost one may yet be found from where the project was
    assert [at.how for at in moved.located()] == ["stored uri"] * 4 + ["not found"]
    assert [at.how for at in Project(moved.file).located()] == ["stored uri"] * 4 + ["not found"]
    assert moved.relink() == []


def test_the_projects_own_place_is_brought_up_to_date_when_nothing_is_missing(moved: Project, tmp_path: Path) -> None:
    (tmp_path / "archive" / "d ü.svs").touch()
    project = Project(moved.file, image_roots=[tmp_path / "archive"])
    project.relink()
    assert read_json(moved.file)["uri"] == project_uri(moved.file)
    assert {at.how for at in Project(moved.file).located()} == {"stored uri"}


def test_annotations_stay_and_server_json_follows(moved: Project) -> None:
    entry = moved["1"]
    server = entry.folder / "server.json"
    old = {"builder": {"builderType": "uri", "uri": f"{OLD}/slides/a%20ü.svs"}, "metadata": {"width": 4}}
    server.write_bytes(to_json(old, pretty=False))  # QuPath 0.5's form, on one line
    before = {p: p.read_bytes() for p in moved.path.rglob("data/*/*") if p.name != "server.json"}
    (new,) = (change.new for change in moved.relink() if change.entry == "1")
    assert {p: p.read_bytes() for p in before} == before
    assert server.read_bytes() == to_json(
        {"builder": {"builderType": "uri", "uri": new}, "metadata": {"width": 4}}, pretty=False
    )


def test_garbage_in_server_json_is_left_alone(moved: Project) -> None:
    server = moved["1"].folder / "server.json"
    server.write_bytes(b"{")
    assert len(moved.relink()) == 4
    assert server.read_bytes() == b"{"


def test_a_project_that_somebody_saved_meanwhile_is_not_written(moved: Project) -> None:
    theirs = moved.file.read_bytes().replace(b'"zebra"', b'"horse"')
    moved.file.write_bytes(theirs)
    with pytest.raises(EntryChangedError, match=r"changed since it was opened.*open it again"):
        moved.relink()
    assert moved.file.read_bytes() == theirs


def test_nothing_is_written_where_all_is_in_place(project: Project, tmp_path: Path) -> None:
    (tmp_path / "a b.svs").touch()
    before = project.file.stat()
    assert project.relink() == []
    assert project.file.stat() == before

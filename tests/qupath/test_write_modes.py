"""replace | add | dry-run, the difference they print, and writing into an entry that QuPath saved meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import shapely

from qp2train.core.annotation import Annotation
from qp2train.errors import EntryChangedError, ProjectError, QuPathFormatError
from qp2train.qupath.folder import SlideFolder
from qp2train.qupath.project import Project
from qp2train.qupath.writereport import Change, WriteReport

from .worked_example import TRIANGLE, TRIANGLE_ID


def square(x: float, class_name: str | None = "Tumor", **more: object) -> Annotation:
    return Annotation(shapely.box(x, 0, x + 10, 10), class_name, **more)  # type: ignore[arg-type]


def again(annotations: Sequence[Annotation]) -> list[Annotation]:
    """The same objects with new ids, as a second prediction makes them."""
    return [square(a.geometry.bounds[0], a.class_name) for a in annotations]


def files(project: Project) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in project.path.rglob("*") if path.is_file()}


FIRST = [square(0), square(20), square(40, "Stroma"), square(60, None)]


def test_a_dry_run_tells_the_difference_and_writes_nothing(project: Project) -> None:
    (entry,) = project
    project.write(entry, FIRST, source="m")
    before = files(project)
    second = [*again(FIRST[:1]), square(100), square(120, "Stroma"), square(60, "Necrosis")]
    would = project.write(entry, second, source="m", mode="dry-run")
    assert files(project) == before
    assert (would.added, would.removed, would.dry_run) == (4, 4, True)
    assert would.by_class == {
        "Tumor": Change(new=1, gone=1, same=1),
        "Stroma": Change(new=1, gone=1),
        "Necrosis": Change(new=1),
        "Unclassified": Change(gone=1),
    }
    assert str(would) == "a b.svs: dry run, nothing written: 4 added, 4 removed (m)"
    assert would.difference() == (
        "+1 new  -0 gone  =0 as before  Necrosis\n"
        "+1 new  -1 gone  =0 as before  Stroma\n"
        "+1 new  -1 gone  =1 as before  Tumor\n"
        "+0 new  -1 gone  =0 as before  Unclassified"
    )
    did = project.write(entry, second, source="m")
    assert replace(did, dry_run=True) == would
    assert did.by_class == would.by_class


def test_a_dry_run_on_an_image_without_data_makes_no_file(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p")
    entry = project.add_image(tmp_path / "a.svs", width=10, height=10)
    entry.data_path.unlink()
    before = files(project)
    assert project.write(entry, FIRST, source="m", mode="dry-run").added == 4
    assert project.clear(source="m", dry_run=True) == []
    assert files(project) == before


def test_add_leaves_what_the_source_wrote_before(project: Project) -> None:
    (entry,) = project
    project.write(entry, FIRST, source="m")
    report = project.write(entry, [square(100)], source="m", mode="add")
    assert (report.added, report.removed, report.by_class) == (1, 0, {"Tumor": Change(new=1)})
    assert len(entry.annotations()) == 6


def test_clearing_can_be_tried_first(project: Project) -> None:
    (entry,) = project
    project.write(entry, FIRST, source="m")
    (would,) = project.clear(source="m", dry_run=True)
    assert (would.removed, would.dry_run) == (4, True)
    assert would.by_class["Tumor"] == Change(gone=2)
    assert len(entry.annotations()) == 5


def test_unknown_modes_and_places_are_refused(project: Project) -> None:
    (entry,) = project
    before = files(project)
    with pytest.raises(ProjectError, match='\'parent\': use "root" or "enclosing"'):
        project.write(entry, FIRST, source="m", under="parent")  # type: ignore[arg-type]
    with pytest.raises(ProjectError, match='\'overwrite\': use "replace", "add" or "dry-run"'):
        project.write(entry, FIRST, source="m", mode="overwrite")  # type: ignore[arg-type]
    assert files(project) == before


def test_what_changed_since_it_was_read_is_refused_or_merged_into(project: Project) -> None:
    (entry,) = project
    entry.annotations()
    other = Project(project.path)
    other.write("1", [square(500, "Stroma")], source="other")
    saved = entry.data_path.read_bytes()
    with pytest.raises(EntryChangedError, match="changed since it was read"):
        project.write(entry, FIRST, source="m")
    with pytest.raises(EntryChangedError, match="changed since it was read"):
        project.clear(source="other")
    assert entry.data_path.read_bytes() == saved
    project.write(entry, FIRST, source="m", merge=True)
    assert {a.source for a in entry.annotations()} == {None, "other", "m"}
    project.write(entry, [], source="m")  # what was merged counts as read


def test_placing_does_not_hide_that_the_entry_changed(project: Project) -> None:
    (entry,) = project
    entry.annotations()
    Project(project.path).write("1", [square(500)], source="other")
    with pytest.raises(EntryChangedError):
        project.write(entry, FIRST, source="m", under="enclosing")


def test_an_interrupted_save_of_qupath_is_merged_into_only_if_the_file_is_whole(project: Project) -> None:
    (entry,) = project
    entry.data_path.with_name("data.qpdata.bkp").write_bytes(TRIANGLE)
    with pytest.raises(EntryChangedError, match="died while saving"):
        project.write(entry, FIRST, source="m")
    project.write(entry, FIRST, source="m", merge=True)
    assert len(entry.annotations()) == 5
    half = TRIANGLE[:700]
    entry.data_path.write_bytes(half)
    with pytest.raises(QuPathFormatError):
        project.write(entry, FIRST, source="m", merge=True)
    assert entry.data_path.read_bytes() == half
    entry.data_path.unlink()
    with pytest.raises(EntryChangedError):  # QuPath reads the .bkp then
        project.write(entry, FIRST, source="m", merge=True)


def test_many_writers_at_once_lose_nothing(project: Project) -> None:
    """Eight threads, each a model of its own with a class of its own, into one entry."""

    def write(i: int) -> None:
        Project(project.path).write("1", [square(i * 20, f"Class {i}")], source=f"m{i}")

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (entry,) = project
    assert {a.source for a in entry.annotations()} == {None, *(f"m{i}" for i in range(8))}
    assert TRIANGLE_ID in {a.id for a in entry.annotations()}
    assert set(project.classes) == {"Tumor", *(f"Class {i}" for i in range(8))}


def test_a_folder_of_slides_has_the_same_modes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    folder = SlideFolder(tmp_path)
    folder.write("a", FIRST, source="m")
    before = (tmp_path / "a.m.geojson").read_bytes()
    would = folder.write("a", [*again(FIRST[:2]), square(99)], source="m", mode="dry-run")
    assert (tmp_path / "a.m.geojson").read_bytes() == before
    assert would.by_class["Tumor"] == Change(new=1, gone=0, same=2)
    assert would == WriteReport("a.png", "m", added=3, removed=4, dry_run=True)


def test_reports_add_up() -> None:
    one = WriteReport("a", "m", added=1, by_class={"A": Change(new=1)})
    two = WriteReport("b", "m", added=2, by_class={"A": Change(new=1, gone=3), "B": Change(same=1)})
    assert (one + two).by_class == {"A": Change(new=2, gone=3), "B": Change(same=1)}

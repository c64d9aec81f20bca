"""The paquo backend against the Java-free one. What is marked `qupath` needs an installed QuPath."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import shapely

from qp2train.core.annotation import Annotation
from qp2train.errors import EntryChangedError, ProjectError
from qp2train.qupath import bridge
from qp2train.qupath.project import Project

configured = importlib.util.find_spec("paquo") is not None and "PAQUO_QUPATH_DIR" in os.environ
needs_qupath = [
    pytest.mark.qupath,
    pytest.mark.skipif(not configured, reason="no QuPath: install paquo and set PAQUO_QUPATH_DIR to QuPath's folder"),
]
PROJECTS = ["qupath_written/0.5.1", "qupath_written/0.6.0", "glas"]
FIELDS = ["id", "class_name", "kind", "name", "locked", "parent", "plane", "ellipse", "color", "source", "metadata"]


def differences(ours: Annotation, theirs: Annotation) -> list[str]:
    found = [name for name in FIELDS if getattr(ours, name) != getattr(theirs, name)]
    a, b = ours.measurements, theirs.measurements
    if list(a) != list(b) or not np.array_equal(list(a.values()), list(b.values()), equal_nan=True):
        found.append("measurements")
    for name in ("geometry", "nucleus"):
        g, h = getattr(ours, name), getattr(theirs, name)
        both_empty = None not in (g, h) and g.is_empty and h.is_empty
        same = g is h or both_empty or (None not in (g, h) and shapely.equals_exact(g, h, 0.02))
        if not same:
            found.append(name)
    return found


def box(x: float, class_name: str | None = "Tumor", **more: object) -> Annotation:
    return Annotation(shapely.box(x, 0.125, x + 10, 10.33), class_name, **more)  # type: ignore[arg-type]


@pytest.fixture
def written(shared_data: Path, tmp_path: Path) -> Path:
    """A copy of a project of QuPath's, in a folder with a dot in its name."""
    folder = tmp_path / "round.trip"
    shutil.copytree(shared_data / "qupath_written" / "0.6.0", folder)
    return folder / "project"


class TestWithQuPath:
    pytestmark = needs_qupath

    @pytest.mark.parametrize("name", PROJECTS)
    def test_both_backends_read_the_same_objects_in_the_same_order(self, shared_data: Path, name: str) -> None:
        folder = shared_data / name / "project"
        for entry, other in zip(Project(folder), Project(folder, backend="paquo"), strict=True):
            ours, theirs = entry.read(), other.read()
            assert [a.id for a in ours.annotations] == [a.id for a in theirs.annotations]
            assert (ours.repaired, ours.without_shape) == (theirs.repaired, theirs.without_shape)
            for a, b in zip(ours.annotations, theirs.annotations, strict=True):
                assert differences(a, b) == [], a.id

    def test_what_qupath_writes_is_what_was_asked_for(self, written: Path) -> None:
        project = Project(written, backend="paquo")
        entry = next(iter(project))
        human = entry.annotations("all")
        outer = box(0, "Tumor: Positive", name="outer", color=(1, 2, 3), locked=True, metadata={"k": "v"})
        holed = shapely.Polygon([(0, 0), (30, 0), (30, 30), (0, 30)], [[(5, 5), (9, 5), (9, 9)]])
        asked = [
            outer,
            box(1, "New", parent=outer.id),
            box(20, kind="tile", measurements={"p": 0.25, "none": float("nan")}),
            box(40, kind="cell", nucleus=shapely.box(42, 2, 44, 4)),
            box(60, None, kind="detection"),
            Annotation(holed, "Tumor"),
            Annotation(shapely.LineString([(0, 0), (5, 5), (9, 0)]), "Tumor"),
            Annotation(shapely.MultiPoint([(1, 1), (2, 3)]), "Tumor"),
        ]
        report = project.write(entry, asked, source="m", colors={"New": (9, 8, 7)})
        assert (report.added, report.removed) == (8, 0)
        found = {a.id: a for a in Project(written)[entry.id].annotations("all")}
        assert [d for a in asked for d in differences(replace(a, source="m"), found[a.id])] == []
        assert [d for a in human for d in differences(a, found[a.id])] == []
        assert Project(written).classes["New"] == (9, 8, 7)
        assert (entry.folder / "data.qpdata.qp2train-backup").exists()

    def test_replace_keeps_what_was_nested_in_a_removed_one(self, written: Path) -> None:
        project = Project(written, backend="paquo")
        entry = next(iter(project))
        human = {a.id: a for a in entry.annotations("all")}
        first, second = box(0), box(50)
        project.write(entry, [first, second], source="m")
        inside = box(1, "Human", parent=first.id)
        java_free = Project(written)
        java_free.write(entry.id, [inside], source="other")
        entry.annotations()
        report = project.write(entry, [box(90)], source="m")
        assert (report.added, report.removed, report.moved_up) == (1, 2, 1)
        found = {a.id: a for a in entry.annotations("all")}
        assert found[inside.id].parent is None
        assert [d for a in human.values() for d in differences(a, found[a.id])] == []
        assert [r.removed for r in project.clear(source="m", entries=[entry])] == [1]

    def test_a_prediction_renamed_in_qupath_is_the_humans_and_stays(self, written: Path) -> None:
        project = Project(written, backend="paquo")
        entry = next(iter(project))
        renamed, other = box(0), box(50)
        project.write(entry, [renamed, other], source="m")
        in_qupath = bridge.PaquoStore(project.file)._entry(bridge._java(), entry)
        image = in_qupath.readImageData()
        for obj in image.getHierarchy().getAnnotationObjects():
            if str(obj.getID()) == renamed.id:
                obj.setName("mine")
        in_qupath.saveImageData(image)
        assert {a.id: a.source for a in entry.annotations()}[renamed.id] is None
        report = project.write(entry, [], source="m")
        assert (report.removed, report.kept_edited) == (1, 1)
        assert renamed.id in {a.id for a in entry.annotations()}

    def test_an_entry_that_changed_since_it_was_read_is_refused_unless_merged(self, written: Path) -> None:
        project = Project(written, backend="paquo")
        entry = next(iter(project))
        entry.annotations()
        Project(written).write(entry.id, [box(0)], source="elsewhere")
        with pytest.raises(EntryChangedError, match="changed since it was read"):
            project.write(entry, [box(20)], source="m")
        assert project.write(entry, [box(20)], source="m", merge=True).added == 1

    def test_dry_run_changes_no_file(self, written: Path) -> None:
        project = Project(written, backend="paquo")
        entry = next(iter(project))
        before = entry.data_path.read_bytes()
        assert project.write(entry, [box(0)], source="m", mode="dry-run").added == 1
        assert entry.data_path.read_bytes() == before

    def test_a_save_that_did_nothing_is_an_error_and_the_old_file_is_back(
        self, written: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project = Project(written, backend="paquo")
        entry = next(iter(project))
        before = entry.data_path.read_bytes()
        saves_nothing = SimpleNamespace(saveImageData=lambda _: None)
        monkeypatch.setattr(bridge.PaquoStore, "_carried_out", lambda *_: (saves_nothing, None))
        with pytest.raises(ProjectError, match="did not save"):
            project.write(entry, [box(0)], source="m")
        assert entry.data_path.read_bytes() == before

    def test_describe_names_version_and_folder(self) -> None:
        assert os.environ["PAQUO_QUPATH_DIR"] in bridge.describe().folder


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match='backend=\'java\': use "java-free" or "paquo"'):
        Project(tmp_path, backend="java")  # type: ignore[arg-type]


CHILD = """
import sys
{before}
from qp2train.errors import ProjectError
from qp2train.qupath.project import Project
Project.create({path!r})
project = Project({path!r}, backend="paquo")
assert not {{"paquo", "jpype"}} & {{name for name, module in sys.modules.items() if module}}
from qp2train.qupath.bridge import describe
try:
    describe()
except ProjectError as error:
    print(error)
"""


def run_child(path: Path, before: str = "") -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PAQUO_")}
    code = CHILD.format(path=str(path / "p"), before=before)
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_java_until_asked_and_then_an_error_that_says_what_to_install(tmp_path: Path) -> None:
    said = run_child(tmp_path, 'sys.modules["paquo"] = sys.modules["jpype"] = None')
    assert 'pip install "qp2train[qupath]"' in said


@pytest.mark.skipif(importlib.util.find_spec("paquo") is None, reason="paquo is not installed")
def test_without_a_configured_qupath_the_error_names_the_variable(tmp_path: Path) -> None:
    assert "PAQUO_QUPATH_DIR" in run_child(tmp_path)

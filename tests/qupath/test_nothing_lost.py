"""Odd names, lost files and read-only folders cost neither an object nor the project."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from shapely import box

from qp2train import Annotation, Project, SlideFolder, iter_geojson, write_geojson
from qp2train.errors import ProjectError

HALF = "x\ud800"  # half of a surrogate pair: no letter, and no UTF-8


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.create(tmp_path / "project", classes={"Tumor": (200, 0, 0)})
    drawn = [Annotation(box(0, 0, 500, 500), "Tumor")]
    project.add_image(tmp_path / "a.svs", width=1000, height=1000, annotations=drawn)
    return project


def predictions(count: int = 5, class_name: str = "Tumor") -> list[Annotation]:
    return [Annotation(box(i * 10, 600, i * 10 + 9, 700), class_name) for i in range(count)]


class TestNamesThatAreNoUnicode:
    def test_a_project_with_half_a_letter_opens_again(self, project: Project) -> None:
        project.edit("1", name=HALF, metadata={"note": HALF}, tags=[HALF], description=HALF)
        project.write("1", predictions(class_name=HALF), source="m")
        again = Project(project.file)
        assert (again["1"].name, again["1"].metadata) == (HALF, {"note": HALF})
        assert HALF in again.classes
        again.write("1", predictions(2), source="m")

    def test_a_file_name_in_latin_1_is_refused_and_leaves_nothing(self, project: Project, tmp_path: Path) -> None:
        with pytest.raises(ProjectError, match=r"M\\udcfcller\.tif is no UTF-8"):
            project.add_image(tmp_path / "M\udcfcller.tif", width=10, height=10)
        assert project.orphans() == []

    def test_whatever_stops_an_image_from_being_added_its_folder_goes(self, project: Project, tmp_path: Path) -> None:
        with pytest.raises(AttributeError):
            project.add_image(tmp_path / "b.svs", width=10, height=10, annotations=["no annotation"])  # type: ignore[list-item]
        assert project.orphans() == []


def test_annotations_may_come_one_by_one(project: Project, tmp_path: Path) -> None:
    write_geojson(file := tmp_path / "p.geojson", predictions())
    for under in ("root", "enclosing"):
        report = project.write("1", iter_geojson(file), source="m", under=under)  # type: ignore[arg-type]
        assert report.added == 5
    assert len(project["1"].annotations()) == 6


class TestSideFiles:
    """Nothing but people reads them; what they say is not worth a refused write."""

    def test_a_summary_that_cannot_be_written_is_a_warning(
        self, project: Project, caplog: pytest.LogCaptureFixture
    ) -> None:
        (project["1"].folder / "summary.json").unlink()
        (project["1"].folder / "summary.json").mkdir()
        assert project.write("1", predictions(), source="m").added == 5
        assert "summary.json stays as it was" in caplog.text
        assert len(Project(project.file)["1"].annotations()) == 6

    def test_a_list_of_classes_that_cannot_be_written_is_a_warning(
        self, project: Project, caplog: pytest.LogCaptureFixture
    ) -> None:
        shutil.rmtree(project.path / "classifiers")
        (project.path / "classifiers").write_text("no folder")
        assert project.write("1", predictions(class_name="New"), source="m").added == 5
        assert "list of classes stays as it was" in caplog.text


class TestLostData:
    def test_what_the_summary_still_knows_is_kept_through_write_and_clear(
        self, project: Project, caplog: pytest.LogCaptureFixture
    ) -> None:
        entry = project["1"]
        summary = entry.folder / "summary.json"
        entry.data_path.unlink()
        before = json.loads(summary.read_text())
        with caplog.at_level(logging.WARNING):
            project.write("1", predictions(), source="m")
        assert "data.qpdata is gone, and with it 1 objects" in caplog.text
        project.clear(source="m")
        assert not entry.data_path.exists()
        assert json.loads(summary.read_text()) == before

    def test_the_check_up_finds_it(self, project: Project) -> None:
        from qp2train.qupath.checkup import check

        assert "data-lost" not in {finding.kind for finding in check(project).findings}
        project["1"].data_path.unlink()
        found = {finding.kind: finding for finding in check(project).findings}
        assert found["data-lost"].severity == "problem"
        assert "1 objects" in found["data-lost"].detail


def test_predictions_lie_below_the_right_objects_where_these_have_no_ids(shared_data: Path, tmp_path: Path) -> None:
    """QuPath 0.2 gave none: theirs are made up, and must not change as predictions come and go between them."""
    source = next(path.parent for path in (shared_data / "qupath_public").rglob("*.qpproj") if "stardist" in str(path))
    shutil.copytree(source, tmp_path / "p", copy_function=shutil.copyfile)
    for folder in [tmp_path / "p", *(tmp_path / "p").rglob("*")]:
        folder.chmod(0o755)
    drawn = {a.id: a for a in Project(tmp_path / "p")["2"].annotations()}
    hosts = [a for a in drawn.values() if a.geometry.area > 1000][:4]
    inside = [Annotation(a.geometry.representative_point().buffer(1), "Tumor") for a in hosts]
    assert len(inside) == 4
    for _ in range(3):
        project = Project(tmp_path / "p")
        project.write("2", [replace(a) for a in inside], source="m", under="enclosing")
        now = Project(tmp_path / "p")["2"].annotations()
        objects = {a.id: a for a in now}
        assert all(a.id in objects and objects[a.id].geometry.equals(a.geometry) for a in drawn.values())
        written = [a for a in now if a.source == "m"]
        assert len(written) == 4
        assert all(objects[a.parent].geometry.covers(a.geometry) for a in written if a.parent)
        assert all(a.parent for a in written)


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> SlideFolder:
        for name in ("p05.tif", "p05.A.tif"):
            (tmp_path / name).write_bytes(b"II*\0")
        write_geojson(tmp_path / "p05.geojson", predictions(3))
        return SlideFolder(tmp_path)

    def test_a_mode_that_is_none_is_refused(self, folder: SlideFolder) -> None:
        with pytest.raises(ProjectError, match="dry_run"):
            folder.write("p05", predictions(), source="B", mode="dry_run")  # type: ignore[arg-type]

    def test_adding_the_same_ids_twice_is_refused(self, folder: SlideFolder) -> None:
        made = predictions()
        folder.write("p05", made, source="B")
        with pytest.raises(ProjectError, match="already"):
            folder.write("p05", made, source="B", mode="add")

    def test_a_name_that_means_another_slide_is_refused(self, folder: SlideFolder) -> None:
        with pytest.raises(ProjectError, match=r"p05\.A\.geojson"):
            folder.write("p05", predictions(), source="A")

    def test_a_packed_copy_beside_the_file_is_not_read_twice(
        self, folder: SlideFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_geojson(tmp_path / "p05.geojson.gz", predictions(3))
        assert len(folder["p05"].annotations()) == 3
        assert "p05.geojson.gz is not read" in caplog.text

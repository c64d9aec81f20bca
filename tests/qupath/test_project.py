from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import shapely

from qp2train.core.annotation import Annotation
from qp2train.errors import (
    EntryChangedError,
    LabelError,
    NotAProjectError,
    ProjectError,
    QuPathFormatError,
    SlideNotFoundError,
)
from qp2train.qupath import entrydata
from qp2train.qupath.project import Project

from .test_savefile import room_for
from .worked_example import TRIANGLE, TRIANGLE_ID


def predicted(class_name: str | None = "Tumor", at: float = 10) -> Annotation:
    return Annotation(shapely.box(at, at, at + 5, at + 5), class_name)


# What is in a project


def test_a_real_project_lists_its_images(shared_data: Path) -> None:
    project = Project(shared_data / "glas" / "project")
    assert (len(project), project.version, project.name) == (5, "0.6.0", "project")
    assert project.path == shared_data / "glas" / "project"
    assert [e.name for e in project] == ["p01.tiff", "p02.tiff", "p03.tiff", "p05.tiff", "p06.tiff"]
    entry = project["1"]
    assert entry.metadata == {"patient": "p01", "grade": "benign+malignant", "split": "train"}
    assert entry.uri == "file:///home/pathologist/glas/slides/p01.tiff"
    assert entry.path == shared_data / "glas" / "slides" / "p01.tiff"
    assert entry.resolved_how == "relative to project"
    assert (entry.mpp, entry.width, entry.height) == (0.62, 3952, 2928)
    assert project.classes["Malignant gland"] == (200, 0, 0)
    counts = [len(e.annotations()) for e in project]
    assert sum(counts) == 223 + 11
    assert sum(a.class_name == "Region*" for e in project for a in e.annotations()) == 11
    assert project.select("unannotated") == []
    assert project.select(lambda e: e.metadata["patient"] == "p03") == [project["p03.tiff"]]
    with entry.slide() as slide:
        assert slide.size == (3952, 2928)
        assert slide.mpp == pytest.approx(0.62)


@pytest.mark.parametrize("version", ["0.5.1", "0.6.0"])
def test_tags_description_and_unicode(shared_data: Path, version: str) -> None:
    project = Project(shared_data / "qupath_written" / version / "project")
    assert project.version == version
    assert project["1"].tags == (("reviewed", "tag two") if version == "0.6.0" else ())
    assert project["1"].description == "All ROI kinds"
    assert project["2"].metadata["ünïcode"] == 'wert=ß; "q"'
    assert project.classes["Nécrose/ß 腫瘍"] == (50, 50, 50)
    assert [e.mpp for e in project] == [0.499, pytest.approx(project["2"].mpp), None]
    assert all(e.path is not None for e in project)


@pytest.mark.parametrize(
    "name",
    ["szakdolgozat_proj/qupath", "SpleenFollicle", "AndrewZhang419", "stardist_example/qupath_example_project"],
)
def test_projects_from_the_wild_open_although_slides_are_absent(shared_data: Path, name: str) -> None:
    project = Project(shared_data / "qupath_public" / name)
    assert len(project) > 0
    for entry in project:
        entry.annotations()
    if "stardist" in name:
        assert {e.resolved_how for e in project} == {"relative to project"}
    else:
        with pytest.raises(SlideNotFoundError, match="Stored URI: file:/"):
            project["2"].slide()


def test_entries_by_id_or_unique_name(project: Project, tmp_path: Path) -> None:
    assert project["1"] is project["a b.svs"] is next(iter(project))
    with pytest.raises(ProjectError, match=r"no image 'x' in made; known: 1 \(a b.svs\)"):
        project["x"]
    project.add_image(tmp_path / "other" / "a b.svs", width=1, height=1)
    with pytest.raises(ProjectError, match=r"2 images are named 'a b.svs': use an id, \['1', '2'\]"):
        project["a b.svs"]
    with pytest.raises(ProjectError, match="is not of this project"):
        project.write(Project(project.path)["1"], [], source="m")


def test_a_missing_slide_names_every_place(project: Project, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    entry = Project(project.path, image_roots=[tmp_path / "root"])["1"]
    with pytest.raises(SlideNotFoundError) as caught:
        entry.slide()
    for part in ("a b.svs", "file:///", "a%20b.svs", str(project.path), str(tmp_path / "root"), "image_roots"):
        assert part in str(caught.value)
    assert (entry.path, entry.resolved_how) == (None, "not found")


def test_image_roots_find_moved_slides(project: Project, tmp_path: Path) -> None:
    slide = tmp_path / "root" / "deep" / "a b.svs"
    slide.parent.mkdir(parents=True)
    slide.touch()
    entry = Project(project.path, image_roots=[tmp_path / "root"])["1"]
    assert (entry.path, entry.resolved_how) == (slide, f"image_roots: {tmp_path / 'root'}")


def test_computed_images_are_read_but_their_pixels_refused(project: Project) -> None:
    data = json.loads(project.file.read_bytes())
    inner = data["images"][0]["serverBuilder"]
    outer = {"builderType": "channels", "builder": inner, "channels": [inner], "metadata": inner["metadata"]}
    data["images"][0]["serverBuilder"] = outer
    project.file.write_text(json.dumps(data))
    entry = Project(project.path)["1"]
    assert entry.uri == inner["uri"]
    assert [a.name for a in entry.annotations()] == ["A1"]
    with pytest.raises(ProjectError, match=r"a b\.svs is a 'channels' image"):
        entry.slide()


def test_calibration_in_pixels_is_none(project: Project, tmp_path: Path) -> None:
    assert project.add_image(tmp_path / "b.svs", width=1, height=1).mpp is None
    assert project.add_image(tmp_path / "c.svs", width=1, height=1, mpp=(0.2, 0.4)).mpp == pytest.approx(0.3)


def test_metadata_missing_in_the_project_are_taken_from_server_json(project: Project) -> None:
    data = json.loads(project.file.read_bytes())
    del data["images"][0]["serverBuilder"]["metadata"]
    project.file.write_text(json.dumps(data))
    assert Project(project.path)["1"].mpp == 0.5


def test_a_folder_of_data_is_no_project(project: Project) -> None:
    with pytest.raises(NotAProjectError):
        Project(project.path / "data")


def test_reading_changes_no_file(shared_data: Path) -> None:
    folder = shared_data / "glas" / "project"
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    project = Project(folder)
    for entry in project:
        entry.annotations()
    project._repr_html_()
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


# Bad data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TRIANGLE[:700], "truncated|bytes expected"),
        (b"", "starts with nothing"),
        (b"not a data file", "a Java stream with ac ed 00 05"),
    ],
)
def test_bad_data_is_refused_with_its_path_and_never_written_over(project: Project, data: bytes, message: str) -> None:
    entry = project["1"]
    entry.data_path.write_bytes(data)
    for refused in (entry.annotations, lambda: project.write(entry, [predicted()], source="m")):
        with pytest.raises(QuPathFormatError, match=message) as caught:
            refused()
        assert str(entry.data_path) in str(caught.value)
    assert entry.data_path.read_bytes() == data
    assert "a Java stream" in project._repr_html_() or "byte" in project._repr_html_()


def test_an_interrupted_save_of_qupath_is_read_but_not_written(project: Project) -> None:
    entry = project["1"]
    backup = entry.data_path.rename(entry.data_path.with_name("data.qpdata.bkp"))
    assert [a.name for a in entry.annotations()] == ["A1"]
    with pytest.raises(EntryChangedError, match=r"data\.qpdata\.bkp is there"):
        project.write(entry, [predicted()], source="m")
    assert backup.read_bytes() == TRIANGLE


# Writing back


def test_predictions_are_written_replaced_and_cleared(project: Project) -> None:
    entry = project["1"]
    wanted = [predicted(), predicted("Gland: Good", 30)]
    report = project.write(entry, wanted, source="unet", colors={"Gland: Good": (1, 2, 3)})
    assert str(report) == "a b.svs: 2 added, 0 removed (unet)"
    assert [a.source for a in entry.annotations()] == [None, "unet", "unet"]
    assert project.classes == {"Tumor": (200, 0, 0), "Gland: Good": (1, 2, 3)}
    again = project.write(entry, [predicted(), predicted("Stroma", 30)], source="unet")
    assert (again.added, again.removed) == (2, 2)
    assert project.classes["Stroma"] == (150, 200, 150)
    assert len(entry.annotations()) == 3
    assert [str(r) for r in project.clear(source="unet")] == ["a b.svs: 0 added, 2 removed (unet)"]
    assert entry.data_path.read_bytes() == TRIANGLE
    assert project.clear(source="unet") == []
    left = {p.name for p in entry.folder.iterdir()}
    assert left == {"data.qpdata", "data.qpdata.qp2train-backup", "server.json", "summary.json"}


def test_a_real_project_is_cleared_to_the_byte(glas: Project) -> None:
    before = {e.id: e.data_path.read_bytes() for e in glas}
    others = {p: p.read_bytes() for p in glas.path.rglob("*.json") if p.name == "server.json"}
    project_file = glas.file.read_bytes()
    for source in ("one", "two"):
        for entry in glas:
            glas.write(entry, [predicted("Benign gland"), predicted("New", 50)], source=source)
    assert all(len(e.annotations()) >= 4 + 13 for e in glas)
    assert sum(r.removed for r in glas.clear(source="one")) == 10
    assert all({a.source for a in e.annotations()} == {None, "two"} for e in glas)
    glas.clear(source="two", entries=["1", glas["2"]])
    glas.clear(source="two")
    assert {e.id: e.data_path.read_bytes() for e in glas} == before
    assert glas.file.read_bytes() == project_file
    assert all(p.read_bytes() == data for p, data in others.items())


def test_classes_take_the_colour_of_the_file_before_a_default(project: Project) -> None:
    project.set_classes({})
    project.write("1", [predicted("Tumor")], source="m")
    assert project.classes == {"Tumor": (255, 0, 0)}


def test_the_backup_is_the_last_state_that_was_the_humans_alone(project: Project) -> None:
    entry = project["1"]
    backup = entry.folder / "data.qpdata.qp2train-backup"
    project.write(entry, [predicted()], source="a")
    project.write(entry, [predicted()], source="b")
    assert backup.read_bytes() == TRIANGLE
    for source in ("a", "b"):
        project.clear(source=source)
    edited = TRIANGLE.replace(b"A1", b"B2")
    entry.data_path.write_bytes(edited)
    entry.annotations()
    project.write(entry, [predicted()], source="a")
    assert backup.read_bytes() == edited


def test_writing_nothing_changes_nothing(project: Project) -> None:
    entry = project["1"]
    before = entry.data_path.stat()
    assert project.write(entry, [], source="m").added == 0
    after = entry.data_path.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)


def test_an_image_never_annotated_gets_a_file_that_clear_removes(project: Project, tmp_path: Path) -> None:
    entry = project.add_image(tmp_path / "new.svs", width=10, height=10)
    for name in ("data.qpdata", "summary.json"):
        (entry.folder / name).unlink()
    assert entry.annotations() == []
    project.write(entry, [predicted()], source="m")
    assert [a.source for a in entry.annotations()] == ["m"]
    assert json.loads((entry.folder / "summary.json").read_bytes())["hierarchy"]["nObjects"] == 2
    project.clear(source="m")
    assert [p.name for p in entry.folder.iterdir()] == ["server.json"]
    assert entry.annotations() == []
    project.write(entry, [], source="m")
    assert not entry.data_path.exists()


def test_an_entry_saved_by_someone_else_is_not_written(project: Project) -> None:
    entry = project["1"]
    entry.annotations()
    theirs = TRIANGLE.replace(b"A1", b"B2")
    entry.data_path.write_bytes(theirs)
    with pytest.raises(EntryChangedError, match=r"changed since it was read.*entry.annotations"):
        project.write(entry, [predicted()], source="m")
    assert entry.data_path.read_bytes() == theirs
    entry.annotations()
    project.write(entry, [predicted()], source="m")
    project.write(entry, [predicted()], source="m")  # our own writes are none of someone else


def test_a_full_disk_leaves_the_project_as_it_was(project: Project) -> None:
    entry = project["1"]
    with room_for(3000), pytest.raises(ProjectError, match="could not be written"):
        project.write(entry, [predicted(at=i) for i in range(100)], source="m")
    assert entry.data_path.read_bytes() == TRIANGLE
    assert {p.name for p in entry.folder.iterdir()} == {"data.qpdata", "server.json", "summary.json"}
    assert project.write(entry, [predicted()], source="m").added == 1


def test_refused_annotations_change_nothing(project: Project) -> None:
    entry = project["1"]
    with pytest.raises(ProjectError, match="already there"):
        project.write(entry, [predicted(), replace(predicted(), id=TRIANGLE_ID)], source="m")
    with pytest.raises(LabelError):
        project.write(entry, [predicted(), predicted("A\nB")], source="m")
    with pytest.raises(ProjectError, match="give the model's id"):
        project.write(entry, [predicted()], source="")
    assert entry.data_path.read_bytes() == TRIANGLE
    assert project.classes == {"Tumor": (200, 0, 0)}


def test_select_counts_what_a_human_did(project: Project, tmp_path: Path) -> None:
    bare = project.add_image(tmp_path / "b.svs", width=10, height=10)
    project.write(bare, [predicted()], source="m")
    assert project.select("annotated") == [project["1"]]
    assert project.select("unannotated") == [bare]
    data = bare.data_path.read_bytes()
    named = data.replace(b"Tumor", b"Tumos")
    bare.data_path.write_bytes(named)  # reclassified by a human
    assert project.select("unannotated") == []
    with pytest.raises(ProjectError, match="select"):
        project.select("all")  # type: ignore[arg-type]


def test_the_summary_counts_as_qupath_does(glas: Project) -> None:
    entry = glas["1"]
    before = json.loads((entry.folder / "summary.json").read_bytes())
    glas.write(
        entry, [predicted("Benign gland"), predicted(None), replace(predicted("New"), kind="detection")], source="m"
    )
    text = (entry.folder / "summary.json").read_bytes()
    after = json.loads(text)
    assert b"\n" not in text
    assert after["hierarchy"] == {
        "nObjects": 66,
        "objectTypeCounts": {"Root objects": 1, "Annotations": 64, "Detections": 1},
        "annotationClassificationCounts": {
            **before["hierarchy"]["annotationClassificationCounts"],
            "Benign gland": 13,
            "Unclassified": 1,
        },
        "detectionClassificationCounts": {"New": 1},
    }
    assert after["timestamp"] == os.stat(entry.data_path).st_mtime_ns // 1_000_000
    assert after["server"] == before["server"]
    glas.clear(source="m")
    assert json.loads((entry.folder / "summary.json").read_bytes())["hierarchy"] == before["hierarchy"]


def test_foreign_parts_of_a_file_stay(shared_data: Path, tmp_path: Path) -> None:
    """Workflow, stains and properties of a file that QuPath wrote come out as they went in."""
    shutil.copytree(shared_data / "qupath_written" / "0.6.0", tmp_path / "p")
    for path in (tmp_path / "p").rglob("*"):
        path.chmod(0o755)
    project = Project(tmp_path / "p" / "project")
    entry = project["2"]
    before = entry.data_path.read_bytes()
    human = entry.annotations(kinds="all")
    project.write(entry, [replace(predicted(), parent=human[0].id)], source="m")
    after = entry.data_path.read_bytes()
    assert [a for a in entry.annotations(kinds="all") if a.source is None] == human
    assert after.count(b"setColorDeconvolutionStains") == before.count(b"setColorDeconvolutionStains") > 0
    start = before.index(b"PathRootObject")
    assert after[:start] == before[:start]


# Making a project


def test_a_made_project_is_what_qupath_would_make(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "ü project", classes={"Tumor": (200, 0, 0)})
    entry = project.add_image(
        tmp_path / "slides" / "a b.svs",
        width=1024,
        height=768,
        downsamples=[1, 4],
        mpp=0.25,
        magnification=40,
        metadata={"patient": "P-1"},
        tags=["reviewed"],
        thumbnail=b"\xff\xd8jpeg",
    )
    assert {str(p.relative_to(project.path)) for p in project.path.rglob("*") if p.is_file()} == {
        "project.qpproj",
        "project.qpproj.backup",
        "classifiers/classes.json",
        "data/metadata.json",
        "data/1/data.qpdata",
        "data/1/server.json",
        "data/1/summary.json",
        "data/1/thumbnail.jpg",
    }
    data = json.loads(project.file.read_bytes())
    assert (data["version"], data["lastID"]) == ("0.6.0", 1)
    assert data["uri"] == f"file:{project.file}".replace(" ", "%20")
    (image,) = data["images"]
    assert list(image) == ["serverBuilder", "entryID", "randomizedName", "imageName", "metadata", "tags"]
    assert image["serverBuilder"]["metadata"]["levels"] == [
        {"downsample": 1.0, "width": 1024, "height": 768},
        {"downsample": 4.0, "width": 256, "height": 192},
    ]
    assert json.loads((entry.folder / "server.json").read_bytes()) == image["serverBuilder"]
    summary = json.loads((entry.folder / "summary.json").read_bytes())
    assert summary["imageType"] == "BRIGHTFIELD_H_E"
    assert summary["server"] == {"width": 1024, "height": 768, "sizeC": 3, "sizeZ": 1, "sizeT": 1}
    again = Project(tmp_path / "ü project")
    assert [(e.id, e.name, e.mpp, e.tags) for e in again] == [("1", "a b.svs", 0.25, ("reviewed",))]
    assert again["1"].annotations() == []


def test_the_keys_of_a_made_entry_are_those_of_qupath(shared_data: Path, project: Project) -> None:
    theirs = json.loads((shared_data / "glas/project/project.qpproj").read_bytes())
    ours = json.loads(project.file.read_bytes())

    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {key: shape(item) for key, item in value.items() if key not in ("metadata", "magnification")} | {}
        return type(value).__name__

    assert list(ours) == list(theirs)
    assert shape(ours["images"][0]) == shape(theirs["images"][0])
    assert list(ours["images"][0]["serverBuilder"]["metadata"]) == list(
        theirs["images"][0]["serverBuilder"]["metadata"]
    )


def test_drawn_annotations_of_a_new_image_are_a_humans(project: Project, tmp_path: Path) -> None:
    entry = project.add_image(tmp_path / "b.svs", width=10, height=10, annotations=[predicted()])
    assert [a.source for a in entry.annotations()] == [None]
    assert project.clear(source="m") == []


def test_ids_are_never_given_twice(project: Project, tmp_path: Path) -> None:
    (project.path / "data" / "2").mkdir()  # left behind by a removed image
    assert project.add_image(tmp_path / "b.svs", width=1, height=1).id == "3"
    assert json.loads(project.file.read_bytes())["lastID"] == 3


def test_a_project_is_not_made_over_another(project: Project) -> None:
    with pytest.raises(ProjectError, match="holds a QuPath project already"):
        Project.create(project.path)
    with pytest.raises(ProjectError, match="image_type='HE': use one of BRIGHTFIELD_H_E"):
        project.add_image("x.svs", width=1, height=1, image_type="HE")


@pytest.mark.parametrize("name", ["A\nB", "", "A: "])
def test_class_names_are_checked(project: Project, name: str) -> None:
    with pytest.raises(LabelError):
        project.set_classes({name: (0, 0, 0)})


# The table


def test_the_table_shows_images_and_escapes_what_people_wrote(project: Project, tmp_path: Path) -> None:
    project.add_image(
        tmp_path / "<b>.svs",
        width=1,
        height=2,
        metadata={"<i>": "&"},
        thumbnail=b"\xff\xd8",
        annotations=[predicted("<u>")],
    )
    html = project._repr_html_()
    for part in ("a b.svs", "P-1", "0.5", "rgb(200,0,0)", "&lt;b&gt;.svs", "&lt;i&gt;: &amp;", "&lt;u&gt; 1", "/9g="):
        assert part in html
    assert "<u>" not in html
    assert "<i>" not in html


# Concurrent runs


def test_a_save_of_qupath_during_ours_wins(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """QuPath saves while we put the new file together: ours is refused at the last moment."""
    entry = project["1"]
    theirs = TRIANGLE.replace(b"A1", b"B2")

    def verified(*_: object) -> None:
        entry.data_path.write_bytes(theirs)

    monkeypatch.setattr(entrydata, "_verify", verified)
    with pytest.raises(EntryChangedError, match="changed since it was read"):
        project.write(entry, [predicted()], source="m")
    assert entry.data_path.read_bytes() == theirs
    assert {p.name for p in entry.folder.iterdir()} >= {"data.qpdata", "server.json", "summary.json"}
    assert not (entry.folder / "data.qpdata.tmp~").exists()

"""Adding, editing and removing images: project.qpproj as QuPath writes it, and never over somebody else's save."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import square, write_leica, write_png, write_pyramid
from PIL import Image

from qp2train.core.annotation import Annotation
from qp2train.errors import EntryChangedError, ProjectError, SlideNotFoundError, UnreadableSlideError
from qp2train.qupath.project import Project
from qp2train.qupath.qpproj import read_json, to_json
from qp2train.qupath.savefile import lock

# Editing


def test_an_edit_changes_what_was_given_and_nothing_else(project: Project) -> None:
    data = read_json(project.file)
    data = {"zebra": 1, **data}
    data["images"][0] = {"odd": [1.50], **data["images"][0]}
    project.file.write_bytes(to_json(data))
    before = project.file.read_bytes()
    project = Project(project.file)
    entry = project["1"]
    project.edit(entry, name="Fall 1", metadata={**entry.metadata, "split": "train"}, tags=["a", "b", "a"])
    project.edit("1", description="first look")
    assert (entry.name, entry.metadata, entry.tags, entry.description) == (
        "Fall 1",
        {"patient": "P-1", "split": "train"},
        ("a", "b"),
        "first look",
    )
    image = data["images"][0]
    image |= {"imageName": "Fall 1", "metadata": {"patient": "P-1", "split": "train"}, "tags": ["a", "b"]}
    assert read_json(project.file) == {**data, "images": [{**image, "description": "first look"}]}
    assert list(read_json(project.file)["images"][0]) == [
        *("odd", "serverBuilder", "entryID", "randomizedName", "imageName", "description", "metadata", "tags")
    ]
    project.edit(entry, name="a b.svs", metadata={"patient": "P-1"}, tags=[], description="")
    assert project.file.read_bytes() == before
    assert [a.name for a in entry.annotations()] == ["A1"]


def test_tags_come_last_where_there_were_none(project: Project) -> None:
    data = read_json(project.file)
    del data["images"][0]["tags"]  # QuPath 0.5
    project.file.write_bytes(to_json(data))
    project = Project(project.file)
    project.edit("1", tags=["x"], description="y")
    assert list(read_json(project.file)["images"][0])[-3:] == ["description", "metadata", "tags"]


def test_the_previous_project_file_is_kept(project: Project) -> None:
    before = project.file.read_bytes()
    project.edit("1", name="x")
    assert (project.path / "project.qpproj.backup").read_bytes() == before
    stamp = project.file.stat()
    project.edit("1", name="x")  # nothing new
    assert project.file.stat() == stamp


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": " "}, "an image needs a name"),
        ({"metadata": {"a": 1}}, "'a' is 1; QuPath holds texts only"),
        ({"metadata": {"": "a"}}, "QuPath holds texts only"),
        ({"tags": "reviewed"}, "tags='reviewed': give a list of texts"),
        ({"tags": [""]}, "give a list of texts"),
        ({"description": 1}, "give a text"),
    ],
)
def test_what_qupath_cannot_hold(project: Project, change: dict[str, object], message: str) -> None:
    before = project.file.read_bytes()
    with pytest.raises(ProjectError, match=message):
        project.edit("1", **change)  # type: ignore[arg-type]
    assert project.file.read_bytes() == before


# Removing


def test_a_removed_image_leaves_its_data_and_its_number(project: Project, tmp_path: Path) -> None:
    other = project.add_image(tmp_path / "b.svs", width=1, height=1)
    folder = project.remove(other)
    assert folder == project.path / "data" / "2"
    assert (folder / "data.qpdata").is_file()
    assert [entry.id for entry in project] == [entry.id for entry in Project(project.file)] == ["1"]
    assert project.orphans() == Project(project.file).orphans() == [folder]
    with pytest.raises(ProjectError, match="is not of this project"):
        project.remove(other)
    assert project.add_image(tmp_path / "b.svs", width=1, height=1).id == "3"


def test_the_number_of_the_last_image_is_kept_though_the_project_did_not_say(project: Project, tmp_path: Path) -> None:
    data = read_json(project.file)
    del data["lastID"]
    project.file.write_bytes(to_json(data))
    project = Project(project.file)
    folder = project.remove("1")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert project.add_image(tmp_path / "b.svs", width=1, height=1).id == "2"


def test_orphans_in_order_files_are_none(project: Project) -> None:
    for name in ("10", "9", "copy of 1"):
        (project.path / "data" / name).mkdir()
    assert [path.name for path in project.orphans()] == ["9", "10", "copy of 1"]
    assert (project.path / "data" / "metadata.json").is_file()


# Several processes


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.edit("1", name="x"),
        lambda p: p.remove("1"),
        lambda p: p.add_image(p.path / "x.svs", width=1, height=1),
    ],
)
def test_a_project_that_changed_on_disk_is_not_written_over(
    project: Project, change: Callable[[Project], object]
) -> None:
    theirs = Project(project.file)
    theirs.edit("1", tags=["theirs"])
    before = {path: path.read_bytes() for path in project.path.rglob("*") if path.is_file()}
    with pytest.raises(EntryChangedError, match=r"project\.qpproj changed since it was opened.*Project\(path\)"):
        change(project)
    assert {path: path.read_bytes() for path in project.path.rglob("*") if path.is_file()} == before
    assert [entry.name for entry in project] == ["a b.svs"]
    change(Project(project.file))


def test_a_touched_project_is_not_changed(project: Project) -> None:
    project.file.touch()
    project.edit("1", name="x")


def test_another_process_of_ours_is_waited_for(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qp2train.qupath.savefile.lock.__wrapped__.__kwdefaults__", {"wait_s": 0.1})
    with lock(project.file), pytest.raises(EntryChangedError, match="is being changed"):
        project.edit("1", name="x")
    project.edit("1", name="x")
    assert {path.name for path in project.path.iterdir()} == {
        *("project.qpproj", "project.qpproj.backup", "data", "classifiers")
    }


# Adding

SQUARES = np.kron(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8), np.ones((40, 40, 1), np.uint8))


def test_a_slide_is_opened_for_what_was_not_given(project: Project, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "c d.tif", [SQUARES, SQUARES[::4, ::4]], mpp=0.25)
    entry = project.add_image(path, image_type="BRIGHTFIELD_H_DAB", tags=["new"])
    assert (entry.name, entry.width, entry.height, entry.tags) == ("c d.tif", 1920, 1280, ("new",))
    assert entry.mpp == pytest.approx(0.25, rel=1e-4)
    assert entry.image_type == "BRIGHTFIELD_H_DAB"
    builder = read_json(project.file)["images"][1]["serverBuilder"]
    assert builder["providerClassName"].endswith("OpenslideServerBuilder")
    assert builder["metadata"]["levels"] == [
        {"downsample": 1.0, "width": 1920, "height": 1280},
        {"downsample": 4.0, "width": 480, "height": 320},
    ]
    assert builder["metadata"]["preferredTileWidth"] == 64
    with Image.open(io.BytesIO(entry.thumbnail() or b"")) as picture:
        assert (picture.format, picture.size) == ("JPEG", (900, 600))
        assert (
            np.abs(np.asarray(picture.resize((48, 32), Image.Resampling.BOX)).astype(int) - SQUARES[::40, ::40]).mean()
            < 9
        )
    summary = read_json(entry.folder / "summary.json")
    assert summary["server"] == {"width": 1920, "height": 1280, "sizeC": 3, "sizeZ": 1, "sizeT": 1}
    with entry.slide() as slide:
        assert slide.size == (1920, 1280)


def test_what_is_given_wins(project: Project, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "c.tif", [SQUARES], mpp=0.25)
    entry = project.add_image(path, mpp=0.5, name="C", thumbnail=b"\xff\xd8", magnification=40.0)
    assert (entry.mpp, entry.name, entry.thumbnail()) == (0.5, "C", b"\xff\xd8")
    assert read_json(entry.folder / "server.json")["metadata"]["magnification"] == 40


def test_an_aperio_scan(project: Project, shared_data: Path) -> None:
    entry = project.add_image(shared_data / "slides" / "CMU-1-Small-Region.svs")
    metadata = read_json(entry.folder / "server.json")["metadata"]
    assert (metadata["width"], metadata["height"], metadata["magnification"]) == (2220, 2967, 20.0)
    assert metadata["pixelCalibration"]["pixelWidth"] == {"value": 0.499, "unit": "µm"}
    assert metadata["preferredTileWidth"] == 240


def test_a_plain_image_is_one_for_imagej(project: Project, tmp_path: Path) -> None:
    entry = project.add_image(write_png(tmp_path / "p.png", SQUARES[:100, :100]))
    builder = read_json(project.file)["images"][1]["serverBuilder"]
    assert builder["providerClassName"] == "qupath.imagej.images.servers.ImageJServerBuilder"
    assert (entry.mpp, builder["metadata"]["preferredTileWidth"]) == (None, 100)
    with Image.open(io.BytesIO(entry.thumbnail() or b"")) as picture:
        assert picture.size == (100, 100)  # never enlarged


def test_of_a_scan_with_bounds_qupath_shows_these(project: Project, tmp_path: Path) -> None:
    path = write_leica(tmp_path / "a.scn", SQUARES[:128, :192], at=(100, 50), within=(400, 300))
    entry = project.add_image(path, mpp=0.5)
    assert (entry.width, entry.height) == (192, 128)
    with entry.slide() as slide:
        assert slide.view == "100,50 192x128"
        assert np.array_equal(slide.thumbnail(), SQUARES[:128, :192])


def test_slides_that_cannot_be_added(project: Project, tmp_path: Path) -> None:
    before = project.file.read_bytes()
    with pytest.raises(SlideNotFoundError, match=r"no slide at .*absent\.svs"):
        project.add_image(tmp_path / "absent.svs")
    (tmp_path / "text.svs").write_text("no slide")
    with pytest.raises(UnreadableSlideError, match=r"text\.svs"):
        project.add_image(tmp_path / "text.svs")
    with pytest.raises(ProjectError, match="width=5, height=None: give both"):
        project.add_image(tmp_path / "text.svs", width=5)
    (tmp_path / "a b.svs").touch()
    (tmp_path / "x").mkdir()
    for again in (tmp_path / "a b.svs", str(tmp_path / "x" / ".." / "a b.svs")):
        with pytest.raises(ProjectError, match=r"a b\.svs is in the project already: image 1, 'a b\.svs'"):
            project.add_image(again, width=1, height=1)
    assert project.file.read_bytes() == before
    assert project.orphans() == []


def test_a_part_of_an_image_is_another_image(project: Project, tmp_path: Path) -> None:
    data = read_json(project.file)
    inner = data["images"][0]["serverBuilder"]
    data["images"][0]["serverBuilder"] = {"builderType": "rotated", "rotation": "ROTATE_90", "builder": inner}
    project.file.write_bytes(to_json(data))
    assert Project(project.file).add_image(tmp_path / "a b.svs", width=1, height=1).id == "2"


def test_an_image_that_could_not_be_added_leaves_no_folder(project: Project, tmp_path: Path) -> None:
    class Drawn(list[Annotation]):
        """Annotations during whose reading QuPath saves the project."""

        def __iter__(self) -> Iterator[Annotation]:
            project.file.write_bytes(theirs)
            return super().__iter__()

    theirs = project.file.read_bytes().replace(b"P-1", b"P-2")
    with pytest.raises(EntryChangedError):
        project.add_image(tmp_path / "b.svs", width=1, height=1, annotations=Drawn([square(0, 0, 1)]))
    assert project.file.read_bytes() == theirs
    assert project.orphans() == []
    assert len(project) == 1


# What is known of an image


def test_thumbnails_and_data_may_be_absent(project: Project) -> None:
    entry = project["1"]
    assert entry.thumbnail() is None
    assert entry.has_data
    entry.data_path.unlink()
    assert not entry.has_data
    assert entry.image_type == "UNSET"
    assert entry.annotations() == []


def test_the_image_type_is_the_datas_where_the_summary_is_of_another_state(project: Project, tmp_path: Path) -> None:
    entry = project.add_image(tmp_path / "b.svs", width=1, height=1, image_type="FLUORESCENCE")
    assert entry.image_type == "FLUORESCENCE"
    summary = entry.folder / "summary.json"
    summary.write_text(json.dumps({**read_json(summary), "imageType": "OTHER"}))
    assert entry.image_type == "OTHER"  # a quick look
    summary.write_text(json.dumps({**read_json(summary), "timestamp": 1}))
    assert entry.image_type == "FLUORESCENCE"
    summary.unlink()
    assert entry.image_type == "FLUORESCENCE"


def test_image_types_that_qupath_wrote(shared_data: Path) -> None:
    for version in ("0.5.1", "0.6.0"):
        project = Project(shared_data / "qupath_written" / version / "project")
        noted = [read_json(entry.folder / "summary.json")["imageType"] for entry in project]
        assert [entry.image_type for entry in project] == noted

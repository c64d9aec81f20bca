from __future__ import annotations

import json
from pathlib import Path

import pytest
import shapely
from PIL import Image

from qp2train.core.annotation import Annotation
from qp2train.errors import NotAProjectError, ProjectError, QuPathFormatError
from qp2train.qupath.folder import SlideFolder
from qp2train.qupath.geojson import read_geojson, write_geojson


@pytest.fixture
def folder(tmp_path: Path) -> SlideFolder:
    for name in ("p01.svs", "p02.ome.tif", "p02.b.svs"):
        (tmp_path / name).touch()
    write_geojson(tmp_path / "p01.geojson", [Annotation(shapely.box(0, 0, 1, 1), "Tumor")])
    write_geojson(tmp_path / "p02.b.geojson.gz", [Annotation(shapely.box(0, 0, 1, 1), "Stroma")])
    (tmp_path / "metadata.csv").write_text(
        "slide,patient,split\np01,P-1,train\np02.ome.tif,P-2,\n", encoding="utf-8-sig"
    )
    return SlideFolder(tmp_path)


def test_slides_are_entries_with_metadata(folder: SlideFolder) -> None:
    assert [(e.id, e.name) for e in folder] == [("p01", "p01.svs"), ("p02.b", "p02.b.svs"), ("p02", "p02.ome.tif")]
    assert folder["p01"].metadata == {"patient": "P-1", "split": "train"}
    assert folder["p02.ome.tif"].metadata == {"patient": "P-2", "split": ""}
    assert folder["p02.b"].metadata == {}
    assert [[a.class_name for a in e.annotations()] for e in folder] == [["Tumor"], ["Stroma"], []]
    with pytest.raises(ProjectError, match=r"no slide 'p09'.*known: p01, p02.b, p02"):
        folder["p09"]


def test_predictions_go_beside_the_humans_file(folder: SlideFolder) -> None:
    human = (folder.path / "p01.geojson").read_bytes()
    wanted = [Annotation(shapely.box(2, 2, 3, 3), "Tumor"), Annotation(shapely.box(4, 4, 5, 5), kind="detection")]
    for removed in (0, 2):
        report = folder.write("p01", wanted, source="unet/1")
        assert (report.added, report.removed) == (2, removed)
    assert (folder.path / "p01.geojson").read_bytes() == human
    assert [a.source for a in read_geojson(folder.path / "p01.unet_1.geojson")] == ["unet/1"] * 2
    assert [(a.class_name, a.source) for a in folder["p01"].annotations()] == [("Tumor", None), ("Tumor", "unet/1")]
    assert len(folder["p01"].annotations(kinds="detection")) == 1
    assert folder.write("p01", [Annotation(shapely.box(6, 6, 7, 7))], source="unet/1", mode="add").added == 1
    assert len(folder["p01"].annotations(kinds="all")) == 4
    assert [r.removed for r in folder.clear(source="unet/1")] == [3]
    assert len(folder["p01"].annotations(kinds="all")) == 1
    assert folder.clear(source="unet/1") == []


def test_slides_whose_names_begin_alike_do_not_share_files(folder: SlideFolder) -> None:
    folder.write("p02.b", [Annotation(shapely.box(2, 2, 3, 3))], source="m")
    assert folder["p02"].annotations() == []
    assert len(folder["p02.b"].annotations()) == 2


def test_a_humans_file_is_never_overwritten(folder: SlideFolder) -> None:
    theirs = folder.path / "p01.mine.geojson"
    write_geojson(theirs, [Annotation(shapely.box(0, 0, 1, 1))])
    before = theirs.read_bytes()
    with pytest.raises(ProjectError, match=r"holds 1 object\(s\) that 'mine' did not write"):
        folder.write("p01", [], source="mine")
    with pytest.raises(ProjectError, match="did not write"):
        folder.clear(source="mine")
    with pytest.raises(ProjectError, match="give the model's id"):
        folder.write("p01", [], source="")
    assert theirs.read_bytes() == before


def test_slides_of_one_stem_keep_their_suffix(tmp_path: Path) -> None:
    for name in ("a.svs", "a.tif"):
        (tmp_path / name).touch()
    assert [e.id for e in SlideFolder(tmp_path)] == ["a.svs", "a.tif"]


def test_what_is_no_folder_of_slides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAProjectError, match="is no folder"):
        SlideFolder(tmp_path / "nowhere")
    with pytest.raises(NotAProjectError, match=r"no slide in .*\.svs"):
        SlideFolder(tmp_path)
    (tmp_path / "a.svs").touch()
    (tmp_path / "metadata.csv").write_text("slide,patient\nb,P-1\n")
    with pytest.raises(QuPathFormatError, match=r"metadata\.csv, line 2: slide 'b' is not in the folder"):
        SlideFolder(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(b"slide\n\xff\n")
    with pytest.raises(QuPathFormatError, match="UTF-8 table"):
        SlideFolder(tmp_path)


def test_slides_open(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "small.svs").symlink_to(shared_data / "slides" / "CMU-1-Small-Region.svs")
    with SlideFolder(tmp_path)["small"].slide() as slide:
        assert slide.size == (2220, 2967)


@pytest.mark.parametrize("edit", [{"isLocked": True}, {"classification": {"name": "Stroma"}}, {"name": "seen"}])
def test_a_corrected_prediction_is_the_humans_and_is_never_overwritten(tmp_path: Path, edit: dict[str, object]) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    folder = SlideFolder(tmp_path)
    drawn = Annotation(shapely.box(1.005, 2, 30, 40.1234).difference(shapely.box(5, 5, 9, 9)), "Tumor")
    folder.write("a", [drawn], source="m-1")
    assert [a.source for a in folder["a"].annotations()] == ["m-1"]
    assert str(folder.write("a", [drawn], source="m-1")).startswith("a.png: 1 added, 1 removed")

    file = folder["a"].prediction_file("m-1")
    content = json.loads(file.read_text(encoding="utf-8"))
    content["features"][0]["properties"].update(edit)
    file.write_text(json.dumps(content), encoding="utf-8")
    before = file.read_bytes()
    assert [a.source for a in folder["a"].annotations()] == [None]
    with pytest.raises(ProjectError, match="corrected since"):
        folder.write("a", [drawn], source="m-1")
    with pytest.raises(ProjectError, match="corrected since"):
        folder.clear(source="m-1")
    assert file.read_bytes() == before


def test_a_metadata_table_as_a_german_excel_saves_it(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("slide;patient;mpp\na.png;P, 1;0.5\n", encoding="utf-8-sig")
    (entry,) = SlideFolder(tmp_path)
    assert entry.metadata == {"patient": "P, 1", "mpp": "0.5"}
    with entry.slide() as slide:
        assert slide.mpp == 0.5

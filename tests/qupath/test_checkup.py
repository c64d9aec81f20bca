"""The check-up: every fault planted by hand, and areas that can be counted on squared paper."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image
from rich.console import Console

from qp2train.core.annotation import Annotation, Kind, Plane
from qp2train.infotext import render
from qp2train.qupath.checkkinds import KINDS
from qp2train.qupath.checkup import CheckUp, ClassFacts, Finding, check
from qp2train.qupath.folder import SlideFolder
from qp2train.qupath.geojson import write_geojson
from qp2train.qupath.project import Project


def box(x: float, y: float, side: float, class_name: str | None = "Tumor", **more: object) -> Annotation:
    return Annotation(shapely.box(x, y, x + side, y + side), class_name, **more)  # type: ignore[arg-type]


def checked(folder: Path, annotations: Sequence[Annotation], *, mpp: float | None = 0.5) -> CheckUp:
    """A project with one slide of 200×100 px and these objects."""
    slide = folder / "a.png"
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(slide)
    project = Project.create(folder / "p")
    project.add_image(slide, mpp=mpp, metadata={"patient": "P1"}, annotations=annotations)
    return check(project)


def only(result: CheckUp) -> Finding:
    (finding,) = result.findings
    return finding


def test_nothing_wrong_is_no_finding(tmp_path: Path) -> None:
    result = checked(tmp_path, [box(10, 10, 20), box(50, 10, 20, "Stroma")])
    assert result.findings == ()
    (image,) = result.images
    assert (image.size, image.mpp, image.how, image.image_type) == ((200, 100), 0.5, "stored uri", "BRIGHTFIELD_H_E")
    assert result.groups == {"patient": 1}


def test_classes_with_counts_and_areas(tmp_path: Path) -> None:
    drawn = [box(0, 0, 20), box(30, 0, 10), box(50, 0, 10, "Tumor: Positive"), box(0, 40, 40, "Region*")]
    result = checked(tmp_path, [*drawn, box(70, 0, 5, "Fold*"), box(80, 0, 5, None)])
    px_mm2 = 0.25e-6
    assert result.classes == {
        "Fold*": ClassFacts(1, pytest.approx(25 * px_mm2)),
        "Region*": ClassFacts(1, pytest.approx(1600 * px_mm2)),
        "Tumor": ClassFacts(2, pytest.approx(500 * px_mm2)),
        "Tumor: Positive": ClassFacts(1, pytest.approx(100 * px_mm2)),
        "Unclassified": ClassFacts(1, pytest.approx(25 * px_mm2)),
    }
    assert result.training() == {
        "Fold*": "ignored, and whatever lies under it",
        "Region*": "background, where nothing else is drawn in it",
        "Tumor": "learnt",
        "Tumor: Positive": "learnt as Tumor, unless it is mapped",
        "Unclassified": "ignored: no class",
    }
    assert only(result).kind == "unclassified"


BOW = Annotation(shapely.Polygon([(0, 0), (20, 20), (20, 0), (0, 20)]), "Tumor")
FAULTS: dict[str, tuple[list[Annotation], int]] = {
    "outside": ([box(300, 0, 10), box(-30, 0, 10, kind="detection")], 2),
    "over-the-edge": ([box(195, 0, 10)], 1),
    "tiny": ([box(5, 5, 0.5)], 1),
    "no-area": ([Annotation(shapely.LineString([(1, 1), (9, 9)]), "Tumor"), Annotation(shapely.Point(3, 3), "A")], 2),
    "other-plane": ([box(5, 5, 10, plane=Plane(z=2))], 1),
    "unclassified": ([box(5, 5, 10, None)], 1),
    "duplicate": ([box(5, 5, 10), box(5, 5, 10), box(5, 5, 10, kind="cell")], 1),
    "nearly-duplicate": ([box(0, 0, 100), box(0, 0, 99)], 1),
    "overlap": ([box(0, 0, 10), box(6, 0, 10, "Stroma")], 2),
    "repaired": ([BOW], 1),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_is_found_alone(kind: str, tmp_path: Path) -> None:
    objects, count = FAULTS[kind]
    finding = only(checked(tmp_path, objects))
    assert (finding.kind, finding.count, finding.image, finding.name) == (kind, count, "1", "a.png")
    assert set(finding.ids) <= {a.id for a in objects}


def test_an_overlap_is_measured_between_classes_but_not_along_the_hierarchy(tmp_path: Path) -> None:
    outer = box(0, 0, 50, "Tumor")
    inside = box(10, 10, 10, "Necrosis", parent=outer.id)
    beside = box(40, 0, 50, "Stroma")
    fields = [box(0, 0, 60, "Region*"), box(0, 0, 60, "Ignore*")]
    finding = only(checked(tmp_path, [outer, inside, beside, *fields]))
    assert (finding.kind, finding.detail) == ("overlap", "Stroma and Tumor")
    assert finding.area_mm2 == pytest.approx(10 * 50 * 0.25e-6)


def test_what_models_wrote_is_counted_apart_and_what_was_corrected_is_the_humans(tmp_path: Path) -> None:
    checked(tmp_path, [box(0, 0, 10)])
    project = Project(tmp_path / "p")
    kinds: list[Kind] = ["annotation", "detection"]
    project.write("1", [box(20, 0, 10, kind=k) for k in kinds], source="m")
    (image,) = check(project).images
    assert (image.models, image.others, image.classes["Tumor"].count) == ({"m": 2}, {}, 1)


def test_slides_missing_moved_damaged_or_without_scale(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p")
    for name in ("missing", "damaged", "moved"):
        project.add_image(tmp_path / f"{name}.tif", width=20, height=20, mpp=None if name == "moved" else 1.0)
    (tmp_path / "damaged.tif").write_bytes(b"II*\0 no picture")
    (tmp_path / "new").mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "new" / "moved.tif")
    result = check(Project(tmp_path / "p", image_roots=[tmp_path / "new"]))
    found = {(f.kind, f.name) for f in result.findings}
    assert found == {
        ("slide-missing", "missing.tif"),
        ("slide-unusable", "damaged.tif"),
        ("uncalibrated", "moved.tif"),
        ("moved", "moved.tif"),
        ("no-common-metadata", ""),
    }
    assert [f.severity for f in result.findings] == ["problem"] * 3 + ["note"] * 2
    assert "slide-unusable" not in {f.kind for f in check(project, open_slides=False).findings}


def test_areas_of_images_without_scale_are_not_hidden_in_the_sum(tmp_path: Path) -> None:
    one, other = (ClassFacts(1, 2.5), ClassFacts(3, without_scale=3, images=1))
    assert one + other == ClassFacts(4, 2.5, without_scale=3, images=2)
    console = Console(width=120, record=True, file=io.StringIO())
    checked(tmp_path, [box(0, 0, 10)])
    project = Project(tmp_path / "p")
    project.add_image(tmp_path / "b.png", width=200, height=100, annotations=[box(0, 0, 10)])
    result = check(project)
    console.print(render(result, colors={}))
    assert "2.5e-05 (+ 1 without scale)" in console.export_text()
    assert "patient: 1 of 2 images" in {f.kind: f.detail for f in result.findings}["partial-metadata"]


def test_a_crowd_is_not_measured_for_ever_and_that_is_said(tmp_path: Path) -> None:
    crowd = [box(0, 0, 50 + i / 50, "A" if i % 2 else "B") for i in range(600)]
    kinds = {f.kind for f in checked(tmp_path, crowd).findings}
    assert {"crowded", "overlap", "nearly-duplicate"} <= kinds


def test_data_that_cannot_be_opened_is_a_finding(tmp_path: Path) -> None:
    checked(tmp_path, [])
    project = Project(tmp_path / "p")
    (entry,) = project
    entry.data_path.unlink()
    entry.data_path.mkdir()
    assert only(check(project)).kind == "data-unreadable"


def test_one_damaged_image_does_not_hide_the_others(tmp_path: Path) -> None:
    checked(tmp_path, [box(0, 0, 10)])
    project = Project(tmp_path / "p")
    entry = project.add_image(tmp_path / "b.png", width=10, height=10, mpp=1.0, metadata={"patient": "P2"})
    entry.data_path.write_bytes(entry.data_path.read_bytes()[:-20])
    project["1"].data_path.with_name("data.qpdata.bkp").write_bytes(b"")
    (project.path / "data" / "17").mkdir()
    result = check(project)
    kinds = {f.kind: f for f in result.findings}
    assert set(kinds) == {"data-unreadable", "save-interrupted", "slide-missing", "orphans"}
    assert str(entry.data_path) in kinds["data-unreadable"].detail
    assert kinds["orphans"].detail == "17"
    assert result.classes["Tumor"].count == 1


def test_a_folder_of_slides_is_checked_as_well(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(tmp_path / "a.png")
    write_geojson(tmp_path / "a.geojson", [box(0, 0, 10), box(300, 0, 10)])
    result = check(SlideFolder(tmp_path))
    assert {f.kind for f in result.findings} == {"uncalibrated", "outside"}
    assert result.classes == {"Tumor": ClassFacts(2, 0, without_scale=2)}


def test_many_objects_are_looked_at_together(tmp_path: Path) -> None:
    corners = np.stack(np.divmod(np.arange(20_000), 200), axis=1) * 10.0
    objects = [box(x, y, 8, "Cell") for x, y in corners.tolist()]
    project = Project.create(tmp_path / "p")
    project.add_image(tmp_path / "a.svs", width=3000, height=3000, mpp=1.0, annotations=objects)
    assert [f.kind for f in check(project).findings] == ["slide-missing"]


def test_as_json_with_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    data = json.loads(json.dumps(checked(tmp_path, [box(300, 0, 10)]).to_dict()))
    assert list(data) == ["name", "path", "version", "images", "findings", "classes", "groups", "training"]
    (finding,) = data["findings"]
    assert (finding["kind"], finding["severity"]) == ("outside", "problem")
    assert finding["remedy"] == KINDS["outside"][2]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_as_text_for_a_terminal_of_any_width(width: int, tmp_path: Path) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    result = checked(tmp_path, [box(300, 0, 10, "[red]T[/]"), box(0, 0, 10)])
    console.print(render(result, colors={"Tumor": (200, 0, 0)}))
    said = " ".join(console.export_text().split())
    for text in ("p: 1 image ", "[red]T[/]", "problem", "outside", "patient (1 different)"):
        assert text in said

"""Real projects against QuPath's own account of them: its GeoJSON export and a dump of its hierarchy.

The truth is read here with json and shapely alone, so that a mistake of our readers cannot hide in it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import shapely
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation
from qp2train.errors import QuPathFormatError
from qp2train.qupath.geojson import read_geojson
from qp2train.qupath.javastream import parse, serialise
from qp2train.qupath.pathobject import walk
from qp2train.qupath.project import Project
from qp2train.qupath.qpdata import load, read_annotations

GRID_PX = 0.02  # QuPath's export rounds to 0.01 px
IMAGES = {"1": "small.svs", "2": "pyramid_small.tiff", "3": "plain.png"}
WRITTEN = [
    (f"qupath_written/{version}", entry, name) for version in ("0.5.1", "0.6.0") for entry, name in IMAGES.items()
]
GLAS = [("glas", str(i), name) for i, name in enumerate(["p01", "p02", "p03", "p05", "p06"], 1)]
# our kinds and QuPath's classes
KINDS = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tma_core",
}
FAMILIES = {  # ROI class → what it may be in GeoJSON
    "PolygonROI": {"Polygon", "MultiPolygon"},  # several parts where the outline crosses itself
    "RectangleROI": {"Polygon"},
    "EllipseROI": {"Polygon"},
    "GeometryROI": {"Polygon", "MultiPolygon", "MultiLineString"},
    "LineROI": {"LineString"},
    "PolylineROI": {"LineString"},
    "PointsROI": {"Point", "MultiPoint"},
}


@dataclass(frozen=True)
class Fact:
    """What QuPath says of one object. `roi` and `parent` come from the dump, the rest from the export."""

    id: str
    kind: str
    class_name: str | None
    name: str | None
    locked: bool
    measurements: dict[str, float]
    plane: tuple[int, int, int]
    metadata: dict[str, str]
    color: tuple[int, ...] | None
    ellipse: bool
    geometry: BaseGeometry
    nucleus: BaseGeometry | None
    roi: str | None = None
    parent: str | None = None


def exported(file: Path) -> list[Fact]:
    """QuPath's GeoJSON export."""
    content = json.loads(file.read_text(encoding="utf-8"))
    facts = []
    for item in content["features"] if isinstance(content, dict) else content:
        given, shape = item["properties"], item["geometry"]
        classification = given.get("classification", {})
        plane = shape.get("plane", {"c": -1, "z": 0, "t": 0})
        color = given.get("color")
        nucleus = item.get("nucleusGeometry")
        facts.append(
            Fact(
                id=item["id"],
                kind=given["objectType"],
                class_name=": ".join(classification.get("names", [])) or classification.get("name"),
                name=given.get("name"),
                locked=given.get("isLocked", False),
                measurements={key: float(value) for key, value in given.get("measurements", {}).items()},
                plane=(plane["c"], plane["z"], plane["t"]),
                metadata=given.get("metadata", {}),
                color=None if color is None else tuple(color),
                ellipse=shape.get("isEllipse", False),
                geometry=shapely.geometry.shape(shape),
                nucleus=None if nucleus is None else shapely.geometry.shape(nucleus),
            )
        )
    return facts


def dumped(file: Path) -> Iterator[tuple[dict[str, Any], str | None]]:
    """The objects of a dump of the hierarchy, in its order, with the id of the object that each lies under."""
    stack = [(child, None) for child in reversed(json.loads(file.read_text(encoding="utf-8"))["children"])]
    while stack:
        item, parent = stack.pop()
        yield item, parent
        stack += [(child, item["id"]) for child in reversed(item["children"])]


@functools.cache
def truth(folder: Path, name: str) -> list[Fact]:
    """QuPath's account of an image, in the order of the hierarchy."""
    facts = exported(folder / "groundtruth" / f"{name}.geojson")
    dump = folder / "groundtruth" / f"{name}.hierarchy.json"
    if not dump.exists():
        return facts
    by_id = {fact.id: fact for fact in facts}
    result = []
    for item, parent in dumped(dump):
        fact = by_id[item["id"]]
        assert (item["cls"], item["name"], item["locked"]) == (fact.class_name, fact.name, fact.locked)
        assert (item["c"], item["z"], item["t"]) == fact.plane
        assert KINDS[item["type"]] == fact.kind
        assert equal_numbers({key: float(value) for key, value in item["meas"].items()}, fact.measurements)
        result.append(replace(fact, roi=item["roi"], parent=parent))
    assert len(result) == len(facts)
    return result


def differ(one: BaseGeometry, other: BaseGeometry) -> bool:
    """Whether two geometries differ anywhere by more than 0.02 px.

    Areas differ where a disc of that size fits between them: QuPath's export rounds to 0.01 px and thereby closes
    gaps and drops spikes that are narrower, however long.
    """
    if one.is_empty or other.is_empty:
        return one.is_empty != other.is_empty
    if shapely.equals_exact(shapely.normalize(one), shapely.normalize(other), GRID_PX / 2):
        return False  # vertex by vertex; for the others see what area is not common
    if one.area:
        return not shapely.symmetric_difference(one, other).buffer(-GRID_PX / 2).is_empty
    return bool(shapely.hausdorff_distance(one, other) > GRID_PX)


def boxes_differ(one: BaseGeometry, other: BaseGeometry) -> bool:
    """The same of ellipses, whose box says all; QuPath's polygon is 0.1 px coarser than the ellipse itself."""
    return max(abs(a - b) for a, b in zip(one.bounds, other.bounds, strict=True)) > GRID_PX


def equal_numbers(one: dict[str, float], other: dict[str, float]) -> bool:
    same = [a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(one.values(), other.values(), strict=False)]
    return list(one) == list(other) and all(same)


def differences(found: Annotation, fact: Fact) -> list[str]:
    """The names of what is not as QuPath says; parents and ROI classes are compared elsewhere."""
    pairs = {
        "type": (found.kind, fact.kind),
        "id": (found.id, fact.id),
        "class": (found.class_name, fact.class_name),
        "name": (found.name, fact.name),
        "lock": (found.locked, fact.locked),
        "plane": ((found.plane.c, found.plane.z, found.plane.t), fact.plane),
        "metadata": (dict(found.metadata), fact.metadata),
        "colour": (found.color, fact.color),
        "ellipse": (found.ellipse, fact.ellipse),
        "nucleus": (found.nucleus is None, fact.nucleus is None),
    }
    wrong = [f"{what}: {ours!r} for {theirs!r}" for what, (ours, theirs) in pairs.items() if ours != theirs]
    if not equal_numbers(dict(found.measurements), fact.measurements):
        wrong.append(f"measurements: {found.measurements} for {fact.measurements}")
    if (boxes_differ if fact.ellipse else differ)(found.geometry, fact.geometry):
        wrong.append("geometry")
    if found.nucleus is not None and fact.nucleus is not None and differ(found.nucleus, fact.nucleus):
        wrong.append("geometry of the nucleus")
    if fact.roi is not None and found.geometry.geom_type not in FAMILIES[fact.roi]:
        wrong.append(f"ROI: a {found.geometry.geom_type} for a {fact.roi}")
    return wrong


@pytest.mark.parametrize(("folder", "entry", "name"), [*WRITTEN, *GLAS])
def test_qpdata_is_read_as_qupath_reads_it(shared_data: Path, folder: str, entry: str, name: str) -> None:
    facts = truth(shared_data / folder, name)
    data = load((shared_data / folder / "project" / "data" / entry / "data.qpdata").read_bytes())
    found = read_annotations(data).annotations
    if folder == "glas":  # no dump, so no order
        facts = sorted(facts, key=lambda fact: fact.id)
        found = sorted(found, key=lambda a: a.id)
    assert [a.id for a in found] == [fact.id for fact in facts]
    assert [wrong for a, fact in zip(found, facts, strict=True) for wrong in differences(a, fact)] == []
    if folder != "glas":
        assert [a.parent for a in found] == [fact.parent for fact in facts]


@pytest.mark.parametrize(("folder", "entry", "name"), WRITTEN)
def test_roi_classes_are_those_of_qupath(shared_data: Path, folder: str, entry: str, name: str) -> None:
    data = load((shared_data / folder / "project" / "data" / entry / "data.qpdata").read_bytes())
    kinds = {o.id: o.roi.desc.name.rpartition(".")[2].partition("$")[0] for o in walk(data.root) if o.roi is not None}
    assert kinds == {fact.id: fact.roi for fact in truth(shared_data / folder, name)}


@pytest.mark.parametrize(("folder", "entry", "name"), WRITTEN)
def test_areas_are_those_of_qupath(shared_data: Path, folder: str, entry: str, name: str) -> None:
    file = shared_data / folder / "project" / "data" / entry / "data.qpdata"
    result = read_annotations(load(file.read_bytes()))
    areas = {
        item["id"]: item["area"] for item, _ in dumped(shared_data / folder / "groundtruth" / f"{name}.hierarchy.json")
    }
    for one in result.annotations:
        if one.id not in result.repaired:  # of a crossing outline, QuPath's area counts parts twice
            assert one.geometry.area == pytest.approx(areas[one.id], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("folder", "entry", "name"), [*WRITTEN, *GLAS])
def test_geojson_is_read_as_qupath_means_it(shared_data: Path, folder: str, entry: str, name: str) -> None:
    facts = {fact.id: fact for fact in truth(shared_data / folder, name)}
    found = read_geojson(shared_data / folder / "groundtruth" / f"{name}.geojson")
    assert len(found) == len(facts)
    assert [wrong for a in found for wrong in differences(a, facts[a.id])] == []
    assert {a.parent for a in found} == {None}  # the flat form has none


def test_that_is_all_of_it(shared_data: Path) -> None:
    written = [len(truth(shared_data / folder, name)) for folder, _, name in WRITTEN]
    assert written == [15, 357, 3000] * 2
    assert sum(len(truth(shared_data / folder, name)) for folder, _, name in GLAS) == 234
    entries = {(f"qupath_written/{v}", e.id) for v in ("0.5.1", "0.6.0") for e in Project(_project(shared_data, v))}
    assert entries == {(folder, entry) for folder, entry, _ in WRITTEN}


def _project(data: Path, version: str) -> Path:
    return data / "qupath_written" / version / "project"


def test_a_difference_would_be_seen(shared_data: Path) -> None:
    folder = shared_data / "qupath_written/0.6.0"
    fact = truth(folder, "small.svs")[0]
    (found,) = (a for a in read_geojson(folder / "groundtruth/small.svs.geojson") if a.id == fact.id)
    assert differences(found, fact) == []
    moved = replace(found, geometry=shapely.transform(found.geometry, lambda xy: xy + 0.03))
    assert differences(moved, fact) == ["geometry"]
    for change in ({"class_name": "x"}, {"name": "x"}, {"locked": True}, {"kind": "tile"}, {"measurements": {"x": 1}}):
        assert len(differences(replace(found, **change), fact)) == 1, change  # type: ignore[arg-type]


def test_every_java_stream_there_is_is_written_back_identically(shared_data: Path) -> None:
    files = {kind: sorted(shared_data.rglob(f"*.{kind}")) for kind in ("qpdata", "hierarchy", "serialized")}
    assert {kind: len(found) for kind, found in files.items()} == {"qpdata": 14, "hierarchy": 1, "serialized": 2}
    for file in (f for found in files.values() for f in found):
        data = file.read_bytes()
        assert serialise(parse(data).contents) == data, file
        if file.suffix == ".qpdata":
            assert load(data).to_bytes() == data, file


def test_every_public_file_opens_or_is_refused_with_the_reason(shared_data: Path) -> None:
    folder = shared_data / "qupath_public"
    projects = {file.parent.relative_to(folder).as_posix(): Project(file) for file in sorted(folder.rglob("*.qpproj"))}
    assert {name: len(project) for name, project in projects.items()} == {
        "AndrewZhang419": 3,
        "Qupath_to_LMD_demo/demo_Qupath_project": 1,
        "SpleenFollicle": 14,
        "stardist_example/qupath_example_project": 2,
        "szakdolgozat_proj/qupath": 2,
    }
    for project in projects.values():
        assert project.classes is not None
        for entry in project:
            entry.annotations("all")
    for file in [*sorted(folder.rglob("*.geojson")), folder / "HistoQC/AnnotationModule/geojson_example.json"]:
        assert read_geojson(file), file
    # QuPath's own serialised hierarchy is no image: it lacks the header that QuPath writes around one
    with pytest.raises(QuPathFormatError, match='does not begin with "Data file version"'):
        load(next(folder.rglob("*.hierarchy")).read_bytes())

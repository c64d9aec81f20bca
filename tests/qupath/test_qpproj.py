from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from qp2train.errors import NotAProjectError, ProjectError, QuPathFormatError
from qp2train.qupath.newimage import image_builder
from qp2train.qupath.pathobject import argb, rgb
from qp2train.qupath.qpproj import (
    count_objects,
    default_color,
    find_project,
    read_classes,
    read_json,
    read_project,
    save_classes,
    save_project,
    save_summary,
    to_json,
)


def test_colours_are_signed_argb() -> None:
    assert argb((200, 0, 0)) == -3670016
    assert rgb(-3670016) == (200, 0, 0)
    assert rgb(argb((1, 2, 255))) == (1, 2, 255)


def test_default_colours_are_qupaths_or_depend_on_the_name() -> None:
    assert default_color("Stroma") == (150, 200, 150)
    assert default_color("Gland") == default_color("Gland") != default_color("Vessel")


@pytest.mark.parametrize(
    "name",
    [
        "glas/project/project.qpproj",
        "glas/project/classifiers/classes.json",
        "qupath_written/0.5.1/project/project.qpproj",
        "qupath_written/0.6.0/project/project.qpproj",
        "qupath_written/0.6.0/project/data/1/server.json",
        "qupath_public/SpleenFollicle/project.qpproj",
    ],
)
def test_json_is_written_as_qupath_writes_it(shared_data: Path, name: str) -> None:
    file = shared_data / name
    assert to_json(read_json(file)) == file.read_bytes()


def test_html_characters_are_escaped_as_gson_does() -> None:
    assert to_json({"a": "<=>&'ß\u2028"}, pretty=False) == (
        '{"a":"\\u003c\\u003d\\u003e\\u0026\\u0027ß\\u2028"}'.encode()
    )


def test_projects_are_found_by_folder_or_file(tmp_path: Path) -> None:
    with pytest.raises(NotAProjectError, match="the folder holds none"):
        find_project(tmp_path)
    one = tmp_path / "one.qpproj"
    one.touch()
    assert find_project(tmp_path) == find_project(one) == one
    (tmp_path / "two.qpproj").touch()
    with pytest.raises(NotAProjectError, match=r"holds 2 project files, name one of \['one.qpproj', 'two.qpproj'\]"):
        find_project(tmp_path)
    main = tmp_path / "project.qpproj"
    main.touch()
    assert find_project(tmp_path) == main
    with pytest.raises(NotAProjectError, match="does not exist"):
        find_project(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON"),
        ("[]", "holds a list"),
        ("{}", "neither version nor lastID"),
        ("[" * 100_000, "no JSON"),
        ("\xff", "no JSON"),
        ('{"version":"v0.2.0-m1"}', "QuPath v0.2.0-m1"),
        ('{"version":"0.6.0","images":{}}', "images are not a list"),
        ('{"version":"0.6.0","images":[{}]}', "entryID"),
        ('{"version":"0.6.0","images":[{"entryID":"../x"}]}', "entryID"),
        ('{"version":"0.6.0","images":[{"entryID":1},{"entryID":1}]}', r"entryID \[1\] is given twice"),
    ],
)
def test_what_is_no_project_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "project.qpproj"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(NotAProjectError, match=message):
        read_project(file)


def test_unknown_keys_and_order_stay_and_the_previous_file_becomes_the_backup(tmp_path: Path) -> None:
    file = tmp_path / "project.qpproj"
    text = b'{\n  "zebra": 1,\n  "version": "0.6.0",\n  "images": [],\n  "aardvark": 2.50\n}'
    file.write_bytes(text)
    data = read_project(file)
    save_project(file, data)
    assert list(json.loads(file.read_bytes())) == ["zebra", "version", "images", "aardvark"]
    assert (tmp_path / "project.qpproj.backup").read_bytes() == text
    assert len(list(tmp_path.iterdir())) == 2


def test_classes_without_colour_or_file(tmp_path: Path) -> None:
    assert read_classes(tmp_path) == {}
    file = tmp_path / "classifiers" / "classes.json"
    file.parent.mkdir()
    file.write_text('{"x":1,"pathClasses":[{"name":"Tumor","color":null},{"name":"B","color":-16777216,"y":2},{}]}')
    assert read_classes(tmp_path) == {"Tumor": (200, 0, 0), "B": (0, 0, 0)}
    save_classes(tmp_path, {"B": (0, 0, 1), "C": (1, 0, 0)})
    assert json.loads(file.read_text()) == {
        "x": 1,
        "pathClasses": [{"name": "B", "color": -16777215, "y": 2}, {"name": "C", "color": -16711680}],
    }
    save_classes(tmp_path, {})  # as QuPath does
    assert not file.exists()


def test_the_summary_of_a_tissue_microarray(tmp_path: Path) -> None:
    """QuPath has a place for nTMACores and never fills it (0.2 to 0.7): the cores are counted as objects."""
    (tmp_path / "data.qpdata").touch()
    objects = [SimpleNamespace(kind=kind, path_class=None) for kind in (None, "tma_core", "tma_core", "cell", "tile")]
    server = {"width": 5, "height": 4, "sizeZ": 3, "sizeT": 2, "channels": [{}]}
    save_summary(tmp_path, count_objects(objects), image_type="OTHER", server=server)  # type: ignore[arg-type]
    summary = read_json(tmp_path / "summary.json")
    assert summary["server"] == {"width": 5, "height": 4, "sizeC": 1, "sizeZ": 3, "sizeT": 2}
    assert summary["hierarchy"] == {
        "nObjects": 5,
        "objectTypeCounts": {"Root objects": 1, "TMA cores": 2, "Cells": 1, "Tiles": 1},
        "annotationClassificationCounts": {},
        "detectionClassificationCounts": {"Unclassified": 2},
    }


def test_damaged_classes_are_named(tmp_path: Path) -> None:
    (tmp_path / "classifiers").mkdir()
    (tmp_path / "classifiers" / "classes.json").write_text('{"pathClasses":{}}')
    with pytest.raises(QuPathFormatError, match=r"classes\.json: pathClasses is no list"):
        read_classes(tmp_path)


def test_levels_begin_with_full_resolution() -> None:
    with pytest.raises(ProjectError, match=r"the first level must be 1\.0"):
        image_builder(
            "file:///a", name="a", width=1, height=1, downsamples=[2], mpp=None, magnification=None, tile_px=(1, 1)
        )

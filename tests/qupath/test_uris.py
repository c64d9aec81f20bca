from __future__ import annotations

from pathlib import Path

import pytest

from qp2train.qupath.uris import Locator, file_name, path_to_uri, project_uri, uri_to_path


@pytest.mark.parametrize(
    ("uri", "posix", "windows"),
    [
        ("file:/a/b.png", "/a/b.png", "\\a\\b.png"),
        ("file:///a/b%20c.png", "/a/b c.png", "\\a\\b c.png"),
        ("file:/C:/x.svs", "/C:/x.svs", "C:\\x.svs"),
        ("file:///C:/x.svs", "/C:/x.svs", "C:\\x.svs"),
        ("file:////srv/share/x", "/srv/share/x", "\\\\srv\\share\\x"),
        ("file://srv/share/x", None, None),
        ("/a/b.svs", None, None),
        ("slides/b.svs", None, None),
        ("https://host/a.svs", None, None),
        ("file:/a/b.tif?name=x#2", "/a/b.tif", "\\a\\b.tif"),
        ("file:/a/b.tif#2", "/a/b.tif", "\\a\\b.tif"),
        ("file:/a/%C3%BC.svs", "/a/ü.svs", "\\a\\ü.svs"),
        ("file:/a/ü.svs", "/a/ü.svs", "\\a\\ü.svs"),
        ("file:/a/50%25%23%3F.svs", "/a/50%#?.svs", "\\a\\50%#?.svs"),
        ("FILE:/a/b.svs", "/a/b.svs", "\\a\\b.svs"),
        ("", None, None),
    ],
)
def test_what_a_uri_means(uri: str, posix: str | None, windows: str | None) -> None:
    for on_windows, expected in ((False, posix), (True, windows)):
        path = uri_to_path(uri, windows=on_windows)
        assert (None if path is None else str(path)) == expected


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("file:/a/b%20c.svs", "b c.svs"),
        ("file:/C:/x/d.svs?s=1#2", "d.svs"),
        ("https://host/e.svs", "e.svs"),
        ("C:\\x\\f.svs", "f.svs"),
        ("file://srv/g.svs", "g.svs"),
        ("", ""),
    ],
)
def test_the_file_name_in_any_uri(uri: str, name: str) -> None:
    assert file_name(uri) == name


@pytest.mark.parametrize("name", ["plain.svs", "a b.svs", "ü 腫瘍.svs", "50%#?&'=.svs", "x(1)+[2].svs"])
def test_our_uris_lead_back(name: str) -> None:
    path = Path("/data") / name
    assert uri_to_path(path_to_uri(path), windows=False) == path
    assert uri_to_path(project_uri(path), windows=False) == path
    assert path_to_uri(path).startswith("file:///data/")
    assert project_uri(Path("/ü/project.qpproj")) == "file:/ü/project.qpproj"


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_stored_place_comes_first(tmp_path: Path) -> None:
    slide = touch(tmp_path / "slides" / "a.svs")
    touch(tmp_path / "project" / "a.svs")
    assert Locator(tmp_path / "project").locate(path_to_uri(slide))[:2] == (slide, "stored uri")


@pytest.mark.parametrize("drive", ["/home/someone", "/C:/Users/someone"])
def test_a_moved_project_finds_slides_relative_to_itself(tmp_path: Path, drive: str) -> None:
    slide = touch(tmp_path / "slides" / "a.svs")
    locator = Locator(tmp_path / "project", f"file:{drive}/study/project/project.qpproj")
    assert locator.locate(f"file:{drive}/study/slides/a.svs")[:2] == (slide, "relative to project")


def test_the_project_folder_is_searched_four_levels_deep_without_hidden_files(tmp_path: Path) -> None:
    deep = touch(tmp_path / "1" / "2" / "3" / "4" / "a.svs")
    touch(tmp_path / "1" / "2" / "3" / "4" / "5" / "b.svs")
    touch(tmp_path / ".hidden" / "c.svs")
    locator = Locator(tmp_path)
    assert locator.locate("file:/gone/a.svs")[:2] == (deep, "by name in project folder")
    assert locator.locate("file:/gone/b.svs").how == "not found"
    assert locator.locate("file:/gone/c.svs").how == "not found"


def test_image_roots_come_last_and_every_place_is_named(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    slide = touch(two / "x" / "a.svs")
    one.mkdir()
    locator = Locator(tmp_path / "project", "file:/old/project/project.qpproj", [one, two])
    assert locator.locate("file:/old/slides/a.svs")[:2] == (slide, f"image_roots: {two}")
    missing = locator.locate("file:/old/slides/b.svs")
    assert missing.path is None
    for place in ("/old/slides/b.svs", str(tmp_path / "slides" / "b.svs"), str(one), str(two)):
        assert any(looked.startswith(place) for looked in missing.looked)


def test_of_two_files_of_one_name_the_closer_one_is_taken_and_none_of_two_equals(tmp_path: Path) -> None:
    right = touch(tmp_path / "2023" / "a.svs")
    touch(tmp_path / "2024" / "a.svs")
    locator = Locator(tmp_path / "project", None, [tmp_path])
    assert locator.locate("file:/old/2023/a.svs").path == right
    tie = locator.locate("file:/old/2022/a.svs")
    assert tie.path is None
    assert "2 files of this name" in tie.looked[-1]

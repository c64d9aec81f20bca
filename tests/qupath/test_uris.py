from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from qp2train.qupath.uris import Locator, file_name, moved_uri, path_to_uri, project_uri, segments, uri_to_path


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


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("file:/C:/Data/a%20b", ("C:", "Data", "a b")),
        ("file:///C:/Data/a b", ("C:", "Data", "a b")),
        ("C:\\Data\\a b\\", ("C:", "Data", "a b")),
        ("file:////srv/share/x", ("srv", "share", "x")),
        ("file://srv/share/x", ("srv", "share", "x")),
        ("\\\\srv\\share\\x", ("srv", "share", "x")),
        ("/a/50%25.svs", ("a", "50%25.svs")),  # a path is not escaped
        ("file:/a/50%25.svs#2", ("a", "50%.svs")),
        ("file:/a/%C3%BC", ("a", "ü")),
        ("file:/a/u%CC%88", ("a", "ü")),  # as macOS spells it
        ("https://host/a%20b?image=5", ("https:", "host", "a b?image=5")),
        ("", ()),
    ],
)
def test_places_are_compared_name_by_name(place: str, names: tuple[str, ...]) -> None:
    assert segments(place) == names


@pytest.mark.parametrize(
    ("stored", "old"),
    [
        ("file:/D:/Slides/2023/a%20b.svs", "D:\\Slides"),
        ("file:/D:/Slides/2023/a%20b.svs", "d:/slides/"),
        ("file:/D:/Slides/2023/a%20b.svs", "file:///D:/Slides"),
        ("file:////srv/share/2023/a%20b.svs", "\\\\srv\\share"),
        ("file://srv/share/2023/a%20b.svs", "//srv/share"),
        ("file:/home/u%CC%88/2023/a%20b.svs", "/home/ü"),
        ("https://host/x/2023/a%20b.svs", "https://host/x"),
    ],
)
def test_a_map_leads_from_any_system_to_this_one(tmp_path: Path, stored: str, old: str) -> None:
    slide = touch(tmp_path / "2023" / "a b.svs")
    located = Locator(tmp_path / "project", uri_map={old: tmp_path}).locate(stored)
    assert (located.path, located.how, located.looked) == (slide, f"uri_map: {old}", (str(slide),))


def test_a_map_of_a_whole_uri(tmp_path: Path) -> None:
    new = touch(tmp_path / "renamed.svs")
    for stored in ("file:/old/a.svs", "file:///old/a.svs"):
        assert Locator(tmp_path / "p", uri_map={"file:/old/a.svs": new}).locate(stored).path == new


def test_the_longest_match_wins_whole_names_only_and_before_the_stored_place(tmp_path: Path) -> None:
    stored = touch(tmp_path / "old" / "in" / "a.svs")
    touch(tmp_path / "one" / "in" / "a.svs")
    two = touch(tmp_path / "two" / "a.svs")
    uri_map = {
        str(tmp_path / "old"): tmp_path / "one",
        str(tmp_path / "old" / "in"): tmp_path / "two",
        str(tmp_path / "ol"): tmp_path / "three",
    }
    assert Locator(tmp_path / "p", uri_map=uri_map).locate(path_to_uri(stored)).path == two
    two.unlink()  # then the next one
    assert (
        Locator(tmp_path / "p", uri_map=uri_map).locate(path_to_uri(stored)).path == tmp_path / "one" / "in" / "a.svs"
    )
    shorter = {str(tmp_path / "ol"): tmp_path / "three"}
    assert Locator(tmp_path / "p", uri_map=shorter).locate(path_to_uri(stored)).how == "stored uri"


def test_what_a_map_names_in_vain_is_said(tmp_path: Path) -> None:
    located = Locator(tmp_path, uri_map={"/old": tmp_path / "new"}).locate("file:/old/a.svs")
    assert located.path is None
    assert located.looked[0] == str(tmp_path / "new" / "a.svs")


@pytest.mark.parametrize(("on_disk", "in_uri"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_letters_with_dots_are_found_in_either_spelling(tmp_path: Path, on_disk: str, in_uri: str) -> None:
    name = "Übersicht é.svs"
    slide = touch(tmp_path / "a" / unicodedata.normalize(on_disk, name))  # type: ignore[arg-type]
    asked = tmp_path / "a" / unicodedata.normalize(in_uri, name)  # type: ignore[arg-type]
    assert Locator(tmp_path / "p").locate(path_to_uri(asked))[:2] == (slide, "stored uri")
    gone = path_to_uri(Path("/gone") / asked.name)
    assert Locator(tmp_path / "p", None, [tmp_path]).locate(gone).path == slide


@pytest.mark.parametrize(
    ("project", "stored"),
    [
        ("file:////srv/share/study/project/project.qpproj", "file://srv/share/study/slides/a.svs"),
        ("file:/c:/study/project/project.qpproj", "file:///C:/study/slides/a.svs"),
    ],
)
def test_relative_places_on_shares_and_drives(tmp_path: Path, project: str, stored: str) -> None:
    slide = touch(tmp_path / "slides" / "a.svs")
    assert Locator(tmp_path / "project", project).locate(stored)[:2] == (slide, "relative to project")


@pytest.mark.parametrize("uri", ["file:/a\0b.svs", "file:/" + "x" * 5000 + ".svs", "file:/%00", "file:", "#", "?a"])
def test_names_that_no_file_can_have(tmp_path: Path, uri: str) -> None:
    assert Locator(tmp_path, "file:/old/project.qpproj", [tmp_path], {"/": tmp_path}).locate(uri).path is None


@pytest.mark.parametrize(
    ("old", "rest"), [("file:/a/b.lif", ""), ("file:/a/b.lif#2", "#2"), ("file:/a/b.lif?name=x", "?name=x")]
)
def test_a_new_place_keeps_which_image_of_the_file_is_meant(old: str, rest: str) -> None:
    assert moved_uri(old, Path("/n w/b.lif")) == "file:///n%20w/b.lif" + rest

"""What the command line says: names as they are, errors in one line, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import shapely
from typer.testing import CliRunner

from qp2train import cli
from qp2train.core.annotation import Annotation
from qp2train.qupath.project import Project

ODD = "[/] [red]x"  # what rich would take for markup


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["qp2train", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    code = stop.value.code
    assert isinstance(code, int)
    return code


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.console, "width", 200)
    project = Project.create(tmp_path / "p", classes={"[red]": (200, 0, 0)})
    project.add_image(
        tmp_path / "[b] gone.svs",
        width=10,
        height=10,
        name=ODD,
        metadata={"[/]": "[bold]1"},
        annotations=[Annotation(shapely.box(1, 1, 5, 5), "T[/]")],
    )
    shown = CliRunner().invoke(cli.app, ["info", str(tmp_path / "p")])
    assert shown.exit_code == 0, shown.output
    for text in (ODD, "[/]: [bold]1", "1 × T[/]", "■ [red]"):
        assert text in shown.output


def test_an_error_about_a_path_that_looks_like_markup_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "info", f"{tmp_path}/x[/]") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "x[/] does not exist" in said
    assert said.count("\n") == 1


def test_a_file_that_cannot_be_written_is_one_line_not_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert call(monkeypatch, "demo", "--out", str(tmp_path / "file")) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_preview_of_an_unknown_kind_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "sample", str(tmp_path / "no.yaml"), "--preview", "x.xyz") == 2
    assert ".png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--out", "."), ".parquet"),
        (("--out", "patches.xlsx"), ".parquet"),
        (("--format", "coco"), "--export"),
    ],
)
def test_what_sample_could_not_do_is_refused_before_any_work(
    asked: tuple[str, str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "sample", str(tmp_path / "no.yaml"), *asked) == 2
    assert said in capsys.readouterr().err


def test_ctrl_c_says_so_and_exits_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qp2train.qupath.open.open_project", stopped)
    assert call(monkeypatch, "info", str(tmp_path)) == 130
    assert "stopped" in capsys.readouterr().err


def test_moved_slides_are_found_by_a_map_and_written_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.console, "width", 400)
    for name in ("a", "b"):
        (tmp_path / "old" / name).mkdir(parents=True)
        (tmp_path / "old" / name / "1.svs").write_bytes(b"x")
    project = Project.create(tmp_path / "p")
    for name in ("a", "b"):
        project.add_image(tmp_path / "old" / name / "1.svs", width=10, height=10, name=f"{name}.svs")
    (tmp_path / "old").rename(tmp_path / "new")
    before = project.file.read_bytes()
    moved = ["relink", str(tmp_path / "p"), "--map", f"{tmp_path / 'old'}={tmp_path / 'new'}"]
    assert CliRunner().invoke(cli.app, ["relink", str(tmp_path / "p")]).exit_code == 1, "nothing says where they are"
    tried = CliRunner().invoke(cli.app, moved)
    assert tried.exit_code == 0, tried.output
    assert "2 moved, found; nothing was written" in tried.output
    assert project.file.read_bytes() == before
    assert "written into the project" in CliRunner().invoke(cli.app, [*moved, "--write"]).output
    assert [entry.path for entry in Project(tmp_path / "p")] == [tmp_path / "new" / n / "1.svs" for n in ("a", "b")]
    assert call(monkeypatch, "relink", str(tmp_path / "p"), "--map", "nowhere") == 2
    assert "OLD=NEW" in capsys.readouterr().err


def test_the_check_up_as_json_is_nothing_but_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    project = Project.create(tmp_path / "p")
    project.add_image(tmp_path / "gone.svs", width=10, height=10)
    shown = CliRunner().invoke(cli.app, ["info", str(tmp_path / "p"), "--json"])
    data = json.loads(shown.stdout)
    assert shown.exit_code == 0
    assert [f["kind"] for f in data["findings"]] == ["slide-missing"]
    assert data["backend"] == "java-free"
    assert CliRunner().invoke(cli.app, ["info", str(tmp_path / "p"), "--strict"]).exit_code == 1


def test_without_qupath_the_paquo_backend_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "paquo", None)
    Project.create(tmp_path / "p")
    assert call(monkeypatch, "info", str(tmp_path / "p"), "--backend", "paquo") == 1
    assert "PAQUO_QUPATH_DIR" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [False, True])
def test_a_pipe_without_letters_for_a_name_stops_nothing(tmp_path: Path, as_json: bool) -> None:
    """Windows' redirected output is not UTF-8; names of classes and slides are what people chose."""
    project = Project.create(tmp_path / "p")
    drawn = [Annotation(shapely.box(0, 0, 9, 9), "腫瘍 😀")]
    project.add_image(tmp_path / "スライド.svs", width=100, height=100, annotations=drawn)
    start = "import sys; from qp2train.cli import main; main()"
    command = [sys.executable, "-c", start, "info", str(tmp_path / "p"), *["--json"] * as_json]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "cp1252"}, check=False)
    assert done.returncode == 0, done.stderr
    if as_json:
        assert json.loads(done.stdout)["images"][0]["name"] == "スライド.svs"
    else:
        assert rb"\u30b9" in done.stdout

"""`qp2train serve`: what it says, what it refuses, how it ends; and which packages it needs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from servestubs import blank
from typer.testing import CliRunner

from qp2train import cli
from qp2train.errors import Qp2trainError, ServeError
from qp2train.refine.fallback import ColourModel
from qp2train.serve.models import Models

TOKEN = "a-token-of-20-chars~"
RUN = [sys.executable, "-c", "from qp2train.cli import main; main()", "serve", "--port", "0"]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "QP2TRAIN_TOKEN": TOKEN, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    with subprocess.Popen(RUN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        process.kill()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_it_says_what_to_enter_in_quPath_answers_there_and_ends_with_ctrl_c(started: subprocess.Popen[str]) -> None:
    said = [started.stdout.readline().strip() for _ in range(4)]
    assert said[0] == "models: colours (colours alone)"
    address = said[2].removeprefix("for QuPath's SAM extension, as server: ")
    assert address.startswith("http://localhost:")
    assert address.endswith(f"/t/{TOKEN}/sam/")
    body = {"type": "vit_h", "b64img": blank(), "bbox": [5, 5, 30, 30]}
    assert httpx.post(address.replace("localhost", "127.0.0.1"), json=body, timeout=30).status_code == 200
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=20)
    assert started.returncode == 0, errors
    assert "Traceback" not in errors
    assert TOKEN not in errors


def refused(*arguments: str) -> str:
    outcome = CliRunner().invoke(cli.app, ["serve", *arguments])
    assert isinstance(outcome.exception, Qp2trainError), outcome.output
    return str(outcome.exception)


def test_what_it_refuses(tmp_path: Path) -> None:
    assert "give --token" in refused("--host", "0.0.0.0")
    assert "there is no model at" in refused(str(tmp_path / "nothing"))
    assert "no QuPath project" in refused("--project", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Give another --port" in refused("--port", str(taken.getsockname()[1]))
    assert "cannot listen on" in refused("--host", "192.0.2.1", "--token", TOKEN)


def test_models_are_named_after_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader itself is tested where models are; here any file is a model."""
    monkeypatch.setattr("qp2train.serve.models.load_prompt_model", lambda path: ColourModel())
    (tmp_path / "glands-3" / "model").mkdir(parents=True)
    (tmp_path / "sam_vit_b.pth").touch()
    given = [tmp_path / "glands-3", tmp_path / "glands-3" / "model", tmp_path / "sam_vit_b.pth"]
    urls = [served.url for served in Models.load(given)]
    assert urls == ["run:glands-3", "run:glands-3-2", "run:sam_vit_b", "run:colours"]


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from qp2train.serve.run import run_server\n"
        "try: run_server()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert (
        said.strip() == f'{ServeError.__name__} the server needs the package {package}: pip install "qp2train[serve]"'
    )


def test_the_library_and_its_command_line_load_no_server() -> None:
    code = (
        "import sys, qp2train, qp2train.cli, qp2train.serve; print({'fastapi', 'uvicorn', 'torch'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"

"""The command line: one verb per station of the way, each thin over the Python API."""

from __future__ import annotations

import io
import sys

from rich.console import Console
from rich.markup import escape

from qp2train.cli import projects, recipes, serving
from qp2train.cli.app import app
from qp2train.cli.show import console
from qp2train.errors import Qp2trainError

INTERRUPTED = 130  # what typer exits with after Ctrl-C


def main() -> None:
    """Run the command line; errors of ours and of the file system are one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe in Windows' own encoding has no letter for every class name
            stream.reconfigure(errors="backslashreplace")
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        app(standalone_mode=True)
    except Qp2trainError as error:
        stderr.print(f"[red]error:[/] {escape(str(error))}")
        sys.exit(1)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        stderr.print(f"[red]error:[/] {escape(said)}")
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            stderr.print("stopped; what was being written has been left as it was")
        raise


__all__ = ["app", "console", "main", "projects", "recipes", "serving"]

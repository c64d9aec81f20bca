"""The verb that listens: serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qp2train.cli.app import app
from qp2train.cli.options import Roots
from qp2train.cli.show import say

if TYPE_CHECKING:
    from qp2train.serve.models import Models


@app.command(epilog="Example: [bold]qp2train serve runs/glands --project liver/project.qpproj[/]")
def serve(
    runs: Annotated[list[Path] | None, typer.Argument(help="Runs, model folders or checkpoints that answer.")] = None,
    project: Annotated[
        Path | None, typer.Option(help="Whose slides can be prompted from the page and by programs.")
    ] = None,
    image_root: Roots = None,
    host: Annotated[str, typer.Option(help="The address to listen on; all but this computer's own need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0 = any free one.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="QP2TRAIN_TOKEN", help="What whoever asks must know: 16 letters and digits.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Requests that are worked on at the same time.")] = 2,
    queue: Annotated[int, typer.Option(help="Requests that may wait or be worked on.")] = 64,
    seconds: Annotated[float, typer.Option(help="How long a request may take.")] = 120.0,
    body_mib: Annotated[float, typer.Option(help="The longest request, in MiB.")] = 64.0,
    image_mpx: Annotated[float, typer.Option(help="The largest image, in megapixels.")] = 16.0,
    cache_mib: Annotated[float, typer.Option(help="Memory for views that were looked at, in MiB.")] = 1024.0,
) -> None:
    """Answer clicks, boxes and masks: for QuPath's SAM extension, for programs, and on a page to try.

    Ends with Ctrl-C. Without a run colours alone answer. What to enter in QuPath is in docs/serve.md.
    """
    from qp2train.serve.run import run_server
    from qp2train.serve.settings import Settings

    settings = Settings(
        host=host,
        port=port,
        token=token,
        threads=threads,
        queue=queue,
        seconds=seconds,
        body_bytes=int(body_mib * (1 << 20)),
        image_px=int(image_mpx * 1e6),
        cache_bytes=int(cache_mib * (1 << 20)),
    )

    def ready(address: str, models: Models) -> None:
        said = (f"{one.name} (colours alone)" if one.fallback else one.name for one in models)
        say(f"models: {', '.join(said)}")
        say(f"page: {address}")
        say(f"for QuPath's SAM extension, as server: {address}sam/")
        say("stop with Ctrl-C")

    run_server(runs or (), project=project, image_roots=image_root or [], settings=settings, ready=ready)

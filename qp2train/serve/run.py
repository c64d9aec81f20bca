"""run_server: listen until told to stop."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from qp2train.errors import ServeError
from qp2train.serve.settings import Settings

if TYPE_CHECKING:
    from qp2train.serve.models import Models

# Beyond so many connections the answer is 503 before anything is read.
_CONNECTIONS = 512


def run_server(
    runs: Iterable[str | PathLike[str]] = (),
    *,
    project: str | PathLike[str] | None = None,
    image_roots: Iterable[str | Path] = (),
    settings: Settings | None = None,
    ready: Callable[[str, Models], None] | None = None,
) -> None:
    """Serve models until SIGINT or SIGTERM; then finish what is being worked on.

    Args:
        runs: Run folders, model folders or checkpoints; the training-free fallback is always there.
        project: Whose slides can be prompted from the page and by programs; None = no project.
        image_roots: Where moved slides of the project are looked for.
        settings: Address, token and limits.
        ready: Called with the server's base address, and with its models, before the first request.

    Raises:
        ServeError: A package is missing, or the address is taken.
        PromptError: A run holds no model that answers prompts.
        NotAProjectError: `project` is none.
    """
    limits = settings or Settings()
    try:
        import uvicorn

        from qp2train.serve.app import create_app
        from qp2train.serve.models import Models
        from qp2train.serve.project import ServedProject
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "uvicorn", "prometheus_client", "starlette"):
            raise
        raise ServeError(f'the server needs the package {error.name}: pip install "qp2train[serve]"') from error
    models = Models.load(runs)
    served = None if project is None else ServedProject(project, image_roots=image_roots)
    config = uvicorn.Config(
        create_app(models, settings=limits, project=served),
        log_config=None,
        access_log=False,  # it would show the token
        server_header=False,
        date_header=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=max(1, int(limits.seconds)),
        limit_concurrency=_CONNECTIONS,
        proxy_headers=False,
    )
    with contextlib.closing(listen_on(limits.host, limits.port)) as listening:
        if ready is not None:
            ready(_address(listening, limits), models)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has stopped by then, and tells whoever called it
            uvicorn.Server(config).run(sockets=[listening])


def listen_on(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 = any free one.

    Raises:
        ServeError: The address is taken, or not this computer's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        # Named as TCP: else asyncio does not send at once, and every answer waits 40 ms for the client's receipt.
        listening = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            if os.name == "posix":  # on Windows it would share the port with whoever has it
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_CONNECTIONS)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise ServeError(
            f"cannot listen on {host}:{port}: {error.strerror or error}. Give another --port or --host"
        ) from error
    return listening


def _address(listening: socket.socket, settings: Settings) -> str:
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # all addresses of this computer: nobody can open that
        host = socket.gethostname()
    host = "localhost" if settings.is_loopback else f"[{host}]" if ":" in host else host
    token = "" if settings.token is None else f"/t/{settings.token}"
    return f"http://{host}:{port}{token}/"

"""create_app: the server's parts put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse

from qp2train import __version__
from qp2train.serve.api import api_router
from qp2train.serve.encodings import Encodings
from qp2train.serve.guard import Guard
from qp2train.serve.metrics import CONTENT_TYPE, Metrics
from qp2train.serve.models import Models
from qp2train.serve.problems import add_handlers
from qp2train.serve.project import ServedProject
from qp2train.serve.samroutes import sam_router
from qp2train.serve.settings import Settings
from qp2train.serve.workers import Workers

_PAGE = Path(__file__).with_name("page")
_FILES = {"": "page.html", "page.js": "page.js", "page.css": "page.css"}


def create_app(
    models: Models | None = None, *, settings: Settings | None = None, project: ServedProject | None = None
) -> FastAPI:
    """The server as an ASGI application.

    Args:
        models: What answers; None = the training-free fallback.
        settings: Address, token and limits.
        project: Whose slides can be prompted, and where answers are saved; None = no project.
    """
    offered, limits = models or Models(), settings or Settings()
    encodings = Encodings(limits.cache_bytes)
    workers = Workers(threads=limits.threads, queue=limits.queue, seconds=limits.seconds)
    metrics = Metrics(encodings, workers)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        workers.close()
        if project is not None:
            project.close()

    app = FastAPI(
        title="qp2train",
        version=__version__,
        summary="Prompted segmentation for QuPath, for programs, and to try in a browser",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages are loaded from another site
        redoc_url=None,
        redirect_slashes=False,
    )
    add_handlers(app)
    app.include_router(sam_router(offered, encodings, workers, limits))
    app.include_router(api_router(offered, encodings, workers, limits, project))

    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """Whether the server answers; needs no token."""
        return {"status": "ok"}

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def measured() -> Response:
        """Prometheus' text form."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    for path, file in _FILES.items():

        async def page(_: Request, file: str = file) -> FileResponse:
            return FileResponse(_PAGE / file)

        app.add_route(f"/{path}", page, include_in_schema=False)

    app.state.encodings, app.state.workers = encodings, workers
    app.add_middleware(Guard, settings=limits, metrics=metrics)
    return app

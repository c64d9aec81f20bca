"""Problems: whatever goes wrong, the answer is JSON with one sentence under `detail`, and never what was sent."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from qp2train.errors import ProjectError, Qp2trainError, QuPathFormatError, SlideError

log = logging.getLogger(__name__)

_SHOWN = 5


class Problem(BaseModel):
    """What was wrong, and what to do about it."""

    detail: str


_SAID = {
    400: "The request is not understood",
    413: "Too large",
    422: "A value is wrong",
    503: "Busy: come again after `Retry-After` seconds",
    504: "It took too long",
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": said} for status, said in _SAID.items()
}
PROBLEMS_OF_PROJECTS: dict[int | str, dict[str, Any]] = {
    **PROBLEMS,
    404: {"model": Problem, "description": "There is no such image"},
    409: {"model": Problem, "description": "The project or the slide cannot be used as asked"},
}


def add_handlers(app: FastAPI) -> None:
    """Answer errors of ours, of FastAPI and of pydantic in one form."""

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse({"detail": str(error.detail)}, error.status_code, dict(error.headers or {}))

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        # Not pydantic's own answer: it repeats what was sent, image included.
        found = [f"{'.'.join(map(str, e['loc'][1:])) or 'body'}: {e['msg']}" for e in error.errors()[:_SHOWN]]
        return JSONResponse({"detail": "; ".join(found)[:2000]}, 422)

    async def ours(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_of(error))

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Qp2trainError, ours)


def status_of(error: Exception) -> int:
    """409 where a project or slide is in the way, 422 where the request is wrong."""
    if isinstance(error, ProjectError | QuPathFormatError | SlideError):
        return 409
    return 422

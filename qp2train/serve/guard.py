"""Guard: who may ask and how much they may send; everything passes here before anything is parsed."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qp2train.serve.metrics import Metrics
from qp2train.serve.settings import Settings, is_loopback

log = logging.getLogger(__name__)

# All bodies that are held at the same time, in longest bodies: 50 clients with usual views need 200 MB.
_BODIES = 8
_PREFIX = re.compile(r"/t/([^/]*)(/.*)?")
_OPEN = "/health"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the token may be in the path
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Refused(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, said: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(said)
        self.status, self.headers = status, dict(headers or {})


class Guard:
    """ASGI middleware: Host, Origin, token, body limit, security headers, metrics and log.

    Args:
        app: What comes after.
        settings: The limits.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there is no websocket here
            await send({"type": "websocket.close", "code": 1008})
            return
        began, status, held = time.perf_counter(), 500, 0
        scope = dict(scope)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._admit(scope)
            body = await self._body(scope, receive)
            held = len(body)
            await self._app(scope, _replayed(body, receive), answer)
        except Refused as refused:
            response = JSONResponse({"detail": str(refused)}, refused.status, refused.headers)
            await response(scope, receive, answer)
        finally:
            self._held -= held
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            seconds = time.perf_counter() - began
            self._metrics.count(route, method, status, seconds)
            log.info("%s %s %d %.3f s", method, route, status, seconds)

    def _admit(self, scope: Scope) -> None:
        """Check who asks, and take the token out of the path."""
        headers, token = Headers(scope=scope), self._settings.token
        host = headers.get("host", "")
        if token is None and not is_loopback(_hostname(host)):
            # A page of another site can make a browser take its name for this computer's.
            raise Refused(421, "this server answers to localhost and 127.0.0.1 only; with --token to any name")
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            raise Refused(403, "pages of other sites may not ask this server")
        given = headers.get("authorization", "").partition(" ")
        knows = given[0].lower() == "bearer" and _same(given[2].strip(), token)
        if (prefix := _PREFIX.fullmatch(scope["path"])) is not None:
            knows = knows or _same(prefix[1], token)
            if prefix[2] is None and knows:  # the page's links are relative
                raise Refused(307, "a slash is missing at the end", {"location": f"{scope['path']}/"})
            scope["path"] = prefix[2] or "/"
            scope["raw_path"] = scope["path"].encode("utf-8", "surrogateescape")
        if token is not None and not knows and scope["path"] != _OPEN:
            said = "a token is needed: a header `Authorization: Bearer TOKEN`, or /t/TOKEN before the path"
            raise Refused(401, said, {"www-authenticate": "Bearer"})

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The body, counted while it comes: a length that is announced may be missing or wrong."""
        most = self._settings.body_bytes
        length = Headers(scope=scope).get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > most:
            raise Refused(413, _too_long(most), {"connection": "close"})
        chunks, size = list[bytes](), 0
        try:
            async with asyncio.timeout(self._settings.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "the connection ended before the request did")
                    chunk = message.get("body", b"")
                    size, self._held = size + len(chunk), self._held + len(chunk)
                    chunks.append(chunk)
                    if size > most:
                        raise Refused(413, _too_long(most), {"connection": "close"})
                    if self._held > _BODIES * most:
                        raise Refused(503, "the server is busy: too much is being sent", {"retry-after": "2"})
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError as error:
            self._held -= size
            said = f"the request did not arrive within {self._settings.seconds:g} s"
            raise Refused(408, said, {"connection": "close"}) from error
        except Refused:
            self._held -= size
            raise


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _same(given: str, token: str | None) -> bool:
    """Compared in constant time."""
    return token is not None and hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


def _hostname(host: str) -> str:
    """Of "localhost:8000", "[::1]:8000"."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _too_long(most: int) -> str:
    return f"the request is longer than {most / (1 << 20):g} MiB: send a smaller view, or raise --body-mib"

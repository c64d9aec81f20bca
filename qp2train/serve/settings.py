"""Settings: where the server listens, who may ask, and how much one request may cost."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from qp2train.errors import ServeError

# What fits into an URL as it is; 16 of these are 95 bits.
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,}")
_MOST_PIXELS = 1 << 31


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server is run.

    Args:
        host: The address to listen on. Any other than the computer's own (loopback) needs a token.
        port: 0 = any free one.
        token: What whoever asks has to know: 16 letters, digits or any of "._~-" at least.
        body_bytes: The longest body of a request.
        image_px: The most pixels of an image or mask that is sent.
        region_px: The longest side of a region that is shown of a slide.
        threads: How many requests are worked on at the same time.
        queue: How many requests may wait or be worked on; further ones are told to come again.
        seconds: How long a request may take, waiting included.
        cache_bytes: How much memory views that a model has looked at may take, all together.

    Raises:
        ServeError: A value is out of its range, or the server would be open to everyone.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    body_bytes: int = 64 << 20
    image_px: int = 16_000_000
    region_px: int = 2048
    threads: int = 2
    queue: int = 64
    seconds: float = 120.0
    cache_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise ServeError("a token is 16 or more letters, digits or . _ ~ -; `openssl rand -hex 16` makes one")
        if self.token is None and not self.is_loopback:
            raise ServeError(
                f"on {self.host} everybody in the network could ask: give --token, or stay on 127.0.0.1 and reach the "
                "server through an ssh tunnel"
            )
        if not 0 <= self.port <= 65535:
            raise ServeError(f"a port is a number from 0 to 65535, not {self.port}")
        for name in ("body_bytes", "image_px", "region_px", "threads", "queue", "seconds"):
            if not 0 < getattr(self, name) < _MOST_PIXELS:
                raise ServeError(f"{name} must be above 0 and below 2^31, not {getattr(self, name)}")
        if self.cache_bytes < 0:
            raise ServeError(f"cache_bytes must not be below 0, not {self.cache_bytes}")

    @property
    def is_loopback(self) -> bool:
        """Whether only this computer can ask."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this computer's own: localhost, 127.0.0.0/8, ::1."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False

"""Workers: a few threads and a queue of a fixed length, so that the server stays responsive whatever is asked."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fastapi import HTTPException

T = TypeVar("T")

_AGAIN_S = 2


class Workers:
    """Runs what takes time beside the event loop.

    Args:
        threads: How many pieces of work run at the same time.
        queue: How many may wait or run.
        seconds: How long one may take, waiting included.
    """

    def __init__(self, *, threads: int, queue: int, seconds: float) -> None:
        self.queue, self.seconds = queue, seconds
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="qp2train-serve")
        self._lock = threading.Lock()
        self._held = 0

    @property
    def held(self) -> int:
        """How much waits or runs now."""
        return self._held

    async def run(self, work: Callable[[], T]) -> T:
        """The work's result.

        Raises:
            HTTPException: 503 = the queue is full, 504 = it took too long. Work that was begun is finished, and holds
                its place in the queue until then.
        """
        with self._lock:
            if self._held >= self.queue:
                said = f"the server is busy: {self.queue} requests are waiting or worked on; try again in a moment"
                raise HTTPException(503, said, headers={"Retry-After": str(_AGAIN_S)})
            self._held += 1
        try:
            future = self._pool.submit(work)
        except RuntimeError as error:  # it is being shut down
            self._release()
            raise HTTPException(503, "the server is stopping", headers={"Retry-After": str(_AGAIN_S)}) from error
        future.add_done_callback(self._release)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.seconds)
        except TimeoutError as error:
            if future.done() and not future.cancelled():  # the work itself gave up
                raise HTTPException(504, str(error) or self._too_slow) from error
            raise HTTPException(504, self._too_slow) from error

    def close(self) -> None:
        """Finish what is being worked on, a write into a project above all; drop what waits."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def _too_slow(self) -> str:
        return (
            f"not done within {math.ceil(self.seconds)} s: ask for less (a smaller view, fewer points per side), or "
            "start the server with a larger --seconds"
        )

    def _release(self, _: Future[T] | None = None) -> None:
        with self._lock:
            self._held -= 1

"""Models whose answers are known, servers that listen, and pictures as they are sent."""

from __future__ import annotations

import base64
import contextlib
import io
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from qp2train.refine.prompts import BitMask, Candidate, Prompt
from qp2train.serve.run import listen_on


class StubView:
    def __init__(self, model: StubModel, image: np.ndarray) -> None:
        self.model, self.size = model, image.shape[:2]

    def predict(self, prompt: Prompt) -> list[Candidate]:
        self.model.asked.append(prompt)
        if self.model.wait:
            self.model.wait.wait(30)
        prompt.within(*self.size)
        if self.model.masks is not None:
            return [Candidate(mask, iou) for mask, iou in self.model.masks]
        return [Candidate(self._pointed_at(prompt), 0.9)]

    def _pointed_at(self, prompt: Prompt) -> BitMask:
        """The box, the mask, or 10 pixels round the last click."""
        mask = np.zeros(self.size, np.bool_)
        if prompt.box is not None:
            left, top, right, bottom = (int(np.clip(v, 0, 1 << 30)) for v in prompt.box)
            mask[top:bottom, left:right] = True
        elif prompt.mask is not None:
            mask = prompt.mask.copy()
        elif prompt.points:
            x, y = (int(v) for v in prompt.points[-1])
            mask[max(0, y - 5) : max(0, y + 5), max(0, x - 5) : max(0, x + 5)] = True
        return mask


class StubModel:
    """Answers with given masks, or with what the prompt itself says; keeps what it was asked."""

    def __init__(self, masks: Sequence[tuple[BitMask, float]] | None = None, *, id: str = "stub-1") -> None:
        self.masks, self.id = masks, id
        self.images: list[np.ndarray] = []
        self.asked: list[Prompt] = []
        self.wait: threading.Event | None = None
        self.slow_encode = 0.0

    def encode(self, image: np.ndarray) -> StubView:
        self.images.append(image)
        time.sleep(self.slow_encode)
        return StubView(self, image)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def file_of(image: Image.Image, format: str = "PNG", **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **how)
    return file.getvalue()


def png(array: np.ndarray) -> str:
    return b64(file_of(Image.fromarray(array)))


def blank(height: int = 40, width: int = 60, value: int = 200) -> str:
    return png(np.full((height, width, 3), value, np.uint8))


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """A live server on a free port of this computer; its base address."""
    with listen_on("127.0.0.1", 0) as open_socket:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [open_socket]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield f"http://127.0.0.1:{open_socket.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()

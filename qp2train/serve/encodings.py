"""Encodings: views that a model has looked at, kept for the next prompts; equal ones are looked at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from qp2train.refine.prompts import EncodedView

_MAX_DEPTH = 4


@dataclass(frozen=True)
class Looked:
    """A view that a model has looked at.

    Args:
        view: Answers prompts.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        nbytes: What keeping it costs, roughly.
    """

    view: EncodedView
    height: int
    width: int
    nbytes: int

    @classmethod
    def of(cls, view: EncodedView, *, height: int, width: int) -> Looked:
        """With what its arrays take, and as much as the image at least."""
        return cls(view, height, width, max(held_bytes(view), 3 * height * width))


class Encodings:
    """Encoded views by key; when the memory is full, the least recently used go first.

    For threads: whoever asks for what another is making waits for it.

    Args:
        max_bytes: What all kept views may take. One that is larger alone is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = self.misses = self.nbytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Looked] = OrderedDict()
        self._coming: dict[Hashable, Future[Looked]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, look: Callable[[], Looked]) -> Looked:
        """The view of a key; `look` is called if nobody has looked or is looking. Its errors go to all who wait."""
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                self.hits += 1
                return kept
            coming = self._coming.get(key)
            if coming is None:
                mine = self._coming[key] = Future()
                self.misses += 1
            else:
                self.hits += 1
        if coming is not None:
            return coming.result()
        try:
            made = look()
        except BaseException as error:
            with self._lock:
                del self._coming[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._coming[key]
            self._keep(key, made)
        mine.set_result(made)
        return made

    def _keep(self, key: Hashable, made: Looked) -> None:
        if made.nbytes > self.max_bytes:
            return
        self._kept[key] = made
        self.nbytes += made.nbytes
        while self.nbytes > self.max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= oldest.nbytes


def held_bytes(thing: object, depth: int = 0) -> int:
    """Bytes of the arrays and tensors that an object holds, also in lists, mappings and objects inside of it.

    An object with the attribute `nbytes` says it itself. Depth is limited: networks are shared, and held once.
    """
    said = getattr(thing, "nbytes", None)
    if isinstance(said, int):
        return said
    if depth >= _MAX_DEPTH or thing is None or isinstance(thing, str | bytes | int | float):
        return 0
    inside: Iterable[object] = ()
    if isinstance(thing, Mapping):
        inside = thing.values()
    elif isinstance(thing, list | tuple):
        inside = thing
    elif hasattr(thing, "__dict__") and not callable(thing):
        inside = vars(thing).values()
    return sum(held_bytes(part, depth + 1) for part in inside)

"""OpenSlides: a few slides held open, since opening one takes longer than reading a view of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from qp2train.qupath.entry import ImageEntry
from qp2train.qupath.folder import FolderEntry
from qp2train.slides import Slide

_OPEN = 4


@dataclass
class _Held:
    slide: Slide
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class OpenSlides:
    """The slides that were used last stay open. One thread at a time reads a slide.

    Args:
        most: How many stay open.
    """

    def __init__(self, most: int = _OPEN) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._held: OrderedDict[str, _Held] = OrderedDict()

    @contextmanager
    def of(self, entry: ImageEntry | FolderEntry, project: Path) -> Iterator[Slide]:
        """An entry's slide, for as long as the block lasts; opened anew where it or the project's file has changed.

        Raises:
            SlideError, ProjectError: As `entry.slide()`.
        """
        key = f"{entry.id} {_stamp(entry.path)} {_stamp(project)}"
        with self._lock:
            held = self._held.get(key)
            if held is None:
                held = self._held[key] = _Held(entry.slide())
            self._held.move_to_end(key)
            held.users += 1
            self._close_idle(self.most)
        try:
            with held.lock:
                yield held.slide
        finally:
            with self._lock:
                held.users -= 1
                self._close_idle(self.most)

    def close(self) -> None:
        """Close all that nobody uses."""
        with self._lock:
            self._close_idle(0)

    def _close_idle(self, most: int) -> None:
        idle = [key for key, held in self._held.items() if held.users == 0]
        for key in idle[: max(0, len(self._held) - most)]:
            self._held.pop(key).slide.close()


def _stamp(file: Path | None) -> str:
    """What changes with a file."""
    if file is None or not file.exists():
        return "-"
    found = file.stat()
    return f"{found.st_mtime_ns}-{found.st_size}"

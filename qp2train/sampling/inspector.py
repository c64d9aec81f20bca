"""Pictures that teach nothing: blank, blurred, marked with a pen, or seen before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from qp2train.slides.slide import RGB

Fault = Literal["blank", "blur", "pen", "duplicate"]


class Memory(Protocol):
    """Remembers pictures."""

    def seen(self, picture: RGB) -> bool:
        """Whether a picture much like this one came before; it is remembered."""


class Inspector:
    """Judges patches by their pictures and counts what it refuses.

    Args:
        reject: What is refused. A patch with several faults counts for the first of them.
        mpp: µm per pixel of the pictures.
        faults: As `qp2train.slides.quality.faults`.
        memory: As `qp2train.slides.quality.Duplicates`, for all slides together.
    """

    def __init__(
        self, reject: Sequence[Fault], *, mpp: float, faults: Callable[..., frozenset[str]], memory: Memory
    ) -> None:
        self.reject, self.mpp = tuple(dict.fromkeys(reject)), mpp
        self.rejected: Counter[str] = Counter(dict.fromkeys(self.reject, 0))
        self._faults, self._memory = faults, memory
        self._by_picture = [f for f in self.reject if f != "duplicate"]

    def refuses(self, picture: RGB) -> bool:
        """Whether a patch is left out. One that is left out for another fault is not remembered."""
        found = self._faults(picture, mpp=self.mpp) if self._by_picture else frozenset()
        fault: Fault | None = next((f for f in self._by_picture if f in found), None)
        if fault is None and "duplicate" in self.reject and self._memory.seen(picture):
            fault = "duplicate"
        if fault is not None:
            self.rejected[fault] += 1
        return fault is not None

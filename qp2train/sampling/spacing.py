"""A least distance between the patch centres of one slide."""

from __future__ import annotations

import math


class Spacing:
    """Remembers centres, in cells as wide as the distance, so that only nine of them are looked at.

    Args:
        distance: In full-resolution pixels; 0 = any.
    """

    def __init__(self, distance: float) -> None:
        self.distance = distance
        self._cells: dict[tuple[int, int], list[tuple[float, float]]] = {}

    def allows(self, x: float, y: float) -> bool:
        """Whether every centre so far is at least the distance away."""
        if self.distance <= 0:
            return True
        column, row = self._cell(x, y)
        return not any(
            math.hypot(x - other_x, y - other_y) < self.distance
            for i in (column - 1, column, column + 1)
            for j in (row - 1, row, row + 1)
            for other_x, other_y in self._cells.get((i, j), ())
        )

    def add(self, x: float, y: float) -> None:
        if self.distance > 0:
            self._cells.setdefault(self._cell(x, y), []).append((x, y))

    def _cell(self, x: float, y: float) -> tuple[int, int]:
        return math.floor(x / self.distance), math.floor(y / self.distance)

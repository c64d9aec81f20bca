"""Traced numbers: what a report shows, with the place in a JSON file that it comes from.

A place is written FILE#POINTER, where the pointer is a JSON pointer (RFC 6901): metrics.json#/pooled/dice/Tumor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

Style = Literal["score", "share", "count", "size", "percent"]
MISSING = Markup('<span class="missing" title="could not be computed">–</span>')


def pointer(file: str, *path: str | int) -> str:
    """FILE#/a/b, with "~" and "/" inside a key written as RFC 6901 says."""
    keys = (str(key).replace("~", "~0").replace("/", "~1") for key in path)
    return f"{file}#" + "".join(f"/{key}" for key in keys)


@dataclass(frozen=True)
class Traced:
    """The files that a report is made of.

    Args:
        files: File name → its plain data.
    """

    files: Mapping[str, Any]

    def get(self, file: str, *path: str | int) -> Any:
        """What stands at a place; None if there is no such place."""
        found: Any = self.files.get(file)
        for key in path:
            if isinstance(found, Mapping):
                found = found.get(str(key))
            elif isinstance(found, Sequence) and not isinstance(found, str) and isinstance(key, int):
                found = found[key] if 0 <= key < len(found) else None
            else:
                return None
        return found

    def number(self, file: str, *path: str | int, style: Style = "score") -> Markup:
        """The number at a place as HTML that names the place; a dash if it is null or not there.

        Args:
            file: Which file.
            path: Keys and indices.
            style: "score" = three decimals, "share" = 0–1 in per cent, "percent" = likewise without decimals,
                "count" = whole, "size" = three significant digits.
        """
        value = self.get(file, *path)
        if not _is_number(value):
            return MISSING
        return Markup('<span class="n" data-source="{}">{}</span>').format(pointer(file, *path), shown(value, style))

    def row_share(self, file: str, *path: str | int) -> Markup:
        """A number of a list as its share of the list's sum, in per cent."""
        value, row = self.get(file, *path), self.get(file, *path[:-1])
        total = sum(v for v in row or () if _is_number(v))
        if not _is_number(value) or total <= 0:
            return MISSING
        return Markup('<span class="n" data-source="{}" data-over="{}">{}</span>').format(
            pointer(file, *path), pointer(file, *path[:-1]), shown(value / total, "share")
        )


def shown(value: float, style: Style) -> str:
    """A number as text."""
    match style:
        case "score":
            return f"{value:.3f}"
        case "share":
            return f"{100 * value:.1f} %"
        case "percent":
            return f"{100 * value:.0f} %"
        case "count":
            return f"{round(value):,}"
        case "size":
            # Three significant digits, but never fewer than the whole ones.
            decimals = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
            return f"{value:,.{min(decimals, 6)}f}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

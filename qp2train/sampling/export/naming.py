"""Names of patches, `<slide>_x<left>_y<top>_<class>[_<ROI name>]`, that every file system and tool takes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# In bytes: most file systems allow 255 for a name with its ending, those with encrypted names 143.
SLIDE_BYTES, CLASS_BYTES, ROI_BYTES = 56, 24, 32
# Names that Windows keeps for devices, with any ending.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)


def safe(text: str, most_bytes: int) -> str:
    """`text` with only letters, digits and marks of any script, "+" and "-"; what lies between becomes one "_".

    No dot is left, since WebDataset takes what follows the first one for the file's kind. Letters are kept, not
    transliterated: of a Japanese name nothing would remain.
    """
    composed = unicodedata.normalize("NFC", text)
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c in "+-" else "_" for c in composed)
    short = re.sub("_+", "_", kept).strip("_-").encode()[:most_bytes].decode(errors="ignore").rstrip("_-")
    return f"_{short}" if _RESERVED.fullmatch(short) else short


def patch_name(slide: str, x: float, y: float, label: str, roi: str = "") -> str:
    """The name of a patch at (x, y), full-resolution px, rounded; of a slide's name the ending is left out."""
    stem = re.sub(r"(\.ome)?\.[A-Za-z0-9]{1,7}$", "", slide)
    parts = [
        safe(stem, SLIDE_BYTES) or "slide",
        f"x{round(x)}",
        f"y{round(y)}",
        safe(label, CLASS_BYTES) or "unlabelled",
    ]
    return "_".join([*parts, *([safe(roi, ROI_BYTES)] if safe(roi, ROI_BYTES) else [])])


def distinct(names: Iterable[str]) -> list[str]:
    """The names; one that was there before, in whatever case, gets a number: "-2", "-3"."""
    taken: set[str] = set()
    last: dict[str, int] = {}
    found = []
    for name in names:
        key, one = name.casefold(), name
        while one.casefold() in taken:
            last[key] = last.get(key, 1) + 1
            one = f"{name}-{last[key]}"
        taken.add(one.casefold())
        found.append(one)
    return found

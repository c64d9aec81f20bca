"""Image URIs: what they mean as paths, and where a moved slide may be now.

Source: qupath.lib.common.GeneralTools.toPath and qupath.lib.projects' UriUpdater.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple
from urllib.parse import quote, unquote

_DRIVE = re.compile(r"/[A-Za-z]:(/|$)")
_SEARCH_DEPTH = 4  # folders, as QuPath searches

STORED, RELATIVE, BY_NAME, NOT_FOUND = "stored uri", "relative to project", "by name in project folder", "not found"


def uri_to_path(uri: str, *, windows: bool = os.name == "nt") -> PurePosixPath | PureWindowsPath | None:
    """The path that a `file:` URI names, as QuPath reads it on this system; None if it names none.

    Both escaped (%C3%BC) and raw (ü) letters are understood; `?query` and `#fragment` (Bio-Formats series) are
    dropped. `file:/C:/x` is a drive on Windows and the literal path /C:/x elsewhere.
    """
    match = re.match(r"(?i)file:(//[^/?#]+)?(/[^?#]*)", uri)
    if match is None or match[1]:  # another scheme, no scheme, or a host: file://server/share
        return None
    path = re.sub("^///?(?!/)", "/", match[2]) if not match[2].startswith("////") else match[2][2:]
    path = unquote(path)
    if not windows:
        return PurePosixPath("/" + path.lstrip("/"))
    return PureWindowsPath(path[1:] if _DRIVE.match(path) else path)


def path_to_uri(path: Path) -> str:
    """The URI of an image, as QuPath 0.6 stores it (`file:///…`, UTF-8 escaped)."""
    return path.absolute().as_uri()


def project_uri(path: Path) -> str:
    """The URI of a project file, in the form of Java's File.toURI (`file:/…`, letters raw, reserved escaped)."""
    text = path.absolute().as_posix()
    escaped = "".join(quote(c, safe="/:!$&'()*+,;=@~") if c.isascii() else c for c in text)
    return "file:" + ("" if escaped.startswith("/") else "/") + escaped


def file_name(uri: str) -> str:
    """The last segment of any URI or path, decoded, without query and fragment; "" if there is none."""
    path = re.split(r"[?#]", uri, maxsplit=1)[0] if ":" in uri[:8] else uri
    return unquote(re.split(r"[/\\]", path)[-1]) if "%" in path else re.split(r"[/\\]", path)[-1]


class Located(NamedTuple):
    """Where a slide is, how it was found, and every place looked at until then."""

    path: Path | None
    how: str
    looked: tuple[str, ...]


@dataclass
class Locator:
    """Finds slides: at the stored URI, relative to the project, by name in its folder, then in `image_roots`.

    Args:
        folder: Where the project is now.
        previous: The URI of the project file at its last save; None if unknown.
        image_roots: Folders to search for moved slides.
    """

    folder: Path
    previous: str | None = None
    image_roots: Sequence[Path] = ()
    _indexes: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)

    def locate(self, uri: str) -> Located:
        """Look for an image's file.

        Where several files of its name exist, the one whose folders agree best wins; if two agree equally, none is
        taken: the wrong slide would be worse than none.
        """
        looked: list[str] = []
        stored = uri_to_path(uri)
        if stored is not None:
            looked.append(str(stored))
            if (path := Path(stored)).is_file():
                return Located(path, STORED, tuple(looked))
            previous = uri_to_path(self.previous) if self.previous else None
            if previous is not None:
                try:
                    # normpath, not resolve: QuPath does not follow links here either
                    path = Path(os.path.normpath(self.folder / os.path.relpath(stored, previous.parent)))
                except ValueError:  # Windows: another drive
                    pass
                else:
                    looked.append(str(path))
                    if path.is_file():
                        return Located(path, RELATIVE, tuple(looked))
        name = file_name(uri)
        places = [(self.folder, BY_NAME), *((root, f"image_roots: {root}") for root in self.image_roots)]
        for root, how in places if name else ():
            hits = self._index(root).get(name, [])
            looked.append(f"{root} ({_SEARCH_DEPTH} levels deep{_ambiguous(hits)})")
            best = _closest(hits, stored)
            if best is not None:
                return Located(best, how, tuple(looked))
        return Located(None, NOT_FOUND, tuple(looked))

    def _index(self, root: Path) -> dict[str, list[Path]]:
        """File name → paths below a folder, hidden ones left out; made once."""
        if root not in self._indexes:
            index: dict[str, list[Path]] = {}
            for folder, folders, names in os.walk(root):
                here = Path(folder)
                deep = len(here.relative_to(root).parts) >= _SEARCH_DEPTH
                folders[:] = [] if deep else sorted(f for f in folders if not f.startswith("."))
                for name in names:
                    if not name.startswith("."):
                        index.setdefault(name, []).append(here / name)
            self._indexes[root] = index
        return self._indexes[root]


def _ambiguous(hits: Iterable[Path]) -> str:
    count = len(list(hits))
    return f"; {count} files of this name" if count > 1 else ""


def _closest(hits: list[Path], stored: PurePosixPath | PureWindowsPath | None) -> Path | None:
    if len(hits) < 2:
        return hits[0] if hits else None
    wanted = stored.parts if stored is not None else ()

    def agreement(path: Path) -> int:
        count = 0
        for ours, theirs in zip(reversed(path.parts), reversed(wanted), strict=False):
            if ours != theirs:
                break
            count += 1
        return count

    ranked = sorted(hits, key=agreement, reverse=True)
    return ranked[0] if agreement(ranked[0]) > agreement(ranked[1]) else None

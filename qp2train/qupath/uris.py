"""Image URIs: what they mean as paths, and where a moved slide may be now.

Source: qupath.lib.common.GeneralTools.toPath and qupath.lib.projects' UriUpdater.
"""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple
from urllib.parse import quote, unquote

from qp2train.errors import ProjectError

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


def check_name(path: Path) -> None:
    """Refuse a path that is no Unicode (file names in Latin-1 on Linux): neither a URI nor QuPath can name it.

    Raises:
        ProjectError: With the path.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise ProjectError(f"the name {shown} is no UTF-8, and QuPath cannot open such a file: rename it") from error


def path_to_uri(path: Path) -> str:
    """The URI of an image, as QuPath 0.6 stores it (`file:///…`, UTF-8 escaped)."""
    return path.absolute().as_uri()


def local_path(place: str | Path) -> Path:
    """A place on this computer, given as a path or as a `file:` URI."""
    path = uri_to_path(place) if isinstance(place, str) else None
    return Path(place if path is None else path).absolute()


def project_uri(path: Path) -> str:
    """The URI of a project file, in the form of Java's File.toURI (`file:/…`, letters raw, reserved escaped)."""
    text = path.absolute().as_posix()
    escaped = "".join(quote(c, safe="/:!$&'()*+,;=@~") if c.isascii() else c for c in text)
    return "file:" + ("" if escaped.startswith("/") else "/") + escaped


def file_name(uri: str) -> str:
    """The last segment of any URI or path, decoded, without query and fragment; "" if there is none."""
    path = re.split(r"[?#]", uri, maxsplit=1)[0] if ":" in uri[:8] else uri
    return unquote(re.split(r"[/\\]", path)[-1]) if "%" in path else re.split(r"[/\\]", path)[-1]


def segments(place: str) -> tuple[str, ...]:
    r"""The names in a `file:` URI or a path of any system, decoded and in Unicode's form C, so that they compare.

    "file:/C:/a%20b", "C:\a b" and "C:/a b" are the same; so are "file:////srv/share", "file://srv/share" and
    "\\srv\share". Of other URIs the scheme is the first segment.
    """
    if match := re.match(r"(?i)file:([^?#]*)", place):
        text = unquote(match[1])
    else:
        text = unquote(place) if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", place) else place
    return tuple(part for part in re.split(r"[/\\]", unicodedata.normalize("NFC", text)) if part)


def moved_uri(uri: str, path: Path) -> str:
    """The URI of a file's new place, with the `?query` or `#fragment` that says which image of the file is meant."""
    rest = re.search(r"[?#].*", uri) if uri.lower().startswith("file:") else None
    return path_to_uri(path) + (rest[0] if rest else "")


class Located(NamedTuple):
    """Where a slide is, how it was found, and every place looked at until then."""

    path: Path | None
    how: str
    looked: tuple[str, ...]


@dataclass
class Locator:
    """Finds slides: by the user's map, at the stored URI, relative to the project, by name there and in `image_roots`.

    Args:
        folder: Where the project is now.
        previous: The URI of the project file at its last save; None if unknown.
        image_roots: Folders to search for moved slides.
        uri_map: Where a folder or a file was (URI or path of any system) → where it is now. The longest that fits wins.
    """

    folder: Path
    previous: str | None = None
    image_roots: Sequence[Path] = ()
    uri_map: Mapping[str, Path] = field(default_factory=dict)
    _indexes: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)

    def locate(self, uri: str) -> Located:
        """Look for an image's file.

        Where several files of its name exist, the one whose folders agree best wins; if two agree equally, none is
        taken: the wrong slide would be worse than none.
        """
        looked: list[str] = []
        for old, path in self._mapped(uri):
            looked.append(str(path))
            if found := _existing(path):
                return Located(found, f"uri_map: {old}", tuple(looked))
        stored = uri_to_path(uri)
        if stored is not None:
            looked.append(str(stored))
            if found := _existing(Path(stored)):
                return Located(found, STORED, tuple(looked))
        candidate = self._relative(uri)
        if candidate is not None and str(candidate) not in looked:
            looked.append(str(candidate))
            if found := _existing(candidate):
                return Located(found, RELATIVE, tuple(looked))
        name = unicodedata.normalize("NFC", file_name(uri))
        places = [(self.folder, BY_NAME), *((root, f"image_roots: {root}") for root in self.image_roots)]
        for root, how in places if name else ():
            hits = self._index(root).get(name, [])
            looked.append(f"{root} ({_SEARCH_DEPTH} levels deep{_ambiguous(hits)})")
            best = _closest(hits, segments(uri))
            if best is not None:
                return Located(best, how, tuple(looked))
        return Located(None, NOT_FOUND, tuple(looked))

    def _mapped(self, uri: str) -> list[tuple[str, Path]]:
        """(what was mapped, where the file should be) of every entry of the map that fits, the longest first."""
        names = segments(uri)
        fits = []
        for old, new in self.uri_map.items():
            prefix = segments(old)
            given = names[: len(prefix)]
            # Windows does not tell A from a; where both are there, the one that agrees to the letter comes first.
            if prefix and [n.casefold() for n in given] == [n.casefold() for n in prefix]:
                fits.append((len(prefix), given == prefix, old, new.joinpath(*names[len(prefix) :])))
        return [(old, path) for *_, old, path in sorted(fits, key=lambda fit: fit[:2], reverse=True)]

    def _relative(self, uri: str) -> Path | None:
        """Where a file is that moved together with the project; QuPath does not follow links here either."""
        stored, previous = _rooted(uri), _rooted(self.previous or "")
        if stored is None or previous is None or stored.anchor.lower() != previous.anchor.lower():
            return None
        return Path(os.path.normpath(self.folder / os.path.relpath(stored, previous.parent)))

    def _index(self, root: Path) -> dict[str, list[Path]]:
        """File name (in Unicode's form C) → paths below a folder, hidden ones left out; made once."""
        if root not in self._indexes:
            index: dict[str, list[Path]] = {}
            for folder, folders, names in os.walk(root):
                here = Path(folder)
                deep = len(here.relative_to(root).parts) >= _SEARCH_DEPTH
                folders[:] = [] if deep else sorted(f for f in folders if not f.startswith("."))
                for name in names:
                    if not name.startswith("."):
                        index.setdefault(unicodedata.normalize("NFC", name), []).append(here / name)
            self._indexes[root] = index
        return self._indexes[root]


def _ambiguous(hits: Iterable[Path]) -> str:
    count = len(list(hits))
    return f"; {count} files of this name" if count > 1 else ""


def _existing(path: Path) -> Path | None:
    """The file of this name, whichever of Unicode's forms its letters have: macOS takes ü apart, others do not."""
    for form in ("", "NFC", "NFD"):
        spelt = Path(unicodedata.normalize(form, str(path))) if form else path  # type: ignore[arg-type]
        with contextlib.suppress(OSError, ValueError):  # a name too long, or with a zero in it: there is no such file
            if spelt.is_file():
                return spelt
    return None


def _rooted(uri: str) -> PurePosixPath | PureWindowsPath | None:
    """As `uri_to_path`, but a share (file://server/share) counts as below the root, and drives are in upper case."""
    uri = re.sub(r"(?i)^(file:/+)([a-z])(?=:)", lambda match: match[1] + match[2].upper(), uri)
    share = re.match(r"(?i)file://[^/?#]", uri)
    return uri_to_path("file:////" + uri[7:] if share else uri)


def _closest(hits: list[Path], wanted: Sequence[str]) -> Path | None:
    if len(hits) < 2:
        return hits[0] if hits else None

    def agreement(path: Path) -> int:
        count = 0
        for ours, theirs in zip(reversed(segments(str(path))), reversed(wanted), strict=False):
            if ours != theirs:
                break
            count += 1
        return count

    ranked = sorted(hits, key=agreement, reverse=True)
    return ranked[0] if agreement(ranked[0]) > agreement(ranked[1]) else None

"""Where the images of a project are now, and writing that into the project as QuPath's "Update URIs" does.

Source: qupath.lib.io.UriUpdater, qupath.lib.images.servers.ImageServers (updateURIs).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qp2train.errors import QuPathFormatError
from qp2train.qupath.qpproj import read_json, to_json
from qp2train.qupath.savefile import save
from qp2train.qupath.serverbuilder import uri_leaves
from qp2train.qupath.uris import STORED, Locator, moved_uri, uri_to_path


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """One file that an image is made from.

    Args:
        entry: The image's id.
        name: Its name.
        uri: As stored in the project.
        path: Where the file is; None = not found.
        how: How it was found: "stored uri", "relative to project", "by name in project folder", "image_roots: …",
            "uri_map: …" or "not found".
        looked: Every place looked at until then.
    """

    entry: str
    name: str
    uri: str
    path: Path | None
    how: str
    looked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relinked:
    """One stored URI that was, or would be, replaced.

    Args:
        entry: The image's id.
        name: Its name.
        old: The URI as stored.
        new: The URI of where the file is.
        how: How it was found.
    """

    entry: str
    name: str
    old: str
    new: str
    how: str


def locations(images: Iterable[tuple[str, str, object]], locator: Locator) -> list[ImageLocation]:
    """Look for every file of the images, given as (id, name, builder); a file that one image names twice comes once."""
    found = []
    for entry, name, builder in images:
        for uri in dict.fromkeys(leaf["uri"] for leaf in uri_leaves(builder)):
            found.append(ImageLocation(entry, name, uri, *locator.locate(uri)))
    return found


def replacements(found: Iterable[ImageLocation]) -> list[Relinked]:
    """What has to be written so that the stored URIs lead to the files; nothing for those that do, or lead nowhere."""
    new = []
    for at in found:
        # The stored name may spell ü in Unicode's other form: we find the file, QuPath does not.
        if at.path is not None and (at.how != STORED or str(at.path) != str(uri_to_path(at.uri))):
            new.append(Relinked(at.entry, at.name, at.uri, moved_uri(at.uri, at.path), at.how))
    return [one for one in new if one.new != one.old]


def relinked(images: Iterable[dict[str, Any]], changes: Iterable[Relinked]) -> list[dict[str, Any]]:
    """The project's images with new URIs; all else, and the order of keys, stays."""
    new = _by_entry(changes)
    return [
        {**image, "serverBuilder": _with_uris(image["serverBuilder"], new[str(image["entryID"])])}
        if str(image["entryID"]) in new
        else image
        for image in images
    ]


def rewrite_server_files(folder: Path, changes: Iterable[Relinked]) -> None:
    """Replace the URIs in data/<id>/server.json, whichever version's form it has. QuPath writes it, and never reads it.

    Raises:
        ProjectError: A file could not be written.
    """
    for entry, new in _by_entry(changes).items():
        path = folder / entry / "server.json"
        with contextlib.suppress(OSError, QuPathFormatError):  # absent, or garbage that nobody reads: left as it is
            old = read_json(path)
            pretty = b"\n" in path.read_bytes().strip()
            save(path, to_json(_with_uris(old, new), pretty=pretty))


def _by_entry(changes: Iterable[Relinked]) -> dict[str, dict[str, str]]:
    """Entry id → old URI → new URI."""
    new: dict[str, dict[str, str]] = {}
    for change in changes:
        new.setdefault(change.entry, {})[change.old] = change.new
    return new


def _with_uris(builder: Mapping[str, Any], new: Mapping[str, str]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(builder))
    for leaf in uri_leaves(copy):
        leaf["uri"] = new.get(leaf["uri"], leaf["uri"])
    return copy

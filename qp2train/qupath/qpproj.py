"""The JSON files of a project: project.qpproj, classes.json, summary.json, server.json.

Unknown keys and the order of keys are kept. Source: qupath.lib.projects.DefaultProject, GsonTools.
"""

from __future__ import annotations

import colorsys
import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qp2train.errors import EntryChangedError, NotAProjectError, QuPathFormatError
from qp2train.qupath.pathobject import Classes, PathObject, Rgb, argb, rgb
from qp2train.qupath.savefile import Stamp, check_unchanged, lock, read_stamped, save

PROJECT_FILE = "project.qpproj"
DATA_FILE = "data.qpdata"
SUMMARY_FILE = "summary.json"
QUPATH_VERSION = "0.6.0"  # of the files we make
_MAX_DEPTH = 255  # com.google.gson.stream.JsonReader
_UNREADABLE = ("v0.2.0-m1", "v0.2.0-m2")
_SUMMARY_KINDS = {
    None: "Root objects",
    "annotation": "Annotations",
    "detection": "Detections",
    "cell": "Cells",
    "tile": "Tiles",
    "tma_core": "TMA cores",
}
# qupath.lib.objects.classes.PathClass: colours of the classes that QuPath knows by itself
_DEFAULT_COLORS: Mapping[str, Rgb] = {
    "Tumor": (200, 0, 0),
    "Stroma": (150, 200, 150),
    "Immune cells": (160, 90, 160),
    "Necrosis": (50, 50, 50),
    "Other": (255, 200, 0),
    "Region*": (0, 0, 180),
    "Ignore*": (180, 180, 180),
    "Positive": (250, 62, 62),
    "Negative": (112, 112, 225),
}


def default_color(name: str) -> Rgb:
    """QuPath's own colour of a class, else one that depends on the name only."""
    if name in _DEFAULT_COLORS:
        return _DEFAULT_COLORS[name]
    hue = int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:2], "big") / 65536
    r, g, b = colorsys.hsv_to_rgb(hue, 0.7, 0.8)
    return round(r * 255), round(g * 255), round(b * 255)


def to_json(value: object, *, pretty: bool = True) -> bytes:
    """JSON as QuPath's Gson writes it: two spaces, letters raw, = < > & ' escaped."""
    separators = None if pretty else (",", ":")
    text = json.dumps(value, indent=2 if pretty else None, ensure_ascii=False, separators=separators)
    for char in "=<>&'\u2028\u2029":  # outside strings JSON has none of these
        text = text.replace(char, f"\\u{ord(char):04x}")
    # Half of a surrogate pair has no UTF-8, and a file that is none cannot be opened again.
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text).encode()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        QuPathFormatError: No JSON, or no object.
    """
    return parse_json(path.read_bytes(), path)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """A JSON object.

    Args:
        data: The bytes of a file.
        path: Its name, for messages.

    Raises:
        QuPathFormatError: No JSON, or no object, or one within the other deeper than QuPath reads.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise QuPathFormatError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise QuPathFormatError(f"{path} holds a {type(value).__name__} where an object was expected")
    depth, level = 0, list[Any]([value])
    while level:
        depth += 1
        inside = (item.values() if isinstance(item, dict) else item for item in level)
        level = [value for items in inside for value in items if isinstance(value, dict | list)]
    if depth > _MAX_DEPTH:
        raise QuPathFormatError(f"{path} is nested {depth} deep; QuPath reads {_MAX_DEPTH}")
    return value


def find_project(path: Path) -> Path:
    """The project file for a folder or a file.

    Raises:
        NotAProjectError: Nothing there, or several project files in the folder.
    """
    if path.is_dir():
        if (path / PROJECT_FILE).is_file():
            return path / PROJECT_FILE
        found = sorted(path.glob("*.qpproj"))
        if len(found) == 1:
            return found[0]
        what = f"holds {len(found)} project files, name one of {[p.name for p in found]}" if found else "holds none"
        raise NotAProjectError(f"no {PROJECT_FILE} in {path}; the folder {what}")
    if not path.exists():
        raise NotAProjectError(f"{path} does not exist: give a QuPath project folder or its {PROJECT_FILE}")
    return path


def read_project(path: Path) -> dict[str, Any]:
    """The content of a project file, checked as far as QuPath checks it.

    Raises:
        NotAProjectError: It is no QuPath project, or one of a version that no QuPath of today reads.
    """
    return read_project_stamped(path)[0]


def read_project_stamped(path: Path) -> tuple[dict[str, Any], Stamp]:
    """As `read_project`, with the state of the file, for `save_project`."""
    try:
        raw, stamp = read_stamped(path)
        data = parse_json(raw or b"", path)
    except QuPathFormatError as error:
        raise NotAProjectError(f"not a QuPath project: {error}") from error
    except OSError as error:
        raise NotAProjectError(f"{path} cannot be read: {error.strerror or error}") from error
    version = data.get("version")
    if version is None and data.get("lastID") is None:
        raise NotAProjectError(f"{path} is not a QuPath project: neither version nor lastID in it")
    if version in _UNREADABLE:
        raise NotAProjectError(f"{path} was written by QuPath {version}: open and save it with QuPath 0.2 to 0.7 first")
    images = data.get("images")
    if images is None:
        images = []
    if not isinstance(images, list) or not all(isinstance(i, dict) and _is_id(i.get("entryID")) for i in images):
        raise NotAProjectError(f"{path} is damaged: its images are not a list of entries with an entryID")
    twice = sorted(k for k, n in Counter(i["entryID"] for i in images).items() if n > 1)
    if twice:
        raise NotAProjectError(f"{path} is damaged: entryID {twice} is given twice, and both share one data folder")
    data["images"] = images
    return data, stamp


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def save_project(path: Path, data: Mapping[str, Any], *, expected: Stamp | None = None) -> Stamp:
    """Write a project file; the previous one is kept as `.backup`, as QuPath does.

    Args:
        path: The file.
        data: Its new content.
        expected: The state that the file must still have.

    Returns:
        The state that it has now.

    Raises:
        EntryChangedError: The file is not as expected.
        ProjectError: It could not be written; the old file is as it was.
    """
    with _said_of_projects(path):
        save(path, to_json(data), expected=expected, backup=".backup")
    return read_stamped(path)[1]


@contextlib.contextmanager
def changing(path: Path, expected: Stamp) -> Iterator[None]:
    """Keep our other processes away from a project file that is as it was read, while it is changed.

    Raises:
        EntryChangedError: It is not as it was read.
    """
    with contextlib.ExitStack() as held:
        with _said_of_projects(path):
            held.enter_context(lock(path))
            check_unchanged(path, expected)
        yield


@contextlib.contextmanager
def _said_of_projects(path: Path) -> Iterator[None]:
    try:
        yield
    except EntryChangedError as error:
        raise EntryChangedError(
            f"{path} changed since it was opened, or is being changed: QuPath or another process has saved the "
            "project. Nothing was written; open it again, Project(path), and repeat"
        ) from error


def read_classes(folder: Path) -> dict[str, Rgb]:
    """Class name → (r, g, b) of a project, in its order; a class without a colour gets its default.

    Raises:
        QuPathFormatError: classes.json is damaged.
    """
    path = _classes_file(folder)
    if not path.is_file():
        return {}
    result: dict[str, Rgb] = {}
    listed = read_json(path).get("pathClasses", [])
    if not isinstance(listed, list):
        raise QuPathFormatError(f"{path}: pathClasses is no list")
    for item in listed:
        name = item.get("name") if isinstance(item, dict) else None
        if isinstance(name, str) and name:
            color = item.get("color")
            result[name] = rgb(color) if isinstance(color, int) else default_color(name)
    return result


def save_classes(folder: Path, colors: Mapping[str, Rgb]) -> None:
    """Set a project's classes, keeping what else classes.json says of those that stay. None = no file, as QuPath.

    Raises:
        ProjectError: The file could not be written.
    """
    path = _classes_file(folder)
    if not colors:
        path.unlink(missing_ok=True)
        return
    old = read_json(path) if path.is_file() else {}
    known = {item.get("name"): item for item in old.get("pathClasses") or [] if isinstance(item, dict)}
    old["pathClasses"] = [{**known.get(name, {}), "name": name, "color": argb(c)} for name, c in colors.items()]
    path.parent.mkdir(exist_ok=True)
    save(path, to_json(old))


def set_classes(folder: Path, colors: Mapping[str, Rgb]) -> None:
    """As `save_classes`, after other processes of ours.

    Raises:
        ProjectError: The file could not be written.
    """
    path = _classes_file(folder)
    path.parent.mkdir(exist_ok=True)
    with lock(path):
        save_classes(folder, colors)


def add_classes(folder: Path, colors: Mapping[str, Rgb]) -> None:
    """Add classes to a project; those it has by now, perhaps from another process of ours, stay as they are.

    Raises:
        ProjectError: The file could not be written.
    """
    path = _classes_file(folder)
    path.parent.mkdir(exist_ok=True)
    with lock(path):
        known = read_classes(folder)
        new = {name: color for name, color in colors.items() if name not in known}
        if new:
            save_classes(folder, {**known, **new})


def _classes_file(folder: Path) -> Path:
    return folder / "classifiers" / "classes.json"


def count_objects(objects: Iterable[PathObject]) -> dict[str, Any]:
    """What a summary says of an entry's objects, the root among them."""
    kinds: Counter[str] = Counter()
    annotations: Counter[str] = Counter()
    detections: Counter[str] = Counter()
    classes = Classes()
    for obj in objects:
        kinds[_SUMMARY_KINDS[obj.kind]] += 1
        if obj.kind == "annotation":
            annotations[classes.name(obj.path_class) or "Unclassified"] += 1
        elif obj.kind in ("detection", "cell", "tile"):
            detections[classes.name(obj.path_class) or "Unclassified"] += 1
    return {
        "nObjects": sum(kinds.values()),
        "objectTypeCounts": dict(kinds),
        "annotationClassificationCounts": dict(annotations),
        "detectionClassificationCounts": dict(detections),
    }


def objects_lost(folder: Path) -> int:
    """How many objects an entry's summary.json speaks of, if there is no data.qpdata that could hold them."""
    if (folder / DATA_FILE).exists() or not (folder / SUMMARY_FILE).is_file():
        return 0
    try:
        counts = read_json(folder / SUMMARY_FILE).get("hierarchy")
    except (OSError, QuPathFormatError):  # garbage that nobody reads
        return 0
    found = counts.get("nObjects") if isinstance(counts, dict) else None
    return max(found - 1, 0) if isinstance(found, int) else 0  # the root is counted


def save_summary(folder: Path, counts: Mapping[str, Any], *, image_type: str, server: Mapping[str, Any]) -> None:
    """Bring an entry's summary.json up to date; QuPath never reads it, people and our table do.

    Args:
        folder: The entry's folder, with data.qpdata just written.
        counts: Of its objects, by `count_objects`.
        image_type: QuPath's name of it, for a summary that does not exist yet.
        server: The image's metadata, for the same.
    """
    path = folder / SUMMARY_FILE
    try:
        summary = read_json(path)
    except (OSError, QuPathFormatError):  # absent, or garbage that nobody reads: made anew
        size = {key: server.get(key, 1) for key in ("width", "height", "sizeC", "sizeZ", "sizeT")}
        summary = {
            "timestamp": 0,
            "imageType": image_type,
            "server": {**size, "sizeC": len(server.get("channels", [])) or 3},
        }
    summary["timestamp"] = os.stat(folder / DATA_FILE).st_mtime_ns // 1_000_000
    summary["hierarchy"] = dict(counts)
    save(path, to_json(summary, pretty=False))

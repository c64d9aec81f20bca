"""Change an entry's data.qpdata: read, edit in memory, parse back, replace the file whole.

Section by section what QuPath's DefaultProject does when it saves an image, except that the old file is never out
of its place.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from qp2train.core.annotation import Annotation
from qp2train.errors import EntryChangedError, ProjectError, QuPathFormatError
from qp2train.qupath.entry import ImageEntry, image_type_of, located_errors
from qp2train.qupath.hierarchy import Hierarchy
from qp2train.qupath.javanodes import JString
from qp2train.qupath.javastream import gc_paused, serialise
from qp2train.qupath.pathobject import Rgb, ids_and_children, walk
from qp2train.qupath.qpbuild import new_file
from qp2train.qupath.qpdata import load
from qp2train.qupath.qpproj import (
    DATA_FILE,
    QUPATH_VERSION,
    SUMMARY_FILE,
    count_objects,
    objects_lost,
    save_summary,
    to_json,
)
from qp2train.qupath.savefile import BACKUP_SUFFIX, Stamp, check_unchanged, lock, read_stamped, remove, save
from qp2train.qupath.writeback import clear_objects, write_objects
from qp2train.qupath.writereport import Mode, WriteReport

log = logging.getLogger(__name__)

LOST = "Look for it in your backups before you go on in QuPath, which shows an empty image"
IMAGE_TYPES = ("BRIGHTFIELD_H_E", "BRIGHTFIELD_H_DAB", "BRIGHTFIELD_OTHER", "FLUORESCENCE", "OTHER", "UNSET")
# QuPath skips this text when it reads the file and drops it when it saves: so a file that has it is ours alone.
_MARKER = "made by qp2train"


def write(
    entry: ImageEntry,
    annotations: Sequence[Annotation],
    *,
    source: str,
    mode: Mode,
    colors: Mapping[str, Rgb],
    merge: bool = False,
    in_place_of: Mapping[str, str] | None = None,
) -> tuple[WriteReport, dict[str, Rgb]]:
    """Write annotations into an entry; see `Project.write`. Also returns the colours that classes have in the file."""
    in_file: dict[str, Rgb] = {}  # before the change

    def change(tree: Hierarchy) -> WriteReport:
        in_file.update(tree.class_colors())
        return write_objects(tree, annotations, source=source, mode=mode, colors=colors, in_place_of=in_place_of)

    return _update(entry, change, merge=merge, dry_run=mode == "dry-run"), in_file


def clear(
    entry: ImageEntry,
    *,
    source: str,
    edited: bool,
    ids: Collection[str] | None = None,
    merge: bool = False,
    dry_run: bool = False,
) -> WriteReport | None:
    """Take a source's objects out of an entry; None if it holds none. See `Project.clear`."""
    if not entry.data_path.is_file():
        return None

    def change(tree: Hierarchy) -> WriteReport:
        return clear_objects(tree, source, edited=edited, ids=ids)

    report = _update(entry, change, merge=merge, dry_run=dry_run)
    return report if report.removed or report.kept_edited else None


def create(
    entry: ImageEntry,
    project_file: Path,
    builder: Mapping[str, Any],
    *,
    image_type: str,
    thumbnail: bytes | None,
    annotations: Sequence[Annotation] = (),
    colors: Mapping[str, Rgb] | None = None,
) -> None:
    """Make the data folder of a new entry; `annotations` go in as a human's."""
    if image_type not in IMAGE_TYPES:
        raise ProjectError(f"image_type={image_type!r}: use one of {', '.join(IMAGE_TYPES)}")
    try:
        entry.folder.mkdir(parents=True)
    except OSError as error:
        raise ProjectError(f"{entry.folder} cannot be made: {error.strerror or error}") from error
    header = {
        "dataVersion": 3,
        "qupathVersion": QUPATH_VERSION,
        "server": builder,
        "id": str(entry.data_path),
    }
    contents = new_file(
        to_json(header, pretty=False).decode(),
        image_type=image_type,
        root_id=str(uuid.uuid4()),
        marker=None,
        properties={"PROJECT_ENTRY_ID": f"{project_file}::{entry.id}"},
    )
    data = serialise(contents)
    if annotations:
        loaded = load(data)
        write_objects(loaded, annotations, source=None, colors=colors)
        data = loaded.to_bytes()
    save(entry.folder / "server.json", to_json(builder))
    save(entry.data_path, data)
    if thumbnail is not None:
        save(entry.folder / "thumbnail.jpg", thumbnail)
    counts = count_objects(walk(load(data).root))
    save_summary(entry.folder, counts, image_type=image_type, server=builder["metadata"])


def _update(
    entry: ImageEntry, change: Callable[[Hierarchy], WriteReport], *, merge: bool, dry_run: bool
) -> WriteReport:
    """Read, change, verify, save. `merge`: upon whatever is in the file now, also if it changed since it was read."""
    path = entry.data_path
    if dry_run:
        with located_errors(path), gc_paused():
            return replace(change(hierarchy_in(entry, read_stamped(path)[0])), entry=entry.name, dry_run=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProjectError(f"{path.parent} cannot be made: {error.strerror or error}") from error
    with lock(path), located_errors(path), gc_paused():
        return _replaced(entry, change, merge)  # its trees are gone before garbage is collected again


def _replaced(entry: ImageEntry, change: Callable[[Hierarchy], WriteReport], merge: bool) -> WriteReport:
    path = entry.data_path
    interrupted = path.with_name(path.name + ".bkp")
    if interrupted.exists() and not (merge and path.exists()):
        raise EntryChangedError(
            f"{interrupted} is there: QuPath saves this image now, or died while saving. "
            "Open and save the image in QuPath, then repeat; nothing was written"
        )
    if entry._seen is not None and not merge:
        check_unchanged(path, entry._seen)
    old, stamp = read_stamped(path)
    tree = hierarchy_in(entry, old)
    ours = tree.holds_written_objects()
    report = replace(change(tree), entry=entry.name)
    if _ours_alone(tree):
        if old is not None:
            remove(path, expected=stamp)
            _without_summary(entry.folder)
        entry._seen = Stamp()
        return report
    new = tree.data.to_bytes()
    if new == old:
        return report
    expected, counts, image_type = list(tree.outline()), count_objects(tree), image_type_of(tree.data)
    del tree  # what it took is needed for reading back
    _verify(expected, new)
    if old is None:
        _keep_summary(entry)
    save(path, new, expected=stamp, backup=None if ours else BACKUP_SUFFIX)
    entry._seen = read_stamped(path)[1]
    try:
        save_summary(entry.folder, counts, image_type=image_type, server=entry._server)
    except (OSError, ProjectError) as error:  # nothing reads it; the objects are in
        log.warning("%s: written, but its summary.json stays as it was: %s", entry.name, error)
    return report


def _keep_summary(entry: ImageEntry) -> None:
    """Without data.qpdata, a summary.json is all that is left of what QuPath once saved: keep it."""
    if lost := objects_lost(entry.folder):
        log.warning("%s: data.qpdata is gone, and with it %d objects of summary.json. %s", entry.name, lost, LOST)
        summary = entry.folder / SUMMARY_FILE
        shutil.copyfile(summary, summary.with_name(SUMMARY_FILE + BACKUP_SUFFIX))


def _without_summary(folder: Path) -> None:
    """Our summary.json goes with our data.qpdata; QuPath's comes back."""
    kept = folder / (SUMMARY_FILE + BACKUP_SUFFIX)
    if kept.is_file():
        kept.replace(folder / SUMMARY_FILE)
    else:
        (folder / SUMMARY_FILE).unlink(missing_ok=True)


def hierarchy_in(entry: ImageEntry, data: bytes | None) -> Hierarchy:
    """The objects of a file, or of the empty one that we make where there is none."""
    if data is None:
        header = {"dataVersion": 3, "qupathVersion": QUPATH_VERSION, "server": dict(entry._builder)}
        text = to_json(header, pretty=False).decode()
        root_id = str(uuid.uuid4())
        data = serialise(new_file(text, image_type="UNSET", root_id=root_id, marker=_MARKER, properties={}))
    return Hierarchy(load(data))


def _ours_alone(tree: Hierarchy) -> bool:
    """Whether the file is one that we made, QuPath never saved, and that holds no object."""
    marked = any(isinstance(node, JString) and node.text == _MARKER for node in tree.data.contents)
    return marked and not tree.below(tree.root)


def _verify(expected: Iterable[tuple[str | None, int]], written: bytes) -> None:
    """Parse what will be written: it must be read back as the same objects, in the same order, below the same."""
    found = ids_and_children(load(written).root)
    if any(one != other for one, other in zip_longest(found, expected)):
        raise QuPathFormatError("what would be written is not read back as the same objects; nothing was written")


__all__ = ["DATA_FILE", "IMAGE_TYPES", "clear", "create", "write"]

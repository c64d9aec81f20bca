"""The paquo backend: objects are read and written by QuPath's own classes. The only door to Java.

paquo (GPL-3) finds QuPath and starts its Java; it is imported only here, and only when the first entry is read. Its
own object wrappers are not used: they round vertices, flatten the hierarchy and un-nest what is changed.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qp2train.core.annotation import Annotation
from qp2train.errors import EntryChangedError, ProjectError, Qp2trainError
from qp2train.qupath import entrydata
from qp2train.qupath.entry import ImageEntry, located_errors
from qp2train.qupath.hierarchy import Hierarchy
from qp2train.qupath.javaobjects import Java, below, java_object, read_hierarchy
from qp2train.qupath.pathobject import Rgb
from qp2train.qupath.qpdata import Kinds, ReadResult, load, of_kinds
from qp2train.qupath.qpdata import read_annotations as read_file
from qp2train.qupath.savefile import BACKUP_SUFFIX, Stamp, check_unchanged, lock, read_stamped, save
from qp2train.qupath.writeback import clear_objects, write_objects
from qp2train.qupath.writereport import Mode, WriteReport

_REMEDY = 'pip install "qp2train[qupath]", and set PAQUO_QUPATH_DIR to the folder of QuPath 0.5 or later'


@dataclass(frozen=True, slots=True)
class QuPathFound:
    """Which QuPath answers: its version, its folder, and the Java that runs it."""

    version: str
    folder: str
    java: str

    def __str__(self) -> str:
        return f"QuPath {self.version} in {self.folder}, Java {self.java}"


def describe() -> QuPathFound:
    """Start Java, and say which QuPath was found.

    Raises:
        ProjectError: paquo is not installed, or no QuPath is configured.
    """
    java = _java()
    return QuPathFound(
        str(java.GeneralTools.getVersion()), java.folder, str(java.cls("java.lang.System").getProperty("java.version"))
    )


class PaquoStore:
    """Reads and writes the objects of a project's entries through QuPath. Java starts with the first call.

    Args:
        project_file: The project's .qpproj.
    """

    def __init__(self, project_file: Path) -> None:
        self.project_file = project_file

    def read(self, entry: ImageEntry, kinds: Kinds = "all") -> ReadResult:
        """As `ImageEntry.read`. Which predictions a human has edited is told by our own reader, from the file's bytes.

        Raises:
            ProjectError: QuPath cannot be started, or cannot read the entry.
        """
        java = _java()
        old, stamp = read_stamped(entry._stored_data())
        entry._seen = stamp if entry.data_path.is_file() else Stamp()
        if old is None:
            return ReadResult([])
        with java.errors(f"{entry.data_path} could not be read"):
            found = read_hierarchy(java, self._entry(java, entry).readHierarchy())
        check_unchanged(entry._stored_data(), stamp)
        kept = of_kinds(found.annotations, kinds)
        ids = {a.id for a in kept}
        edited = read_file(load(old)).edited if any(a.source for a in kept) else ()
        parts = (tuple(i for i in part if i in ids) for part in (found.repaired, found.without_shape, edited))
        return ReadResult(kept, *parts)

    def write(
        self,
        entry: ImageEntry,
        annotations: Sequence[Annotation],
        *,
        source: str,
        mode: Mode,
        colors: Mapping[str, Rgb],
        merge: bool = False,
        in_place_of: Mapping[str, str] | None = None,
    ) -> tuple[WriteReport, dict[str, Rgb]]:
        """As `entrydata.write`; QuPath makes the objects and saves the file.

        Raises:
            EntryChangedError: As `Project.write`.
            ProjectError: QuPath did not save what was asked for; the old file is back then.
        """
        in_file: dict[str, Rgb] = {}

        def change(tree: Hierarchy) -> WriteReport:
            in_file.update(tree.class_colors())
            return write_objects(tree, annotations, source=source, mode=mode, colors=colors, in_place_of=in_place_of)

        return self._update(entry, change, {**colors}, merge=merge, dry_run=mode == "dry-run"), in_file

    def clear(
        self,
        entry: ImageEntry,
        *,
        source: str,
        edited: bool,
        ids: Collection[str] | None = None,
        merge: bool = False,
        dry_run: bool = False,
    ) -> WriteReport | None:
        """As `entrydata.clear`; the file is QuPath's then, not byte for byte the one before the write."""
        if not entry.data_path.is_file():
            return None

        def change(tree: Hierarchy) -> WriteReport:
            return clear_objects(tree, source, edited=edited, ids=ids)

        report = self._update(entry, change, {}, merge=merge, dry_run=dry_run)
        return report if report.removed or report.kept_edited else None

    def _update(self, entry: ImageEntry, change: Any, colors: dict[str, Rgb], *, merge: bool, dry_run: bool) -> Any:
        """Plan upon our own copy of the tree, let QuPath carry it out, and compare what it saved."""
        path = entry.data_path
        if dry_run:
            with located_errors(path):
                tree = entrydata.hierarchy_in(entry, read_stamped(path)[0])
                return replace(change(tree), entry=entry.name, dry_run=True)
        java = _java()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ProjectError(f"{path.parent} cannot be made: {error.strerror or error}") from error
        with lock(path), located_errors(path):
            if path.with_name(path.name + ".bkp").exists():
                raise EntryChangedError(
                    f"{path}.bkp is there: QuPath saves this image now, or died while saving. "
                    "Open and save the image in QuPath, then repeat; nothing was written"
                )
            if entry._seen is not None and not merge:
                check_unchanged(path, entry._seen)
            old, stamp = read_stamped(path)
            tree = entrydata.hierarchy_in(entry, old)
            ours, before = tree.holds_written_objects(), _parents(tree)
            report: WriteReport = replace(change(tree), entry=entry.name)
            plan = _parents(tree)
            if plan == before:
                return report
            backup = path.with_name(path.name + BACKUP_SUFFIX)
            if old is not None and (not ours or not backup.exists()):
                save(backup, old)
            with java.errors(f"{path} could not be changed"):
                target, image = self._carried_out(java, entry, tree, before, plan, colors)
            check_unchanged(path, stamp)
            try:
                with java.errors(f"{path} could not be written"):
                    target.saveImageData(image)
                _check_saved(path, plan)
            except Qp2trainError:
                self._put_back(path, old)
                raise
            entry._seen = read_stamped(path)[1]
            return report

    def _carried_out(
        self,
        java: Java,
        entry: ImageEntry,
        tree: Hierarchy,
        before: dict[str, str | None],
        plan: dict[str, str | None],
        colors: dict[str, Rgb],
    ) -> tuple[Any, Any]:
        """QuPath's entry, and its image data with the objects of the plan; not saved."""
        target = self._entry(java, entry)
        image = target.readImageData()
        root = image.getHierarchy().getRootObject()
        there = {str(obj.getID()): obj for obj in below(root)}
        if set(there) != set(before):
            raise ProjectError(
                f"{entry.data_path}: QuPath finds other ids in it than qp2train, as in files before 0.4: open and "
                "save the image in QuPath once, then repeat"
            )
        for object_id in reversed(before):  # children first
            if object_id not in plan:
                obj = there.pop(object_id)
                above, heirs = obj.getParent(), obj.getChildObjects().toArray()
                above.removeChildObject(obj)
                above.addChildObjects(java.cls("java.util.Arrays").asList(heirs))
        forms = {a.id: a for a in read_file(tree.data).annotations if a.id not in before}
        full = {object_id: obj.metadata for object_id, obj in tree.with_ids() if object_id in forms}
        added: dict[str | None, Any] = {}
        for object_id, annotation in forms.items():
            there[object_id] = java_object(java, annotation, full[object_id], colors)
            added.setdefault(annotation.parent, java.cls("java.util.ArrayList")()).add(there[object_id])
        for parent, children in added.items():
            (root if parent is None else there[parent]).addChildObjects(children)
        for object_id in before:  # what lay under a human's object goes under the one that takes its place, and back
            parent = plan.get(object_id)
            above = root if parent is None else there[parent]
            if object_id in plan and not there[object_id].getParent().equals(above):
                there[object_id].getParent().removeChildObject(there[object_id])
                above.addChildObject(there[object_id])
        siblings: dict[str | None, list[str]] = {parent: [] for parent in added}
        for object_id, parent in plan.items():
            if parent in siblings:
                siblings[parent].append(object_id)
        for parent, ids in siblings.items():  # QuPath appends; what takes a place stands in that place
            new = [object_id for object_id in ids if object_id in forms]
            if ids[-len(new) :] != new:
                above = root if parent is None else there[parent]
                above.clearChildObjects()
                above.addChildObjects(java.cls("java.util.Arrays").asList([there[i] for i in ids]))
        image.getHierarchy().fireHierarchyChangedEvent(root)
        return target, image

    def _entry(self, java: Java, entry: ImageEntry) -> Any:
        """QuPath's own entry; the .qpproj is named, since a folder with a dot would be taken for a file."""
        file = java.cls("java.io.File")(str(self.project_file))
        project = java.cls("qupath.lib.projects.ProjectIO").loadProject(
            file, java.cls("java.awt.image.BufferedImage").class_
        )
        found = next((item for item in project.getImageList() if str(item.getID()) == entry.id), None)
        if found is None:
            raise ProjectError(f"QuPath does not find image {entry.id} in {self.project_file}")
        return found

    @staticmethod
    def _put_back(path: Path, old: bytes | None) -> None:
        if old is None:
            path.unlink(missing_ok=True)
        else:
            save(path, old)
        path.with_name(path.name + ".bkp").unlink(missing_ok=True)


@functools.cache
def _java() -> Java:
    try:
        import jpype
        from paquo._config import settings, to_kwargs
        from paquo.jpype_backend import find_qupath, start_jvm  # not paquo.java: that sets QuPath's log to DEBUG
    except ImportError as error:
        raise ProjectError(f'backend="paquo" needs paquo, which is not installed: {_REMEDY}') from error
    try:
        where = find_qupath(**to_kwargs(settings))
        start_jvm(finder_kwargs=to_kwargs(settings))
        return Java(jpype, str(where.app_dir))
    except (ValueError, OSError, RuntimeError, TypeError) as error:
        raise ProjectError(f'backend="paquo": no QuPath that can be started ({error}): {_REMEDY}') from error


def _parents(tree: Hierarchy) -> dict[str, str | None]:
    """Id → the id of the object above it (None: the image), parents before children."""
    known = {id(obj.node): object_id for object_id, obj in tree.with_ids()}
    return {
        known[id(obj.node)]: None if obj.parent is tree.root else known[id(obj.parent.node)]
        for obj in tree
        if obj.parent is not None
    }


def _check_saved(path: Path, plan: dict[str, str | None]) -> None:
    """QuPath's save may do nothing without a word: read the file, and compare."""
    data, _ = read_stamped(path)
    saved = {} if data is None else _parents(Hierarchy(load(data)))
    if saved != plan:
        missing = len(plan.keys() - saved.keys())
        raise ProjectError(
            f"{path}: QuPath did not save what was asked for ({missing} of {len(plan)} objects are missing, or lie "
            'elsewhere); the old file is back. Is the image reachable? Use backend="java-free" if it is not'
        )

"""Put a model's annotations into a parsed `.qpdata` file, or take them out. The human's objects stay as they are.

Provenance: every object written here carries, as metadata that QuPath keeps, the model's id ("qp2train source") and
a fingerprint of what a human could change: outline, class, name, lock, description. An object whose fingerprint no
longer fits has been edited; it is the human's now, and neither a later write nor `clear` removes it.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qp2train.core.annotation import REPLACED_KEY, Annotation
from qp2train.errors import LabelError, ProjectError
from qp2train.qupath.hierarchy import NEW_IDS, Hierarchy, hierarchy_of
from qp2train.qupath.pathobject import PathObject, Rgb, read_object
from qp2train.qupath.qpbuild import CHILDREN_AT, Builder
from qp2train.qupath.qpdata import (
    DESCRIPTION_KEY,
    FINGERPRINT_KEY,
    SOURCE_KEY,
    QpData,
    annotations_of,
    fingerprint,
    is_edited,
)
from qp2train.qupath.replaced import given_back, kept_text
from qp2train.qupath.writereport import Form, Mode, WriteReport, changes

log = logging.getLogger(__name__)

# An outline that was put back by hand may differ by so much of its area: QuPath rounds.
ROUNDED = 0.01

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


@dataclass
class Removal:
    """What `remove_objects` did.

    Ids and forms taken out; ids kept, with the fingerprint they were written with; ids of a human's objects put back;
    the ids of those that came back with another, since something else has theirs now.
    """

    removed: list[str] = field(default_factory=list)
    forms: list[Form] = field(default_factory=list)
    edited: dict[str, str] = field(default_factory=dict)
    moved_up: int = 0
    restored: set[str] = field(default_factory=set)
    renamed: set[str] = field(default_factory=set)


def write_objects(
    data: QpData | Hierarchy,
    annotations: Sequence[Annotation],
    *,
    source: str | None,
    mode: Mode = "replace",
    colors: Mapping[str, Rgb] | None = None,
    in_place_of: Mapping[str, str] | None = None,
) -> WriteReport:
    """Change `data` in place: take out what `source` wrote (unless the mode is "add") and append `annotations`.

    They become the last children of the root, or of the object that `annotation.parent` names.

    Args:
        data: A loaded file.
        annotations: Full-resolution pixels, parents before children; their ids are kept.
        source: The model's id; annotations come back with it as `source`. None = a human's: no provenance is written.
        mode: "replace" (so is "dry-run": saving is the caller's), or "add" beside what the source wrote earlier.
        colors: Class name → (r, g, b) for classes that the file does not have yet.
        in_place_of: New id → id of the human's object whose place it takes.

    Raises:
        ProjectError: An id that is taken or no UUID, a parent or an object to replace that is not there.
        LabelError: A class name that QuPath cannot hold.
        QuPathFormatError: A geometry or kind that QuPath has no form for.
    """
    for name in {a.class_name for a in annotations if a.class_name is not None}:
        check_class_name(name)
    tree = hierarchy_of(data)
    removal = remove_objects(tree, source) if source and mode != "add" else Removal()
    objects = dict(tree.with_ids())
    _check_once(tree, (in_place_of or {}).values())
    taken = {object_id.lower() for object_id in objects}  # Java reads both cases as one
    builder = Builder(tree.data.classes, classes=tree.classes.nodes, colors=colors)
    corrected = {written: object_id for object_id, written in removal.edited.items()}
    untouched = {written for _, written in removal.forms}  # a corrected copy does not stand for its original
    stands_for: dict[str, str] = {}  # new id → the corrected object that is kept in its place
    new: dict[str, PathObject] = {}
    children: dict[str | None, list[PathObject]] = {}
    forms: list[Form] = []
    # What came back with another id is not what has its id now: the new one stands beside it.
    replacing = {new: old for new, old in (in_place_of or {}).items() if old not in removal.renamed}
    for annotation, roi in zip(annotations, builder.rois(annotations), strict=True):
        nucleus = builder.nucleus(annotation)
        written = fingerprint(
            annotation.class_name,
            annotation.name,
            annotation.locked,
            roi,
            nucleus,
            description=annotation.metadata.get(DESCRIPTION_KEY, ""),
        )
        if annotation.id in removal.edited or (written in corrected and written not in untouched):
            stands_for[annotation.id] = corrected.get(written, annotation.id)
            continue
        _check_id(annotation.id, taken=annotation.id.lower() in taken)
        taken.add(annotation.id.lower())
        old_id = replacing.get(annotation.id)
        parent = None if old_id is not None else stands_for.get(annotation.parent or "", annotation.parent)
        if parent is not None and parent not in objects and parent not in new:
            raise ProjectError(f"annotation {annotation.id} lies under {parent}, which is not there: use parent=None")
        provenance = {SOURCE_KEY: source, FINGERPRINT_KEY: written} if source else {}
        metadata = {**annotation.metadata, **provenance}
        metadata.pop(REPLACED_KEY, None)  # a copy replaces nothing
        if old_id is not None:
            metadata[REPLACED_KEY] = kept_text(objects.get(old_id), old_id, tree.classes)
        obj = new[annotation.id] = PathObject(
            builder.path_object(annotation, roi, metadata, nucleus),
            kind=annotation.kind,
            name=annotation.name,
            color=annotation.color,
            metadata=metadata,
            id=annotation.id,
            measurements=None,
            children=[],
            children_at=CHILDREN_AT,
            path_class=None if annotation.class_name is None else builder.path_class(annotation.class_name),
        )
        forms.append((annotation.class_name, written))
        if old_id is None:
            children.setdefault(parent, []).append(obj)
        else:
            _take_place(tree, objects[old_id], obj)
            objects[old_id] = obj  # what is to lie under the one lies under the other
    for parent, added in children.items():
        above = tree.root if parent is None else objects.get(parent) or new[parent]
        tree.set_below(above, [*tree.below(above), *added])
    return WriteReport(
        entry="",
        source=source or "",
        added=len(new),
        removed=len(removal.removed),
        kept_edited=len(removal.edited),
        superseded=len(stands_for),
        moved_up=removal.moved_up,
        replaced=sum(new_id in new for new_id in replacing),
        restored=len(removal.restored - {old_id for new_id, old_id in replacing.items() if new_id in new}),
        by_class=changes(removal.forms, forms),
    )


def remove_objects(
    data: QpData | Hierarchy, source: str, *, edited: bool = False, ids: Collection[str] | None = None
) -> Removal:
    """Change `data` in place: take out the objects of `source` that no human has edited since (or all, if `edited`).

    With `ids` only those of them.

    What lies under a removed object and is not removed itself moves up to where that object was. An object that had
    taken the place of a human's gives it back, unless it is there already.

    Raises:
        QuPathFormatError: What was replaced cannot be put back.
    """
    tree = hierarchy_of(data)
    objects = list(tree.with_ids())
    result = Removal()
    gone: set[int] = set()
    back = _Back(tree, dict(objects))
    for object_id, obj in objects:
        if obj.kind is None or obj.metadata.get(SOURCE_KEY) != source or (ids is not None and object_id not in ids):
            continue
        written = obj.metadata.get(FINGERPRINT_KEY, "")
        if edited or not is_edited(obj, tree.classes):
            gone.add(id(obj.node))
            result.removed.append(object_id)
            result.forms.append((tree.classes.name(obj.path_class), written))
        else:
            result.edited[object_id] = written
            log.info("object %s of %s was edited by hand: kept", object_id, source)
    for _, obj in reversed(objects) if gone else ():  # children first, so that what moves up is complete
        if not any(id(child.node) in gone for child in tree.below(obj)):
            continue
        kept: list[PathObject] = []
        for child in tree.below(obj):
            if id(child.node) not in gone:
                kept.append(child)
                continue
            heirs = tree.below(child)
            if (replaced := back.made(child)) is not None:
                result.restored.add(str(replaced.id))
                tree.set_below(replaced, heirs)
                heirs = [replaced]
            kept += heirs
            result.moved_up += 0 if id(obj.node) in gone or replaced is not None else len(heirs)
        tree.set_below(obj, kept)
    result.renamed = set(back.renamed)
    return result


def clear_objects(
    data: QpData | Hierarchy, source: str, *, edited: bool = False, ids: Collection[str] | None = None
) -> WriteReport:
    """`remove_objects`, and the report of it."""
    removal = remove_objects(data, source, edited=edited, ids=ids)
    return WriteReport(
        "",
        source,
        removed=len(removal.removed),
        kept_edited=len(removal.edited),
        moved_up=removal.moved_up,
        restored=len(removal.restored),
        by_class=changes(removal.forms, ()),
    )


class _Back:
    """Makes what objects of ours had taken the place of."""

    def __init__(self, tree: Hierarchy, there: dict[str, PathObject]) -> None:
        self._tree, self._there = tree, there
        self.renamed: dict[str, PathObject] = {}
        self._builder: Builder | None = None

    def made(self, obj: PathObject) -> PathObject | None:
        """The human's object; None if this one replaced nothing, or what it replaced is there.

        If something else has its id by now, it comes back with another.
        """
        text = obj.metadata.get(REPLACED_KEY)
        if text is None:
            return None
        drawn = given_back(text)
        there = [objects[drawn.id] for objects in (self._there, self.renamed) if drawn.id in objects]
        if any(_is_outlined_as(obj, drawn) for obj in there):
            return None
        old_id = drawn.id
        if there:
            drawn = replace(drawn, id=str(uuid.uuid4()))
        if self._builder is None:
            self._builder = Builder(self._tree.data.classes, classes=self._tree.classes.nodes)
        # Without a fingerprint that fits, it is still an edited one.
        source = {} if drawn.source is None else {SOURCE_KEY: drawn.source, FINGERPRINT_KEY: ""}
        metadata = {**drawn.metadata, **source}
        made = read_object(self._builder.path_object(drawn, self._builder.roi(drawn), metadata))
        (self.renamed if there else self._there)[old_id] = made
        return made


def _is_outlined_as(obj: PathObject, drawn: Annotation) -> bool:
    return any(
        a.class_name == drawn.class_name
        and a.geometry.symmetric_difference(drawn.geometry).area <= ROUNDED * drawn.geometry.area
        for a in annotations_of([obj])
    )


def _take_place(tree: Hierarchy, old: PathObject, new: PathObject) -> None:
    """Put an object where another is, with what lies under that."""
    assert old.parent is not None  # only annotations give way, never the root
    tree.set_below(new, tree.below(old))
    tree.set_below(old.parent, [new if child is old else child for child in tree.below(old.parent)])


def check_class_name(name: str) -> None:
    """Refuse what QuPath cannot hold as a class: an empty level, a control character, a ":" inside a level.

    Raises:
        LabelError: With the name.
    """
    levels = name.split(": ")
    if any(not level.strip() or level != level.strip() or ":" in level or min(level) < " " for level in levels):
        raise LabelError(
            f"class name {name!r}: QuPath needs one line, levels joined by ': ', no other colon and no space around"
        )


def _check_once(tree: Hierarchy, ids: Collection[str]) -> None:
    """Refuse to replace one of several objects of the same id: which of them is meant, nobody knows."""
    counts = Counter(object_id for object_id, _ in tree.with_ids()) if ids else Counter[str]()
    shared = sorted(object_id for object_id in ids if counts[object_id] > 1)
    if shared:
        raise ProjectError(
            f"several objects have the id {shared[0]}, so that none can be replaced: run in QuPath {NEW_IDS}"
        )


def _check_id(object_id: str, *, taken: bool) -> None:
    if taken:
        raise ProjectError(
            f"an object with id {object_id} is already there: give new annotations ids of their own, "
            "dataclasses.replace(annotation, id=str(uuid.uuid4()))"
        )
    if not _UUID.fullmatch(object_id):
        raise ProjectError(f"id {object_id!r} is no UUID, and QuPath would replace it: leave it out")

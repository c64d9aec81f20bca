"""A `.qpdata` file → Annotations. Source: qupath.lib.io.PathIO, data file version 2 and 3."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from qp2train.core.annotation import Annotation, Plane
from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import Block, ClassDesc, JObject, JString, Node, decode_utf
from qp2train.qupath.javastream import parse, serialise
from qp2train.qupath.javatypes import as_object, class_name
from qp2train.qupath.pathobject import ROOT, Classes, Measurements, PathObject, walk
from qp2train.qupath.roi import Planes, Shape, shapes, stored_form
from qp2train.qupath.tma import TmaGrid, read_grid

log = logging.getLogger(__name__)

Kinds = Literal["annotation", "detection", "all"]

SOURCE_KEY = "qp2train source"
FINGERPRINT_KEY = "qp2train fingerprint"
DESCRIPTION_KEY = "ANNOTATION_DESCRIPTION"  # what is typed below an annotation in QuPath
MISSING_KEY = "isMissing"
HIERARCHY = "qupath.lib.objects.hierarchy.PathObjectHierarchy"
_IDS_SHOWN = 20
_BATCH = 2000  # objects taken apart at a time: what is needed between stream and Annotation is as large as both
_PREFIX = "Data file version"
_WANTED = {
    "annotation": {"annotation"},
    "detection": {"detection", "cell", "tile"},
    "all": {"annotation", "detection", "cell", "tile", "tma_core"},
}


@dataclass(eq=False)
class QpData:
    """A parsed file: the whole stream, and where in it the hierarchy is."""

    contents: list[Node]
    classes: list[ClassDesc]
    header: str
    root: JObject
    hierarchy: JObject

    @property
    def tma_grid(self) -> TmaGrid | None:
        """Which TMA core stands where; None if the image is no tissue microarray.

        Raises:
            QuPathFormatError: A grid that QuPath would not have written.
        """
        ids = {id(obj.node): obj.id or made_up_id(self.header, i) for i, obj in enumerate(walk(self.root))}
        return read_grid(self.hierarchy, ids)

    def to_bytes(self) -> bytes:
        """The file, byte for byte as it was if nothing was changed."""
        return serialise(self.contents)


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a file holds.

    Args:
        annotations: The objects asked for, parents before children.
        repaired: Ids of objects whose area, or nucleus, crossed itself or had no extent; their geometry is the repair.
        without_shape: Ids of objects that have no ROI at all; their geometry is empty.
        edited: Ids of objects that a model wrote and a human has edited since; `source` still names the model.
    """

    annotations: list[Annotation]
    repaired: tuple[str, ...] = ()
    without_shape: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()


def load(data: bytes) -> QpData:
    """Parse a `.qpdata` file.

    Raises:
        QuPathFormatError: Not written by QuPath, truncated (the closing "EOF" is missing too), or without objects.
    """
    stream = parse(data)
    contents = stream.contents
    start = 0
    while start < len(contents) and isinstance(contents[start], Block):
        start += 1
    first = b"".join(block.data for block in contents[:start] if isinstance(block, Block))
    if len(first) < 2 or not decode_utf(first[2 : 2 + struct.unpack(">H", first[:2])[0]]).startswith(_PREFIX):
        raise QuPathFormatError(f'not a QuPath data file: it does not begin with "{_PREFIX}"')
    header = contents[start] if start < len(contents) else None
    if not isinstance(header, JString):
        raise QuPathFormatError("truncated: no header")
    if not any(isinstance(node, JString) and node.raw == b"EOF" for node in contents[start + 1 :]):
        raise QuPathFormatError(f"truncated after {len(data)} bytes: the closing mark is missing")
    found = [node for node in contents if class_name(node) == HIERARCHY]
    if not found:
        raise QuPathFormatError("no objects in the file: QuPath's hierarchy is missing")
    hierarchy = as_object(found[-1])
    root = as_object(hierarchy.ref("rootObject"))
    if root.desc.name != ROOT:
        raise QuPathFormatError(f"the hierarchy begins with a {root.desc.name}")
    return QpData(contents, stream.classes, header.text, root, hierarchy)


def read_annotations(data: QpData, *, kinds: Kinds = "all") -> ReadResult:
    """The objects of a file as Annotations, in the order of the hierarchy (parents before children).

    Args:
        data: A loaded file.
        kinds: "annotation"; "detection" = detections, cells and tiles; "all" = TMA cores too. Objects of other
            kinds are left out, but parents are named whatever their kind.

    An object without id (QuPath 0.3 and older) gets one that depends on the file's header and its place among those
    without, so that reading twice gives the same, also when predictions came or went in between. Repaired geometry is
    logged with the object's id.

    Raises:
        QuPathFormatError: An object that QuPath 0.2 to 0.7 would not have written.
        ValueError: Unknown `kinds`.
    """
    wanted = _wanted(kinds)
    read = _Reader()
    objects, without_id = walk(data.root), itertools.count()
    while batch := list(islice(objects, _BATCH)):
        for obj in batch:
            obj.id = obj.id or made_up_id(data.header, next(without_id))
        read.objects([obj for obj in batch if obj.kind in wanted])
    if read.repaired:
        log.warning("%s: the outline crosses itself or has no extent; repaired", _listed(read.repaired))
    if read.bare:
        log.warning("%s: no shape; the geometry is empty", _listed(read.bare))
    return ReadResult(read.annotations, tuple(read.repaired), tuple(read.bare), tuple(read.edited))


def annotations_of(objects: Sequence[PathObject]) -> list[Annotation]:
    """Some objects of a file as Annotations; each has its id."""
    read = _Reader()
    read.objects(objects)
    return read.annotations


def fingerprint(
    class_name: str | None, name: str | None, locked: bool, roi: Node, nucleus: Node = None, *, description: str = ""
) -> str:
    """A short hash of what a human could change about an object, as stored: outlines, class, name, lock and notes."""
    texts = f"{class_name or ''}\0{name or ''}\0{'locked' if locked else ''}\0"
    texts += f"description {description}\0" if description else ""
    form = stored_form(roi) if nucleus is None else stored_form(roi) + b"\0nucleus\0" + stored_form(nucleus)
    return hashlib.sha256(texts.encode("utf-8", "surrogatepass") + form).hexdigest()[:16]


def is_edited(obj: PathObject, classes: Classes) -> bool:
    """Whether an object no longer fits the fingerprint that qp2train wrote it with."""
    description = obj.metadata.get(DESCRIPTION_KEY, "")
    now = fingerprint(classes.name(obj.path_class), obj.name, obj.locked, obj.roi, obj.nucleus, description=description)
    return obj.metadata.get(FINGERPRINT_KEY) != now


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:_IDS_SHOWN])
    return f"{len(ids)} object(s) {shown}" + (", …" if len(ids) > _IDS_SHOWN else "")


def of_kinds(annotations: list[Annotation], kinds: Kinds) -> list[Annotation]:
    """Those of the kinds asked for.

    Raises:
        ValueError: Unknown `kinds`.
    """
    wanted = _wanted(kinds)
    return [annotation for annotation in annotations if annotation.kind in wanted]


def _wanted(kinds: Kinds) -> set[str]:
    if kinds not in _WANTED:
        raise ValueError(f"kinds={kinds!r}: use one of {', '.join(map(repr, _WANTED))}")
    return _WANTED[kinds]


def made_up_id(header: str, index: int) -> str:
    """A stable id for the object that is number `index` of those without one."""
    digest = _header_hash(header).copy()
    digest.update(f"#{index}".encode())
    return str(uuid.UUID(bytes=digest.digest()[:16], version=5))


@functools.lru_cache(maxsize=2)
def _header_hash(header: str) -> hashlib._Hash:
    """What uuid.uuid5 hashes, up to the index: a hostile header is long, and its objects are many."""
    return hashlib.sha1(uuid.NAMESPACE_URL.bytes + header.encode("utf-8", "surrogatepass"), usedforsecurity=False)


class _Reader:
    """Objects and their shapes → Annotations; what many objects share is read once."""

    def __init__(self) -> None:
        self.annotations: list[Annotation] = []
        self.repaired: list[str] = []
        self.bare: list[str] = []
        self.edited: list[str] = []
        self._classes = Classes()
        self._measurements = Measurements()
        self._planes = Planes()

    def objects(self, chosen: Sequence[PathObject]) -> None:
        """Add these objects' annotations."""
        drawn = shapes([obj.roi or obj.nucleus for obj in chosen])
        cells = [i for i, obj in enumerate(chosen) if obj.nucleus is not None]
        nuclei = dict(zip(cells, shapes([chosen[i].nucleus for i in cells]), strict=True))
        for i, (obj, shape) in enumerate(zip(chosen, drawn, strict=True)):
            annotation = self._annotation(obj, shape, nuclei.get(i))
            self.annotations.append(annotation)
            if shape.repaired or (i in nuclei and nuclei[i].repaired):
                self.repaired.append(annotation.id)
            if obj.roi is None and obj.nucleus is None:
                self.bare.append(annotation.id)
            if SOURCE_KEY in obj.metadata and is_edited(obj, self._classes):
                self.edited.append(annotation.id)

    def _annotation(self, obj: PathObject, shape: Shape, nucleus: Shape | None) -> Annotation:
        metadata = dict(obj.metadata)
        source = metadata.pop(SOURCE_KEY, None)
        if source is not None:
            metadata.pop(FINGERPRINT_KEY, None)
        if obj.missing:
            metadata[MISSING_KEY] = "true"
        parent, roi = obj.parent, obj.roi or obj.nucleus
        assert obj.kind is not None  # the root is never chosen
        assert obj.id is not None
        return Annotation(
            shape.geometry,
            self._classes.name(obj.path_class),
            kind=obj.kind,
            name=obj.name,
            measurements=self._measurements.read(obj.measurements),
            locked=obj.locked,
            id=obj.id,
            parent=None if parent is None or parent.parent is None else parent.id,
            plane=Plane() if roi is None else self._planes.read(roi),
            ellipse=shape.ellipse,
            color=obj.color,
            source=source,
            metadata=metadata,
            nucleus=None if nucleus is None else nucleus.geometry,
        )

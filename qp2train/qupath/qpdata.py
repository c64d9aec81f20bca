"""A `.qpdata` file → Annotations. Source: qupath.lib.io.PathIO, data file version 2 and 3."""

from __future__ import annotations

import hashlib
import logging
import struct
import uuid
from dataclasses import dataclass
from typing import Literal

from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation
from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import Block, ClassDesc, JObject, JString, Node, decode_utf
from qp2train.qupath.javastream import parse, serialise
from qp2train.qupath.javatypes import as_object, class_name
from qp2train.qupath.pathobject import ROOT, Classes, Measurements, PathObject, walk
from qp2train.qupath.roi import plane_of, shapes, stored_form

log = logging.getLogger(__name__)

Kinds = Literal["annotation", "detection", "all"]

SOURCE_KEY = "qp2train source"
FINGERPRINT_KEY = "qp2train fingerprint"
MISSING_KEY = "isMissing"
HIERARCHY = "qupath.lib.objects.hierarchy.PathObjectHierarchy"
_IDS_SHOWN = 20
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

    def to_bytes(self) -> bytes:
        """The file, byte for byte as it was if nothing was changed."""
        return serialise(self.contents)


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a file holds.

    Args:
        annotations: The objects asked for, parents before children.
        repaired: Ids of objects whose area crossed itself or had no extent; their geometry is the repair.
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
    first = b""
    while start < len(contents) and isinstance(block := contents[start], Block):
        first += block.data
        start += 1
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
    root = as_object(as_object(found[-1]).ref("rootObject"))
    if root.desc.name != ROOT:
        raise QuPathFormatError(f"the hierarchy begins with a {root.desc.name}")
    return QpData(contents, stream.classes, header.text, root)


def read_annotations(data: QpData, *, kinds: Kinds = "all") -> ReadResult:
    """The objects of a file as Annotations, in the order of the hierarchy (parents before children).

    Args:
        data: A loaded file.
        kinds: "annotation"; "detection" = detections, cells and tiles; "all" = TMA cores too. Objects of other
            kinds are left out, but parents are named whatever their kind.

    An object without id (QuPath 0.3 and older) gets one that depends on the file's header and its place, so that
    reading twice gives the same. Repaired geometry is logged with the object's id.

    Raises:
        QuPathFormatError: An object that QuPath 0.2 to 0.7 would not have written.
        ValueError: Unknown `kinds`.
    """
    wanted = _wanted(kinds)
    objects = list(walk(data.root))
    ids = {id(obj): obj.id or made_up_id(data.header, i) for i, obj in enumerate(objects)}
    chosen = [obj for obj in objects if obj.kind in wanted]
    drawn = shapes([obj.roi or obj.nucleus for obj in chosen])
    classes, measurements = Classes(), Measurements()
    annotations = [
        _annotation(obj, shape.geometry, shape.ellipse, ids, classes, measurements)
        for obj, shape in zip(chosen, drawn, strict=True)
    ]
    repaired = tuple(a.id for a, shape in zip(annotations, drawn, strict=True) if shape.repaired)
    if repaired:
        log.warning("%s: the outline crosses itself or has no extent; repaired", _listed(repaired))
    bare = tuple(a.id for a, obj in zip(annotations, chosen, strict=True) if obj.roi is None and obj.nucleus is None)
    if bare:
        log.warning("%s: no shape; the geometry is empty", _listed(bare))
    edited = tuple(ids[id(obj)] for obj in chosen if SOURCE_KEY in obj.metadata and is_edited(obj, classes))
    return ReadResult(annotations, repaired, bare, edited)


def fingerprint(class_name: str | None, name: str | None, locked: bool, roi: Node) -> str:
    """A short hash of what a human could change about an object: outline, class, name and lock, as stored."""
    texts = "\0".join((class_name or "", name or "", "locked" if locked else "")) + "\0"
    return hashlib.sha256(texts.encode("utf-8", "surrogatepass") + stored_form(roi)).hexdigest()[:16]


def is_edited(obj: PathObject, classes: Classes) -> bool:
    """Whether an object no longer fits the fingerprint that qp2train wrote it with."""
    now = fingerprint(classes.name(obj.path_class), obj.name, obj.locked, obj.roi)
    return obj.metadata.get(FINGERPRINT_KEY) != now


def _listed(ids: tuple[str, ...]) -> str:
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
    """A stable id for the object at `index` of the hierarchy, where the file has none."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{header}#{index}"))


def _annotation(
    obj: PathObject,
    geometry: BaseGeometry,
    ellipse: bool,
    ids: dict[int, str],
    classes: Classes,
    measurements: Measurements,
) -> Annotation:
    source = obj.metadata.get(SOURCE_KEY)
    metadata = {key: value for key, value in obj.metadata.items() if key not in (SOURCE_KEY, FINGERPRINT_KEY)}
    if obj.missing:
        metadata[MISSING_KEY] = "true"
    roi = obj.roi or obj.nucleus
    parent = obj.parent
    assert obj.kind is not None  # the root is never chosen
    return Annotation(
        geometry,
        classes.name(obj.path_class),
        kind=obj.kind,
        name=obj.name,
        measurements=measurements.read(obj.measurements),
        locked=obj.locked,
        id=ids[id(obj)],
        parent=None if parent is None or parent.parent is None else ids[id(parent)],
        ellipse=ellipse,
        color=obj.color,
        source=source,
        metadata=metadata,
        **({} if roi is None else {"plane": plane_of(roi)}),
    )

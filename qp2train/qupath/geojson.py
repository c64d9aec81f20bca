"""QuPath's GeoJSON dialect, read tolerantly and in pieces: a file of any size, one piece in memory at a time."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation
from qp2train.errors import QuPathFormatError
from qp2train.qupath import geojsonfeature as say
from qp2train.qupath.geojsonfile import PIECE, members
from qp2train.qupath.geojsonshape import ShapeError, read_shapes, short
from qp2train.qupath.geojsonsplit import split
from qp2train.qupath.geojsonwrite import WRITTEN_KEY, feature_text, write_geojson, written_as
from qp2train.qupath.qpdata import FINGERPRINT_KEY, MISSING_KEY, SOURCE_KEY

__all__ = [
    "CORRECTED_KEY",
    "WRITTEN_KEY",
    "feature_text",
    "iter_geojson",
    "read_feature",
    "read_geojson",
    "write_geojson",
]

log = logging.getLogger(__name__)

CORRECTED_KEY = "qp2train corrected"  # the model that an object came from which a human has changed since
_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_IDS_SHOWN = 20
_MAX_SHAPELESS = 200_000  # 18 bytes of text would each take a thousand bytes of memory
_TEXT_COMMA_OR_NAN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|,(?=\s*+[\]}])|-?(?:NaN|Infinity)', re.DOTALL)


def read_geojson(path: str | Path) -> list[Annotation]:
    """Annotations from a GeoJSON file, `.gz` and `.zip` too, as QuPath 0.2 to 0.7 and tools around it write it.

    Understood: a FeatureCollection, a list, one Feature, a bare geometry, one of these on each line; nested children;
    classes as name, names or text; colours as list, number or "#rrggbb"; unclosed rings; NaN. Of a `.zip` every
    `.geojson` and `.json` is read. What had to be repaired or ignored is logged. An object without UUID gets one
    that depends on the file's content and its place.

    Raises:
        QuPathFormatError: No GeoJSON, or a feature that cannot be understood; the message says which.
    """
    with _collector_at_rest():
        return list(iter_geojson(path))


def iter_geojson(path: str | Path, *, piece: int = PIECE) -> Iterator[Annotation]:
    """The annotations of `read_geojson` one after the other; only their ids and one piece of the file are held.

    Deferred until the iteration gets there: opening the file, every error, and (at the very end) the log of what was
    repaired. Annotations may have been yielded before an error.

    Args:
        path: The file.
        piece: Bytes read at once; what is found does not depend on it.

    Raises:
        QuPathFormatError: As `read_geojson`.
    """
    path = Path(path)
    reader = _Reader(path)
    try:
        for member in members(path, piece=piece):
            for texts in split(member):
                with _collector_at_rest():
                    found = reader.read(texts)
                yield from found
    except QuPathFormatError as error:
        raise QuPathFormatError(f"{path}: {error}") from error
    for what, (count, ids) in sorted(reader.reports.items()):
        log.warning("%s: %d object(s) %s: %s", path, count, what, ", ".join(ids) + (", …" * (count > len(ids))))


def read_feature(text: str) -> Annotation:
    """The annotation of one Feature's text.

    Raises:
        QuPathFormatError: It is not the text of one Feature.
    """
    found = _Reader(Path("feature")).read([text.encode("utf-8", "surrogatepass")])
    if len(found) != 1:
        raise QuPathFormatError(f"{len(found)} features in a text that should hold one")
    return found[0]


@contextlib.contextmanager
def _collector_at_rest() -> Iterator[None]:
    """No search for garbage cycles: JSON has none, and looking through its lists took 60 % of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass
class _Reader:
    """Features → annotations, some thousand at a time."""

    path: Path
    reports: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    _count: int = 0  # objects so far
    _parsed_before: int = 0  # features so far that lay in no other
    _shapeless: int = 0
    _digest: str | None = None
    _ids: set[str] = field(default_factory=set)
    _names: dict[str, str] = field(default_factory=dict)  # one text per class, not one per object

    def read(self, texts: list[bytes]) -> list[Annotation]:
        found = self._features(self._parsed(texts))
        self._parsed_before += len(texts)
        drawn = (item.get("geometry") for item, _, _ in found)
        shapes: list[Mapping[str, Any]] = [shape if isinstance(shape, dict) else {} for shape in drawn]
        cells = [i for i, (item, _, _) in enumerate(found) if isinstance(item.get("nucleusGeometry"), dict)]
        shapes += [found[i][0]["nucleusGeometry"] for i in cells]
        owners = [*range(len(found)), *cells]
        first = self._count
        try:
            geometries, repairs = read_shapes(shapes)
        except ShapeError as error:
            place = owners[error.index]
            raise QuPathFormatError(
                f"feature {first + place} (id {short(found[place][0].get('id'))}): geometry not understood: {error}"
            ) from error
        for i, what in sorted({(owners[i], what) for i, what in repairs}):
            self._report(what, found[i][1])
        nuclei = dict(zip(cells, geometries[len(found) :], strict=True))
        result = []
        for i, (item, object_id, parent) in enumerate(found):
            try:
                result.append(self._annotation(item, object_id, parent, shapes[i], geometries[i], nuclei.get(i)))
            except ValueError as error:
                raise QuPathFormatError(f"feature {first + i} (id {short(item.get('id'))}): {error}") from error
        self._count += len(found)
        self._correct(result)
        return result

    def _parsed(self, texts: list[bytes]) -> list[Any]:
        try:
            return list(orjson.loads(b"[" + b",".join(texts) + b"]"))
        except orjson.JSONDecodeError:  # QuPath 0.4 writes NaN, people leave a comma behind: which one is it?
            return [self._parsed_alone(text, self._parsed_before + i) for i, text in enumerate(texts)]

    def _parsed_alone(self, text: bytes, index: int) -> Any:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as strict:
            mended = _TEXT_COMMA_OR_NAN.sub(_mend, text)
            try:
                value = orjson.loads(mended)
            except orjson.JSONDecodeError:
                try:
                    value = json.loads(mended)  # half of a surrogate pair, numbers beyond a double
                except (ValueError, RecursionError):
                    raise QuPathFormatError(f"feature {index}: not JSON: {strict}") from strict
        given = value.get("id") if isinstance(value, dict) else None
        self._report("read though they are not strict JSON", given if isinstance(given, str) else f"feature {index}")
        return value

    def _features(self, values: list[Any]) -> list[tuple[Mapping[str, Any], str, str | None]]:
        """Feature, its id and its parent's, parents before children."""
        found: list[tuple[Mapping[str, Any], str, str | None]] = []
        stack: list[tuple[Any, str | None]] = [(value, None) for value in reversed(values)]
        while stack:
            item, parent = stack.pop()
            if isinstance(item, list):
                stack.extend((part, parent) for part in reversed(item))
                continue
            index = self._count + len(found)
            if not isinstance(item, dict):
                raise QuPathFormatError(f"feature {index}: {short(item)}, not an object")
            kind = item.get("type")
            if kind == "Feature":
                properties = item.get("properties")
                inner = (
                    properties.get("childObjects") or properties.get("children")
                    if isinstance(properties, dict)
                    else None
                )
                if say.is_root(item):
                    own = None
                else:
                    own = self._id(item.get("id"), index)
                    found.append((item, own, parent))
                if inner:
                    stack.append((inner, own))
            elif kind == "FeatureCollection":
                stack.append((item.get("features") or [], parent))
            elif isinstance(kind, str) and ("coordinates" in item or "geometries" in item):
                found.append(({"geometry": item}, self._id(None, index), parent))
            else:
                raise QuPathFormatError(
                    f"feature {index}: type {short(kind)} is neither FeatureCollection, Feature nor geometry"
                )
        return found

    def _annotation(
        self,
        item: Mapping[str, Any],
        object_id: str,
        parent: str | None,
        shape: Mapping[str, Any],
        geometry: BaseGeometry,
        nucleus: BaseGeometry | None,
    ) -> Annotation:
        def report(what: str) -> None:
            self._report(what, object_id)

        properties = item.get("properties")
        if not isinstance(properties, dict):
            properties = {}
        kind = say.kind(item, report)
        if item.get("nucleusGeometry") and (kind != "cell" or nucleus is None):
            report("with a nucleus that is not understood, or no cells")
        elif nucleus is not None and geometry.is_empty:
            geometry = nucleus  # as of a cell in QuPath's own files
        if geometry.is_empty:
            report("without a shape")
            self._shapeless += 1
            if self._shapeless > _MAX_SHAPELESS:
                raise QuPathFormatError(f"more than {_MAX_SHAPELESS} objects without a shape")
        metadata = say.metadata(properties.get("metadata"), report)
        source = metadata.pop(SOURCE_KEY, None)
        metadata.pop(FINGERPRINT_KEY, None)
        if kind == "tma_core" and say.flag(properties.get("isMissing")):
            metadata[MISSING_KEY] = "true"
        name = say.class_name(properties.get("classification"), report)
        return Annotation(
            geometry,
            None if name is None else self._names.setdefault(name, name),
            kind=kind,
            name=say.text(properties.get("name"), report),
            measurements=say.measurements(properties.get("measurements"), report),
            locked=say.flag(properties.get("isLocked", properties.get("locked"))),
            id=object_id,
            parent=parent,
            plane=say.plane(shape.get("plane") or properties.get("plane")),
            ellipse=say.flag(shape.get("isEllipse")),
            color=say.color(properties.get("color"), report),
            source=source,
            metadata=metadata,
            nucleus=nucleus if kind == "cell" and nucleus else None,
        )

    def _correct(self, annotations: list[Annotation]) -> None:
        """A prediction that is no longer as it was written is the human's."""
        claimed = [i for i, a in enumerate(annotations) if WRITTEN_KEY in a.metadata]
        marks = written_as([annotations[i] for i in claimed], [annotations[i].geometry for i in claimed])
        for i, now in zip(claimed, marks, strict=True):
            metadata, source = dict(annotations[i].metadata), annotations[i].source
            if metadata.pop(WRITTEN_KEY) != now and source is not None:
                metadata[CORRECTED_KEY], source = source, None
            annotations[i] = replace(annotations[i], metadata=metadata, source=source)

    def _id(self, given: object, index: int) -> str:
        result = None
        if isinstance(given, str):
            if _UUID.fullmatch(given):
                result = given
            else:
                with contextlib.suppress(ValueError):  # text of another tool, or QuPath 0.2's class name
                    result = str(uuid.UUID(given))
        if result in self._ids:
            self._report("had the id of another", str(result))
            result = None
        if result is None:
            result = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self._content()}#{index}"))
        self._ids.add(result)
        return result

    def _content(self) -> str:
        if self._digest is None:
            digest = hashlib.sha256()
            for member in members(self.path):
                for data in member:
                    digest.update(data)
            self._digest = digest.hexdigest()
        return self._digest

    def _report(self, what: str, object_id: str) -> None:
        count, ids = self.reports.get(what, (0, []))
        if len(ids) < _IDS_SHOWN:
            ids.append(object_id)
        self.reports[what] = count + 1, ids


def _mend(found: re.Match[bytes]) -> bytes:
    text = found[0]
    return text if text[:1] == b'"' else b"" if text == b"," else b'"' + text + b'"'

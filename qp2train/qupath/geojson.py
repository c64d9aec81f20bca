"""QuPath's GeoJSON dialect: tolerant in, exact out.

Source: qupath.lib.io.PathObjectTypeAdapters, QuPathTypeAdapters; what each version writes and reads was tested.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import logging
import math
import re
import uuid
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation, Kind, Plane
from qp2train.core.geometry import clean
from qp2train.errors import QuPathFormatError
from qp2train.qupath.geojsonshape import from_geojson, to_geojson
from qp2train.qupath.pathobject import Rgb, rgb
from qp2train.qupath.qpdata import FINGERPRINT_KEY, SOURCE_KEY
from qp2train.qupath.qpproj import default_color
from qp2train.qupath.savefile import save

log = logging.getLogger(__name__)

# What a prediction looked like when it was written, and, once a human has changed it, the model it came from.
WRITTEN_KEY, CORRECTED_KEY = "qp2train written as", "qp2train corrected"

_KINDS: Mapping[str, Kind] = {
    "annotation": "annotation",
    "detection": "detection",
    "cell": "cell",
    "tile": "tile",
    "tmacore": "tma_core",
    "pathannotationobject": "annotation",  # the id of QuPath 0.2
    "pathdetectionobject": "detection",
    "pathcellobject": "cell",
    "pathtileobject": "tile",
    "tmacoreobject": "tma_core",
}
_MAX_BYTES = 1 << 32  # unpacked; 100,000 polygons are 50 MB
_STRING_OR_COMMA = re.compile(r'"(?:[^"\\]|\\.)*"|,(?=\s*[\]}])', re.DOTALL)
_NUMBER_NAMES = {"nan": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf, "-infinity": -math.inf}


def read_geojson(path: str | Path) -> list[Annotation]:
    """Annotations from a GeoJSON file, `.gz` too, as QuPath 0.2 to 0.7 and tools around it write it.

    Understood: a FeatureCollection, a list, one Feature, a bare geometry; nested children; classes as name, names or
    text; colours as list, number or "#rrggbb"; unclosed rings; NaN. What had to be repaired is logged. An object
    without UUID gets one that depends on the file's content and its place.

    Raises:
        QuPathFormatError: No GeoJSON, or a feature that cannot be understood; the message says which.
    """
    path = Path(path)
    try:
        data = _unpacked(path)
        reader = _Reader(hashlib.sha256(data).hexdigest())
        reader.read(_parsed(data))
    except QuPathFormatError as error:
        raise QuPathFormatError(f"{path}: {error}") from error
    for what, ids in reader.reports.items():
        log.warning("%s: %d object(s) %s: %s", path, len(ids), what, ", ".join(ids[:20]) + (", …" * (len(ids) > 20)))
    return reader.annotations


def write_geojson(
    path: str | Path, annotations: Iterable[Annotation], *, colors: Mapping[str, Rgb] | None = None
) -> None:
    """Write annotations as a FeatureCollection that QuPath 0.5 and later reads; `.gz` is packed.

    Coordinates are written in full, areas valid, single parts never as Multi…; a class without a given colour gets
    its default. QuPath's flat form has no place for parents. An object with empty geometry is left out and logged.

    Args:
        path: `.geojson` or `.geojson.gz`.
        annotations: Full-resolution pixels.
        colors: Class name → (r, g, b).

    Raises:
        ProjectError: The file could not be written; an old one is as it was.
    """
    path = Path(path)
    features = []
    for annotation in annotations:
        geometry = clean(annotation.geometry)
        if geometry.is_empty:
            log.warning("%s: object %s has an empty geometry and is left out", path, annotation.id)
            continue
        features.append(_feature(annotation, geometry, colors or {}))
    data = orjson.dumps({"type": "FeatureCollection", "features": features})
    save(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _feature(annotation: Annotation, geometry: BaseGeometry, colors: Mapping[str, Rgb]) -> dict[str, Any]:
    shape = to_geojson(geometry)
    if annotation.plane != Plane():
        shape["plane"] = {"c": annotation.plane.c, "z": annotation.plane.z, "t": annotation.plane.t}
    if annotation.ellipse:
        shape["isEllipse"] = True
    properties: dict[str, Any] = {
        "objectType": "tmaCore" if annotation.kind == "tma_core" else annotation.kind,
    }
    if annotation.name is not None:
        properties["name"] = annotation.name
    if annotation.color is not None:
        properties["color"] = list(annotation.color)
    if (class_name := annotation.class_name) is not None:
        levels = class_name.split(": ")
        name = {"name": class_name} if len(levels) == 1 else {"names": levels}
        properties["classification"] = {**name, "color": list(colors.get(class_name) or default_color(class_name))}
    if annotation.locked:
        properties["isLocked"] = True
    if annotation.measurements:
        properties["measurements"] = {key: _written_number(value) for key, value in annotation.measurements.items()}
    metadata = dict(annotation.metadata)
    if annotation.source is not None:
        metadata[SOURCE_KEY] = annotation.source
        metadata[WRITTEN_KEY] = _written_as(geometry, annotation.class_name, annotation.name, annotation.locked)
    if metadata:
        properties["metadata"] = metadata
    return {"type": "Feature", "id": annotation.id, "geometry": shape, "properties": properties}


def _written_as(geometry: BaseGeometry, class_name: str | None, name: str | None, locked: bool) -> str:
    """A short hash of what a human could change about an object, to the 0.01 px that QuPath's export keeps."""
    xy = shapely.get_coordinates(shapely.normalize(shapely.transform(geometry, lambda xy: np.round(xy, 2) + 0.0)))
    texts = "\0".join((class_name or "", name or "", "locked" if locked else "")) + "\0"
    return hashlib.sha256(texts.encode("utf-8", "surrogatepass") + xy.tobytes()).hexdigest()[:16]


def _written_number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _unpacked(path: Path) -> bytes:
    try:
        if path.read_bytes()[:2] != b"\x1f\x8b":
            return path.read_bytes()
        with gzip.open(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise QuPathFormatError("the file does not exist") from None
    except (OSError, EOFError, zlib.error) as error:
        raise QuPathFormatError(f"the file cannot be read: {error}") from error
    if len(data) > _MAX_BYTES:
        raise QuPathFormatError(f"more than {_MAX_BYTES >> 30} GiB when unpacked")
    return data


def _parsed(data: bytes) -> object:
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as strict:  # QuPath 0.4 writes NaN, people leave a comma behind
        try:
            return json.loads(_STRING_OR_COMMA.sub(lambda m: "" if m[0] == "," else m[0], data.decode("utf-8")))
        except (ValueError, RecursionError):
            raise QuPathFormatError(f"not JSON: {strict}") from strict


@dataclass
class _Reader:
    """Features → annotations. `digest` of the file makes the ids of objects that have none."""

    digest: str
    annotations: list[Annotation] = field(default_factory=list)
    reports: dict[str, list[str]] = field(default_factory=dict)
    _ids: set[str] = field(default_factory=set)

    def read(self, value: object) -> None:
        stack: list[tuple[object, str | None]] = [(value, None)]
        while stack:
            item, parent = stack.pop()
            if isinstance(item, list):
                stack.extend((part, parent) for part in reversed(item))
                continue
            if not isinstance(item, dict):
                raise QuPathFormatError(f"feature {len(self.annotations)}: a {type(item).__name__}, not an object")
            kind = item.get("type")
            if kind == "FeatureCollection":
                stack.append((item.get("features") or [], parent))
            elif kind == "Feature":
                annotation, children = self._feature(item, parent)
                self.annotations.append(annotation)
                stack.append((children, annotation.id))
            elif isinstance(kind, str) and ("coordinates" in item or "geometries" in item):
                self.annotations.append(self._feature({"geometry": item}, parent)[0])
            else:
                raise QuPathFormatError(
                    f"feature {len(self.annotations)}: type {kind!r} is neither FeatureCollection, Feature nor geometry"
                )

    def _feature(self, item: Mapping[str, Any], parent: str | None) -> tuple[Annotation, list[Any]]:
        index = len(self.annotations)
        properties = item.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        object_id = self._id(item.get("id"), index)
        shape = item.get("geometry")
        shape = shape if isinstance(shape, dict) else {}
        try:
            geometry = from_geojson(shape)
            plane = _plane(shape.get("plane") or properties.get("plane"))
        except (TypeError, ValueError, shapely.errors.ShapelyError) as error:
            raise QuPathFormatError(
                f"feature {index} (id {item.get('id')!r}): geometry not understood: {error}"
            ) from error
        if geometry.is_empty:
            self._report("without a shape", object_id)
        elif not geometry.is_valid:
            geometry = clean(geometry)
            self._report("repaired, their area crossed itself", object_id)
        metadata = _texts(properties.get("metadata"))
        source = metadata.pop(SOURCE_KEY, None)
        metadata.pop(FINGERPRINT_KEY, None)
        name = properties.get("name")
        name = None if name is None else str(name)
        class_name = _class_name(properties.get("classification"))
        locked = bool(properties.get("isLocked", properties.get("locked", False)))
        written = metadata.pop(WRITTEN_KEY, None)
        if source and written and written != _written_as(geometry, class_name, name, locked):
            metadata[CORRECTED_KEY], source = source, None  # a human has changed it since: it is the human's
        annotation = Annotation(
            geometry,
            class_name,
            kind=_kind(item, properties),
            name=name,
            measurements=self._measurements(properties.get("measurements"), object_id),
            locked=locked,
            id=object_id,
            parent=parent,
            plane=plane,
            ellipse=bool(shape.get("isEllipse")),
            color=_color(properties.get("color")),
            source=source,
            metadata=metadata,
        )
        children = properties.get("childObjects") or properties.get("children") or []
        return annotation, children if isinstance(children, list) else [children]

    def _id(self, given: object, index: int) -> str:
        result = None
        if isinstance(given, str):
            with contextlib.suppress(ValueError):  # text of another tool, or QuPath 0.2's class name
                result = str(uuid.UUID(given))
        if result in self._ids:
            self._report("had the id of another", str(result))
            result = None
        if result is None:
            result = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.digest}#{index}"))
        self._ids.add(result)
        return result

    def _measurements(self, given: object, object_id: str) -> dict[str, float]:
        pairs: Iterable[tuple[Any, Any]] = ()
        if isinstance(given, dict):
            pairs = given.items()
        elif isinstance(given, list):
            pairs = [(item.get("name"), item.get("value")) for item in given if isinstance(item, dict)]
        result = {}
        for key, value in pairs:
            number = _number(value)
            if number is not None:
                result[str(key)] = number
            elif value is not None:
                self._report("with a measurement that is no number", object_id)
        return result

    def _report(self, what: str, object_id: str) -> None:
        self.reports.setdefault(what, []).append(object_id)


def _number(value: object) -> float | None:
    if isinstance(value, str):
        return _NUMBER_NAMES.get(value.lower())
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _kind(item: Mapping[str, Any], properties: Mapping[str, Any]) -> Kind:
    for value in (properties.get(k) for k in ("objectType", "object_type", "type")):
        if isinstance(value, str):
            return _KINDS.get(value.lower().replace("_", ""), "annotation")
    legacy = item.get("id")
    return _KINDS.get(legacy.lower(), "annotation") if isinstance(legacy, str) else "annotation"


def _class_name(given: object) -> str | None:
    if isinstance(given, dict):
        names = given.get("names")
        given = ": ".join(map(str, names)) if isinstance(names, list) else given.get("name")
    return given if isinstance(given, str) and given else None


def _color(given: object) -> Rgb | None:
    if isinstance(given, int) and not isinstance(given, bool):
        return rgb(given)
    if isinstance(given, str) and re.fullmatch("#[0-9a-fA-F]{6}", given):
        return rgb(int(given[1:], 16))
    if isinstance(given, list) and len(given) >= 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in given[:3]):
        return given[0], given[1], given[2]
    return None


def _texts(given: object) -> dict[str, str]:
    if not isinstance(given, dict):
        return {}
    return {str(key): str(value) for key, value in given.items() if isinstance(value, str | int | float)}


def _plane(given: object) -> Plane:
    if not isinstance(given, dict):
        return Plane()
    return Plane(int(given.get("c", -1)), int(given.get("z", 0)), int(given.get("t", 0)))

"""Annotations → GeoJSON that QuPath shows as its own, written in pieces."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation, Plane
from qp2train.core.geometry import clean
from qp2train.errors import ProjectError
from qp2train.qupath.geojsonfile import packed
from qp2train.qupath.geojsonshape import FARTHEST, write_shapes
from qp2train.qupath.pathobject import Rgb
from qp2train.qupath.qpdata import MISSING_KEY, SOURCE_KEY
from qp2train.qupath.qpproj import default_color
from qp2train.qupath.roi import homogeneous
from qp2train.qupath.savefile import save

log = logging.getLogger(__name__)

WRITTEN_KEY = "qp2train written as"  # what a prediction looked like when it was written
_AT_ONCE = 4096
_MAX_LEVELS = 64  # QuPath's own reader calls itself for every level
_IDS_SHOWN = 20
_DEFAULT_PLANE = Plane()


def write_geojson(
    path: str | Path,
    annotations: Iterable[Annotation],
    *,
    colors: Mapping[str, Rgb] | None = None,
    decimals: int | None = None,
    nested: bool = False,
    omit_nan: bool = False,
) -> None:
    """Write annotations as a FeatureCollection that QuPath 0.5 and later reads; `.gz` and `.zip` are packed.

    Areas are made valid, single parts never written as Multi…; a class without a given colour gets its default. An
    object whose geometry is empty or not finite is left out and logged. Annotations are taken one after the other,
    some thousand at a time, so a generator of any length can be written.

    Args:
        path: `.geojson`, `.geojson.gz` or `.zip`.
        annotations: Full-resolution pixels.
        colors: Class name → (r, g, b).
        decimals: Round coordinates to so many digits (QuPath's own export: 2); None writes them in full. A shape that
            would vanish is not rounded.
        nested: Write objects into their parents, as QuPath reads them and its flat form cannot say; all are held in
            memory. An object whose parent is not among them goes to the top, one below 64 levels to its ancestor there.
        omit_nan: Leave out measurements that are NaN or infinite, which QuPath 0.4 cannot read.

    Raises:
        ProjectError: The file could not be written; an old one is as it was.
    """
    path = Path(path)
    writer = _Writer(colors or {}, decimals, omit_nan)
    features = writer.features(annotations)
    save(path, packed(path, _collection(_nested(list(features)) if nested else (text for _, text in features))))
    if writer.empty:
        shown = ", ".join(writer.empty[:_IDS_SHOWN]) + ", …" * (len(writer.empty) > _IDS_SHOWN)
        log.warning(
            "%s: %d object(s) left out, their geometry is empty or not finite: %s", path, len(writer.empty), shown
        )


def feature_text(annotation: Annotation) -> str:
    """The Feature of one annotation, as text.

    Raises:
        ProjectError: Its geometry is empty or not finite.
    """
    for _, feature in _Writer({}, None, False).features([annotation]):
        return feature.decode()
    raise ProjectError(f"annotation {annotation.id} has an empty or infinite geometry")


def _collection(features: Iterable[bytes]) -> Iterator[bytes]:
    texts = iter(features)
    yield b'{"type":"FeatureCollection","features":['
    separator = b""
    while part := b",".join(islice(texts, _AT_ONCE)):
        yield separator + part
        separator = b","
    yield b"]}"


def _nested(features: list[tuple[Annotation, bytes]]) -> Iterator[bytes]:
    """The features at the top, each with its children in its properties."""
    place: dict[str, int] = {}
    for i, (annotation, _) in enumerate(features):
        place.setdefault(annotation.id, i)
    children: dict[int | None, list[int]] = {}
    for i, (annotation, _) in enumerate(features):
        children.setdefault(place.get(annotation.parent or ""), []).append(i)
    done = [False] * len(features)
    for top in (*children.get(None, ()), *range(len(features))):  # the second: parents that go round in a circle
        if done[top]:
            continue
        parts: list[bytes] = []
        stack: list[tuple[int, int] | bytes] = [(top, 1)]
        while stack:
            item = stack.pop()
            if isinstance(item, bytes):
                parts.append(item)
                continue
            i, level = item
            done[i] = True
            if parts and not parts[-1].endswith(b"["):
                parts.append(b",")
            inner = [k for k in reversed(children.get(i, ())) if not done[k]]
            if inner and level < _MAX_LEVELS:
                parts.append(features[i][1][:-2] + b',"childObjects":[')
                stack.append(b"]}}")
                level += 1
            else:
                parts.append(features[i][1])
            stack += [(k, level) for k in inner]
        yield b"".join(parts)


class _Writer:
    """Annotations → the texts of features."""

    def __init__(self, colors: Mapping[str, Rgb], decimals: int | None, omit_nan: bool) -> None:
        self._colors, self._decimals, self._omit_nan = colors, decimals, omit_nan
        self._classes: dict[str, dict[str, Any]] = {}
        self.empty: list[str] = []

    def features(self, annotations: Iterable[Annotation]) -> Iterator[tuple[Annotation, bytes]]:
        waiting = iter(annotations)
        while batch := list(islice(waiting, _AT_ONCE)):
            yield from self._batch(batch)

    def _batch(self, batch: list[Annotation]) -> Iterator[tuple[Annotation, bytes]]:
        geometries = _exact([annotation.geometry for annotation in batch], self._decimals)
        drawn = [(a, geometry) for a, geometry in zip(batch, geometries, strict=True) if geometry is not None]
        self.empty += [a.id for a, geometry in zip(batch, geometries, strict=True) if geometry is None]
        claimed = [(a, geometry) for a, geometry in drawn if a.source is not None]
        marks = iter(written_as([a for a, _ in claimed], [geometry for _, geometry in claimed]))
        nuclei = [a.nucleus if a.kind == "cell" else None for a, _ in drawn]
        nuclei = _exact(nuclei, self._decimals) if any(nuclei) else nuclei
        inner_shapes = iter(write_shapes([nucleus for nucleus in nuclei if nucleus is not None]))
        shapes = write_shapes([geometry for _, geometry in drawn])
        for (annotation, _), shape, nucleus in zip(drawn, shapes, nuclei, strict=True):
            feature: dict[str, Any] = {"type": "Feature", "id": annotation.id, "geometry": shape}
            _add_plane(shape, annotation.plane)
            if annotation.ellipse:
                shape["isEllipse"] = True
            if nucleus is not None:
                feature["nucleusGeometry"] = _add_plane(next(inner_shapes), annotation.plane)
            mark = None if annotation.source is None else next(marks)
            feature["properties"] = self._properties(annotation, mark)  # last: _nested adds to its end
            yield annotation, orjson.dumps(feature, option=orjson.OPT_SERIALIZE_NUMPY)

    def _properties(self, annotation: Annotation, mark: str | None) -> dict[str, Any]:
        properties: dict[str, Any] = {"objectType": annotation.kind}
        if annotation.name is not None:
            properties["name"] = _text(annotation.name)
        if annotation.color is not None:
            properties["color"] = annotation.color
        if annotation.class_name is not None:
            properties["classification"] = self._class(annotation.class_name)
        if annotation.locked:
            properties["isLocked"] = True
        if annotation.measurements:
            properties["measurements"] = self._measurements(annotation.measurements)
        metadata = {_text(key): _text(value) for key, value in annotation.metadata.items()}
        if annotation.kind == "tma_core":
            properties["objectType"] = "tmaCore"
            properties["isMissing"] = metadata.pop(MISSING_KEY, "") == "true"
        if annotation.source is not None and mark is not None:
            metadata[SOURCE_KEY] = _text(annotation.source)
            metadata[WRITTEN_KEY] = mark
        if metadata:
            properties["metadata"] = metadata
        return properties

    def _class(self, name: str) -> dict[str, Any]:
        if name not in self._classes:
            levels = _text(name).split(": ")
            said: dict[str, Any] = {"name": levels[0]} if len(levels) == 1 else {"names": levels}
            self._classes[name] = {**said, "color": self._colors.get(name) or default_color(name)}
        return self._classes[name]

    def _measurements(self, measurements: Mapping[str, float]) -> dict[str, float | str]:
        result: dict[str, float | str] = {}
        for key, value in measurements.items():
            number = float(value)
            if math.isfinite(number):
                result[_text(key)] = number
            elif not self._omit_nan:
                result[_text(key)] = "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
        return result


def _add_plane(shape: dict[str, Any], plane: Plane) -> dict[str, Any]:
    if plane != _DEFAULT_PLANE:
        shape["plane"] = {"c": plane.c, "z": plane.z, "t": plane.t}
    return shape


def _text(given: str) -> str:
    """Half a surrogate pair, which Java and JSON let pass and UTF-8 does not, becomes U+FFFD."""
    return given if given.isascii() else given.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _exact(given: Sequence[BaseGeometry | None], decimals: int | None) -> list[BaseGeometry | None]:
    """Valid geometries with coordinates that can be read, rounded if asked to; None where nothing is left."""
    array = np.array([*given, None], dtype=object)[:-1]
    xy, index = shapely.get_coordinates(array, return_index=True)
    array[index[~(np.abs(xy) <= FARTHEST).all(axis=1)]] = None
    kinds = shapely.get_type_id(array)
    for i in np.flatnonzero(kinds == shapely.GeometryType.LINEARRING):
        array[i] = shapely.Polygon(array[i])
    for i in np.flatnonzero(kinds == shapely.GeometryType.GEOMETRYCOLLECTION):
        array[i] = homogeneous(array[i])
    if decimals is not None:
        some = ~shapely.is_missing(array)
        rounded = array.copy()
        rounded[some] = _clean(shapely.transform(array[some], lambda xy: np.round(xy, decimals) + 0.0))
        array = np.where(shapely.is_empty(rounded) | ~some, array, rounded)
    array = _clean(array)
    array[shapely.is_empty(array)] = None
    return list(array)


def _clean(array: NDArray[np.object_]) -> NDArray[np.object_]:
    for i in np.flatnonzero(~shapely.is_valid(array) & ~shapely.is_missing(array)):
        array[i] = clean(array[i])
    return array


@np.errstate(over="ignore", invalid="ignore")
def written_as(annotations: Sequence[Annotation], geometries: Sequence[BaseGeometry]) -> list[str]:
    """Short hashes of what a human could change about objects, to the 0.01 px that QuPath's export keeps."""
    array = np.array([*geometries, None], dtype=object)[:-1]
    array = shapely.normalize(shapely.transform(array, lambda xy: np.round(xy, 2) + 0.0))
    xy = shapely.get_coordinates(array)
    ends = np.cumsum(shapely.get_num_coordinates(array)).tolist()
    result = []
    for a, start, end in zip(annotations, [0, *ends], ends, strict=False):
        texts = "\0".join((_text(a.class_name or ""), _text(a.name or ""), "locked" if a.locked else "")) + "\0"
        result.append(hashlib.sha256(texts.encode() + xy[start:end].tobytes()).hexdigest()[:16])
    return result

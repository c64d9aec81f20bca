"""Damaged and hostile variants of GeoJSON files: bytes, tokens, and values of other types in random places."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from copy import deepcopy
from random import Random
from typing import Any

from .mutate import BYTES, Mutation, several

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|[\[\]{},:]')
_TOKENS = (
    b"null", b"true", b"[]", b"{}", b'""', b"-1", b"0", b"1e999", b"-1e308", b"1e-320", b"NaN", b"-Infinity",
    b"9" * 400, b"0." + b"1" * 400, b'"NaN"', b'"1"', rb'"\ud800"', rb'"\u0000"', '"\U0001f600\u202e"'.encode(),
    b'"' + b"x" * 2000 + b'"', b"[[[[]]]]", b"[" * 300 + b"]" * 300, b'{"type":"Feature"}',
    b'{"type":"Point","coordinates":[1,2]}',
    b'"Polygon"', b'"MultiPolygon"', b'"GeometryCollection"', b'"Point"', b'"Feature"', b'"type"', b'"coordinates"',
    b'{"type":"GeometryCollection","geometries":[]}', b"[1,2]", b"[[0,0],[1,1],[1,0]]", b",", b"]", b"}",
    b"\xff", b"\xef\xbb\xbf",
)  # fmt: skip


def mutated_geojson(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A variant of a GeoJSON file; `others` are files to take parts from."""
    if rng.random() < 0.5:
        with contextlib.suppress(ValueError, RecursionError):
            data = _other_values(rng, data)
        if rng.random() < 0.7:
            return data
    return several(rng, data, others, (*BYTES, *_JSON, *_JSON))


def _token(rng: Random, data: bytes) -> slice:
    found = [m.span() for m in _TOKEN.finditer(data, rng.randrange(max(1, len(data) - 4000)))]
    return slice(*rng.choice(found[:2000])) if found else slice(0, 0)


def _replace_token(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    gone = _token(rng, data)
    return data[: gone.start] + rng.choice(_TOKENS) + data[gone.stop :]


def _delete_token(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    gone = _token(rng, data)
    return data[: gone.start] + data[gone.stop :]


def _swap_tokens(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    one, two = sorted((_token(rng, data), _token(rng, data)), key=lambda s: s.start)
    if one.stop > two.start:
        return data
    return data[: one.start] + data[two] + data[one.stop : two.start] + data[one] + data[two.stop :]


_JSON: tuple[Mutation, ...] = (_replace_token, _delete_token, _swap_tokens)

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 31, 1 << 63, 10**30, 1.5, 1e308, -1e308, 1e-320, float("nan"), float("inf"), "",
    "NaN", "-inf", "x" * 1000, "\0", "\ud800", "😀", ": ", "#00ff00", "Polygon", "Point", "Feature",
    "FeatureCollection", [], {},
    [[]], [None], [0, 0], [0, 0, 0, 0], [[0, 0]], [[0, 0], [1, 1]], [[[0, 0], [1, 1], [2, 2]]],
    [[[0, 0], [2, 2], [2, 0], [0, 2]]],
    {"type": "Point", "coordinates": [1, 2]},
    {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1e300, 2]}]},
    {"type": "MultiLineString", "coordinates": [[[0, 0], [0, 0]]]}, {"c": 1e300, "z": None, "t": "x"},
    {"name": {}, "color": "red"},
    {"names": ["A", None, 3], "colorRGB": 1 << 40}, [{"name": "a", "value": 1}, {"name": 1, "value": "x"}, 3],
    {"type": "Feature", "geometry": None, "properties": {"childObjects": [{}]}},
)  # fmt: skip
_KEYS = (
    "type", "id", "geometry", "nucleusGeometry", "coordinates", "geometries", "properties", "features",
    "classification", "name", "names", "color", "colorRGB", "measurements", "metadata", "plane", "isEllipse",
    "isLocked", "objectType", "childObjects", "children", "isMissing", "value",
)  # fmt: skip


def _other_values(rng: Random, data: bytes) -> bytes:
    """Parse, put values of other types into random places, and write it again."""
    top = [json.loads(data)]
    for _ in range(rng.choice((1, 1, 2, 5))):
        places = _places(top)
        holder, key = rng.choice(places)
        how = rng.randrange(6)
        if how == 0:
            other, other_key = rng.choice(places)
            holder[key] = other[other_key]
        elif how == 1 and isinstance(holder, dict):
            holder[rng.choice(_KEYS)] = deepcopy(rng.choice(_VALUES))
        elif how == 2 and len(holder) > 1:
            del holder[key]
        elif how == 3:
            for _ in range(rng.choice((1, 5, 20, 200))):
                holder[key] = [holder[key]] if rng.random() < 0.7 else {rng.choice(_KEYS): holder[key]}
        else:
            holder[key] = deepcopy(rng.choice(_VALUES))  # what is put in may be changed by the next round
    return json.dumps(top[0] if top else None, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _places(top: list[Any]) -> list[tuple[Any, Any]]:
    """Every (container, key or index); values inside a shared container count once."""
    result: list[tuple[Any, Any]] = []
    stack: list[Any] = [top]
    while stack and len(result) < 3000:
        holder = stack.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            result.append((holder, key))
            if isinstance(value, dict | list):
                stack.append(value)
    return result

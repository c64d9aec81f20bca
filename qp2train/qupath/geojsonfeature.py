"""The words of QuPath's GeoJSON: what a feature says besides its shape, in the forms of every version.

Source: qupath.lib.io.QuPathTypeAdapters; what each version writes and reads was tested.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from qp2train.core.annotation import Kind, Plane
from qp2train.qupath.geojsonshape import short
from qp2train.qupath.pathobject import Rgb, rgb

Report = Callable[[str], None]

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
_ROOTS = ("root", "pathrootobject")
_NUMBER_NAMES = {"nan": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf, "-infinity": -math.inf}
_LARGEST_PLANE = (1 << 31) - 1
_DEFAULT_PLANE = Plane()


def is_root(item: Mapping[str, Any]) -> bool:
    """Whether a feature stands for the image itself, which QuPath may write round its objects."""
    return not item.get("geometry") and _stated_kind(item) in _ROOTS


def kind(item: Mapping[str, Any], report: Report) -> Kind:
    """QuPath's object type, from where its versions put it; an annotation if nothing is said."""
    stated = _stated_kind(item)
    if stated is None:
        return "annotation"
    if stated not in _KINDS:
        report("of an unknown type, taken as annotations")
    return _KINDS.get(stated, "annotation")


def _stated_kind(item: Mapping[str, Any]) -> str | None:
    properties = item.get("properties")
    if isinstance(properties, dict):
        for key in ("objectType", "object_type", "type"):
            if isinstance(value := properties.get(key), str):
                return value if value in _KINDS else value.lower().replace("_", "")
    legacy = item.get("id")
    legacy = legacy.lower() if isinstance(legacy, str) else None
    return legacy if legacy in _KINDS or legacy in _ROOTS else None


def class_name(given: object, report: Report) -> str | None:
    """The class ("Tumor: Positive") from a text, {name} or {names}; None = unclassified."""
    if isinstance(given, dict):
        names = given.get("names")
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            given = ": ".join(names)
        else:
            given = given.get("name")
    if given is not None and not isinstance(given, str):
        report("with a class that is no text")
        return None
    return given or None


def color(given: object, report: Report) -> Rgb | None:
    """(r, g, b) from [r, g, b], a signed ARGB number or "#rrggbb"."""
    if given is None:
        return None
    if isinstance(given, int) and not isinstance(given, bool):
        return rgb(given)
    if isinstance(given, str) and re.fullmatch("#[0-9a-fA-F]{6}", given):
        return rgb(int(given[1:], 16))
    if isinstance(given, list) and len(given) >= 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in given[:3]):
        return int(given[0]), int(given[1]), int(given[2])
    report("with a colour that is not understood")
    return None


def text(given: object, report: Report) -> str | None:
    """A name; numbers are taken as text."""
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, int | float):
        return str(given)
    report("with a name that is no text")
    return None


def flag(given: object) -> bool:
    """Whether a switch is on."""
    return given is True or (isinstance(given, str) and given.lower() == "true")


def measurements(given: object, report: Report) -> dict[str, float]:
    """Name → number, from an object (QuPath 0.4 and later) or a list of {name, value}; null is left out."""
    if not given:
        return {}
    if isinstance(given, dict):
        pairs = list(given.items())
    elif isinstance(given, list):
        pairs = [(item.get("name"), item.get("value")) for item in given if isinstance(item, dict)]
    else:
        pairs = [(None, None)]
    result = {}
    for key, value in pairs:
        number = value if type(value) is float else _number(value)
        if number is not None and isinstance(key, str):
            result[key] = number
        elif value is not None or key is None:
            report("with a measurement that is no number")
    return result


def _number(value: object) -> float | None:
    if isinstance(value, str):
        return _NUMBER_NAMES.get(value.lower())
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        return None


def metadata(given: object, report: Report) -> dict[str, str]:
    """QuPath's texts; numbers and switches are kept as text, as QuPath keeps them."""
    if not given:
        return {}
    if not isinstance(given, dict):
        report("with metadata that is not understood")
        return {}
    result = {}
    for key, value in given.items():
        if isinstance(value, bool):
            result[key] = "true" if value else "false"
        elif isinstance(value, str | int | float):
            result[key] = str(value)
        else:
            report("with metadata that is not understood")
    return result


def plane(given: object) -> Plane:
    """Channel, z-slice and time point.

    Raises:
        ValueError: No such numbers.
    """
    if given is None:
        return _DEFAULT_PLANE
    if not isinstance(given, dict):
        raise ValueError(f"plane {short(given)}")
    numbers = []
    for key, default in (("c", -1), ("z", 0), ("t", 0)):
        value = given.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST_PLANE:
            raise ValueError(f"plane with {key} = {short(value)}")
        numbers.append(int(value))
    return Plane(*numbers)

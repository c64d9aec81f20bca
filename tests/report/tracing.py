"""Reads a report's numbers back, and compares them with the files that they name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag


def at(files: Mapping[str, Any], source: str) -> Any:
    """What stands at FILE#POINTER, read as RFC 6901 says."""
    file, _, path = source.partition("#")
    found = files[file]
    for key in path.split("/")[1:]:
        name = key.replace("~1", "/").replace("~0", "~")
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found


def check_number(files: Mapping[str, Any], tag: Tag) -> None:
    """The number as text is the number in the file, to the last decimal shown."""
    text = tag.get_text()
    value = at(files, tag["data-source"])
    if tag.get("data-over"):
        value = value / sum(at(files, tag["data-over"]))
    number = re.fullmatch(r"(-?[\d,]+(?:\.(\d+))?)( %)?", text)
    assert number is not None, text
    scale = 100 if number[3] else 1
    step = 10.0 ** -len(number[2] or "")
    assert abs(float(number[1].replace(",", "")) - scale * value) <= step / 2 + 1e-9, (text, value, tag["data-source"])


def check_line(files: Mapping[str, Any], line: Tag) -> None:
    """Every corner is a pair of numbers of the line's place, in order."""
    found, keys = at(files, line["data-source"]), (line["data-x"], line["data-y"])
    if isinstance(found, list):
        rows = [tuple(row.get(key) for key in keys) for row in found]
    else:
        rows = list(zip(*(found[key] for key in keys), strict=True))
    expected, drawn = [pair for pair in rows if None not in pair], points_of(line)
    assert len(drawn) == len(expected) > 0
    # Coordinates have two decimals of some 300 units.
    span = max(1.0, *(abs(v) for pair in expected for v in pair))
    assert [v for p in drawn for v in p] == pytest.approx([v for p in expected for v in p], abs=1e-4 * span)


def points_of(line: Tag) -> list[tuple[float, float]]:
    """The line's corners in the units of its axes."""
    svg = line.find_parent("svg")
    left, top, width, height = map(float, svg["data-frame"].split())
    x0, x1, y0, y1 = map(float, svg["data-range"].split())
    pairs = [tuple(map(float, pair.split(","))) for pair in line["points"].split()]
    return [(x0 + (x - left) / width * (x1 - x0), y0 + (top + height - y) / height * (y1 - y0)) for x, y in pairs]


def check_page(files: Mapping[str, Any], page: BeautifulSoup) -> tuple[int, int]:
    """Check all numbers and lines of a page; how many of each there were."""
    numbers, lines = page.find_all(class_="n"), page.find_all("polyline")
    for tag in numbers:
        check_number(files, tag)
    for line in lines:
        check_line(files, line)
    for cell in page.find_all("td"):
        for part in cell.find_all(string=re.compile(r"\d")):
            assert part.find_parent(attrs={"data-source": True}) is not None, cell
    return len(numbers), len(lines)

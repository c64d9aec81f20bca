"""Whatever a project file holds, it is used or refused with an error of ours."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qp2train.errors import NotAProjectError, Qp2trainError
from qp2train.qupath.project import Project
from qp2train.qupath.qpproj import read_json

from .derived import cropped, leaf, project_of, rotated

JUNK: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1 << 31,
        1 << 70,
        1.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "..",
        "\ud800",
        "😀",
        [],
        {},
        [[]],
    ),
    *([{}], {"uri": "file:/x"}, {"builderType": "rotated"}, "file:/a\0b", "file:///%ff%00", "file:", ["--series", "1"]),
)


def places(value: object, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in pairs:
        yield (*at, key)
        yield from places(inside, (*at, key))


def mutated(data: dict[str, Any], seed: int) -> bytes:
    chance, new = random.Random(seed), copy.deepcopy(data)
    *way, last = chance.choice(list(places(data)))
    inside: Any = new
    for key in way:
        inside = inside[key]
    if chance.random() < 0.2:
        del inside[last]
    else:
        inside[last] = chance.choice(JUNK)
    return json.dumps(new).encode()


def test_a_project_with_anything_in_any_place(tmp_path: Path) -> None:
    project = project_of(tmp_path, rotated(cropped(leaf(tmp_path), 1, 0, 2, 3), 90), (3, 2))
    data = read_json(project.file)
    opened = refused = 0
    for seed in range(80):
        project.file.write_bytes(mutated(data, seed))
        asked: list[Callable[[], object]] = []
        try:
            made = Project(project.file, image_roots=[tmp_path], uri_map={"/old": tmp_path})
        except NotAProjectError:
            refused += 1
            continue
        asked += [made.located, made.orphans, made._repr_html_, made.relink, lambda p=made: p.edit("1", tags=["x"])]  # type: ignore[misc]
        for entry in made:
            asked += [entry.slide, entry.annotations, entry.thumbnail]
            asked += [lambda e=entry: (e.name, e.mpp, e.width, e.tags, e.metadata, e.image_type, e.path)]  # type: ignore[misc]
        asked += [lambda p=made: p.remove("1")]  # type: ignore[misc]
        for ask in asked:
            try:
                ask()
            except Qp2trainError:
                refused += 1
            else:
                opened += 1
    assert opened > 500
    assert refused > 15


def test_json_deeper_than_qupath_reads(project: Project) -> None:
    text = project.file.read_text()
    project.file.write_text(text.replace('"images"', f'"deep": {"[" * 300}{"]" * 300}, "images"'))
    with pytest.raises(NotAProjectError, match="nested 301 deep; QuPath reads 255"):
        Project(project.file)

"""What is about to be saved is parsed back first: what that must catch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import shapely

from qp2train.core.annotation import Annotation
from qp2train.errors import QuPathFormatError
from qp2train.qupath.entrydata import _verify
from qp2train.qupath.hierarchy import Hierarchy
from qp2train.qupath.javanodes import JString
from qp2train.qupath.pathobject import PathObject, set_children, walk
from qp2train.qupath.qpdata import load
from qp2train.qupath.writeback import write_objects

from .worked_example import TRIANGLE

IDS = [f"00000000-0000-0000-0000-{i:012d}" for i in range(10, 13)]


def three_below_each_other_and_beside() -> bytes:
    data = load(TRIANGLE)
    parents = [None, IDS[0], None]
    one_of_each = [Annotation(shapely.box(0, 0, 1, 1), id=i, parent=p) for i, p in zip(IDS, parents, strict=True)]
    write_objects(data, one_of_each, source="m")
    return data.to_bytes()


def lose_one(objects: list[PathObject]) -> None:
    set_children(objects[0], objects[0].children[:-1])


def swap_two(objects: list[PathObject]) -> None:
    set_children(objects[0], objects[0].children[::-1])


def lift_one(objects: list[PathObject]) -> None:
    """The order of the file stays, what lies below what does not."""
    root, triangle, first, below, last = objects
    set_children(first, [])
    set_children(root, [triangle.node, first.node, below.node, last.node])


def rename_one(objects: list[PathObject]) -> None:
    values = objects[-1].node.contents[2].contents[2].items  # type: ignore[union-attr]
    values[-1] = JString(IDS[0])  # type: ignore[index]


def test_the_same_objects_pass() -> None:
    raw = three_below_each_other_and_beside()
    _verify(Hierarchy(load(raw)).outline(), raw)


@pytest.mark.parametrize("damage", [lose_one, swap_two, lift_one, rename_one])
def test_other_objects_are_caught(damage: Callable[[list[PathObject]], None]) -> None:
    raw = three_below_each_other_and_beside()
    damaged = load(raw)
    damage(list(walk(damaged.root)))
    with pytest.raises(QuPathFormatError, match="not read back as the same objects; nothing was written"):
        _verify(Hierarchy(load(raw)).outline(), damaged.to_bytes())


def test_every_truncation_is_caught() -> None:
    raw = three_below_each_other_and_beside()
    tree = Hierarchy(load(raw))
    for size in range(len(raw)):
        with pytest.raises(QuPathFormatError):
            _verify(tree.outline(), raw[:size])

"""What an object of a `.qpdata` file says by itself: its bytes without those of its children."""

from __future__ import annotations

from dataclasses import dataclass

from qp2train.qupath.javanodes import Block, JObject
from qp2train.qupath.javastream import serialise
from qp2train.qupath.pathobject import PathObject, walk
from qp2train.qupath.qpdata import SOURCE_KEY, QpData


@dataclass(frozen=True, slots=True)
class Own:
    """One object: its bytes as if it stood alone in a stream, childless; and the id of its nearest human parent."""

    id: str | None
    data: bytes
    under: str | None


def own_bytes(obj: PathObject) -> bytes:
    """The object alone in a stream, without children."""
    contents = obj.node.contents
    after = obj.children_at + 1 + len(obj.children)
    alone = [*contents[: obj.children_at], Block(bytes(4)), *contents[after:]]
    return serialise([JObject(obj.node.desc, [alone])])


def human_objects(data: QpData) -> list[Own]:
    """Every object without a model's mark, the root included, in the order of the file."""
    return [Own(o.id, own_bytes(o), _human_above(o)) for o in walk(data.root) if SOURCE_KEY not in o.metadata]


def _human_above(obj: PathObject) -> str | None:
    above = obj.parent
    while above is not None and SOURCE_KEY in above.metadata:
        above = above.parent
    return None if above is None else above.id

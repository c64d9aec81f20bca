"""The objects of a file while they are being changed: read once, then kept in step with the stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from qp2train.qupath.pathobject import Classes, PathObject, Rgb, set_children, walk
from qp2train.qupath.qpdata import SOURCE_KEY, QpData, made_up_id

# For QuPath's script editor: of objects that share an id all but the first get one of their own.
NEW_IDS = "def seen = [] as Set; getAllObjects().each { if (!seen.add(it.getID())) it.refreshID() }"


class Hierarchy:
    """A file's objects, in the order of QuPath's hierarchy: parents before children.

    Args:
        data: A loaded file. Whoever changes its objects otherwise needs a new Hierarchy.
    """

    def __init__(self, data: QpData) -> None:
        self.data = data
        self.classes = Classes()
        self._below: dict[int, Sequence[PathObject]] = {}
        objects = list(walk(data.root))
        self.root = objects[0]
        below: dict[int, list[PathObject]] = {}
        for obj in objects:
            self.classes.name(obj.path_class)
            if obj.parent is not None:
                below.setdefault(id(obj.parent.node), []).append(obj)
        self._below.update(below)

    def __iter__(self) -> Iterator[PathObject]:
        stack = [self.root]
        while stack:
            obj = stack.pop()
            yield obj
            stack.extend(reversed(self.below(obj)))

    def below(self, obj: PathObject) -> Sequence[PathObject]:
        """An object's children."""
        return self._below.get(id(obj.node), ())

    def set_below(self, obj: PathObject, children: Sequence[PathObject]) -> None:
        """Give an object other children, in the stream too."""
        set_children(obj, [child.node for child in children])
        self._below[id(obj.node)] = children
        for child in children:
            child.parent = obj

    def with_ids(self) -> Iterator[tuple[str, PathObject]]:
        """Every object and its id; those without one get what `read_annotations` gives them."""
        without_id = count()
        for obj in self:
            yield obj.id or made_up_id(self.data.header, next(without_id)), obj

    def outline(self) -> Iterator[tuple[str | None, int]]:
        """The id of every object, and how many children it has; as `ids_and_children` reads it from a file."""
        return ((obj.id, len(self.below(obj))) for obj in self)

    def class_colors(self) -> dict[str, Rgb]:
        """Class name → (r, g, b) of the classes that the objects have."""
        colors = {name: self.classes.color(node) for name, node in self.classes.nodes.items()}
        return {name: color for name, color in colors.items() if color is not None}

    def holds_written_objects(self) -> bool:
        """Whether any object was written by qp2train."""
        return any(SOURCE_KEY in obj.metadata for obj in self)


def hierarchy_of(data: QpData | Hierarchy) -> Hierarchy:
    """The hierarchy itself, or that of a file."""
    return data if isinstance(data, Hierarchy) else Hierarchy(data)

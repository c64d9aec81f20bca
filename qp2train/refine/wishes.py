"""What is prompted on an image: points, boxes and rough outlines that were drawn for it, as one wish per object."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation, Plane
from qp2train.core.geometry import Box
from qp2train.errors import PromptError
from qp2train.refine.refiner import PROMPT_KEY

log = logging.getLogger(__name__)

Point = tuple[float, float]

# Classes of prompts. Derived classes say what the object becomes: "Prompt+: Gland".
POSITIVE, NEGATIVE, BOX = "Prompt+", "Prompt-", "Prompt box"
_BETWEEN = ": "


@dataclass(frozen=True)
class Wish:
    """One object that is to be outlined, in full-resolution pixels.

    Args:
        class_name: The class that it gets.
        points: (x, y) of each click.
        labels: Of each click, 1 = belongs to the object, 0 = does not.
        box: Round the object.
        outline: The object as it was outlined so far.
        plane: Where in a stack it lies.
        origin: The id of what asks for it: the outline, the box, the point annotation, or the predicted object.
        corrects: Whether it is a predicted object that points correct.
    """

    class_name: str | None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: Box | None = None
    outline: BaseGeometry | None = None
    plane: Plane = field(default_factory=Plane)
    origin: str = field(default="", compare=False)
    corrects: bool = False

    @property
    def extent(self) -> BaseGeometry:
        """What it surely covers: its outline, else its box, else its positive clicks."""
        if self.outline is not None:
            return self.outline
        if self.box is not None:
            return self.box.polygon
        return shapely.MultiPoint([p for p, label in zip(self.points, self.labels, strict=True) if label])


def wishes(
    annotations: Iterable[Annotation],
    *,
    outlines: Sequence[str] = (),
    prompted_only: bool = False,
    predicted: Sequence[Annotation] = (),
) -> list[Wish]:
    """Put the prompts of an image together.

    A box of class "Prompt box" is an object. So is an outline of the classes `outlines`. Positive points that lie in
    one of them belong to it; else the points of one point annotation, which QuPath's points tool draws, are an object.
    Each negative point belongs to the object that it lies in, or that is nearest. "Prompt+: Gland" says the object's
    class; an outline and a box keep their own.

    Args:
        annotations: All that is drawn on the image.
        outlines: Classes whose areas are rough outlines, but not those that came from a prompt: a human who corrected
            one has seen it.
        prompted_only: Leave out rough outlines without any point.
        predicted: What models have outlined is a rough outline, too, where a point corrects it: one that lies in it, or
            beside it, not further than its own radius. "Prompt+: Gland" corrects no object of another class.

    Raises:
        PromptError: `outlines` is a text.

    Returns:
        One wish per object, rough outlines and boxes first.
    """
    if isinstance(outlines, str):
        raise PromptError(f"outlines must be a list of classes, not the text {outlines!r}")
    corrected = {a.id for a in predicted}
    drawn = [a for a in annotations if not a.geometry.is_empty and np.isfinite(a.geometry.bounds).all()]
    found: list[Wish] = []
    for a in drawn:
        rough = a.class_name in outlines and PROMPT_KEY not in a.metadata
        if (rough or _is(a, BOX)) and a.geometry.area == 0:
            log.warning("an area of class %r covers nothing: it is overlooked", a.class_name)
        elif rough and a.id not in corrected:
            found.append(Wish(a.class_name, outline=a.geometry, plane=a.plane, origin=a.id))
    rough_ones = len(found)
    found += [
        Wish(a.class_name, outline=a.geometry, plane=a.plane, origin=a.id, corrects=True)
        for a in predicted
        if a.geometry.area and np.isfinite(a.geometry.bounds).all()
    ]
    found += [
        Wish(_target(a), box=_box(a.geometry), plane=a.plane, origin=a.id)
        for a in drawn
        if _is(a, BOX) and a.geometry.area
    ]
    holders, alone, clicks = _Near(found), list[Wish](), defaultdict[int, list[tuple[Point, int]]](list)
    for a in drawn:
        if _is(a, POSITIVE):
            held = [(point, holders.meant(point, a.plane, _target(a))) for point in _points(a.geometry)]
            for point, at in held:
                if at is not None:
                    clicks[at].append((point, 1))
            free = tuple(point for point, at in held if at is None)
            if free:
                alone.append(Wish(_target(a), free, (1,) * len(free), plane=a.plane, origin=a.id))
    found += alone
    near = _Near(found)
    for a in drawn:
        if _is(a, NEGATIVE):
            for point in _points(a.geometry):
                at = holders.holding(point, a.plane)
                at = near.nearest(point, a.plane) if at is None else at
                at = None if at is not None and near.beyond(at, point) else at
                if at is None:
                    log.warning("a point %r at %.0f, %.0f belongs to no object", a.class_name, *point)
                else:
                    clicks[at].append((point, 0))
    for i, given in clicks.items():
        points, labels = zip(*given, strict=True)
        found[i] = replace(found[i], points=(*found[i].points, *points), labels=(*found[i].labels, *labels))
    return [
        wish for i, wish in enumerate(found) if wish.points or not (wish.corrects or (prompted_only and i < rough_ones))
    ]


class _Near:
    """Which objects lie at a point, or near it, of each plane."""

    def __init__(self, found: Sequence[Wish]) -> None:
        self._found = list(found)
        by_plane = defaultdict[Plane, list[int]](list)
        for i, wish in enumerate(found):
            by_plane[wish.plane].append(i)
        self._numbers = {plane: np.array(numbers) for plane, numbers in by_plane.items()}
        self._extents = np.array([wish.extent for wish in found], dtype=object)
        self._areas = shapely.area(self._extents)
        self._trees = {plane: shapely.STRtree(self._extents[numbers]) for plane, numbers in self._numbers.items()}

    def holding(self, point: Point, plane: Plane, class_name: str | None = None) -> int | None:
        """The smallest area that covers a point; with a class, no predicted one of another."""
        if plane not in self._trees:
            return None
        inside = self._numbers[plane][self._trees[plane].query(shapely.Point(point), predicate="covered_by")]
        meant = [int(i) for i in inside if class_name is None or not self._is_another(int(i), class_name)]
        return min(meant, key=lambda i: float(self._areas[i]), default=None)

    def meant(self, point: Point, plane: Plane, class_name: str | None) -> int | None:
        """The smallest area that covers a positive point; else the predicted one that lacks it, if it is that near."""
        at = self.holding(point, plane, class_name)
        if at is not None:
            return at
        near = self.nearest(point, plane)
        if near is None or not self._found[near].corrects or self.beyond(near, point):
            return None
        return None if class_name is not None and self._is_another(near, class_name) else near

    def beyond(self, i: int, point: Point) -> bool:
        """Whether a point is too far from a predicted object to be about it: further than its own radius."""
        if not self._found[i].corrects:
            return False
        return bool(shapely.distance(self._extents[i], shapely.Point(point)) > np.sqrt(self._areas[i] / np.pi))

    def _is_another(self, i: int, class_name: str) -> bool:
        return self._found[i].corrects and self._found[i].class_name != class_name

    def nearest(self, point: Point, plane: Plane) -> int | None:
        if plane not in self._trees:
            return None
        return int(self._numbers[plane][int(self._trees[plane].nearest(shapely.Point(point)))])


def _is(annotation: Annotation, prompt: str) -> bool:
    name = annotation.class_name
    return name is not None and (name == prompt or name.startswith(prompt + _BETWEEN))


def _target(annotation: Annotation) -> str | None:
    """The class behind the prompt's own: "Prompt+: Tumor: Positive" → "Tumor: Positive"."""
    return (annotation.class_name or "").partition(_BETWEEN)[2] or None


def _box(geometry: BaseGeometry) -> Box:
    left, top, right, bottom = geometry.bounds
    return Box(left, top, right - left, bottom - top)


def _points(geometry: BaseGeometry) -> list[Point]:
    """The clicks of a point annotation; of anything else that got the class a point inside."""
    parts = shapely.get_parts(geometry)
    return [(float(p.x), float(p.y)) for p in (part.representative_point() for part in parts)]

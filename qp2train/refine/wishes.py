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
        corrects: The model's own object that the points correct.
    """

    class_name: str | None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: Box | None = None
    outline: BaseGeometry | None = None
    plane: Plane = field(default_factory=Plane)
    corrects: Annotation | None = None

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
    corrected: bool = False,
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
        corrected: What models have written is a rough outline, too, whatever its class, where a point corrects it: one
            that lies in it, a negative one to which it is nearest, or a positive one not further from it than its own
            radius.

    Returns:
        One wish per object, rough outlines and boxes first.
    """
    drawn = [a for a in annotations if not a.geometry.is_empty and np.isfinite(a.geometry.bounds).all()]
    found: list[Wish] = []
    for a in drawn:
        rough = a.class_name in outlines and PROMPT_KEY not in a.metadata
        if (rough or _is(a, BOX)) and a.geometry.area == 0:
            log.warning("an area of class %r covers nothing: it is overlooked", a.class_name)
        elif rough and not (corrected and a.source):
            found.append(Wish(a.class_name, outline=a.geometry, plane=a.plane))
    rough_ones = len(found)
    if corrected:
        written = [a for a in drawn if a.source and a.geometry.area and PROMPT_KEY not in a.metadata]
        found += [Wish(a.class_name, outline=a.geometry, plane=a.plane, corrects=a) for a in written]
    predicted = range(rough_ones, len(found))
    found += [Wish(_target(a), box=_box(a.geometry), plane=a.plane) for a in drawn if _is(a, BOX) and a.geometry.area]
    holders, alone, clicks = _Near(found), list[Wish](), defaultdict[int, list[tuple[Point, int]]](list)
    for a in drawn:
        if _is(a, POSITIVE):
            held = [(point, holders.meant(point, a.plane, predicted)) for point in _points(a.geometry)]
            for point, at in held:
                if at is not None:
                    clicks[at].append((point, 1))
            free = tuple(point for point, at in held if at is None)
            if free:
                alone.append(Wish(_target(a), free, (1,) * len(free), plane=a.plane))
    found += alone
    near = _Near(found)
    for a in drawn:
        if _is(a, NEGATIVE):
            for point in _points(a.geometry):
                at = holders.holding(point, a.plane)
                at = near.nearest(point, a.plane) if at is None else at
                if at is None:
                    log.warning("a point %r at %.0f, %.0f belongs to no object", a.class_name, *point)
                else:
                    clicks[at].append((point, 0))
    for i, given in clicks.items():
        points, labels = zip(*given, strict=True)
        found[i] = replace(found[i], points=(*found[i].points, *points), labels=(*found[i].labels, *labels))
    return [
        wish
        for i, wish in enumerate(found)
        if wish.points or not (wish.corrects is not None or (prompted_only and i < rough_ones))
    ]


class _Near:
    """Which objects lie at a point, or near it, of each plane."""

    def __init__(self, found: Sequence[Wish]) -> None:
        by_plane = defaultdict[Plane, list[int]](list)
        for i, wish in enumerate(found):
            by_plane[wish.plane].append(i)
        self._numbers = {plane: np.array(numbers) for plane, numbers in by_plane.items()}
        self._extents = np.array([wish.extent for wish in found], dtype=object)
        self._areas = shapely.area(self._extents)
        self._trees = {plane: shapely.STRtree(self._extents[numbers]) for plane, numbers in self._numbers.items()}

    def holding(self, point: Point, plane: Plane) -> int | None:
        """The smallest area that covers a point."""
        if plane not in self._trees:
            return None
        inside = self._numbers[plane][self._trees[plane].query(shapely.Point(point), predicate="covered_by")]
        return min(map(int, inside), key=lambda i: float(self._areas[i]), default=None)

    def meant(self, point: Point, plane: Plane, predicted: range) -> int | None:
        """The smallest area that covers a positive point; else the predicted one that lacks it, if it is that near."""
        at = self.holding(point, plane)
        if at is not None or not predicted:
            return at
        near = self.nearest(point, plane)
        if near not in predicted:
            return None
        away = shapely.distance(self._extents[near], shapely.Point(point))
        return near if away <= np.sqrt(self._areas[near] / np.pi) else None

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

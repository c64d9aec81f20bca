"""What is prompted on an image: points, boxes and rough outlines that were drawn for it, as one wish per object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import shapely
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation, Plane
from qp2train.core.geometry import Box
from qp2train.refine.refiner import PROMPT_KEY

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
    """

    class_name: str | None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: Box | None = None
    outline: BaseGeometry | None = None
    plane: Plane = field(default_factory=Plane)

    @property
    def extent(self) -> BaseGeometry:
        """What it surely covers: its outline, else its box, else its positive clicks."""
        if self.outline is not None:
            return self.outline
        if self.box is not None:
            return self.box.polygon
        return shapely.MultiPoint([p for p, label in zip(self.points, self.labels, strict=True) if label])


def wishes(
    annotations: Iterable[Annotation], *, outlines: Sequence[str] = (), prompted_only: bool = False
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

    Returns:
        One wish per object, rough outlines and boxes first.
    """
    drawn = [a for a in annotations if not a.geometry.is_empty]
    areas = [
        Wish(a.class_name, outline=a.geometry, plane=a.plane)
        for a in drawn
        if a.class_name in outlines and a.geometry.area > 0 and PROMPT_KEY not in a.metadata
    ]
    boxes = [
        Wish(_target(a), box=_box(a.geometry), plane=a.plane) for a in drawn if _is(a, BOX) and a.geometry.area > 0
    ]
    found, rough = [*areas, *boxes], len(areas)
    for a in drawn:
        if _is(a, POSITIVE):
            alone: list[tuple[float, float]] = []
            for point in _points(a.geometry):
                at = _holder(point, found[: rough + len(boxes)], a.plane)
                if at is None:
                    alone.append(point)
                else:
                    found[at] = _with(found[at], point, 1)
            if alone:
                found.append(Wish(_target(a), tuple(alone), (1,) * len(alone), plane=a.plane))
    for a in drawn:
        if _is(a, NEGATIVE):
            for point in _points(a.geometry):
                at = _holder(point, found, a.plane)
                at = _nearest(point, found, a.plane) if at is None else at
                if at is not None:
                    found[at] = _with(found[at], point, 0)
    return [wish for i, wish in enumerate(found) if not prompted_only or i >= rough or wish.points]


def _is(annotation: Annotation, prompt: str) -> bool:
    name = annotation.class_name
    return name is not None and (name == prompt or name.startswith(prompt + _BETWEEN))


def _target(annotation: Annotation) -> str | None:
    """The class behind the prompt's own: "Prompt+: Tumor: Positive" → "Tumor: Positive"."""
    return (annotation.class_name or "").partition(_BETWEEN)[2] or None


def _box(geometry: BaseGeometry) -> Box:
    left, top, right, bottom = geometry.bounds
    return Box(left, top, right - left, bottom - top)


def _points(geometry: BaseGeometry) -> list[tuple[float, float]]:
    """The clicks of a point annotation; of anything else that got the class a point inside."""
    parts = shapely.get_parts(geometry)
    return [(float(p.x), float(p.y)) for p in (part.representative_point() for part in parts)]


def _holder(point: tuple[float, float], among: Sequence[Wish], plane: Plane) -> int | None:
    """The smallest area or box that a point lies in."""
    at = shapely.Point(point)
    inside = [i for i, w in enumerate(among) if w.plane == plane and w.extent.area > 0 and w.extent.covers(at)]
    return min(inside, key=lambda i: float(among[i].extent.area), default=None)


def _nearest(point: tuple[float, float], among: Sequence[Wish], plane: Plane) -> int | None:
    at = shapely.Point(point)
    near = [i for i, w in enumerate(among) if w.plane == plane]
    return min(near, key=lambda i: float(among[i].extent.distance(at)), default=None)


def _with(wish: Wish, point: tuple[float, float], label: int) -> Wish:
    return replace(wish, points=(*wish.points, point), labels=(*wish.labels, label))

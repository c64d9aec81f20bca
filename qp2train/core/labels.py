"""LabelMap: which QuPath class becomes which pixel value, and who paints over whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from qp2train.core.annotation import Annotation
from qp2train.errors import LabelError

BACKGROUND = 0
IGNORE = 255
REGION = "Region*"
BACKGROUND_NAME = "Background"

Color = tuple[int, int, int]
Unannotated = Literal["ignore", "background"]

# Okabe–Ito: distinguishable with any colour vision. Used where the project gives no colour.
PALETTE: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (240, 228, 66),
)


@dataclass(frozen=True)
class LabelMap:
    """QuPath classes → pixel values: background 0, classes 1, 2, …, ignore 255.

    QuPath's conventions hold: `Region*` means "completely annotated in here", so what nobody painted
    inside it is background; every other class whose name ends in `*` is ignored (255) unless mapped; a
    derived class ("Tumor: Positive") counts as its base class ("Tumor") unless it is mapped itself.
    A class that is neither mapped nor ignored paints nothing.

    Args:
        classes: Names in index order, or a mapping name → QuPath classes merged under it.
        background: QuPath classes painted as background (0).
        ignore: QuPath classes painted as ignored (255), beside those ending in `*`.
        unannotated: What pixels are that nobody painted, outside `Region*`: "ignore" (they cost nothing)
            or "background" (only right when every object of every class was drawn).
        paint_order: Class names from bottom to top. Default: children over parents, then small over large.
        colors: Name → (r, g, b). Missing ones are taken from the project, then from a fixed palette.

    Raises:
        LabelError: No class, a class named twice, a name in `paint_order` or `colors` that is no class, or a
            class called "Background".
    """

    merged: Mapping[str, tuple[str, ...]]
    background: tuple[str, ...]
    ignore: tuple[str, ...]
    unannotated: Unannotated
    paint_order: tuple[str, ...]
    colors: Mapping[str, Color]

    def __init__(
        self,
        classes: Sequence[str] | Mapping[str, str | Sequence[str]],
        *,
        background: Sequence[str] = (),
        ignore: Sequence[str] = (),
        unannotated: Unannotated = "ignore",
        paint_order: Sequence[str] = (),
        colors: Mapping[str, Color] | None = None,
    ) -> None:
        if isinstance(classes, str):
            raise LabelError(f"classes must be a list of names, not the text {classes!r}: write [{classes!r}]")
        pairs = classes.items() if isinstance(classes, Mapping) else ((name, (name,)) for name in classes)
        merged: dict[str, tuple[str, ...]] = {}
        for name, members in pairs:
            if name in merged:
                raise LabelError(f"class {name!r} is listed twice")
            merged[name] = (
                tuple(members) if isinstance(members, Iterable) and not isinstance(members, str) else (members,)
            )
        _set = object.__setattr__
        _set(self, "merged", merged)
        _set(self, "background", tuple(background))
        _set(self, "ignore", tuple(ignore))
        _set(self, "unannotated", unannotated)
        _set(self, "paint_order", tuple(paint_order))
        _set(self, "colors", {n: _rgb(c) for n, c in (colors or {}).items()})
        self._check()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in index order; the first has index 1."""
        return tuple(self.merged)

    @property
    def names(self) -> tuple[str, ...]:
        """Names by pixel value, background first."""
        return (BACKGROUND_NAME, *self.classes)

    def color(self, name: str) -> Color:
        """(r, g, b) of a class: the one given, else one of a palette for every colour vision."""
        return self.colors.get(name) or PALETTE[self.classes.index(name) % len(PALETTE)]

    def with_colors(self, colors: Mapping[str, Color]) -> Self:
        """The same map, with these colours where none was given. A merged class follows its first member."""
        found = {
            name: next((colors[c] for c in (name, *members) if c in colors), None)
            for name, members in self.merged.items()
        }
        known = {n: c for n, c in found.items() if c is not None}
        return type(self).from_dict({**self.to_dict(), "colors": {**known, **self.colors}})

    def value_of(self, class_name: str | None) -> int | None:
        """The pixel value that a QuPath class paints; None = it paints nothing.

        `Region*` is 0. The longest mapped prefix of a derived class wins.
        """
        if class_name is None:
            return None
        values = self._values()
        levels = class_name.split(": ")
        for n in range(len(levels), 0, -1):
            name = ": ".join(levels[:n])
            if name in values:
                return values[name]
        if class_name == REGION:
            return BACKGROUND
        return IGNORE if class_name.endswith("*") else None

    def name_of(self, class_name: str | None) -> str | None:
        """The label's name that a QuPath class counts as, None if it is none of `classes`."""
        value = self.value_of(class_name)
        return None if value in (None, BACKGROUND, IGNORE) else self.classes[int(value or 1) - 1]

    def check_against(self, annotations: Iterable[Annotation]) -> None:
        """Refuse class names that no annotation carries; a misspelt name would train on nothing.

        Raises:
            LabelError: Naming the class and those that do exist.
        """
        self.check_names(a.class_name for a in annotations)

    def check_names(self, class_names: Iterable[str | None]) -> None:
        """As `check_against`, of the annotations' class names.

        Raises:
            LabelError: Naming the class and those that do exist.
        """
        present = set(class_names) - {None}
        used = {self.name_of(c) for c in present}
        missing = [n for n in self.classes if n not in used]
        if missing:
            there = ", ".join(sorted(filter(None, present))) or "none"
            raise LabelError(
                f"no annotation has the class {', '.join(map(repr, missing))}. Classes of the annotations: {there}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for model.json and Parquet; `from_dict` takes it back."""
        return {
            "classes": {n: list(m) for n, m in self.merged.items()},
            "background": list(self.background),
            "ignore": list(self.ignore),
            "unannotated": self.unannotated,
            "paint_order": list(self.paint_order),
            "colors": {n: list(c) for n, c in self.colors.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        rest = dict(data)
        return cls(rest.pop("classes"), **rest)

    def _values(self) -> dict[str, int]:
        # A label's own name counts as well: it is the class of what a model predicts.
        values = {name: i for i, name in enumerate(self.merged, start=1)}
        values.update({m: i for i, members in enumerate(self.merged.values(), start=1) for m in members})
        values.update(dict.fromkeys(self.background, BACKGROUND))
        values.update(dict.fromkeys(self.ignore, IGNORE))
        return values

    def _check(self) -> None:
        if not self.merged:
            raise LabelError("a label map needs at least one class")
        if len(self.merged) > IGNORE - 1:
            raise LabelError(f"{len(self.merged)} classes do not fit into 8 bits; at most {IGNORE - 1}")
        if self.unannotated not in ("ignore", "background"):
            raise LabelError(f"unannotated must be 'ignore' or 'background', not {self.unannotated!r}")
        members = [m for n, names in self.merged.items() for m in {n, *names}] + [*self.background, *self.ignore]
        if BACKGROUND_NAME in self.merged:
            raise LabelError(f"{BACKGROUND_NAME!r} is pixel value 0; name its QuPath classes in background=[…]")
        wrong = [m for m in members if not isinstance(m, str) or not m]
        if wrong:
            raise LabelError(f"class names are text, not {wrong[0]!r}")
        twice = sorted({m for m in members if members.count(m) > 1})
        if twice:
            raise LabelError(f"QuPath class {twice[0]!r} is mapped to more than one label")
        empty = [n for n, names in self.merged.items() if not names]
        if empty:
            raise LabelError(f"label {empty[0]!r} merges no class")
        for what, given in (("paint_order", self.paint_order), ("colors", self.colors)):
            unknown = [n for n in given if n not in self.merged]
            if unknown:
                raise LabelError(f"{what} names {unknown[0]!r}; the classes are {', '.join(self.classes)}")
        if self.paint_order and sorted(self.paint_order) != sorted(self.merged):
            left = ", ".join(sorted(set(self.classes) - set(self.paint_order))) or "none"
            raise LabelError(f"paint_order must name each class once; missing: {left}")


def _rgb(color: Iterable[int]) -> Color:
    try:
        r, g, b = (int(v) for v in color)
        if not all(0 <= v <= 255 for v in (r, g, b)):
            raise ValueError
    except (TypeError, ValueError) as error:
        raise LabelError(f"a colour is (red, green, blue), each 0–255, not {color!r}") from error
    return r, g, b

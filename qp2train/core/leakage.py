"""Leakage: what shows, from the table alone, that a test part is not independent of what was trained on."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from qp2train.core.geometry import Box
from qp2train.core.patches import PatchTable, SlideRef
from qp2train.core.view import View
from qp2train.errors import SlideError, SplitError

log = logging.getLogger(__name__)

NAMED = 20  # more names than that nobody reads
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")


@dataclass(frozen=True)
class Leak:
    """Something that ties two parts of a split together.

    Args:
        kind: "group" (a patient in several parts), "slide" (a file in several parts), "spelling" (two ids that may be
            one patient) or "picture" (two slides that look the same).
        certain: Whether it is sure, and was not asked for: then nothing should be trained on this split.
        names: The patients or slides.
        text: What was found, for people.
    """

    kind: Literal["group", "slide", "spelling", "picture"]
    certain: bool
    names: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Parts:
    """The parts of a split: those of one table, by its column `split`, or one table each.

    Args:
        used: Name of the part → the slides that its patches come from.
        groups: Name of the part → the groups of its patches.
        grouped_by: What the tables were split by; empty if one of them was by hand.
    """

    used: Mapping[str, Sequence[SlideRef]]
    groups: Mapping[str, frozenset[str]]
    grouped_by: frozenset[str]

    @classmethod
    def of(cls, tables: Sequence[PatchTable]) -> Parts:
        if len(tables) == 1:
            named = {s: tables[0].select(s) for s in sorted(set(tables[0].rows["split"]) - {""})}
        else:
            splits = [",".join(sorted(set(t.rows["split"]) - {""})) for t in tables]
            clear = len(set(splits)) == len(splits) and all(splits)
            named = {s if clear else f"table {i}": t for i, (s, t) in enumerate(zip(splits, tables, strict=True), 1)}
        ways = {t.grouped_by for t in tables}
        return cls(
            {name: [t.slides[e] for e in t.rows["entry"].unique()] for name, t in named.items()},
            # Without a split every slide is its own group, by an id that another project may have, too.
            {name: frozenset(t.rows["group"][t.rows["group"] != t.rows["entry"]]) for name, t in named.items()},
            frozenset(key for way in ways for key in way) if all(ways) else frozenset(),
        )


def leaks(parts: Parts, *, by: str | Sequence[str] = "patient") -> list[Leak]:
    """What the table alone tells; no slide is opened.

    A split that was asked for in so many words (by="slide", by="patch") is not refused for what it does.
    """
    keys = dict.fromkeys([*([by] if isinstance(by, str) else by), *sorted(parts.grouped_by)])
    found = [leak for key in keys if key not in ("slide", "patch") for leak in _by_metadata(parts, key)]
    told = {name for leak in found if leak.kind == "group" for name in leak.names}
    if parts.grouped_by != {"patch"}:
        straddling = _straddling(parts.groups)
        if not told.issuperset(straddling):
            found.append(_group_leak("group", straddling, certain=True))
    return [*found, *_same_file(parts)]


def report(found: Iterable[Leak]) -> None:
    """Log what is doubtful; refuse what is certain.

    Raises:
        SplitError: At least one leak is certain.
    """
    found = [*found]
    certain = [leak.text for leak in found if leak.certain]
    for leak in found:
        if not leak.certain:
            log.warning("%s", leak.text)
    if certain:
        raise SplitError(
            "\n".join(certain) + "\nScores would come out too high. Divide with PatchTable.split or .folds, or put all "
            "slides of a patient into the same part."
        )


def some(names: Sequence[str]) -> str:
    """The names, or the first of them and how many more."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _by_metadata(parts: Parts, key: str) -> Iterator[Leak]:
    values = {p: {str(v) for s in slides if (v := s.metadata.get(key))} for p, slides in parts.used.items()}
    straddling = _straddling(values)
    if straddling:
        yield _group_leak(key, straddling, certain=not parts.grouped_by or key in parts.grouped_by)
    spelt = {part: {plain_id(v) for v in found} for part, found in values.items()}
    spellings: dict[str, set[str]] = defaultdict(set)
    for value in {v for found in values.values() for v in found}:
        spellings[plain_id(value)].add(value)
    for plain in _straddling(spelt):
        names = sorted(spellings[plain])
        if len(names) > 1:
            where = "; ".join(f"{part}: {', '.join(map(repr, sorted(n)))}" for part, n in _where(values, names).items())
            yield Leak(
                "spelling",
                False,
                tuple(names),
                f"{key} {' and '.join(map(repr, names))} may be the same one, spelt differently ({where}). If so, make "
                "them equal in the metadata, and split again.",
            )


def _where(values: Mapping[str, set[str]], names: Iterable[str]) -> dict[str, set[str]]:
    found = {part: there.intersection(names) for part, there in values.items()}
    return {part: there for part, there in found.items() if there}


def plain_id(name: str) -> str:
    """An id without what is easily mistyped: case, spaces, leading zeros of its numbers ("P01", "p 1")."""
    plain = "".join(unicodedata.normalize("NFKC", name).casefold().split())
    return _LEADING_ZEROS.sub("", plain)


def _straddling(values: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Value → the parts that have it, of those in several."""
    parts: dict[str, list[str]] = defaultdict(list)
    for part, found in values.items():
        for value in found:
            parts[value].append(part)
    return {value: parts[value] for value in sorted(parts) if len(parts[value]) > 1}


def _group_leak(key: str, straddling: Mapping[str, Sequence[str]], *, certain: bool) -> Leak:
    said = some([f"{name!r} ({' and '.join(parts)})" for name, parts in straddling.items()])
    return Leak(
        "group", certain, tuple(straddling), f"{len(straddling)} {key}(s) in several parts of the split: {said}."
    )


def _same_file(parts: Parts) -> Iterator[Leak]:
    files: dict[Hashable, list[tuple[str, SlideRef]]] = defaultdict(list)
    for part, slides in parts.used.items():
        for slide in slides:
            files[file_of(slide)].append((part, slide))
    pairs = [
        (one, other, _overlap(one[1], other[1]))
        for uses in files.values()
        for one, other in combinations(uses, 2)
        if one[0] != other[0]
    ]
    for overlap in (True, False):
        chosen = [(one, other) for one, other, same in pairs if same == overlap]
        if chosen:
            said = some([_both(*a, *b) for a, b in chosen])
            what = "the same slide" if overlap else "different regions of one file"
            names = tuple(dict.fromkeys(ref.name for pair in chosen for _, ref in pair))
            certain = overlap and parts.grouped_by != {"patch"}
            yield Leak("slide", certain, names, f"{what} in several parts of the split: {said}.")


def _both(part: str, slide: SlideRef, other_part: str, other: SlideRef) -> str:
    if (slide.entry, slide.name) == (other.entry, other.name):
        return f"{slide.name} ({part} and {other_part})"
    return f"{slide.name} ({part}) and {other.name} ({other_part})"


def file_of(slide: SlideRef) -> Hashable:
    """What two slides have in common if their pixels come from one file, linked or not."""
    try:
        found = os.stat(slide.path)
    except (OSError, ValueError):
        # Moved, or never on a disk: then the name must be a whole path, or have the same id, to say anything.
        whole = os.path.isabs(slide.path)
        return (os.path.normcase(os.path.normpath(slide.path)), "" if whole else slide.entry)
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.normcase(os.path.realpath(slide.path))


def _overlap(one: SlideRef, other: SlideRef) -> bool:
    a, b = _rectangle(one), _rectangle(other)
    if a is None or b is None:
        return True
    return min(a.right, b.right) > max(a.x, b.x) and min(a.bottom, b.bottom) > max(a.y, b.y)


def _rectangle(slide: SlideRef) -> Box | None:
    """Of the file's pixels, what the slide shows; None = all."""
    try:
        view = View.parse(slide.view) if slide.view else None
    except SlideError:  # of a table from elsewhere: as if all of it were shown
        return None
    return None if view is None else Box(view.x, view.y, view.width, view.height)

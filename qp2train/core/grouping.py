"""Which slides belong together: a patient's never come apart."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from qp2train.errors import SplitError

log = logging.getLogger(__name__)

# The metadata key of a slide that says whose tissue it is.
PATIENT = "patient"


class Named(Protocol):
    """What grouping needs of a slide."""

    @property
    def entry(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...


def groups_of(slides: Sequence[Named], by: str | Sequence[str]) -> dict[str, str]:
    """Entry id → group.

    By several keys, slides are of one group if they share the value of any of them, directly or through others: by
    patient and centre, a patient seen in two centres makes the two centres one group. Nothing that is named can
    straddle then; grouping by the pair (patient, centre) would divide that patient.

    Args:
        slides: The slides.
        by: "slide", a metadata key, or several.

    Raises:
        SplitError: No key, or only some of the slides have it.
    """
    keys = [by] if isinstance(by, str) else list(by)
    if not keys or not all(keys):
        raise SplitError("by names no metadata key; name one, such as by='patient', or by='slide'")
    first, *others = (_values(slides, key) for key in keys)
    for other in others:
        first = _joined(first, other)
    return first


def patients_of(slides: Iterable[Named], grouped_by: Iterable[str] = ()) -> dict[str, str]:
    """Entry id → patient: as the slide's metadata say, else the value of what slides were grouped by; else absent."""
    keys = (PATIENT, *grouped_by)
    said = {s.entry: next((s.metadata[k] for k in keys if s.metadata.get(k)), "") for s in slides}
    return {entry: patient for entry, patient in said.items() if patient}


def _values(slides: Sequence[Named], by: str) -> dict[str, str]:
    if by == "slide":
        return {s.entry: s.entry for s in slides}
    without = [s.name for s in slides if not s.metadata.get(by)]
    if without and len(without) < len(slides):
        raise SplitError(
            f"split by {by!r}: {len(without)} of {len(slides)} slides have no such metadata ({without[0]!r} …). "
            "Fill it in in QuPath (project list, right click, Edit metadata), or split by='slide'."
        )
    if without:
        log.warning("no slide has the metadata %r: every slide is taken for a patient of its own", by)
        return {s.entry: s.entry for s in slides}
    return {s.entry: s.metadata[by] for s in slides}


def _joined(groups: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Groups that share a value of `other` become one, named "P1 + P2"."""
    neighbours: dict[str, set[str]] = defaultdict(set)
    with_value: dict[str, set[str]] = defaultdict(set)
    for entry, group in groups.items():
        neighbours[group].add(other[entry])
        with_value[other[entry]].add(group)
    name_of: dict[str, str] = {}
    for start in sorted(neighbours):
        if start in name_of:
            continue
        found, waiting = {start}, [start]
        while waiting:
            for value in neighbours[waiting.pop()]:
                new = with_value.pop(value, set()) - found
                found |= new
                waiting += new
        name_of.update(dict.fromkeys(found, _name(sorted(found))))
    return {entry: name_of[group] for entry, group in groups.items()}


def _name(groups: Sequence[str]) -> str:
    return " + ".join(groups) if len(groups) <= 3 else f"{groups[0]} + {len(groups) - 1} more"

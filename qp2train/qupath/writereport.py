"""WriteReport: what a write or a clear did, or would do, to one entry or to several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from qp2train.errors import ProjectError

Mode = Literal["replace", "add", "dry-run"]
UNCLASSIFIED = "Unclassified"


@dataclass(frozen=True, slots=True)
class Change:
    """Objects of one class: new ones, ones that are gone, and ones that are there as before (counted in neither)."""

    new: int = 0
    gone: int = 0
    same: int = 0

    def __add__(self, other: Change) -> Change:
        return Change(self.new + other.new, self.gone + other.gone, self.same + other.same)


COUNTS = ("added", "removed", "kept_edited", "superseded", "moved_up", "replaced", "restored", "corrected")


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What a write or a clear did to one entry, or to several added up.

    Args:
        entry: The entry's name; "" for a sum.
        source: The model's id.
        added: Objects written.
        removed: Objects of this source that were taken out.
        kept_edited: Objects of this source that a human has edited, and that stayed.
        superseded: Objects that were not written, since the human's correction of the same one stayed.
        moved_up: Objects of others that lay under a removed one, and now lie under its parent.
        replaced: A human's objects whose place new ones took; they come back when those are taken out.
        restored: A human's objects that are there again.
        corrected: Other models' objects that these correct, and that were taken out.
        dry_run: Nothing was written: this is what would have been.
        by_class: Class → how the objects of this source differ from those before. An object that was taken out and
            written again with the same outline, class, name and lock is the same.
    """

    entry: str
    source: str
    added: int = 0
    removed: int = 0
    kept_edited: int = 0
    superseded: int = 0
    moved_up: int = 0
    replaced: int = 0
    restored: int = 0
    corrected: int = 0
    dry_run: bool = False
    by_class: Mapping[str, Change] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        parts = [f"{self.added} added", f"{self.removed} removed"]
        if self.kept_edited:
            parts.append(f"{self.kept_edited} kept because edited by hand")
        if self.superseded:
            parts.append(f"{self.superseded} not written because a corrected one is there")
        if self.moved_up:
            parts.append(f"{self.moved_up} of others moved up")
        if self.replaced:
            parts.append(f"{self.replaced} drawn by hand replaced, which clear puts back")
        if self.restored:
            parts.append(f"{self.restored} drawn by hand put back")
        if self.corrected:
            parts.append(f"{self.corrected} of other models corrected and taken out")
        dry = "dry run, nothing written: " if self.dry_run else ""
        return f"{self.entry or 'all entries'}: {dry}{', '.join(parts)} ({self.source})"

    def difference(self) -> str:
        """One line per class: "+12 new  -3 gone  =40 as before  Tumor"; empty if there is no object."""
        rows = sorted(self.by_class.items())
        new, gone, same = (max((len(str(getattr(n, c))) for _, n in rows), default=1) for c in Change.__slots__)
        return "\n".join(
            f"+{n.new:<{new}} new  -{n.gone:<{gone}} gone  ={n.same:<{same}} as before  {name}" for name, n in rows
        )

    def __add__(self, other: WriteReport) -> WriteReport:
        counts = {name: getattr(self, name) + getattr(other, name) for name in COUNTS}
        names = {**self.by_class, **other.by_class}
        by_class = {n: self.by_class.get(n, Change()) + other.by_class.get(n, Change()) for n in names}
        return WriteReport("", self.source, **counts, dry_run=self.dry_run and other.dry_run, by_class=by_class)


Form = tuple[str | None, str]


def changes(before: Iterable[Form], after: Iterable[Form]) -> dict[str, Change]:
    """Class → Change, from the (class, fingerprint) of objects before and after; equal pairs are the same object."""
    old, new = Counter(before), Counter(after)
    gone, fresh, same = (Counter[str]() for _ in range(3))
    for counts, by_class in ((old, gone), (new, fresh), (old & new, same)):
        for (name, _), count in counts.items():
            by_class[name or UNCLASSIFIED] += count
    return {n: Change(fresh[n] - same[n], gone[n] - same[n], same[n]) for n in gone | fresh}


def check_choice(argument: str, given: str, known: Sequence[str]) -> None:
    """Refuse a word that an argument does not know.

    Raises:
        ProjectError: With those that it knows.
    """
    if given not in known:
        *first, last = (f'"{name}"' for name in known)
        raise ProjectError(f"{argument}={given!r}: use {', '.join(first)} or {last}")

"""Store: how the objects of a project's entries are written, without Java or through QuPath."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

from qp2train.core.annotation import Annotation
from qp2train.qupath import entrydata
from qp2train.qupath.entry import ImageEntry
from qp2train.qupath.pathobject import Rgb
from qp2train.qupath.writereport import Mode, WriteReport

Backend = Literal["java-free", "paquo"]


class Store(Protocol):
    """What `Project` needs of a backend; see `entrydata.write` and `entrydata.clear`."""

    def write(
        self,
        entry: ImageEntry,
        annotations: Sequence[Annotation],
        *,
        source: str,
        mode: Mode,
        colors: Mapping[str, Rgb],
        merge: bool = False,
        in_place_of: Mapping[str, str] | None = None,
    ) -> tuple[WriteReport, dict[str, Rgb]]: ...

    def clear(
        self,
        entry: ImageEntry,
        *,
        source: str,
        edited: bool,
        ids: Collection[str] | None = None,
        merge: bool = False,
        dry_run: bool = False,
    ) -> WriteReport | None: ...


class JavaFreeStore:
    """The files, read and written here."""

    write = staticmethod(entrydata.write)
    clear = staticmethod(entrydata.clear)

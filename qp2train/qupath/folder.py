"""A folder of slides, each with a GeoJSON file of the same stem, as a project without QuPath.

p01.svs   p01.geojson            the human's annotations, never overwritten
          p01.unet-1.geojson     what the model "unet-1" wrote
metadata.csv                     columns: slide (file name or stem), then any: patient, mpp (µm per pixel), …
"""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import shapely

from qp2train.core.annotation import Annotation
from qp2train.errors import NotAProjectError, ProjectError, QuPathFormatError, SlideError
from qp2train.qupath.geojson import CORRECTED_KEY, read_geojson, write_geojson
from qp2train.qupath.pathobject import Rgb
from qp2train.qupath.qpdata import Kinds, of_kinds
from qp2train.qupath.savefile import BACKUP_SUFFIX
from qp2train.qupath.writereport import Form, Mode, WriteReport, changes, check_choice

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from qp2train.slides.slide import Slide

SLIDE_SUFFIXES = (
    *(".ome.tif", ".ome.tiff", ".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu"),
    *(".svslide", ".dcm", ".png", ".jpg", ".jpeg"),
)
_METADATA_FILE = "metadata.csv"


@dataclass(frozen=True)
class FolderEntry:
    """One slide of a folder.

    Args:
        id: The file's stem; its whole name if two slides share the stem.
        path: The slide's file.
        stem: What its GeoJSON files begin with.
        metadata: Its row of metadata.csv.
        others: Stems of the other slides, whose files are not this one's.
    """

    id: str
    path: Path
    stem: str
    metadata: Mapping[str, str]
    others: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The slide's file name."""
        return self.path.name

    def slide(self) -> Slide:
        """Open the slide.

        Raises:
            SlideError: It cannot be opened.
        """
        from qp2train.slides import open_slide  # opened on demand: listing a folder needs no slide reader

        given = self.metadata.get("mpp")
        try:
            return open_slide(self.path, mpp=float(given) if given else None)
        except ValueError as error:
            raise SlideError(
                f"{self.name}: mpp must be a number of µm per pixel, not {given!r} (metadata.csv)"
            ) from error

    def annotations(self, kinds: Kinds = "annotation") -> list[Annotation]:
        """The human's annotations, then those of every model that wrote beside; full-resolution pixels.

        Raises:
            QuPathFormatError: A GeoJSON file that cannot be understood.
        """
        own = [path for path in self._files() if path.is_file()]
        if len(own) > 1:
            log.warning("%s is not read, since %s lies beside it", own[1].name, own[0].name)
        found = [annotation for path in own[:1] for annotation in read_geojson(path)]
        beside = [a for path in self._predictions() for a in read_geojson(path)]
        found += [a for a in beside if a.source is not None or CORRECTED_KEY in a.metadata]
        return of_kinds(found, kinds)

    def prediction_file(self, source: str) -> Path:
        """Where what `source` writes goes."""
        return self.path.with_name(f"{self.stem}.{re.sub(r'[^A-Za-z0-9_.-]', '_', source)}.geojson")

    def _files(self) -> list[Path]:
        return [self.path.with_name(f"{self.stem}.geojson{packed}") for packed in ("", ".gz")]

    def _predictions(self) -> list[Path]:
        found = (p for p in self.path.parent.iterdir() if p.name.startswith(f"{self.stem}.") and p.suffix == ".geojson")
        return sorted(p for p in found if p.stem != self.stem and not self._is_of_another(p.stem))

    def _is_of_another(self, stem: str) -> bool:
        longer = (other for other in self.others if other.startswith(self.stem + "."))
        return any(stem == other or stem.startswith(other + ".") for other in longer)


class SlideFolder:
    """A folder of slides with GeoJSON annotations: a sequence of FolderEntry by name.

    Args:
        path: The folder.

    Raises:
        NotAProjectError: No folder, or no slide in it.
        QuPathFormatError: metadata.csv cannot be understood, or names a slide that is not there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        if not self.path.is_dir():
            raise NotAProjectError(f"{path} is no folder: give the folder that holds the slides")
        slides = sorted(p for p in self.path.iterdir() if p.name.lower().endswith(SLIDE_SUFFIXES) and p.is_file())
        if not slides:
            raise NotAProjectError(f"no slide in {path}; looked for {', '.join(SLIDE_SUFFIXES)}")
        stems = Counter(map(_stem, slides))
        rows = _metadata(self.path / _METADATA_FILE, {key for p in slides for key in (p.name, _stem(p))})
        self._entries = []
        for p in slides:
            stem = p.name if stems[_stem(p)] > 1 else _stem(p)
            metadata = rows.get(p.name) or rows.get(_stem(p)) or {}
            self._entries.append(FolderEntry(stem, p, stem, metadata))
        everyone = frozenset(entry.stem for entry in self._entries)
        self._entries = [replace(entry, others=everyone - {entry.stem}) for entry in self._entries]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[FolderEntry]:
        return iter(self._entries)

    def __getitem__(self, key: str) -> FolderEntry:
        """The entry of an id or a file name.

        Raises:
            ProjectError: There is none.
        """
        for entry in self._entries:
            if key in (entry.id, entry.name):
                return entry
        raise ProjectError(f"no slide {key!r} in {self.path}; known: {', '.join(e.id for e in self._entries)}")

    def __repr__(self) -> str:
        return f"SlideFolder({str(self.path)!r}, {len(self)} slides)"

    def write(
        self,
        entry: FolderEntry | str,
        annotations: Sequence[Annotation],
        *,
        source: str,
        mode: Mode = "replace",
        colors: Mapping[str, Rgb] | None = None,
    ) -> WriteReport:
        """Write a model's annotations to `<stem>.<source>.geojson`; a file of that name is kept as a backup.

        Raises:
            ProjectError: The file holds objects of another source, or predictions that a human has corrected; or it
                could not be written.
        """
        if not source:
            raise ProjectError("source='': give the model's id, so that its objects can be told from yours")
        check_choice("mode", mode, get_args(Mode))
        entry = self[entry] if isinstance(entry, str) else entry
        path = entry.prediction_file(source)
        if entry._is_of_another(path.stem):
            raise ProjectError(
                f"{path.name} would be read as what was drawn on another slide of the folder: give {source!r} another "
                "name"
            )
        old = _written_before(path, source)
        new = [replace(annotation, source=source) for annotation in annotations]
        if twice := {a.id for a in old} & {a.id for a in new} if mode == "add" else ():
            raise ProjectError(f"{path} holds an object with id {min(twice)} already: give new ones ids of their own")
        gone = [] if mode == "add" else old
        report = WriteReport(
            entry.name,
            source,
            added=len(new),
            removed=len(gone),
            dry_run=mode == "dry-run",
            by_class=changes(map(_form, gone), map(_form, new)),
        )
        if report.dry_run:
            return report
        if path.is_file():
            path.with_name(path.name + BACKUP_SUFFIX).write_bytes(path.read_bytes())
        write_geojson(path, [*old, *new] if mode == "add" else new, colors=colors)
        return report

    def clear(self, *, source: str, entries: Iterable[FolderEntry | str] | None = None) -> list[WriteReport]:
        """Delete what `source` wrote.

        Raises:
            ProjectError: A file holds objects of another source, or predictions that a human has corrected.
        """
        chosen = self._entries if entries is None else [self[e] if isinstance(e, str) else e for e in entries]
        reports = []
        for entry in chosen:
            path = entry.prediction_file(source)
            old = _written_before(path, source)
            if path.is_file():
                path.unlink()
                reports.append(WriteReport(entry.name, source, removed=len(old)))
        return reports


def _stem(path: Path) -> str:
    suffix = next(s for s in SLIDE_SUFFIXES if path.name.lower().endswith(s))
    return path.name[: -len(suffix)]


def _written_before(path: Path, source: str) -> list[Annotation]:
    old = read_geojson(path) if path.is_file() else []
    foreign = sum(annotation.source != source for annotation in old)
    if foreign:
        raise ProjectError(
            f"{path} holds {foreign} object(s) that {source!r} did not write, or that were corrected since: "
            "move them to the slide's own .geojson file first, so that none is lost"
        )
    return old


def _form(annotation: Annotation) -> Form:
    """What makes two predictions the same."""
    return annotation.class_name, shapely.to_wkb(shapely.normalize(annotation.geometry), hex=True)


def _metadata(path: Path, known: set[str]) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            # Excel writes semicolons where the comma is the decimal sign.
            rows = list(csv.DictReader(file, delimiter=";" if ";" in head and "," not in head else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise QuPathFormatError(f"{path} cannot be read as a UTF-8 table: {error}") from error
    result = {}
    for number, row in enumerate(rows, start=2):
        slide = row.pop("slide", None)
        if slide not in known:
            raise QuPathFormatError(f"{path}, line {number}: slide {slide!r} is not in the folder (column 'slide')")
        result[slide] = {key: value or "" for key, value in row.items() if key is not None}
    return result

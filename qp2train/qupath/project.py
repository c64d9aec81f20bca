"""Project: a QuPath project to list, read and write back to. No Java, no QuPath."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, get_args

from qp2train.core.annotation import Annotation
from qp2train.errors import NotAProjectError, ProjectError
from qp2train.qupath import entrydata, projecthtml, qpproj, relink
from qp2train.qupath.bridge import PaquoStore
from qp2train.qupath.entry import ImageEntry
from qp2train.qupath.entryedit import edited
from qp2train.qupath.pathobject import Rgb
from qp2train.qupath.placing import Under, under_enclosing
from qp2train.qupath.relink import ImageLocation, Relinked
from qp2train.qupath.replaced import taken_out
from qp2train.qupath.savefile import save
from qp2train.qupath.store import Backend, JavaFreeStore, Store
from qp2train.qupath.uris import Locator, check_name, local_path, project_uri, segments
from qp2train.qupath.writeback import check_class_name
from qp2train.qupath.writereport import Mode, WriteReport, check_choice

log = logging.getLogger(__name__)

Selection = Literal["annotated", "unannotated"] | Callable[[ImageEntry], bool]


class Project:
    r"""A QuPath project (0.4 to 0.7): a sequence of ImageEntry in the order QuPath shows.

    Args:
        path: The project's folder or its project.qpproj.
        image_roots: Folders in which to look for slides that have moved.
        uri_map: Where slides were (folder or file, as URI or path of any system) → where they are now:
            {"D:\slides": "/data/slides"}. The longest that fits wins.
        backend: "java-free"; or "paquo": an entry's objects are read and written by an installed QuPath (the extra
            "qupath", and PAQUO_QUPATH_DIR). Java starts with the first of them.

    Raises:
        NotAProjectError: The path is no QuPath project.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        image_roots: Iterable[str | Path] = (),
        uri_map: Mapping[str, str | Path] | None = None,
        backend: Backend = "java-free",
    ) -> None:
        check_choice("backend", backend, get_args(Backend))
        self.file = qpproj.find_project(Path(path).absolute())
        self._data, self._stamp = qpproj.read_project_stamped(self.file)
        self._store: Store = PaquoStore(self.file) if backend == "paquo" else JavaFreeStore()
        uri = self._data.get("uri")
        roots = tuple(Path(root).absolute() for root in image_roots)
        moved = {str(old): local_path(new) for old, new in (uri_map or {}).items()}
        self._locator = Locator(self.path, uri if isinstance(uri, str) else None, roots, moved)
        self._entries = [self._entry(item) for item in self._data["images"]]

    @classmethod
    def create(cls, path: str | Path, *, classes: Mapping[str, Rgb] | None = None) -> Project:
        """Make an empty project in a folder that holds none, as QuPath 0.6 does.

        Raises:
            ProjectError: The folder holds a project already, or cannot be written.
        """
        folder = Path(path).absolute()
        if any(folder.glob("*.qpproj")):
            raise ProjectError(f"{folder} holds a QuPath project already: open it with Project(path)")
        try:
            for part in ("data", "classifiers"):
                (folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ProjectError(f"{folder} cannot be made: {error.strerror or error}") from error
        file = folder / qpproj.PROJECT_FILE
        now = time.time_ns() // 1_000_000
        save(folder / "data" / "metadata.json", b"{}")
        qpproj.save_classes(folder, classes or {})
        content = {
            "version": qpproj.QUPATH_VERSION,
            "createTimestamp": now,
            "modifyTimestamp": now,
            "uri": project_uri(file),
            "lastID": 0,
            "images": [],
        }
        qpproj.save_project(file, content)
        return cls(file)

    @property
    def path(self) -> Path:
        """The project's folder."""
        return self.file.parent

    @property
    def name(self) -> str:
        """The folder's name, as QuPath names a project."""
        return self.path.name

    @property
    def version(self) -> str | None:
        """The QuPath version that saved the project last."""
        version = self._data.get("version")
        return None if version is None else str(version)

    @property
    def classes(self) -> dict[str, Rgb]:
        """Class name → (r, g, b), in QuPath's order."""
        return qpproj.read_classes(self.path)

    def set_classes(self, colors: Mapping[str, Rgb]) -> None:
        """Make these the project's classes, in this order. Objects of other classes keep theirs.

        Raises:
            LabelError: A name that QuPath cannot hold.
            ProjectError: The file could not be written.
        """
        for name in colors:
            check_class_name(name)
        qpproj.set_classes(self.path, colors)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[ImageEntry]:
        return iter(self._entries)

    def __repr__(self) -> str:
        return f"Project({str(self.file)!r}, {len(self)} images)"

    def _repr_html_(self) -> str:
        return projecthtml.table(self)

    def __getitem__(self, key: str | int) -> ImageEntry:
        """The entry of an id, or of an image name that only one entry has.

        Raises:
            ProjectError: There is none, or there are several.
        """
        for entry in self._entries:
            if entry.id == str(key):
                return entry
        named = [entry for entry in self._entries if entry.name == key]
        if len(named) == 1:
            return named[0]
        if named:
            raise ProjectError(f"{len(named)} images are named {key!r}: use an id, {[e.id for e in named]}")
        known = ", ".join(f"{entry.id} ({entry.name})" for entry in self._entries) or "none"
        raise ProjectError(f"no image {key!r} in {self.name}; known: {known}")

    def select(self, which: Selection) -> list[ImageEntry]:
        """The entries that a human has annotated, that none has, or that a function picks.

        What qp2train wrote counts only where a human has edited it; detections do not count.

        Raises:
            ProjectError: `which` is neither.
            QuPathFormatError: An entry's data cannot be read.
        """
        if callable(which):
            return [entry for entry in self._entries if which(entry)]
        if which not in ("annotated", "unannotated"):
            raise ProjectError(f'select({which!r}): use "annotated", "unannotated" or a function of an entry')
        wanted = which == "annotated"
        return [entry for entry in self._entries if _is_annotated(entry) is wanted]

    def write(
        self,
        entry: ImageEntry | str,
        annotations: Sequence[Annotation],
        *,
        source: str,
        mode: Mode = "replace",
        under: Under = "root",
        merge: bool = False,
        colors: Mapping[str, Rgb] | None = None,
        in_place_of: Mapping[str, str] | None = None,
    ) -> WriteReport:
        """Write a model's annotations into an entry; whatever the model did not write stays as it is, to the byte.

        `annotation.kind` says what QuPath shows: "annotation" (editable one by one), "detection" (a fast overlay, for
        many small objects), "cell" or "tile".

        Args:
            entry: An entry of this project, or its id.
            annotations: In full-resolution pixels, parents before children. Ids are kept.
            source: The model's id, kept with every object.
            mode: "replace" what the same source wrote earlier, except what a human has edited; "add" to it; or
                "dry-run": report what "replace" would do, and write nothing.
            under: Where in QuPath's hierarchy annotations without a parent go: directly under the image ("root"), or
                under the smallest human annotation or TMA core that encloses them ("enclosing").
            merge: Write also if the entry changed since it was read (somebody saved it in QuPath): into what it holds
                now. Without it, that is refused.
            colors: Class name → (r, g, b) for classes that the project lacks; they are added to it.
            in_place_of: Id of a new annotation → id of the human's object whose place it takes, and whose children. It
                carries what it replaces along, and when it is taken out (`clear`, or "replace" by a later write) the
                human's object is there again.

        Before the first change, and whenever the file holds nothing of ours, it is copied to
        `data.qpdata.qp2train-backup`: the last state that was the human's alone.

        Raises:
            EntryChangedError: The entry changed since it was read, QuPath's save of it was interrupted, or another
                process is writing it.
            ProjectError: An id that is taken, a parent that is not there, an object to replace that is not there or
                is no human's, a full disk. Nothing is changed then. A list
                of classes or a summary.json that cannot be brought up to date is a warning, not an error.
            QuPathFormatError: The entry's data cannot be read, or a geometry cannot be written.
        """
        if not source:
            raise ProjectError("source='': give the model's id, so that its objects can be told from yours")
        check_choice("mode", mode, get_args(Mode))
        check_choice("under", under, get_args(Under))
        entry = self._own(entry)
        annotations = list(annotations)
        if under == "enclosing":
            annotations = under_enclosing(annotations, taken_out(entry.annotations_unseen(), source))
        used = {a.class_name for a in annotations if a.class_name is not None}
        known = self.classes
        palette = {**{name: qpproj.default_color(name) for name in used}, **(colors or {}), **known}
        report, in_file = self._store.write(
            entry, annotations, source=source, mode=mode, colors=palette, merge=merge, in_place_of=in_place_of
        )
        missing = [a.class_name for a in annotations if a.class_name is not None and a.class_name not in known]
        if missing and not report.dry_run:
            given = {**palette, **in_file, **(colors or {})}
            try:
                qpproj.add_classes(self.path, {name: given[name] for name in missing})
            except (OSError, ProjectError) as error:  # the objects are in, and bring their classes and colours along
                log.warning("%s: written, but the project's list of classes stays as it was: %s", entry.name, error)
        log.info("%s", report)
        return report

    def clear(
        self,
        *,
        source: str,
        entries: Iterable[ImageEntry | str] | None = None,
        edited: bool = False,
        ids: Collection[str] | None = None,
        merge: bool = False,
        dry_run: bool = False,
    ) -> list[WriteReport]:
        """Take out what `source` wrote; a file that held nothing else of ours is then what it was, byte for byte.

        What had taken the place of a human's object (`write(in_place_of=)`) gives it back; such a file is as it was but
        for its bytes.

        Args:
            source: The model's id.
            entries: Entries or ids; None = all.
            edited: Take out what a human has edited, too.
            ids: Only objects with these ids; None = all of the source's.
            merge: Also from entries that changed since they were read.
            dry_run: Only report.

        Returns:
            One report per entry that held objects of the source.

        Raises:
            EntryChangedError, QuPathFormatError: As `write`. Entries before the failing one are cleared.
        """
        chosen = self._entries if entries is None else [self._own(entry) for entry in entries]
        how: dict[str, Any] = {"edited": edited, "ids": ids, "merge": merge, "dry_run": dry_run}
        reports = [self._store.clear(entry, source=source, **how) for entry in chosen]
        found = [report for report in reports if report is not None]
        for report in found:
            log.info("%s", report)
        return found

    def located(self) -> list[ImageLocation]:
        """Where the file of every image is, and how it was found; images made from several files have several."""
        return relink.locations(self._builders(), self._locator)

    def relink(self, *, dry_run: bool = False) -> list[Relinked]:
        """Write the places where images were found into the project, as QuPath's "Update URIs" does.

        Annotations are not touched. The project's own `uri`, from which QuPath and we work out where moved files may
        be, is brought up to date once no file is missing.

        Args:
            dry_run: Only report.

        Returns:
            What was, or would be, replaced.

        Raises:
            EntryChangedError: The project changed on disk since it was opened.
            ProjectError: It could not be written.
        """
        found = self.located()
        changes = relink.replacements(found)
        if dry_run or not changes:
            return changes
        nothing_missing = all(at.path is not None for at in found) or "uri" not in self._data
        more = {"uri": project_uri(self.file)} if nothing_missing else {}
        with qpproj.changing(self.file, self._stamp):
            self._save({**self._data, **more, "images": relink.relinked(self._data["images"], changes)})
            relink.rewrite_server_files(self.path / "data", changes)
        return changes

    def orphans(self) -> list[Path]:
        """Folders of data that belong to no image of the list: left behind by removed ones. QuPath overlooks them."""
        known = {entry.id for entry in self._entries}
        try:
            folders = [path for path in (self.path / "data").iterdir() if path.is_dir() and path.name not in known]
        except OSError:
            return []
        return sorted(folders, key=lambda path: (not path.name.isdecimal(), path.name.zfill(20)))

    def edit(
        self,
        entry: ImageEntry | str,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        tags: Iterable[str] | None = None,
        description: str | None = None,
    ) -> None:
        """Change what the project says of an image; None leaves a part as it is.

        Args:
            entry: An entry of this project, or its id.
            name: The name shown in QuPath.
            metadata: All of it: `{**entry.metadata, "patient": "P-1"}` adds to what is there.
            tags: All of them; QuPath before 0.6 drops them when it saves the project.
            description: "" takes it away.

        Raises:
            EntryChangedError: The project changed on disk since it was opened.
            ProjectError: A value that QuPath cannot hold, or the file could not be written.
        """
        at = self._entries.index(self._own(entry))
        images = list(self._data["images"])
        images[at] = edited(images[at], name=name, metadata=metadata, tags=tags, description=description)
        if images != self._data["images"]:
            with qpproj.changing(self.file, self._stamp):
                self._save({**self._data, "images": images})

    def remove(self, entry: ImageEntry | str) -> Path:
        """Take an image off the project's list. Its data stay, as in QuPath, and its id is not given again.

        Returns:
            The folder of its data, which may not exist.

        Raises:
            EntryChangedError: The project changed on disk since it was opened.
            ProjectError: The file could not be written.
        """
        at = self._entries.index(self._own(entry))
        gone = self._entries[at]
        images = [item for number, item in enumerate(self._data["images"]) if number != at]
        with qpproj.changing(self.file, self._stamp):
            self._save({**self._data, "lastID": self._last_id(), "images": images}, dropped=at)
        return gone.folder

    def add_image(
        self,
        slide_path: str | Path,
        *,
        width: int | None = None,
        height: int | None = None,
        downsamples: Sequence[float] | None = None,
        mpp: float | tuple[float, float] | None = None,
        magnification: float | None = None,
        tile_px: tuple[int, int] | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        tags: Sequence[str] = (),
        description: str | None = None,
        image_type: str = "BRIGHTFIELD_H_E",
        thumbnail: bytes | None = None,
        annotations: Sequence[Annotation] = (),
    ) -> ImageEntry:
        """Add a slide, as QuPath 0.6 does: server.json, data.qpdata, summary.json, thumbnail.jpg.

        Without `width` and `height` the slide is opened, and what is not given is taken from it.

        Args:
            slide_path: The slide's file.
            width: Full-resolution px; given together with `height`, the file is not opened.
            height: Full-resolution px.
            downsamples: Of every level.
            mpp: µm per px, or (x, y); None = what the file says, else uncalibrated.
            magnification: Of the objective.
            tile_px: Preferred tile (width, height).
            name: Shown name; the file's if None.
            metadata: Such as {"patient": "P-001"}.
            tags: QuPath 0.6 and later.
            description: Free text.
            image_type: QuPath's name of it: BRIGHTFIELD_H_E, BRIGHTFIELD_H_DAB, BRIGHTFIELD_OTHER, FLUORESCENCE,
                OTHER or UNSET.
            thumbnail: A JPEG that fits into 1000x600; without one, QuPath makes it.
            annotations: What a human has drawn on it; no provenance is written. Colours are the project's classes'.

        Raises:
            SlideError: The slide has to be opened, and is not there or cannot be read.
            EntryChangedError: The project changed on disk since it was opened.
            ProjectError: The slide is in the project already, or a file could not be written.
        """
        from qp2train.qupath.newimage import image_item  # on demand: listing a project needs no slide reader

        path = Path(slide_path).absolute()
        check_name(path)
        self._refuse_twice(path)
        item, picture = image_item(
            path,
            size=(width, height),
            downsamples=downsamples,
            mpp=mpp,
            magnification=magnification,
            tile_px=tile_px,
            name=name,
        )
        item = edited(item, metadata=metadata or {}, tags=tags, description=description)
        with qpproj.changing(self.file, self._stamp):
            number = self._last_id() + 1
            while (self.path / "data" / str(number)).exists():  # left behind by an image that was removed
                number += 1
            item["entryID"] = number
            entry = self._entry(item)
            with ExitStack() as undo:
                undo.callback(shutil.rmtree, entry.folder, ignore_errors=True)
                entrydata.create(
                    entry,
                    self.file,
                    item["serverBuilder"],
                    image_type=image_type,
                    thumbnail=thumbnail or picture,
                    annotations=annotations,
                    colors=self.classes,
                )
                # Last: until then the folder is an orphan, which QuPath overlooks.
                self._save({**self._data, "lastID": number, "images": [*self._data["images"], item]})
                undo.pop_all()
        return self._entries[-1]

    def _refuse_twice(self, path: Path) -> None:
        there, names = path.exists(), segments(str(path))
        for entry in (entry for entry in self._entries if entry.is_plain):
            same = there and entry.path is not None and path.samefile(entry.path)
            if same or segments(entry.uri) == names:
                raise ProjectError(
                    f"{path} is in the project already: image {entry.id}, {entry.name!r}. To have it twice, duplicate "
                    "it in QuPath (project list, right click)"
                )

    def _last_id(self) -> int:
        last, given = self._data.get("lastID"), [int(entry.id) for entry in self._entries]
        return max([last if isinstance(last, int) else 0, *given])

    def _builders(self) -> list[tuple[str, str, object]]:
        return [
            (e.id, e.name, i.get("serverBuilder")) for e, i in zip(self._entries, self._data["images"], strict=True)
        ]

    def _save(self, data: dict[str, Any], *, dropped: int | None = None) -> None:
        """Write the project file, and show the entries its new content; `dropped` is the place of one that is gone."""
        self._stamp = qpproj.save_project(self.file, data, expected=self._stamp)
        self._data = data
        if dropped is not None:
            del self._entries[dropped]
        for entry, item in zip(self._entries, data["images"], strict=False):
            entry.show(item)
        self._entries += [self._entry(item) for item in data["images"][len(self._entries) :]]

    def _entry(self, item: Mapping[str, Any]) -> ImageEntry:
        entry = ImageEntry(item, self.path / "data" / str(item["entryID"]), self._locator)
        if isinstance(self._store, PaquoStore):
            entry.read_with(self._store.read)
        return entry

    def _own(self, entry: ImageEntry | str) -> ImageEntry:
        if isinstance(entry, str):
            return self[entry]
        if not any(entry is own for own in self._entries):
            raise ProjectError(f"{entry!r} is not of this project ({self.path})")
        return entry


def _is_annotated(entry: ImageEntry) -> bool:
    found = entry.read(kinds="annotation")
    return bool(found.edited) or any(annotation.drawn for annotation in found.annotations)


__all__ = ["ImageEntry", "NotAProjectError", "Project", "WriteReport"]

"""ServedProject: the slides of a project, prompted and written to. Images are known by their ids alone."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from fastapi import HTTPException
from PIL import Image

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box
from qp2train.errors import MissingCalibrationError
from qp2train.qupath.entry import ImageEntry
from qp2train.qupath.folder import FolderEntry, SlideFolder
from qp2train.qupath.open import open_project
from qp2train.qupath.project import Project
from qp2train.qupath.writereport import WriteReport
from qp2train.refine.prompts import PromptModel
from qp2train.refine.refiner import Refiner
from qp2train.serve.openslides import OpenSlides

# Of PNG: a view is looked at once, and on the same computer as a rule.
_QUICK = 1


class ServedProject:
    """A project as the server uses it, for threads.

    It is opened anew for each request: QuPath, or another process, may have changed it.

    Args:
        path: A QuPath project, or a folder of slides with GeoJSON files.
        image_roots: Where moved slides are looked for.

    Raises:
        NotAProjectError: The path is neither.
    """

    def __init__(self, path: str | PathLike[str], *, image_roots: Iterable[str | Path] = ()) -> None:
        self.path, self._roots = Path(path), tuple(image_roots)
        self._slides = OpenSlides()
        self._writing = threading.Lock()
        opened = self._open()
        self._file = opened.file if isinstance(opened, Project) else self.path

    def entries(self) -> list[ImageEntry | FolderEntry]:
        """All images, in their order."""
        return [*self._open()]

    def size_of(self, entry_id: str) -> tuple[ImageEntry | FolderEntry, int, int, float | None]:
        """An image, its width and height in full-resolution pixels, and its µm per pixel.

        Raises:
            HTTPException: 404 = there is none of this id.
            SlideError, ProjectError: Its slide cannot be read.
        """
        entry = _entry(self._open(), entry_id)
        with self._slides.of(entry, self._file) as slide:
            try:
                return entry, *slide.size, slide.mpp
            except MissingCalibrationError:
                return entry, *slide.size, None

    def picture(self, entry_id: str, box: Box | None, *, max_px: int) -> bytes:
        """A region as a PNG file, its longer side at most `max_px`, never enlarged; None = the whole slide.

        Raises:
            HTTPException: 404 = there is no such image, 422 = the region misses its slide.
            SlideError, ProjectError: Its slide cannot be read.
        """
        with self._slides.of(_entry(self._open(), entry_id), self._file) as slide:
            whole = Box(0, 0, *slide.size)
            shown = whole if box is None else box.clipped_to(*slide.size)
            if shown.width <= 0 or shown.height <= 0:
                raise HTTPException(422, f"the region misses the slide of {slide.size[0]}×{slide.size[1]} px")
            scale = max(1.0, max(shown.width, shown.height) / max_px)
            size = max(1, round(shown.width / scale)), max(1, round(shown.height / scale))
            pixels = slide.read(shown, size)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=_QUICK)
        return file.getvalue()

    def refiner(self, entry_id: str, region: Box, model: PromptModel, *, view_px: int) -> Refiner:
        """A refiner that has looked at a region.

        Raises:
            HTTPException: 404 = there is no such image.
            PromptError: The region is empty, or misses the slide.
            SlideError, ProjectError: Its slide cannot be read.
        """
        refiner = Refiner(model, view_px=view_px)
        with self._slides.of(_entry(self._open(), entry_id), self._file) as slide:
            refiner.set_region(slide, region)
        return refiner

    def add(self, entry_id: str, annotations: Sequence[Annotation], *, source: str) -> WriteReport:
        """Write objects beside all that is there.

        Raises:
            HTTPException: 404 = there is no such image, 422 = an object lies beyond its slide.
            SlideError: Its slide cannot be read.
            ProjectError, LabelError: As `Project.write`.
        """
        _, width, height, _ = self.size_of(entry_id)
        slide = Box(0, 0, width, height).polygon
        for i, annotation in enumerate(annotations):
            if not annotation.geometry.intersects(slide):
                raise HTTPException(422, f"feature {i} lies beyond the slide of {width}×{height} px")
        with self._writing:
            project = self._open()
            return project.write(_entry(project, entry_id).id, annotations, source=source, mode="add")

    def take_out(self, entry_id: str, ids: Sequence[str], *, source: str) -> WriteReport:
        """Take objects of a source out, all of them if no ids are given; what was edited in QuPath since stays.

        Raises:
            HTTPException: 404 = there is no such image.
            ProjectError: As `Project.write`.
        """
        with self._writing:
            project = self._open()
            entry, gone = _entry(project, entry_id), set(ids)
            if gone and isinstance(project, Project):
                found = project.clear(source=source, entries=[entry.id], ids=gone)
                return found[0] if found else WriteReport(entry.name, source)
            ours = [a for a in entry.annotations("all") if a.source == source]
            stay = [a for a in ours if gone and a.id not in gone]
            if len(stay) < len(ours):
                return project.write(entry.id, stay, source=source, mode="replace")
            return WriteReport(entry.name, source)

    def close(self) -> None:
        """Close the slides."""
        self._slides.close()

    def _open(self) -> Project | SlideFolder:
        return open_project(self.path, image_roots=self._roots)


def _entry(project: Project | SlideFolder, entry_id: str) -> ImageEntry | FolderEntry:
    """By its id, never by a name or a path."""
    for entry in project:
        if entry.id == entry_id:
            return entry
    raise HTTPException(404, f"there is no image with the id {entry_id[:100]!r} in the project")

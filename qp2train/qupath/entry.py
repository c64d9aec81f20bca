"""ImageEntry: one image of a project, what is known of it, its slide and its annotations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qp2train.core.annotation import Annotation
from qp2train.errors import ProjectError, QuPathFormatError, SlideNotFoundError
from qp2train.qupath.javastream import gc_paused
from qp2train.qupath.qpdata import Kinds, ReadResult, load, read_annotations
from qp2train.qupath.qpproj import DATA_FILE, read_json
from qp2train.qupath.savefile import Stamp, read_stamped
from qp2train.qupath.uris import Located, Locator

if TYPE_CHECKING:
    from qp2train.slides.slide import Slide

# Scanners differ by up to a percent between the axes; more is another shape of pixel.
NOT_SQUARE = 0.02
_MICRONS = ("µm", "μm", "um")  # micro sign, Greek mu, ASCII


class ImageEntry:
    """One image of a project. Made by `Project`.

    Args:
        data: The entry's JSON in project.qpproj.
        folder: Its data folder.
        locator: Finds its slide.
    """

    def __init__(self, data: Mapping[str, Any], folder: Path, locator: Locator) -> None:
        self._data = data
        self._locator = locator
        self.folder = folder
        self._seen: Stamp | None = None

    def __repr__(self) -> str:
        return f"ImageEntry({self.id!r}, {self.name!r})"

    @property
    def id(self) -> str:
        """The entry's number in the project, as text."""
        return str(self._data["entryID"])

    @property
    def name(self) -> str:
        """The name shown in QuPath."""
        return str(self._data.get("imageName") or self._server.get("name") or self.id)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata that a user gave the image in QuPath."""
        given = self._data.get("metadata")
        return {str(k): str(v) for k, v in given.items()} if isinstance(given, dict) else {}

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags (QuPath 0.6 and later)."""
        given = self._data.get("tags")
        return tuple(map(str, given)) if isinstance(given, list) else ()

    @property
    def description(self) -> str | None:
        """The image's description."""
        return self._data.get("description")

    @property
    def uri(self) -> str:
        """The stored URI of the image; of a derived image, of the first one it is made from. "" if there is none."""
        return _first_uri(self._builder)

    @property
    def path(self) -> Path | None:
        """Where the image's file is now; None if it was not found."""
        return self._located.path

    @property
    def resolved_how(self) -> str:
        """How `path` was found.

        "stored uri", "relative to project", "by name in project folder", "image_roots: …" or "not found".
        """
        return self._located.how

    @property
    def mpp(self) -> float | None:
        """µm per full-resolution pixel, mean of x and y; None if the image is not calibrated."""
        sides = self._pixel_sides()
        return sum(sides) / 2 if len(sides) == 2 else None

    @property
    def width(self) -> int | None:
        """Full-resolution px; None if the project does not say."""
        return self._size("width")

    @property
    def height(self) -> int | None:
        """Full-resolution px; None if the project does not say."""
        return self._size("height")

    @property
    def data_path(self) -> Path:
        """The entry's data.qpdata, which may not exist."""
        return self.folder / DATA_FILE

    def slide(self) -> Slide:
        """Open the image's file with the project's calibration.

        Raises:
            SlideNotFoundError: The file is nowhere; the message names every place.
            ProjectError: The image is rotated, cropped or otherwise derived from its file, or has oblong pixels.
        """
        kind = self._builder.get("builderType", "uri")
        if kind != "uri":
            raise ProjectError(
                f"{self.name} is a {kind!r} image, whose pixels qp2train cannot make yet; its annotations can be read"
            )
        if self.path is None:
            looked = "; ".join(self._located.looked) or "nowhere: the URI names no file"
            roots = ", ".join(map(str, self._locator.image_roots)) or "none given"
            raise SlideNotFoundError(
                f"slide of {self.name} not found. Stored URI: {self.uri}. Looked in: {looked}. image_roots: {roots}. "
                "Give Project(…, image_roots=[folder]) the folder that holds the slides"
            )
        from qp2train.slides import open_slide  # opened on demand: listing a project needs no slide reader

        sides = self._pixel_sides()
        if len(sides) == 2 and abs(sides[0] / sides[1] - 1) > NOT_SQUARE:
            raise ProjectError(
                f"the pixels of {self.name} are not square ({sides[0]:g} × {sides[1]:g} µm), which qp2train cannot "
                "read yet. If that is a mistake, correct the pixel size in QuPath (Image tab)"
            )
        return open_slide(self.path, mpp=self.mpp)

    def read(self, *, kinds: Kinds = "all") -> ReadResult:
        """The entry's objects, and what had to be repaired; nothing if the image was never annotated.

        Raises:
            QuPathFormatError: data.qpdata is truncated, damaged or none of QuPath's.
        """
        path = self.data_path
        interrupted = path.with_name(path.name + ".bkp")
        data, stamp = read_stamped(path)
        if data is None and interrupted.is_file():  # QuPath died while saving; it reads the .bkp then, too
            path = interrupted
            data, _ = read_stamped(path)
        self._seen = stamp
        if data is None:
            return ReadResult([])
        with located_errors(path), gc_paused():
            return read_annotations(load(data), kinds=kinds)

    def annotations(self, kinds: Kinds = "annotation") -> list[Annotation]:
        """The entry's objects, parents before children, in full-resolution pixels.

        A prediction that a human has corrected since is the human's: its `source` is None.

        Args:
            kinds: "annotation"; "detection" = detections, cells and tiles; "all" = TMA cores too.

        Raises:
            QuPathFormatError: data.qpdata is truncated, damaged or none of QuPath's.
        """
        found = self.read(kinds=kinds)
        corrected = set(found.edited)
        return [replace(a, source=None) if a.id in corrected else a for a in found.annotations]

    def annotations_unseen(self) -> list[Annotation]:
        """As `annotations("all")`, but a later write looks for changes since the reading before this one."""
        seen = self._seen
        try:
            return self.annotations("all")
        finally:
            self._seen = seen

    @property
    def _builder(self) -> Mapping[str, Any]:
        return _child(self._data, "serverBuilder")

    @property
    def _server(self) -> Mapping[str, Any]:
        """The image's metadata in the project, else in server.json."""
        return _child(self._builder, "metadata") or self._server_file

    @cached_property
    def _server_file(self) -> Mapping[str, Any]:
        with contextlib.suppress(OSError, QuPathFormatError):  # a cache that QuPath itself never reads
            return _child(read_json(self.folder / "server.json"), "metadata")
        return {}

    @cached_property
    def _located(self) -> Located:
        return self._locator.locate(self.uri)

    def _pixel_sides(self) -> list[float]:
        """Width and height of a pixel in µm, as far as they are known."""
        calibration = _child(self._server, "pixelCalibration")
        sides = [_child(calibration, key) for key in ("pixelWidth", "pixelHeight")]
        values = [side.get("value") for side in sides if side.get("unit") in _MICRONS]
        return [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v) and v > 0]

    def _size(self, key: str) -> int | None:
        value = self._server.get(key)
        return value if isinstance(value, int) and value > 0 else None


@contextlib.contextmanager
def located_errors(path: Path) -> Iterator[None]:
    """Put the file's path before what is wrong with it."""
    try:
        yield
    except QuPathFormatError as error:
        raise QuPathFormatError(f"{path}: {error}") from error


def _child(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _first_uri(builder: Mapping[str, Any]) -> str:
    """Walk the nested builders; each with builderType "uri" is a leaf."""
    stack: list[object] = [builder]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            uri = item.get("uri")
            if isinstance(uri, str):
                return uri
            stack.extend(reversed([value for key, value in item.items() if key != "metadata"]))
        elif isinstance(item, list):
            stack.extend(reversed(item))
    return ""

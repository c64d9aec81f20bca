"""ImageEntry: one image of a project, what is known of it, its slide and its annotations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qp2train.core.annotation import Annotation
from qp2train.errors import ProjectError, QuPathFormatError, SlideNotFoundError
from qp2train.qupath.javanodes import JEnum
from qp2train.qupath.javastream import gc_paused
from qp2train.qupath.qpdata import Kinds, QpData, ReadResult, load, read_annotations
from qp2train.qupath.qpproj import DATA_FILE, read_json
from qp2train.qupath.savefile import Stamp, read_stamped
from qp2train.qupath.serverbuilder import check_pixels, recipe, uri_leaves
from qp2train.qupath.uris import Located, Locator

if TYPE_CHECKING:
    from qp2train.slides.slide import Slide

# Scanners differ by up to a percent between the axes; more is another shape of pixel.
NOT_SQUARE = 0.02
_IMAGE_TYPE = "qupath.lib.images.ImageData$ImageType"
_THUMBNAIL_LIMIT = 10_000_000  # bytes; QuPath's have a tenth of a megapixel
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
        self._place: Located | None = None
        self._read_with: Callable[[ImageEntry, Kinds], ReadResult] | None = None

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
        return next((leaf["uri"] for leaf in uri_leaves(self._builder)), "")

    @property
    def path(self) -> Path | None:
        """Where the image's file is now; None if it was not found."""
        return self._located.path

    @property
    def resolved_how(self) -> str:
        """How `path` was found.

        "stored uri", "relative to project", "by name in project folder", "image_roots: …", "uri_map: …" or "not found".
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

    @property
    def has_data(self) -> bool:
        """Whether QuPath, or we, ever saved anything for this image; without it there are no annotations."""
        return self._stored_data().is_file()

    @property
    def image_type(self) -> str:
        """QuPath's name of what is to be seen: BRIGHTFIELD_H_E, FLUORESCENCE …; UNSET where nobody said.

        From summary.json if that belongs to the data, else from the data itself, which takes as long as reading it.

        Raises:
            QuPathFormatError: data.qpdata is truncated, damaged or none of QuPath's.
        """
        path = self._stored_data()
        with contextlib.suppress(OSError, QuPathFormatError):  # a cache that QuPath itself never reads
            summary = read_json(self.folder / "summary.json")
            if summary.get("timestamp") == path.stat().st_mtime_ns // 1_000_000:
                return str(summary.get("imageType"))
        data, _ = read_stamped(path)
        if data is None:
            return "UNSET"
        with located_errors(path), gc_paused():
            return image_type_of(load(data))

    def thumbnail(self) -> bytes | None:
        """The JPEG that QuPath shows in its list; None if there is none yet."""
        path = self.folder / "thumbnail.jpg"
        with contextlib.suppress(OSError):
            if path.stat().st_size <= _THUMBNAIL_LIMIT:
                return path.read_bytes()
        return None

    def slide(self) -> Slide:
        """The image as QuPath shows it, with the project's calibration: its pixels are where the annotations are.

        Cropped, rotated and flipped images are shown so, however they are nested; pickled, or opened again from a
        patch table, they stay so.

        Raises:
            SlideNotFoundError: The file is nowhere; the message names every place.
            ProjectError: QuPath computes the image's pixels (merged channels, a projection …), the image is no flat
                8-bit RGB, its pixels are oblong, or the file has another size than the project says.
        """
        made = recipe(self._builder, self.name)
        if self.path is None:
            looked = "; ".join(self._located.looked) or "nowhere: the URI names no file"
            roots = ", ".join(map(str, self._locator.image_roots)) or "none given"
            raise SlideNotFoundError(
                f"slide of {self.name} not found. Stored URI: {self.uri}. Looked in: {looked}. image_roots: {roots}. "
                "Give Project(…, image_roots=[folder]) the folder that holds the slides"
            )
        from qp2train.slides.open import open_image  # on demand: listing a project needs no slide reader

        check_pixels(self._server, self.name)
        sides = self._pixel_sides()
        if len(sides) == 2 and abs(sides[0] / sides[1] - 1) > NOT_SQUARE:
            raise ProjectError(
                f"the pixels of {self.name} are not square ({sides[0]:g} × {sides[1]:g} µm), which qp2train cannot "
                "read yet. If that is a mistake, correct the pixel size in QuPath (Image tab)"
            )
        slide = open_image(self.path, mpp=self.mpp, as_shown=made.view)
        expected = self.width, self.height
        if slide.size != expected and None not in expected:
            slide.close()
            raise ProjectError(
                f"{self.path} is {slide.size[0]} × {slide.size[1]} px where the project says {expected[0]} × "
                f"{expected[1]} for {self.name}: it is another image of this name, or one that QuPath reads otherwise "
                "than OpenSlide. Give Project(…, uri_map={stored URI: file}) the right file"
            )
        return slide

    def read(self, *, kinds: Kinds = "all") -> ReadResult:
        """The entry's objects, and what had to be repaired; nothing if the image was never annotated.

        Raises:
            QuPathFormatError: data.qpdata is truncated, damaged or none of QuPath's.
        """
        if self._read_with is not None:
            return self._read_with(self, kinds)
        path = self._stored_data()
        data, stamp = read_stamped(path)
        self._seen = stamp if path == self.data_path else Stamp()
        if data is None:
            return ReadResult([])
        with located_errors(path), gc_paused():
            loaded = load(data)
            del data  # as large as the file
            return read_annotations(loaded, kinds=kinds)

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

    def _stored_data(self) -> Path:
        """data.qpdata; its .bkp where QuPath died while saving, as QuPath reads it."""
        interrupted = self.data_path.with_name(DATA_FILE + ".bkp")
        return interrupted if interrupted.is_file() and not self.data_path.is_file() else self.data_path

    @property
    def is_plain(self) -> bool:
        """Whether the image is its file as it is: nothing cropped, rotated or picked out of it."""
        return self._builder.get("builderType", "uri") == "uri" and not self._builder.get("args")

    def read_with(self, read: Callable[[ImageEntry, Kinds], ReadResult]) -> None:
        """Let another backend read the objects."""
        self._read_with = read

    def show(self, data: Mapping[str, Any]) -> None:
        """Take over what project.qpproj says of the image now."""
        self._data = data
        self._place = None

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

    @property
    def _located(self) -> Located:
        if self._place is None or self._place.path is None:  # a drive may have been connected since
            self._place = self._locator.locate(self.uri)
        return self._place

    def _pixel_sides(self) -> list[float]:
        """Width and height of a pixel in µm, as far as they are known."""
        calibration = _child(self._server, "pixelCalibration")
        sides = [_child(calibration, key) for key in ("pixelWidth", "pixelHeight")]
        values = [side.get("value") for side in sides if side.get("unit") in _MICRONS]
        return [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v) and v > 0]

    def _size(self, key: str) -> int | None:
        value = self._server.get(key)
        return value if isinstance(value, int) and value > 0 else None


def image_type_of(data: QpData) -> str:
    """QuPath's name of the image type that a data file holds."""
    found = (node for node in data.contents if isinstance(node, JEnum) and node.desc.name == _IMAGE_TYPE)
    return next((node.constant.text for node in found), "UNSET")


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

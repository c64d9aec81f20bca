"""The levels of a TIFF as grids of tiles (or strips): tifffile says where they lie, imagecodecs decodes them."""

from __future__ import annotations

import io
import itertools
import os
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from qp2train.errors import UnreadableSlideError
from qp2train.slides.tilecache import TILES

# What tifffile and imagecodecs raise for files that lie.
DAMAGE = (
    tifffile.TiffFileError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,  # imagecodecs' own errors
    TypeError,
    ValueError,
    struct.error,
)
WHITE = 255
JPEG, JPEG_2000 = 7, frozenset({33003, 33005, 34712})
# Decoders that are given the size of what comes out, or (JPEG) whose header can be checked for it first.
DECODED = frozenset({1, 5, JPEG, 8, 32946, 32773, 34925, 50000}) | JPEG_2000
LARGEST_TILE = 1 << 28  # bytes of one decoded tile or strip: a whole 8-bit RGB image of 89 megapixels in one strip
SIZE_MARKERS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})

# Adobe's mark by which a JPEG says that it holds red, green and blue; scanners leave it to the TIFF's tags.
NOT_TRANSFORMED = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"

Pixels = NDArray[Any]
_KEYS = itertools.count()


class Missing(LookupError):
    """The file holds no bytes for a tile."""


class File:
    """Bytes of a file at any place. Threads and forked processes may share it; pickled, it is opened again."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, os.close, self._descriptor)

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on; fewer where the file ends.

        Raises:
            OSError: The file cannot be read.
        """
        with self._lock:  # else another thread may close it meanwhile, and its number be another file's
            if self.closed:
                raise OSError("the slide was closed")
            if hasattr(os, "pread"):
                return os.pread(self._descriptor, count, offset)
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, count)

    @property
    def closed(self) -> bool:
        return not self._close.alive

    def close(self) -> None:
        with self._lock:
            self._close()

    def __reduce__(self) -> tuple[object, ...]:
        return (File, (self.path,))


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One picture of a TIFF, in its own pixels.

    Args:
        size: (width, height).
        tile: (width, height) of a tile; a strip is a tile as wide as the picture.
        samples: Numbers per pixel.
        dtype: Their type.
        offsets: Where each tile begins in the file, row by row.
        counts: Its bytes; 0 = missing.
        compression: TIFF's number of it.
        decode: tifffile's decoder of a tile.
        tables: What JPEG tiles have in common.
        paper: What a pixel beyond the border is.
        first: The number of its first tile, where colours lie apart in one page.
        shrunk: The decoder makes the file's tiles this many times smaller.
        rgb: JPEG tiles hold red, green and blue instead of brightness and two colours.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    samples: int
    dtype: np.dtype[Any]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    compression: int
    decode: Callable[..., Any]
    tables: bytes | None
    paper: int = WHITE
    first: int = 0
    shrunk: int = 1
    rgb: bool = False
    key: int = field(default_factory=lambda: next(_KEYS))

    def pixels(self, file: File, x: int, y: int, width: int, height: int) -> Pixels:
        """The part (x, y, width, height), H×W×samples; beyond the border it is paper.

        Raises:
            Missing: A tile of it is not in the file.
            UnreadableSlideError: A tile is damaged, or the file was closed.
        """
        if file.closed:
            raise UnreadableSlideError(f"{file.path}: the slide was closed")
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, self.size[0]), min(y + height, self.size[1])
        tile_w, tile_h = self.tile
        across = -(-self.size[0] // tile_w)
        whole = (left, top, right, bottom) == (x, y, x + width, y + height)
        if whole and (width, height) == self.tile and x % tile_w == y % tile_h == 0:
            # A patch of a grid that fits the tiles: nobody asks for this tile again, so it is neither kept nor copied.
            index = y // tile_h * across + x // tile_w
            kept = TILES.get((self.key, index))
            return self._decoded(file, index) if kept is None else kept.copy()
        shape = (height, width, self.samples)
        out = np.empty(shape, self.dtype) if whole else np.full(shape, self.paper, self.dtype)
        if right <= left:
            return out
        for row in range(top // tile_h, (bottom - 1) // tile_h + 1):
            y0 = row * tile_h
            a, b = max(top, y0), min(bottom, y0 + tile_h)
            for column in range(left // tile_w, (right - 1) // tile_w + 1):
                x0 = column * tile_w
                c, d = max(left, x0), min(right, x0 + tile_w)
                tile = self._tile(file, row * across + column)
                out[a - y : b - y, c - x : d - x] = tile[a - y0 : b - y0, c - x0 : d - x0]
        return out

    def shrunken(self, factor: int) -> Level | None:
        """The level `factor` (2, 4 or 8) times smaller; None where its tiles are no JPEG or cannot be divided.

        JPEG's blocks of 8 × 8 px are made from their lower frequencies only, at about half the time. The pixels are a
        little sharper than the mean of what they cover.
        """
        if self.compression != JPEG or self.samples != 3 or self.tile[0] % factor or self.tile[1] % factor:
            return None
        size = -(-self.size[0] // factor), -(-self.size[1] // factor)
        tile = self.tile[0] // factor, self.tile[1] // factor
        return replace(self, size=size, tile=tile, decode=_shrinking(factor, self.rgb), shrunk=factor, key=next(_KEYS))

    def _tile(self, file: File, index: int) -> Pixels:
        key = (self.key, index)
        tile = TILES.get(key)
        if tile is None:
            tile = self._decoded(file, index)
            TILES.put(key, tile)
        return tile

    def _decoded(self, file: File, index: int) -> Pixels:
        count = int(self.counts[index])
        if count == 0:
            raise Missing(index)
        try:
            data = file.read(int(self.offsets[index]), count)
            if len(data) < count:
                raise ValueError(f"the file ends {count - len(data)} bytes before the tile does")
            _check_size(data, self.compression, (self.tile[0] * self.shrunk, self.tile[1] * self.shrunk))
            tile: Pixels = self.decode(data, self.first + index, jpegtables=self.tables)[0][0]  # depth 1
            if tile.shape[2] != self.samples or tile.dtype != self.dtype:
                raise ValueError(f"{tile.shape[2]} × {tile.dtype} per pixel instead of {self.samples} × {self.dtype}")
        except DAMAGE as error:
            raise UnreadableSlideError(f"{file.path}: cannot decode tile {index}: {error}") from error
        return tile


def level_of(page: Any, *, plane: int = 0, paper: int = WHITE) -> Level | None:
    """A page of tifffile as a level; None where it is of a kind that is not read here.

    Args:
        page: A TiffPage or TiffFrame.
        plane: Which colour, where they lie apart.
        paper: What a pixel beyond the border is.
    """
    key = page.keyframe  # what all pages of a series have in common
    if min(key.imagewidth, key.imagelength) < 1:
        return None
    strip = (key.imagewidth, min(key.rowsperstrip, key.imagelength))
    tile = (key.tilewidth, key.tilelength) if key.is_tiled else strip
    if key.compression not in DECODED or key.imagedepth != 1 or key.dtype is None or min(tile) < 1:
        return None
    samples = 1 if key.planarconfig == tifffile.PLANARCONFIG.SEPARATE else key.samplesperpixel
    nbytes = tile[0] * tile[1] * samples * key.dtype.itemsize
    count = -(-key.imagewidth // tile[0]) * -(-key.imagelength // tile[1])
    first, last = plane * count, (plane + 1) * count
    if nbytes > LARGEST_TILE or len(page.dataoffsets) < last or len(page.databytecounts) < last:
        return None
    return Level(
        size=(key.imagewidth, key.imagelength),
        tile=tile,
        samples=samples,
        dtype=np.dtype(key.dtype),
        offsets=np.asarray(page.dataoffsets[first:last], np.int64),
        counts=np.asarray(page.databytecounts[first:last], np.int64),
        compression=int(key.compression),
        decode=key.decode,
        tables=page.jpegtables,
        paper=paper,
        first=first,
        rgb=key.photometric == tifffile.PHOTOMETRIC.RGB,
    )


def pages_of(tiff: tifffile.TiffFile) -> Iterator[Any]:
    """All pictures of a file, those in SubIFDs too."""
    for page in tiff.pages:
        if isinstance(page, tifffile.TiffPage):
            yield page
        for inner in getattr(page, "pages", None) or ():
            if isinstance(inner, tifffile.TiffPage):
                yield inner


def check_tile_sizes(path: Path) -> None:
    """Refuse tiles that fit into no memory: where it gets none, OpenSlide ends the process. Other formats pass.

    Raises:
        UnreadableSlideError: With the tile's size.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            sizes = [(page.tilewidth, page.tilelength) for page in pages_of(tiff) if page.is_tiled]
    except DAMAGE:
        return
    for width, height in sizes:
        if width * height * 4 > LARGEST_TILE:
            raise UnreadableSlideError(f"{path}: damaged TIFF: it has tiles of {width}×{height} px")


def open_tiff(path: Path) -> tifffile.TiffFile:
    """A file as tifffile sees it.

    Raises:
        UnreadableSlideError: It is no TIFF, or a damaged one.
    """
    try:
        return tifffile.TiffFile(path)
    except DAMAGE as error:
        raise UnreadableSlideError(f"{path}: no TIFF that can be read: {error}") from error


def _shrinking(factor: int, rgb: bool) -> Callable[..., Any]:
    def decode(data: bytes, index: int, jpegtables: bytes | None) -> tuple[Pixels, ...]:
        whole = jpegtables[:-2] + data[2:] if jpegtables else data
        if rgb:
            whole = whole[:2] + NOT_TRANSFORMED + whole[2:]
        with Image.open(io.BytesIO(whole)) as image:
            image.draft("RGB", (image.width // factor, image.height // factor))
            return (np.asarray(image)[None],)

    return decode


def _check_size(data: bytes, compression: int, tile: tuple[int, int]) -> None:
    """Refuse a tile whose own header promises another picture: 20 bytes can claim 65,535 × 65,535 pixels."""
    if compression == JPEG:
        found = _jpeg_size(data)
    elif compression in JPEG_2000:
        found = _jpeg_2000_size(data)
    else:
        return
    if found[0] > tile[0] or found[1] > tile[1]:
        raise ValueError(f"a tile of {tile[0]}×{tile[1]} px says that it has {found[0]}×{found[1]}")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("no JPEG marker where one must be")
        marker = data[at + 1]
        if marker in SIZE_MARKERS:
            return (data[at + 7] << 8) + data[at + 8], (data[at + 5] << 8) + data[at + 6]
        at += 1 if marker == 0xFF else 2 + (data[at + 2] << 8) + data[at + 3]
    raise ValueError("a JPEG without a size")


def _jpeg_2000_size(data: bytes) -> tuple[int, int]:
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # a bare codestream, or one in a JP2 box
    if start < 0 or len(data) < start + 24:
        raise ValueError("a JPEG 2000 without a size")
    right, bottom, left, top = struct.unpack_from(">IIII", data, start + 8)
    return right - left, bottom - top

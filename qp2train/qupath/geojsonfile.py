"""The bytes of a GeoJSON file, plain, `.gz` or `.zip`, in pieces; what a file unpacks to is bounded.

Source: qupath.lib.io.PathIO, which writes one `<name>.geojson` into a `.zip` and reads every entry.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from qp2train.errors import QuPathFormatError

PIECE = 1 << 18  # bytes read at once: what is parsed of it stays in the cache, 1.4 times as fast as 4 MB
_UNPACKED_AT_LEAST, _UNPACKED_RATIO = 1 << 24, 150  # tiles without ids whose 100 measurements are all 0: 116
_MAX_MEMBERS = 10_000
_DATE = (1980, 1, 1, 0, 0, 0)  # the zip format's first: equal objects give equal bytes


def members(path: Path, *, piece: int = PIECE) -> Iterator[Iterator[bytes]]:
    """For every GeoJSON text in a file (one, but for a `.zip`) the pieces of its bytes, unpacked.

    Raises:
        QuPathFormatError: No such file; a broken or encrypted archive; one that unpacks to far more than GeoJSON does.
    """
    with _named(), path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield _pieces(unpacked, piece, _Ratio(file))
        elif magic == b"PK\3\4":
            yield from _zipped(file, piece, _Ratio(file))
        else:
            yield _pieces(file, piece)


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except QuPathFormatError:
        raise
    except FileNotFoundError:
        raise QuPathFormatError("the file does not exist") from None
    except (OSError, EOFError, ValueError, OverflowError, RuntimeError, zlib.error, struct.error, BadZipFile) as error:
        raise QuPathFormatError(f"the file cannot be read: {error}") from error


class _Ratio:
    """What came out of a packed file, all members together, compared with what has been read of it."""

    def __init__(self, packed_file: IO[bytes]) -> None:
        self._packed_file = packed_file
        self._unpacked = 0

    def count(self, data: bytes) -> None:
        self._unpacked += len(data)
        if self._unpacked > max(_UNPACKED_AT_LEAST, _UNPACKED_RATIO * self._packed_file.tell()):
            raise QuPathFormatError("it unpacks to far more than GeoJSON does: unpack it yourself, and look at it")


def _pieces(file: IO[bytes] | gzip.GzipFile, piece: int, ratio: _Ratio | None = None) -> Iterator[bytes]:
    with _named():
        while data := file.read(piece):
            if ratio is not None:
                ratio.count(data)
            yield data


def _zipped(file: IO[bytes], piece: int, ratio: _Ratio) -> Iterator[Iterator[bytes]]:
    with ZipFile(file) as archive:
        found = [
            info
            for info in archive.infolist()
            if info.filename.lower().endswith((".geojson", ".json")) and not info.filename.startswith("__MACOSX/")
        ]
        if not found:
            raise QuPathFormatError("no .geojson in the zip file")
        if len(found) > _MAX_MEMBERS:
            raise QuPathFormatError(f"{len(found)} files in the zip file, more than {_MAX_MEMBERS}")
        for info in found:
            if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                raise QuPathFormatError(f"{info.filename!r} is packed by method {info.compress_type}, not by deflate")
            with archive.open(info) as member:
                yield _pieces(member, piece, ratio)


def packed(path: Path, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of a file that holds `pieces`: packed if its name ends with `.gz` or `.zip`."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        pack = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        for piece in pieces:
            yield pack.compress(piece)
        yield pack.flush()
    elif suffix == ".zip":
        sink = _Sink()
        with ZipFile(sink, "w", ZIP_DEFLATED) as archive:
            info = ZipInfo(path.stem.removesuffix(".geojson") + ".geojson", _DATE)
            info.compress_type = ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as member:
                for piece in pieces:
                    member.write(piece)
                    yield sink.taken()
        yield sink.taken()
    else:
        yield from pieces


class _Sink(io.RawIOBase):
    """What a ZipFile writes into, emptied as it goes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data

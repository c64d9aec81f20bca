"""PatchCache: read patches and painted masks on disk, for slow drives and many epochs."""

from __future__ import annotations

import hashlib
import logging
import os
import weakref
import zlib
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qp2train.core.patches import PatchTable
from qp2train.errors import Qp2trainError
from qp2train.slides.reading import AS_SCANNED, Reading

log = logging.getLogger(__name__)

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
VERSION = 1  # of what is stored; a change of reading or painting that alters pixels raises it
SAMPLED, SAMPLE_BYTES = 16, 1 << 16
CHECKSUM_BYTES = 4


class PatchCache:
    """The patches of one table, kept in a file of a folder that several tables and processes may share.

    A patch is stored after it was read for the first time. What a killed process or a failing disk left half is
    noticed by its checksum and read again from the slide. The file belongs to what the patches show: slides of
    other content, other annotations or another size have a file of their own, moved or renamed slides have not.

    Args:
        folder: Where; made if need be.
        table: The patches.
        px: Side of the stored patches, with the margin that augmentation wants.
        reading: How they are read.
        limit_gb: Most that the folder may hold, in GB (10⁹ bytes). Files of other tables that were not used for longest
            are deleted for it; of a table that is larger the first patches are kept.

    Raises:
        Qp2trainError: The folder cannot be written to, or the limit is no positive number.
    """

    def __init__(
        self, folder: str | Path, table: PatchTable, *, px: int, reading: Reading = AS_SCANNED, limit_gb: float = 50.0
    ) -> None:
        if not limit_gb > 0:
            raise Qp2trainError(f"the patch cache's limit must be a positive number of GB, not {limit_gb!r}")
        self.px = px
        self._row_bytes = px * px * 4
        limit = int(limit_gb * 1e9)
        self._rows = min(len(table), limit // (self._row_bytes + CHECKSUM_BYTES))
        self._path = Path(folder) / f"{_key(table, px, reading)}.patches"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _make_room(self._path, limit - self._rows * (self._row_bytes + CHECKSUM_BYTES))
            self._path.touch()
        except OSError as error:
            raise Qp2trainError(f"no patches can be kept in {folder}: {error}") from error
        self._checked = np.zeros(self._rows, bool)
        self._file: FileIO | None = None
        self._opened_by, self._full = 0, False

    def get(self, row: int) -> Pair | None:
        """(image H×W×3, mask H×W) of a row, uint8; None if it is not stored, or damaged."""
        if row >= self._rows:
            return None
        stored = np.empty((4, self.px, self.px), np.uint8)
        try:
            file = self._handle()
            file.seek(self._start(row))
            checksum = file.read(CHECKSUM_BYTES)
        except OSError:  # another run has deleted the file for want of room
            return None
        if len(checksum) < CHECKSUM_BYTES or not any(checksum) or file.readinto(stored.data) < self._row_bytes:
            return None
        if not self._checked[row]:
            if _checksum(stored) != checksum:
                return None
            self._checked[row] = True
        return stored[:3].reshape(self.px, self.px, 3), stored[3]

    def put(self, row: int, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        """Store a row. A full disk ends the storing, not the training."""
        if row >= self._rows or self._full:
            return
        stored = np.concatenate([image.reshape(3, self.px, self.px), mask[None]])
        try:
            file = self._handle()
            file.seek(self._start(row) + CHECKSUM_BYTES)
            _write_all(file, stored.data.cast("B"))
            file.seek(self._start(row))
            _write_all(file, memoryview(_checksum(stored)))
        except OSError as error:
            self._full = True
            log.warning("no further patches are kept in %s: %s", self._path.parent, error)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_file": None}

    def _start(self, row: int) -> int:
        return row * (self._row_bytes + CHECKSUM_BYTES)

    def _handle(self) -> FileIO:
        # A forked process would share its parent's position in the file.
        if self._file is None or self._opened_by != os.getpid():
            self._file, self._opened_by = FileIO(self._path, "r+b"), os.getpid()
            weakref.finalize(self, self._file.close)
        return self._file


def _checksum(stored: NDArray[np.uint8]) -> bytes:
    return (zlib.crc32(stored.data) or 1).to_bytes(CHECKSUM_BYTES, "little")  # 0 = nothing stored


def _write_all(file: FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _make_room(own: Path, left: int) -> None:
    """Delete the files of other tables, those used last excepted, until they take no more than `left` bytes."""
    others = [(file, file.stat()) for file in own.parent.glob("*.patches") if file != own]
    for file, stat in sorted(others, key=lambda item: -item[1].st_mtime_ns):
        left -= stat.st_size
        if left < 0:
            log.info("patches of another table are deleted for want of room: %s", file)
            file.unlink(missing_ok=True)


def _key(table: PatchTable, px: int, reading: Reading) -> str:
    h = hashlib.sha256(f"{VERSION} {px} {reading} {table.digest()}".encode())
    for entry in sorted(set(table.rows["entry"])):
        h.update(_fingerprint(table.slides[entry].path))
    return h.hexdigest()[:32]


def _fingerprint(path: str) -> bytes:
    """Of a slide's content: the sizes of its files, and samples from all over them."""
    h = hashlib.sha256()
    try:
        for part in _files(Path(path)):
            with part.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                h.update(f"{size};".encode())
                for i in range(SAMPLED):
                    file.seek(max(0, (size - SAMPLE_BYTES) * i // (SAMPLED - 1)))
                    h.update(file.read(SAMPLE_BYTES))
    except OSError as error:
        raise Qp2trainError(f"{path} cannot be read: {error}") from error
    return h.digest()


def _files(slide: Path) -> list[Path]:
    """MIRAX and VSI files are tables of contents; the pixels lie in a folder beside them. DICOM's are all beside."""
    beside = {".mrxs": slide.with_suffix(""), ".vsi": slide.with_name(f"_{slide.stem}_"), ".dcm": slide.parent}
    folder = beside.get(slide.suffix.lower())
    return [slide, *sorted(f for f in folder.rglob("*") if f.is_file())] if folder is not None else [slide]

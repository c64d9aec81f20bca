"""Replace a file so that at every instant either the old or the new one is there, whole.

The sequence: write beside, fsync, keep a backup, look once more whether somebody else has changed the file,
os.replace, fsync the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import SoftFileLock, Timeout

from qp2train.errors import EntryChangedError, ProjectError

BACKUP_SUFFIX = ".qp2train-backup"
TEMPORARY_SUFFIX = ".tmp~"
LOCK_SUFFIX = ".qp2train-lock"
WAIT_S = 10.0  # writing 100,000 objects takes three
_UNSIGNED_S = 1.0  # a living process signs its mark within microseconds


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file's state when it was read: size in bytes, time of change in ns, SHA-256. All zero: it was not there."""

    size: int = 0
    mtime_ns: int = 0
    digest: str = ""


def read_stamped(path: Path) -> tuple[bytes | None, Stamp]:
    """A file's bytes (None if there is no file) and its state."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read()
    except FileNotFoundError:
        return None, Stamp()
    return data, Stamp(len(data), status.st_mtime_ns, hashlib.sha256(data).hexdigest())


def check_unchanged(path: Path, expected: Stamp) -> None:
    """Compare a file with the state it had; a mere touch is no change.

    Raises:
        EntryChangedError: It is another file now, has appeared, or is gone.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        if not expected.digest:
            return
        raise EntryChangedError(f"{path} is gone since it was read; nothing was written") from None
    if expected.digest and (status.st_size, status.st_mtime_ns) == (expected.size, expected.mtime_ns):
        return
    if not expected.digest or read_stamped(path)[1].digest != expected.digest:
        raise EntryChangedError(
            f"{path} changed since it was read, probably saved by QuPath; nothing was written. "
            "Close the image in QuPath, read the entry again (entry.annotations()) and repeat"
        )


def save(
    path: Path, data: bytes | Iterable[bytes], *, expected: Stamp | None = None, backup: str | None = None
) -> None:
    """Replace `path` by `data`, whole or not at all.

    Args:
        path: The file; its folder must exist.
        data: The new content, whole or in pieces; what their making raises leaves the old file as it was.
        expected: The state the file must still have.
        backup: A suffix: the old file is first copied to that name.

    Raises:
        EntryChangedError: The file is not as expected.
        ProjectError: It could not be written (disk full, no permission); the old file is as it was.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        try:
            _write_through(temporary, data)
            if backup is not None and path.exists():
                copy = path.with_name(path.name + backup)
                partial = copy.with_name(copy.name + TEMPORARY_SUFFIX)
                shutil.copy2(path, partial)
                os.replace(partial, copy)
            if expected is not None:
                check_unchanged(path, expected)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            if backup is not None:
                path.with_name(path.name + backup + TEMPORARY_SUFFIX).unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise ProjectError(
            f"{path} could not be written: {error.strerror or error}. The old file is as it was; "
            "make room or check permissions, and repeat"
        ) from error


def remove(path: Path, *, expected: Stamp) -> None:
    """Delete `path` if it still is as it was read.

    Raises:
        EntryChangedError: It is not.
        ProjectError: It could not be deleted.
    """
    check_unchanged(path, expected)
    try:
        path.unlink()
    except OSError as error:
        raise ProjectError(f"{path} could not be deleted: {error.strerror or error}") from error


@contextlib.contextmanager
def lock(path: Path, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Keep other processes of ours away from `path`. QuPath knows no lock; `check_unchanged` is for that.

    The mark names process and computer: one that a killed process left on this computer is taken over at once. It is
    a file of its own, since locks of the system do not reach from a Linux server to a Windows laptop.

    Args:
        path: What is going to be changed.
        wait_s: How long to wait for another process.

    Raises:
        EntryChangedError: Another process is still writing the file.
        ProjectError: The folder cannot be written.
    """
    mark = path.with_name(path.name + LOCK_SUFFIX)
    held = SoftFileLock(mark)
    try:
        _drop_unsigned(mark)
        held.acquire(timeout=wait_s, poll_interval=0.02)
    except Timeout:
        raise EntryChangedError(
            f"another process is writing {path}; if none is, delete {mark.name} beside it and repeat"
        ) from None
    except OSError as error:
        raise ProjectError(f"{path.parent} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        held.release()


def _drop_unsigned(mark: Path) -> None:
    """Delete the mark of a process that was killed between making it and writing its name into it."""

    def unsigned() -> tuple[int, int] | None:
        with contextlib.suppress(FileNotFoundError):
            status = mark.stat()
            return (status.st_ino, status.st_mtime_ns) if status.st_size == 0 else None
        return None

    found = unsigned()
    if found is not None:
        time.sleep(_UNSIGNED_S)
        if unsigned() == found:
            mark.unlink(missing_ok=True)


def _write_through(path: Path, data: bytes | Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

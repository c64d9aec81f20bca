"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qp2train.errors import Qp2trainError

PARTIAL_SUFFIX = ".partial"


def check_free(out: str | Path) -> None:
    """Refuse a name that is taken.

    Raises:
        Qp2trainError: `out` exists and is no empty folder.
    """
    target = Path(os.path.abspath(out))
    if target.exists() and not (target.is_dir() and next(target.iterdir(), None) is None):
        raise Qp2trainError(f"{out} exists and is no empty folder; give a new one, nothing is overwritten")


@contextmanager
def staged(out: str | Path) -> Iterator[Path]:
    """A new, empty folder beside `out`, which takes its name when the block ends well.

    If it does not, the folder is deleted. A process that is killed leaves it under its own name, `out` + ".partial".

    Raises:
        Qp2trainError: `out` exists and is not empty, or another export to it is running or was killed.
    """
    check_free(out)
    target = Path(os.path.abspath(out))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    try:
        partial.mkdir()
    except FileExistsError as error:
        raise Qp2trainError(
            f"{partial} is what an export left that was killed, or one that still runs; delete it and repeat"
        ) from error
    try:
        yield partial
        if target.is_dir():
            target.rmdir()  # Windows renames over nothing, not over an empty folder
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

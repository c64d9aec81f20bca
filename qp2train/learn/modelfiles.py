"""Where a model's two files are: in a folder, a run's folder, or a zip of either; and what may be replaced by them."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from safetensors.torch import load, load_file

from qp2train.errors import ModelError

WEIGHTS, CARD, README = "weights.safetensors", "model.json", "README.md"
# Most that a zip's members may unpack to; the largest encoders have 4.6 GB. Weights hardly shrink, a bomb does.
CARD_BYTES, WEIGHTS_BYTES, RATIO = 64 << 20, 16 << 30, 100


@dataclass(frozen=True)
class ModelFiles:
    """A model's card, and its weights when they are asked for.

    Args:
        card: The text of `model.json`.
        tensors: Reads the weights; raises what safetensors raises.
        digest: Reads the file of weights for its SHA-256, as hexadecimal digits.
    """

    card: bytes
    tensors: Callable[[], dict[str, torch.Tensor]]
    digest: Callable[[], str]


def open_model(path: Path) -> ModelFiles:
    """The files of a model.

    Args:
        path: The model's folder, a folder that holds it as `model/`, or a .zip of either. A zip's members are read in
            memory; their paths lead nowhere.

    Raises:
        ModelError: There is no model, or the zip is damaged, encrypted, holds several models, or unpacks to too much.
    """
    if path.is_file():
        return _in_zip(path)
    folder = path / "model" if not (path / CARD).is_file() and (path / "model" / CARD).is_file() else path
    try:
        card = (folder / CARD).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise ModelError(f"{folder} is no model folder: {CARD} or {WEIGHTS} is missing") from error
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} is no model folder: {CARD} or {WEIGHTS} is missing")
    return ModelFiles(card, lambda: load_file(folder / WEIGHTS), lambda: file_digest(folder / WEIGHTS))


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_target(folder: Path, *, own: Collection[str] = (CARD, WEIGHTS, README)) -> None:
    """Refuse a place where a model would replace anything else than a model.

    Args:
        folder: The place.
        own: Names of the files that such a model consists of.

    Raises:
        ModelError: It is a file, a folder that holds other things too, or has no name of its own.
    """
    if folder.name in ("", ".."):
        raise ModelError(f"a model cannot take the place of {str(folder)!r}: name a folder for it, such as 'model'")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file: a model is a folder, so name another place")
    others = sorted(p.name for p in folder.iterdir() if p.name not in own or p.is_dir())
    if others:
        raise ModelError(
            f"{folder} holds more than a model ({', '.join(others[:3])}), all of which saving would delete: name a new "
            f"folder, such as {folder / 'model'}"
        )


def replace_folder(new: Path, folder: Path) -> Path:
    """Put a folder that was written completely into the place of an older one, which is deleted afterwards.

    Returns:
        The place. If it cannot be taken, the older one is back there.
    """
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return folder


def _in_zip(path: Path) -> ModelFiles:
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is no model folder, and no zip of one either")
    try:
        with zipfile.ZipFile(path) as archive:
            cards = [m for m in archive.infolist() if PurePosixPath(m.filename).name == CARD]
            if len(cards) != 1:
                raise ModelError(f"{path} holds {len(cards)} files {CARD}: a zip of one model has one")
            beside = str(PurePosixPath(cards[0].filename).with_name(WEIGHTS))
            members = [m for m in archive.infolist() if m.filename == beside]
            if len(members) != 1:
                raise ModelError(f"{path} is no model folder: {CARD} or {WEIGHTS} is missing")
            card = _member(archive, cards[0], CARD_BYTES)
            weights = _member(archive, members[0], WEIGHTS_BYTES)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"the zip {path} cannot be read: {error}") from error
    return ModelFiles(card, lambda: load(weights), lambda: hashlib.sha256(weights).hexdigest())


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    """A member's bytes; zipfile reads no more than the size that was checked here."""
    size = member.file_size
    if size > most or size > RATIO * max(member.compress_size, 1024):
        raise ModelError(
            f"{member.filename} of {archive.filename} unpacks from {member.compress_size:,} to {size:,} bytes, which "
            "no model does"
        )
    return archive.read(member)

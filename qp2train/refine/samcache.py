"""EmbeddingCache: what a SAM's image encoder made of views, kept on disk, for a training that sees them often."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from qp2train.errors import Qp2trainError
from qp2train.refine.prompts import Pixels
from qp2train.refine.sam import SamPrompts
from qp2train.refine.samframe import Frame

log = logging.getLogger(__name__)

VERSION = 1  # of what is stored
# In the names of all files, also of those that a killed process left half written, which count and go like the others.
SUFFIX = ".embedding"


class EmbeddingCache:
    """The embeddings of views, one file each, in a folder that several models and trainings may share.

    A file belongs to the weights, to the image processing and to the view's pixels. It is written under another name
    and then renamed, with a checksum: what a killed process left half is never read.

    Args:
        model: Whose encoder.
        folder: Where; made if need be. None = nothing is kept.
        limit_gb: Most that the folder may hold, in GB (10⁹ bytes): those that were not used for longest are deleted.

    Raises:
        Qp2trainError: The folder cannot be written to, or the limit is no positive number.
    """

    def __init__(self, model: SamPrompts, folder: str | Path | None, *, limit_gb: float = 10.0) -> None:
        if not limit_gb > 0:
            raise Qp2trainError(f"the limit of kept embeddings must be a positive number of GB, not {limit_gb!r}")
        self._model, self._limit = model, int(limit_gb * 1e9)
        self._folder = None if folder is None else Path(folder)
        self._of = f"{VERSION} {model.digest} {model.images.to_json_string()}".encode()
        self._used = 0
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._used = sum(file.stat().st_size for file in self._folder.glob(f"*{SUFFIX}*"))
            except OSError as error:
                raise Qp2trainError(f"no embeddings can be kept in {self._folder}: {error}") from error

    def get(self, image: Pixels) -> tuple[Frame, list[torch.Tensor]]:
        """A view's frame and embeddings (on the CPU): from the folder, or else by running the encoder.

        Raises:
            PromptError: It is no picture of a view.
        """
        frame, pixels = self._model.prepare(image)
        if self._folder is None:
            return frame, self._encoded(pixels)
        key = hashlib.sha256(self._of + f"{image.shape}".encode() + image.tobytes()).hexdigest()[:32]
        file = self._folder / f"{key}{SUFFIX}"
        kept = _read(file)
        if kept is None:
            kept = self._encoded(pixels)
            self._keep(file, kept)
        return frame, kept

    def _encoded(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        return [e.cpu() for e in self._model.embed(pixels)]

    def _keep(self, file: Path, embeddings: list[torch.Tensor]) -> None:
        data = save({str(i): e.contiguous() for i, e in enumerate(embeddings)})
        data += hashlib.sha256(data).digest()
        if len(data) > self._limit:
            return
        new = file.with_name(f"{file.name}.{os.getpid()}.new")
        try:
            if self._used + len(data) > self._limit:
                self._make_room(len(data))
            new.write_bytes(data)
            os.replace(new, file)
            self._used += len(data)
        except OSError as error:  # a full disk costs time, not the training
            new.unlink(missing_ok=True)
            log.warning("an embedding cannot be kept in %s: %s", file.parent, error)

    def _make_room(self, wanted: int) -> None:
        """Delete what was not used for longest, down to nine tenths of the limit, so that it is not done each time."""
        assert self._folder is not None
        files = [(f, f.stat()) for f in self._folder.glob(f"*{SUFFIX}*")]
        self._used = sum(stat.st_size for _, stat in files)
        for file, stat in sorted(files, key=lambda item: item[1].st_mtime_ns):
            if self._used + wanted <= 0.9 * self._limit:
                break
            file.unlink(missing_ok=True)
            self._used -= stat.st_size


def _read(file: Path) -> list[torch.Tensor] | None:
    try:
        data = file.read_bytes()
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            return None
        kept = load(data[:-32])
        os.utime(file)
    except (OSError, SafetensorError):  # not kept yet, deleted by another process, or damaged
        return None
    return [kept[str(i)] for i in range(len(kept))]

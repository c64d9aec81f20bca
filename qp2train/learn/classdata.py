"""Patch table → batches of (pixels, class), at one scale or several."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from qp2train.core.geometry import Box
from qp2train.core.patches import PatchTable
from qp2train.errors import ModelError
from qp2train.learn.augment import Augmentation, apply
from qp2train.learn.data import CACHE_BYTES, OPEN_SLIDES
from qp2train.learn.order import EpochOrder, Key, RowOrder
from qp2train.sampling.patchcache import PatchCache
from qp2train.slides import Slide
from qp2train.slides.reading import AS_SCANNED, Reading

Item = tuple[torch.Tensor, torch.Tensor]


def scale_tables(table: PatchTable, context: Sequence[float]) -> list[PatchTable]:
    """The table's own patches, then those with the same centres at each scale of `context`.

    Raises:
        ModelError: The table was not sampled at one of these scales.
    """
    missing = [mpp for mpp in context if not any(abs(mpp / own - 1) < 0.01 for own in table.context)]
    if missing:
        there = ", ".join(f"{mpp:g}" for mpp in table.context) or "none"
        raise ModelError(
            f"the network also reads the patches' surroundings at {missing[0]:g} µm/px, but the table was sampled with "
            f"{there}: sample_patches(mpp=[{table.mpp:g}, {missing[0]:g}])"
        )
    tables = [replace(table, context=())]
    for mpp in context:
        boxes = [table.box(row, mpp=mpp) for row in range(len(table))]
        rows = table.rows.assign(x=[b.x for b in boxes], y=[b.y for b in boxes])
        tables.append(replace(table, rows=rows, mpp=mpp, context=()))
    return tables


class ClassifiedPatches(Dataset[Item]):
    """The patches of a table with their classes.

    Items are asked for by (row, seed) and are (pixels 3×H×W uint8, class int64), with several scales (S×3×H×W, class):
    every scale is flipped, turned and coloured in the same way. Slides are opened on first use in each process.

    Args:
        tables: The patches, and those at further scales: `scale_tables`.
        labels: (N,) the class of each.
        augmentation: What is done to the pictures.
        cache: A folder where read patches are kept; None = in memory, up to `CACHE_BYTES`.
        cache_gb: Most that it may hold.
        reading: How slides are read.
    """

    def __init__(
        self,
        tables: Sequence[PatchTable],
        labels: NDArray[np.int64],
        augmentation: Augmentation | None = None,
        *,
        cache: str | Path | None = None,
        cache_gb: float = 50.0,
        reading: Reading = AS_SCANNED,
    ) -> None:
        self.tables, self.labels = tables, labels
        self.augmentation = augmentation or Augmentation(tables[0].size_px, "none")
        self._transform = self.augmentation.compose()
        self._reading = reading
        px = self.augmentation.read_px
        self._stored = [
            # Marked, since no masks are painted: a segmentation of the same patches has a file of its own.
            PatchCache(
                cache,
                replace(t, rows=t.rows.assign(split="pictures")),
                px=px,
                reading=reading,
                limit_gb=cache_gb,
            )
            for t in (tables if cache is not None else ())
            if cache is not None
        ]
        self._blank = np.zeros((px, px), np.uint8)
        self._open: OrderedDict[str, Slide] = OrderedDict()
        self._cache: dict[tuple[int, int], NDArray[np.uint8]] = {}
        self._cached_items = CACHE_BYTES // (px**2 * 3)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key) -> Item:
        row, seed = key
        pictures = [
            apply(self._transform, self.raw(row, scale), self._blank, seed=seed)[0] for scale in range(len(self.tables))
        ]
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        return pixels[0] if len(pictures) == 1 else pixels, torch.tensor(self.labels[row])

    def raw(self, row: int, scale: int = 0) -> NDArray[np.uint8]:
        """The patch as read, with the margin that the augmentation wants: H×W×3 uint8."""
        if (row, scale) in self._cache:
            return self._cache[row, scale]
        stored = self._stored[scale] if self._stored else None
        pair = stored.get(row) if stored is not None else None
        picture = pair[0] if pair is not None else self._read(row, scale)
        if stored is not None and pair is None:
            stored.put(row, picture, self._blank)
        if stored is None and len(self._cache) < self._cached_items:
            self._cache[row, scale] = picture
        return picture

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": OrderedDict(), "_cache": {}}

    def _read(self, row: int, scale: int) -> NDArray[np.uint8]:
        table, px = self.tables[scale], self.augmentation.read_px
        box = table.box(row)
        margin = box.width * (px / table.size_px - 1) / 2
        wide = Box(box.x - margin, box.y - margin, box.width + 2 * margin, box.height + 2 * margin)
        return self._opened(str(table.rows["entry"].iloc[row])).read(wide, (px, px))

    def _opened(self, entry: str) -> Slide:
        if entry in self._open:
            self._open.move_to_end(entry)
            return self._open[entry]
        ref = self.tables[0].slides[entry]
        self._open[entry] = self._reading.open(ref)
        if len(self._open) > OPEN_SLIDES:
            self._open.popitem(last=False)[1].close()
        return self._open[entry]


def train_loader(
    data: ClassifiedPatches, *, batch_size: int, seed: int, balanced: bool, workers: int
) -> DataLoader[Item]:
    """Shuffled, augmented batches; the last incomplete batch of an epoch is dropped if there is a full one."""
    return DataLoader(
        data,
        batch_sampler=EpochOrder(
            data.tables[0], batch_size=batch_size, seed=seed, balanced=balanced, classes=data.labels
        ),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def plain_loader(
    data: ClassifiedPatches, *, batch_size: int, workers: int = 0, dealt: bool = False
) -> DataLoader[Item]:
    """Every patch once, in row order, as it is; `dealt` among the processes of a distributed training."""
    return DataLoader(
        data,
        batch_size=batch_size,
        sampler=RowOrder(len(data)) if dealt else [(row, 0) for row in range(len(data))],
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )

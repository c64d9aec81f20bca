"""Patch table → batches of (image, mask)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from qp2train.core.geometry import Box
from qp2train.core.patches import PatchTable
from qp2train.learn.augment import Augmentation, apply
from qp2train.sampling.mask import Painter
from qp2train.slides import Slide, open_slide

Item = tuple[torch.Tensor, torch.Tensor]
Key = tuple[int, int]

# Decoded patches kept per process, so that later epochs do not read the slides again.
CACHE_BYTES = 1 << 30


class PatchDataset(Dataset[Item]):
    """The patches of a table with their masks, painted when asked for.

    Items are asked for by (row, seed) and are (image 3×H×W uint8, mask H×W int64). Slides are opened on
    first use in each process, never pickled.
    """

    def __init__(self, table: PatchTable, augmentation: Augmentation | None = None) -> None:
        self.table = table
        self.augmentation = augmentation or Augmentation(table.size_px, "none")
        self._transform = self.augmentation.compose()
        self._entries = table.rows["entry"].tolist()
        self._xy = table.rows[["x", "y"]].to_numpy()
        self._open: dict[str, Slide] = {}
        self._painters: dict[str, Painter] = {}
        self._cache: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
        self._cached_items = CACHE_BYTES // (self.augmentation.read_px**2 * 4)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: Key) -> Item:
        row, seed = key
        image, mask = apply(self._transform, *self.raw(row), seed=seed)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(mask.astype(np.int64))

    def raw(self, row: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The patch as read, with the margin that the augmentation wants: image H×W×3, mask H×W, uint8."""
        if row in self._cache:
            return self._cache[row]
        entry, (x, y), px = self._entries[row], self._xy[row], self.augmentation.read_px
        side = self.table.side_px(entry)
        margin = side * (px / self.table.size_px - 1) / 2
        box = Box(x - margin, y - margin, side + 2 * margin, side + 2 * margin)
        pair = self._slide(entry).read(box, (px, px)), self._painter(entry).paint(box, (px, px))
        if len(self._cache) < self._cached_items:
            self._cache[row] = pair
        return pair

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": {}, "_painters": {}, "_cache": {}}

    def _slide(self, entry: str) -> Slide:
        if entry not in self._open:
            ref = self.table.slides[entry]
            self._open[entry] = open_slide(ref.path, mpp=ref.mpp, view=ref.view)
        return self._open[entry]

    def _painter(self, entry: str) -> Painter:
        if entry not in self._painters:
            ref = self.table.slides[entry]
            self._painters[entry] = Painter(ref.annotations, self.table.labels, slide_size=ref.size)
        return self._painters[entry]


class SeededSampler(Sampler[Key]):
    """(row, seed) in an order that depends on seed and epoch only, so workers and their number do not matter.

    Args:
        weights: One number per row. With `balanced`, rows are drawn with replacement by their weight;
            otherwise every row comes once an epoch.
        seed: The run's seed.
        balanced: Draw by weight.
    """

    def __init__(self, weights: NDArray[np.float64], *, seed: int, balanced: bool = False) -> None:
        self.weights, self.seed, self.balanced = weights, seed, balanced
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[Key]:
        rng = np.random.default_rng([self.seed, self.epoch])
        n = len(self.weights)
        rows = rng.choice(n, n, p=self.weights / self.weights.sum()) if self.balanced else rng.permutation(n)
        return zip(rows.tolist(), rng.integers(2**31, size=n).tolist(), strict=True)


def train_loader(
    table: PatchTable, augmentation: Augmentation, *, batch_size: int, seed: int, balanced: bool, workers: int
) -> DataLoader[Item]:
    """Shuffled, augmented batches; the last incomplete batch of an epoch is dropped if there is a full one."""
    sampler = SeededSampler(table.rows["weight"].to_numpy(), seed=seed, balanced=balanced)
    return DataLoader(
        PatchDataset(table, augmentation),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        drop_last=len(table) >= batch_size,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def plain_loader(table: PatchTable, *, batch_size: int, workers: int = 0) -> DataLoader[Item]:
    """Every patch once, in row order, as it is."""
    keys = [(row, 0) for row in range(len(table))]
    return DataLoader(
        PatchDataset(table),
        batch_size=batch_size,
        sampler=keys,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )

"""Patch table → batches of (image, mask)."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from qp2train.core.geometry import Box
from qp2train.core.patches import PatchTable
from qp2train.learn.augment import Augmentation, apply
from qp2train.learn.order import EpochOrder, Key, RowOrder
from qp2train.sampling.layers import LayerPainter
from qp2train.sampling.mask import Painter
from qp2train.sampling.patchcache import PatchCache
from qp2train.slides import Slide
from qp2train.slides.reading import AS_SCANNED, Reading

Item = tuple[torch.Tensor, torch.Tensor]
# Decoded patches kept per process, so that later epochs do not read the slides again.
CACHE_BYTES = 1 << 30
# Slides open at a time per process, with what is drawn on them: twice what an epoch visits together.
OPEN_SLIDES = 24


class PatchDataset(Dataset[Item]):
    """The patches of a table with their masks, painted when asked for.

    Items are asked for by (row, seed) and are (image 3×H×W, mask H×W), both uint8. Slides are opened on
    first use in each process, never pickled. With `multilabel` the mask is C×H×W, a layer per class.

    Args:
        table: The patches.
        augmentation: What is done to picture and mask.
        cache: Where patches are kept on disk; None = in memory, up to `CACHE_BYTES`.
        reading: How slides are read.
        multilabel: Classes may overlap, see `LayerPainter`.
    """

    def __init__(
        self,
        table: PatchTable,
        augmentation: Augmentation | None = None,
        *,
        cache: PatchCache | None = None,
        reading: Reading = AS_SCANNED,
        multilabel: bool = False,
    ) -> None:
        self.table, self.multilabel = table, multilabel
        self.augmentation = augmentation or Augmentation(table.size_px, "none")
        self._transform = self.augmentation.compose()
        self._entries = table.rows["entry"].tolist()
        self._xy = table.rows[["x", "y"]].to_numpy()
        self._stored, self._reading = cache, reading
        self._open: OrderedDict[str, tuple[Slide, Painter, LayerPainter | None]] = OrderedDict()
        self._cache: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
        layers = len(table.labels.classes) if multilabel else 1
        self._cached_items = CACHE_BYTES // (self.augmentation.read_px**2 * (3 + layers))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: Key) -> Item:
        row, seed = key
        image, mask = apply(self._transform, *self.raw(row), seed=seed)
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1), torch.from_numpy(mask)

    def raw(self, row: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The patch as read, with the margin that the augmentation wants: image H×W×3, mask H×W (C×H×W), uint8."""
        if row in self._cache:
            return self._cache[row]
        pair = self._stored.get(row) if self._stored is not None else None
        if pair is None:
            pair = self._read(row)
            if self._stored is not None:
                self._stored.put(row, *pair)
        if self.multilabel:  # the folder holds one mask per patch, which layers are not
            pair = pair[0], self._layers(row)
        if self._stored is None and len(self._cache) < self._cached_items:
            self._cache[row] = pair
        return pair

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": OrderedDict(), "_cache": {}}

    def _read(self, row: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        box, px = self._box(row), self.augmentation.read_px
        slide, painter, _ = self._opened(self._entries[row])
        return slide.read(box, (px, px)), painter.paint(box, (px, px))

    def _layers(self, row: int) -> NDArray[np.uint8]:
        px, painter = self.augmentation.read_px, self._opened(self._entries[row])[2]
        assert painter is not None
        return painter.paint(self._box(row), (px, px))

    def _box(self, row: int) -> Box:
        (x, y), side = self._xy[row], self.table.side_px(self._entries[row])
        margin = side * (self.augmentation.read_px / self.table.size_px - 1) / 2
        return Box(x - margin, y - margin, side + 2 * margin, side + 2 * margin)

    def _opened(self, entry: str) -> tuple[Slide, Painter, LayerPainter | None]:
        if entry in self._open:
            self._open.move_to_end(entry)
            return self._open[entry]
        ref = self.table.slides[entry]
        slide = self._reading.open(ref)
        drawn, labels = ref.annotations, self.table.labels
        layers = LayerPainter(drawn, labels, slide_size=ref.size) if self.multilabel else None
        self._open[entry] = slide, Painter(drawn, labels, slide_size=ref.size), layers
        if len(self._open) > OPEN_SLIDES:
            self._open.popitem(last=False)[1][0].close()
        return self._open[entry]


def _collated(items: list[Item]) -> Item:
    """A batch; the image's channels lie as they were read, innermost, since turning them costs as much as reading."""
    images = torch.stack([image.permute(1, 2, 0) for image, _ in items])
    return images.permute(0, 3, 1, 2), torch.stack([mask for _, mask in items])


def train_loader(
    table: PatchTable,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    balanced: bool,
    workers: int,
    cache: PatchCache | None = None,
    reading: Reading = AS_SCANNED,
    multilabel: bool = False,
) -> DataLoader[Item]:
    """Shuffled, augmented batches; the last incomplete batch of an epoch is dropped if there is a full one."""
    return DataLoader(
        PatchDataset(table, augmentation, cache=cache, reading=reading, multilabel=multilabel),
        batch_sampler=EpochOrder(table, batch_size=batch_size, seed=seed, balanced=balanced),
        collate_fn=_collated,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def plain_loader(
    table: PatchTable,
    *,
    batch_size: int,
    workers: int = 0,
    reading: Reading = AS_SCANNED,
    multilabel: bool = False,
    dealt: bool = False,
) -> DataLoader[Item]:
    """Every patch once, in row order, as it is; `dealt` among the processes of a distributed training."""
    return DataLoader(
        PatchDataset(table, reading=reading, multilabel=multilabel),
        batch_size=batch_size,
        sampler=RowOrder(len(table)) if dealt else [(row, 0) for row in range(len(table))],
        collate_fn=_collated,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )

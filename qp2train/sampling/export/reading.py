"""Each patch with its picture and mask, read slide after slide and in the order of the tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qp2train.core.geometry import Box
from qp2train.core.patches import PatchTable, SlideRef
from qp2train.sampling.mask import Mask, Painter
from qp2train.slides import open_slide

Progress = Callable[[str, int, int], None]

# Patches are read in bands of this many pixels at their own scale: as high as tiles get.
BAND_PX = 512


@dataclass(frozen=True)
class Patch:
    """A patch as it is exported.

    Args:
        row: Its position in the table.
        name: Its name, without an ending.
        ref: Its slide.
        box: Where on it, in full-resolution pixels.
        image: H×W×3 uint8.
        mask: H×W uint8, label values, 255 = ignored.
    """

    row: int
    name: str
    ref: SlideRef
    box: Box
    image: NDArray[np.uint8]
    mask: Mask


@dataclass(frozen=True)
class Job:
    """What is exported, and how.

    Args:
        table: The patches.
        manifest: What each one is, in the table's order.
        jpeg_quality: Of the pictures; None = PNG.
        shard_bytes: Largest size of a shard.
        seed: Which patch comes into which shard.
        progress: Called with (slide name, done, total).
    """

    table: PatchTable
    manifest: pd.DataFrame
    jpeg_quality: int | None = None
    shard_bytes: int = 1 << 30
    seed: int = 0
    progress: Progress | None = None

    def in_reading_order(self) -> list[int]:
        """All rows: by slide in the table's order, then by bands of tiles, from left to right."""
        rows = self.table.rows
        slide, entries = pd.factorize(rows["entry"])
        scale = np.array([self.table.side_px(e) / self.table.size_px for e in entries])
        band = np.floor(rows["y"].to_numpy() / (BAND_PX * scale[slide]))
        return [int(row) for row in np.lexsort((rows["y"], rows["x"], band, slide))]

    def patches(self, rows: Sequence[int] | None = None, *, done: int = 0) -> Iterator[Patch]:
        """The patches at `rows` (default: all in reading order). One slide is open at a time.

        Args:
            rows: Positions in the table, those of a slide together.
            done: How many came before, for the progress.

        Raises:
            SlideError: A slide is missing or unreadable.
        """
        table, size = self.table, (self.table.size_px, self.table.size_px)
        entries, names = table.rows["entry"].tolist(), self.manifest["name"].tolist()
        x, y = table.rows["x"].tolist(), table.rows["y"].tolist()
        todo = self.in_reading_order() if rows is None else list(rows)
        start = 0
        while start < len(todo):
            entry = entries[todo[start]]
            end = next((i for i in range(start, len(todo)) if entries[todo[i]] != entry), len(todo))
            ref, side = table.slides[entry], table.side_px(entry)
            painter = Painter(ref.annotations, table.labels, slide_size=ref.size)
            with open_slide(ref.path, mpp=ref.mpp, view=ref.view) as slide:
                for row in todo[start:end]:
                    box = Box(x[row], y[row], side, side)
                    yield Patch(row, names[row], ref, box, slide.read(box, size), painter.paint(box, size))
                    done += 1
                    if self.progress is not None:
                        self.progress(ref.name, done, len(entries))
            start = end

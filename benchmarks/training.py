"""Training on patches read from a slide, beside the same loop on patches that are held in memory.

    python benchmarks/training.py            # on a CPU about 6 minutes: resnet18-UNet, 256 px, batches of 8
    python benchmarks/training.py --quick    # a few steps, to see that it runs

With a GPU: resnet50-UNet, 512 px, batches of 16, bfloat16. The slide is that of reading.py with tiles of 256 px and
10,000 polygons; patches lie at random, and each is read once. Both loops have the same augmentation ("medium"), order,
workers and network; in the second one the patches, with their masks, are arrays in memory. The two take turns. A step
is timed from the end of the one before, so that waiting for pixels counts; the ratio is of all steps' time, those of
single rounds show the spread.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from reading import SIDE, places, table_of, write_slide
from torch.utils.data import DataLoader

from qp2train import PatchTable, Segmentation
from qp2train.learn.augment import Augmentation
from qp2train.learn.data import Item, PatchDataset, train_loader
from qp2train.learn.losses import SegmentationLoss
from qp2train.sample.tissue import draw_slide

WARM_UP = 3


class InMemory(PatchDataset):
    """The patches of a dataset, read beforehand."""

    def __init__(self, read: PatchDataset) -> None:
        super().__init__(read.table, read.augmentation)
        self._held = [read.raw(row) for row in range(len(read))]

    def raw(self, row: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return self._held[row]


class Loop:
    """A network that is trained a step at a time."""

    def __init__(self, table: PatchTable, encoder: str, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device = device
        self.net = Segmentation(table.labels, encoder=encoder, encoder_weights=None).build().to(device).train()
        self.loss = SegmentationLoss("ce + dice")
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=1e-4)

    def step_times(self, batches: Iterator[Item], steps: int) -> list[float]:
        """Seconds of each step after the first ones, from the end of the one before."""
        ends = []
        for _ in range(WARM_UP + steps):
            pixels, mask = (t.to(self.device, non_blocking=True) for t in next(batches))
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = self.loss(self.net(pixels.contiguous()), mask.long())
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())
        return np.diff(ends[WARM_UP - 1 :]).tolist()


def loader(dataset: PatchDataset, batch_size: int, workers: int, seed: int) -> DataLoader[Item]:
    """That of a training, with this dataset in the place of its own."""
    own = train_loader(
        dataset.table, dataset.augmentation, batch_size=batch_size, seed=seed, balanced=False, workers=workers
    )
    return DataLoader(
        dataset,
        batch_sampler=own.batch_sampler,
        collate_fn=own.collate_fn,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, help="per round; default: 30 on a CPU, 100 on a GPU")
    given = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    encoder, px, batch_size = ("resnet50", 512, 16) if gpu else ("resnet18", 256, 8)
    steps, rounds = (4, 2) if given.quick else (given.steps or (100 if gpu else 30), given.rounds)
    name = torch.cuda.get_device_name() if gpu else platform.machine()
    print(
        f"{name}, {os.cpu_count()} cores, torch {torch.__version__}; {encoder}-UNet, {px} px, batches of {batch_size}"
    )

    drawn, side = draw_slide(0, size_px=(2048, 2048), artefacts=()).image, SIDE // 4 if given.quick else SIDE
    with tempfile.TemporaryDirectory() as folder:
        path = write_slide(Path(folder) / "tiles-256.tif", drawn, 256, side)
        table = table_of(path, px, places("random", px, (WARM_UP + steps) * batch_size, side), side)
        augmentation = Augmentation(px, "medium")
        held = InMemory(PatchDataset(table, augmentation))
        loop, ratios = Loop(table, encoder, device), []
        times: dict[str, list[float]] = {"read": [], "held": []}
        for number in range(rounds):
            found = {}
            for what in ("read", "held") if number % 2 else ("held", "read"):
                # A dataset of its own, so that no patch of the round before is still in memory.
                dataset = held if what == "held" else PatchDataset(table, augmentation)
                batches = iter(loader(dataset, batch_size, given.workers, seed=number))
                found[what] = loop.step_times(batches, steps)
                times[what] += found[what]
            ratios.append(sum(found["held"]) / sum(found["read"]))
    for what, all_ in times.items():
        low, middle, high = np.percentile(all_, [10, 50, 90]) * 1e3
        print(f"{what}: {middle:.1f} ms a step ({low:.1f}–{high:.1f}), {batch_size / middle * 1e3:.1f} patches/s")
    ratio = sum(times["held"]) / sum(times["read"])
    print(
        f"throughput with patches read from the slide: {ratio:.3f} of those held in memory "
        f"(rounds {min(ratios):.3f}–{max(ratios):.3f}), {given.workers} workers"
    )


if __name__ == "__main__":
    main()

"""In which order an epoch visits the patches: at random, yet neighbours soon after one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from qp2train.core.patches import PatchTable
from qp2train.learn.balance import drawing_shares

Key = tuple[int, int]  # (row, seed of its augmentation)

# Batch i comes from lane i modulo this. With 1, 2 or 4 processes a loader deals each lane to one process, which so
# reads regions of slides instead of rows from everywhere; yet the order is the same for any number of them.
LANES = 4
# Neighbours that are visited together: those in a square of this many patch sides, so many at most.
RUN_SIDES, RUN_LENGTH = 3, 9
# Runs of a lane that are open at a time; each batch is drawn from all of their patches. The tiles below the runs of
# four lanes, some 500 of 256 px, fit into those that a process keeps.
OPEN_RUNS = 12
# Slides whose runs come mixed: all where there are fewer. Each open slide costs its annotations' memory.
OPEN_SLIDES = 6


class EpochOrder(Sampler[list[Key]]):
    """Batches of (row, seed); a function of the table, the seed and the epoch only.

    Patches are visited in runs of neighbours, which share decoded tiles. Runs of several slides are open at a time, and
    each batch is drawn from all of them. A table of a few hundred patches is thereby shuffled entirely. The processes
    of a distributed training each get batches of their own, the same number; what is left over is dropped.

    Args:
        table: Where the patches lie.
        batch_size: Patches per batch; the last incomplete batch is dropped if there is a full one.
        seed: The run's seed.
        balanced: Draw rows with replacement, every class equally often and its rows by the table's weights; otherwise
            every row comes once an epoch.
        classes: (N,) what each row counts as in a balanced training; None = its `label` in the table.

    Raises:
        Qp2trainError: Weights that are negative, not finite or all 0.
    """

    def __init__(
        self,
        table: PatchTable,
        *,
        batch_size: int,
        seed: int,
        balanced: bool = False,
        classes: NDArray[np.int64] | None = None,
    ) -> None:
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.sampler = self  # where Lightning looks for `set_epoch`
        self._rows = len(table)
        self._shares = drawing_shares(table, classes) if balanced else None
        names, self._slide = np.unique(table.rows["entry"].to_numpy().astype(str), return_inverse=True)
        sides = np.array([table.side_px(name) for name in names])
        self._place = table.rows[["x", "y"]].to_numpy() / sides[self._slide][:, None]

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._batches // processes()[1]

    @property
    def _batches(self) -> int:
        """Of an epoch, for all processes together."""
        return self._rows // self.batch_size or int(self._rows > 0)

    def __iter__(self) -> Iterator[list[Key]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        n = self._rows
        rows = np.arange(n) if self._shares is None else rng.choice(n, n, p=self._shares)
        seeds = rng.integers(2**31, size=n)
        lanes = [_mixed(lane, rng) for lane in self._lanes(rows, rng)]
        own, all_of_them = processes()
        for batch in _dealt(lanes, self.batch_size, rng)[: self._batches][own::all_of_them][: len(self)]:
            yield [(int(rows[i]), int(seeds[i])) for i in batch]

    def _lanes(self, rows: NDArray[np.intp], rng: np.random.Generator) -> list[list[NDArray[np.intp]]]:
        """The runs of each lane, in the order in which they are opened; of indices into `rows`."""
        runs = _runs(self._slide[rows], self._place[rows], rng)
        slides = np.array([self._slide[rows[run[0]]] for run in runs], dtype=np.intp)
        turn = rng.permutation(int(self._slide.max(initial=0)) + 1)
        when = turn[slides] + rng.uniform(0, OPEN_SLIDES, len(runs))
        lane = rng.permutation(np.arange(len(runs)) % LANES)
        return [[runs[i] for i in np.argsort(when) if lane[i] == number] for number in range(LANES)]


class RowOrder(Sampler[Key]):
    """Every row once, in order and without a seed; each process of a distributed training gets its share."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        own, all_of_them = processes()
        return len(range(own, self.rows, all_of_them))

    def __iter__(self) -> Iterator[Key]:
        own, all_of_them = processes()
        return ((row, 0) for row in range(own, self.rows, all_of_them))


def processes() -> tuple[int, int]:
    """Which process of a distributed training this is, and how many there are; (0, 1) if it is none."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _runs(slide: NDArray[np.intp], place: NDArray[np.float64], rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """Neighbours in groups. The squares that they share lie elsewhere in each epoch."""
    square = np.floor(place / RUN_SIDES + rng.random(2)).astype(np.int64)
    order = rng.permutation(len(slide))
    order = order[np.lexsort((square[order, 0], square[order, 1], slide[order]))]
    key = np.column_stack([slide, square])[order]
    starts = np.flatnonzero(np.any(np.diff(key, axis=0, prepend=key[:1] - 1) != 0, axis=1))
    return [
        group[i : i + RUN_LENGTH]
        for group in np.split(order, starts[1:])
        for i in range(0, len(group), RUN_LENGTH)
        if len(group)
    ]


def _mixed(runs: Sequence[NDArray[np.intp]], rng: np.random.Generator) -> list[int]:
    """The patches of runs of which `OPEN_RUNS` are open at a time; the next one is drawn from all that are open."""
    coming = iter(runs)
    waiting: list[int] = []
    out: list[int] = []
    for draw in rng.random(sum(len(run) for run in runs)):
        while len(waiting) < OPEN_RUNS * RUN_LENGTH:
            run = next(coming, None)
            if run is None:
                break
            waiting.extend(run.tolist())
        i = int(draw * len(waiting))
        waiting[i], waiting[-1] = waiting[-1], waiting[i]
        out.append(waiting.pop())
    return out


def _dealt(lanes: Sequence[list[int]], batch_size: int, rng: np.random.Generator) -> list[list[int]]:
    """Full batches of the lanes in turn; then batches of what is left of all, the last one perhaps not full."""
    batches: list[list[int]] = []
    at = [0] * len(lanes)
    while all(len(lane) - start >= batch_size for lane, start in zip(lanes, at, strict=True)):
        for number, lane in enumerate(lanes):
            batches.append(lane[at[number] : at[number] + batch_size])
            at[number] += batch_size
    rest = [i for lane, start in zip(lanes, at, strict=True) for i in lane[start:]]
    rest = [rest[i] for i in rng.permutation(len(rest))]
    return batches + [rest[i : i + batch_size] for i in range(0, len(rest), batch_size)]

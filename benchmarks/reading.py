"""Reading patches: CPU per patch beside openslide-python and bare decoding; items with masks; memory over many reads.

    python benchmarks/reading.py             # about 5 minutes
    python benchmarks/reading.py --quick     # a tenth of everything, to see that it runs

The slide is a mosaic of drawn H&E-like tissue, 20,480² px, JPEG quality 85 with 4:2:0 chroma, three levels; one file
with tiles of 256 px, one with 512. The page cache is warm, qp2train's tile cache is full of tiles of another slide. The
readers take turns; each pattern is measured several times and the fastest kept, since another process can only make
it slower. "bare" decodes the same tiles with imagecodecs and drops them: no cache, no patch is put together. Ratios
are to openslide-python → RGB in the same run.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pandas as pd
import shapely
import tifffile
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from qp2train import Annotation, Box, LabelMap, open_slide
from qp2train.core.patches import COLUMNS, PatchTable, SlideRef
from qp2train.learn.data import PatchDataset
from qp2train.learn.order import EpochOrder
from qp2train.sample.tissue import draw_slide
from qp2train.slides.tilecache import TILES

SIDE, MPP = 20_480, 0.5
LEVELS = (1, 4, 16)
POLYGONS, CORNERS = 10_000, 20

Read = Callable[[int, int, int], object]


def mosaic(drawn: NDArray[np.uint8], tile: int, side: int) -> Iterator[NDArray[np.uint8]]:
    """Tiles row by row, cut from random places of the drawn slide."""
    rng = np.random.default_rng(tile)
    for _ in range((-(-side // tile)) ** 2):
        y, x = rng.integers(0, np.array(drawn.shape[:2]) - tile)
        yield np.ascontiguousarray(drawn[y : y + tile, x : x + tile])


def write_slide(path: Path, drawn: NDArray[np.uint8], tile: int, side: int) -> Path:
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for step in LEVELS:
            tiff.write(
                mosaic(drawn, tile, side // step),
                shape=(side // step, side // step, 3),
                dtype=np.uint8,
                tile=(tile, tile),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 85},
                subsampling=(2, 2),
                resolution=(1e4 / MPP / step, 1e4 / MPP / step),
                resolutionunit="CENTIMETER",
                subfiletype=int(step > 1),
                metadata=None,
            )
    return path


def bare(path: Path) -> Read:
    """The tiles below a patch, decoded by imagecodecs and dropped."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offsets, counts, tables, tile = page.dataoffsets, page.databytecounts, page.jpegtables, page.tilewidth
        across = -(-page.imagewidth // tile)
    file = os.open(path, os.O_RDONLY)

    def read(x: int, y: int, px: int) -> None:
        for row in range(y // tile, (y + px - 1) // tile + 1):
            for column in range(x // tile, (x + px - 1) // tile + 1):
                i = row * across + column
                imagecodecs.jpeg8_decode(os.pread(file, counts[i], offsets[i]), tables=tables)

    return read


def readers(path: Path) -> dict[str, Read]:
    theirs, ours = openslide.OpenSlide(path), open_slide(path)
    return {
        "openslide → RGB": lambda x, y, px: np.asarray(theirs.read_region((x, y), 0, (px, px)).convert("RGB")),
        "bare imagecodecs": bare(path),
        "qp2train": lambda x, y, px: ours.read(Box(x, y, px, px), (px, px)),
    }


def places(pattern: str, px: int, count: int, side: int) -> list[tuple[int, int]]:
    if pattern == "random":
        return [(int(x), int(y)) for x, y in np.random.default_rng(px).integers(0, side - px, (count, 2))]
    across = side // px
    return [(i % across * px, i // across % across * px) for i in range(count)]


def cpu_ms(read: Callable[[int], object], count: int) -> float:
    """CPU ms per patch of reading the first `count`, each by its number."""
    TILES.clear()
    for i in range(TILES.capacity // (256 * 256 * 3)):
        TILES.put(i, np.zeros((256, 256, 3), np.uint8))
    start = time.process_time()
    for i in range(count):
        read(i)
    return (time.process_time() - start) / count * 1e3


def _each(read: Read, at: list[tuple[int, int]], px: int) -> Callable[[int], object]:
    return lambda i: read(*at[i], px)


def patch_reads(path: Path, count: int, repeats: int, side: int) -> None:
    tile = int(path.stem.rpartition("-")[2])
    print(f"\n{tile}-px tiles; CPU ms per patch (spread)")
    for px in (256, 512):
        for pattern in ("random", "grid"):
            at = places(pattern, px, count * 256 // px, side)
            spent: dict[str, list[float]] = {}
            for name, read in [*readers(path).items()] * repeats:
                spent.setdefault(name, []).append(cpu_ms(_each(read, at, px), len(at)))
            base, ours = min(spent["openslide → RGB"]), min(spent["qp2train"])
            cells = [f"{name} {min(ms):.2f} ({min(ms):.2f}–{max(ms):.2f})" for name, ms in spent.items()]
            against = ours / min(spent["bare imagecodecs"])
            print(f"  {px} {pattern:7}{' · '.join(cells)}: {base / ours:.1f} × openslide, {against:.2f} of bare")


def annotations(side: int) -> tuple[Annotation, ...]:
    rng = np.random.default_rng(1)
    angle = np.sort(rng.random((POLYGONS, CORNERS)), axis=1) * 2 * np.pi
    centre, radius = rng.uniform(0, side, (POLYGONS, 1, 2)), rng.uniform(20, 60, (POLYGONS, 1, 1))
    corners = centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=2)
    return tuple(Annotation(p, ("Tumor", "Stroma")[i % 2]) for i, p in enumerate(shapely.polygons(corners)))


def table_of(path: Path, px: int, at: list[tuple[int, int]], side: int) -> PatchTable:
    ref = SlideRef("s", path.name, str(path), MPP, (side, side), {}, annotations(side))
    rows = [("s", float(x), float(y), "Tumor", "", 1.0, "s", "", 1.0) for x, y in at]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return PatchTable(frame, {"s": ref}, LabelMap(["Tumor", "Stroma"]), px, MPP)


def items(path: Path, count: int, repeats: int, side: int) -> None:
    """Image and mask of 10,000 polygons as tensors, augmentation off, beside reading alone."""
    print("\nitems: image + mask of 10,000 polygons on the slide; CPU ms")
    for px in (256, 512):
        for pattern in ("random", "grid"):
            at = places(pattern, px, count * 256 // px, side)
            dataset, read = PatchDataset(table_of(path, px, at, side)), readers(path)["qp2train"]
            dataset[0, 0]  # opens the slide
            dataset._cached_items = 0
            spent: dict[str, list[float]] = {"read": [], "item": []}
            for _ in range(repeats):
                spent["item"].append(cpu_ms(_item(dataset), len(at)))
                spent["read"].append(cpu_ms(_each(read, at, px), len(at)))
            read_ms, item_ms = min(spent["read"]), min(spent["item"])
            print(f"  {px} {pattern:7}read {read_ms:.2f}, item {item_ms:.2f}: {item_ms / read_ms:.2f} × the read")


def _item(dataset: PatchDataset) -> Callable[[int], object]:
    return lambda i: dataset[i, 0]


def _seconds(table: PatchTable, workers: int) -> float:
    loader = DataLoader(
        PatchDataset(table), batch_sampler=EpochOrder(table, batch_size=16, seed=0), num_workers=workers
    )
    batches = iter(loader)
    for _ in range(8):  # the processes are up and have opened the slide
        next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def two_workers(path: Path, count: int, repeats: int, side: int) -> None:
    table = table_of(path, 256, places("random", 256, 4 * count, side), side)
    spent = {workers: [_seconds(table, workers) for _ in range(repeats)] for workers in (1, 2)}
    rates = {workers: len(table) / min(seconds) for workers, seconds in spent.items()}
    alone = {count: decoded_per_second(path, count, side) for count in (1, 2)}
    print(
        f"\nworkers, 256 random: one {rates[1]:.0f}/s, two {rates[2]:.0f}/s: {rates[2] / rates[1]:.2f} × "
        f"(bare imagecodecs in two processes: {alone[2] / alone[1]:.2f} × one)"
    )


def decoded_per_second(path: Path, processes: int, side: int, seconds: float = 5.0) -> float:
    """What the machine gives to processes that share nothing: patches' tiles decoded per second by all together."""
    with ProcessPoolExecutor(processes) as pool:
        return sum(pool.map(_decode, [path] * processes, [side] * processes, [seconds] * processes))


def _decode(path: Path, side: int, seconds: float) -> float:
    read, at, done, start = bare(path), places("random", 256, 1000, side), 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        read(*at[done % len(at)], 256)
        done += 1
    return done / seconds


def memory(path: Path, count: int, side: int) -> None:
    """Resident memory over many random reads, after the first tenth has filled the cache."""
    seen, reader = [], readers(path)["qp2train"]
    for i, (x, y) in enumerate(places("random", 256, count, side)):
        reader(x, y, 256)
        if (i + 1) % (count // 10) == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
    print(f"\nmemory over {count:,} random reads, every tenth: {', '.join(f'{mb:.0f}' for mb in seen)} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    tenth = 10 if given.quick else 1
    side = SIDE // 4 if given.quick else SIDE
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; best of {given.repeats}")
    drawn = draw_slide(0, size_px=(2048, 2048), artefacts=()).image
    with tempfile.TemporaryDirectory() as name:
        paths = [write_slide(Path(name) / f"tiles-{tile}.tif", drawn, tile, side) for tile in (256, 512)]
        for path in paths:
            patch_reads(path, 2000 // tenth, given.repeats, side)
        items(paths[0], 2000 // tenth, given.repeats, side)
        two_workers(paths[0], 2000 // tenth, min(given.repeats, 3), side)
        memory(paths[0], 100_000 // tenth, side)


if __name__ == "__main__":
    main()

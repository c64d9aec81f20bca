"""Choosing patches: 100,000 patches from 100 slides with 10,000 annotations each.

    python benchmarks/sampling.py
    python benchmarks/sampling.py --quick        # a hundredth of everything, to see that it runs

The annotations of a slide are made when they are asked for, as reading a project would: irregular outlines of 20
vertices, 30 to 190 px wide, in three classes on a slide of 60,000 × 60,000 px (0.25 µm per px), and one `Region*` with
2,000 vertices round half of it. Making them is measured alone as well, and is not the sampling's. Each strategy runs in
a process of its own; CPU seconds (user + system) are the best of the repeats, peak memory the operating system's, with
everything that is imported. The reference judges the same patches with one rasterio call each, as the masks are painted
that training reads: on 1,000 of them, and multiplied.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import shapely

from qp2train import Annotation, Box, LabelMap, PatchTable, sample_patches
from qp2train.sampling.mask import Painter

LABELS = LabelMap(["Tumor", "Stroma", "Immune cells"])
SLIDE_PX, MPP, PATCH_PX, PATCH_MPP = 60_000, 0.25, 256, 1.0
VERTICES = 20
JUDGED_PX = 64
REFERENCE_PATCHES = 1000


class WhiteSlide:
    """A slide of which only the first pixel is read."""

    mpp, size, view = MPP, (SLIDE_PX, SLIDE_PX), ""

    def __init__(self, name: str) -> None:
        self.name = self.path = name

    def read(self, box: Box, size: tuple[int, int]) -> np.ndarray:
        return np.full((size[1], size[0], 3), 255, np.uint8)

    def close(self) -> None: ...


@dataclass(frozen=True)
class MadeEntry:
    """An image whose annotations are made when asked for."""

    id: str
    count: int
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.id}.svs"

    def slide(self) -> WhiteSlide:
        return WhiteSlide(self.name)

    def annotations(self, kinds: str = "annotation") -> list[Annotation]:
        rng = np.random.default_rng(int(self.id))
        angle = np.sort(rng.random((self.count, VERTICES)), axis=1) * 2 * np.pi
        radius = rng.uniform(15, 95, (self.count, 1, 1)) * rng.uniform(0.8, 1, (self.count, VERTICES, 1))
        centre = rng.uniform(0, SLIDE_PX, (self.count, 1, 2))
        outlines = (centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=2)).round(2)
        names = np.array(LABELS.classes)[np.minimum(rng.integers(0, 10, self.count) // 4, 2)].tolist()
        made = [
            Annotation(shape, name, id=f"{self.id}-{i}")
            for i, (shape, name) in enumerate(zip(shapely.polygons(outlines), names, strict=True))
        ]
        region = shapely.Point(SLIDE_PX / 2, SLIDE_PX / 2).buffer(0.4 * SLIDE_PX, quad_segs=500)
        return [Annotation(region, "Region*", id=f"{self.id}-region"), *made]


def entries(slides: int, annotations: int) -> list[MadeEntry]:
    return [MadeEntry(str(i), annotations) for i in range(slides)]


def making(slides: int, annotations: int, patches: int) -> int:
    return sum(len(entry.annotations()) for entry in entries(slides, annotations))


def sampled(strategy: str, slides: int, annotations: int, patches: int) -> PatchTable:
    more: dict[str, object] = {"size": PATCH_PX, "mpp": PATCH_MPP, "strategy": strategy}
    if strategy == "balanced":
        more["per_class"] = patches // len(LABELS.names)  # background, too
    elif strategy == "grid":
        more |= {"include": "centre", "min_annotated": 0.5}  # gives what there is: 1,731 patches a slide
    else:
        more["count"] = patches
    return sample_patches(entries(slides, annotations), LABELS, **more)  # type: ignore[arg-type]


def with_rasterio(slides: int, annotations: int, patches: int) -> tuple[int, float]:
    """Judge some patches of one slide, one call each; the number, and the CPU seconds of judging alone."""
    table = sampled("random", 1, annotations, min(REFERENCE_PATCHES, patches))
    ((_, ref),) = table.slides.items()
    painter = Painter(ref.annotations, LABELS, slide_size=ref.size)
    start = time.process_time()
    for _, box in table:
        np.bincount(painter.paint(box, (JUDGED_PX, JUDGED_PX)).ravel(), minlength=256)
    return len(table), time.process_time() - start


TASKS: dict[str, Callable[[int, int, int], object]] = {
    "making": making,
    **{strategy: partial(sampled, strategy) for strategy in ("balanced", "grid", "random")},
    "rasterio": with_rasterio,
}


def run_task(name: str, sizes: tuple[int, int, int]) -> None:
    start = time.process_time()
    made = TASKS[name](*sizes)
    seconds = time.process_time() - start
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    said: dict[str, object] = {"seconds": seconds, "megabytes": peak}
    if isinstance(made, PatchTable):
        counts = made.rows["label"].value_counts()
        said |= {"count": len(made), "uneven": float(counts.max() / counts.min() - 1)}
    else:
        said |= {"count": made[0], "seconds": made[1]} if isinstance(made, tuple) else {"count": made}
    print(json.dumps(said))


def measured(name: str, sizes: tuple[int, int, int], repeats: int) -> dict[str, float]:
    runs = []
    for _ in range(repeats):
        command = [sys.executable, __file__, "--task", name, "--sizes", *map(str, sizes)]
        runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    best = min(runs, key=lambda run: run["seconds"])
    return {**best, "slowest": max(r["seconds"] for r in runs), "megabytes": max(r["megabytes"] for r in runs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a hundredth of everything")
    parser.add_argument("--only", action="append", choices=TASKS, help="only this task; may be repeated")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        run_task(given.task, tuple(given.sizes))
        return
    sizes = (10, 1000, 1000) if given.quick else (100, 10_000, 100_000)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; best of {given.repeats}")
    print(f"{sizes[0]} slides × {sizes[1]:,} annotations, {sizes[2]:,} patches asked")
    found = {name: measured(name, sizes, given.repeats) for name in given.only or TASKS}
    print(f"{'':12}{'number':>10}{'CPU s':>8}{'slowest':>9}{'peak MB':>9}")
    for name, r in found.items():
        print(f"{name:12}{r['count']:>10,}{r['seconds']:>8.1f}{r['slowest']:>9.1f}{r['megabytes']:>9.0f}")
    if "making" in found:
        print("making: the annotations alone; contained in the three below it")
    if "balanced" in found:
        print(f"balanced: the most frequent class has {found['balanced']['uneven']:.1%} more patches than the rarest")
    if "rasterio" in found:
        each = found["rasterio"]["seconds"] / found["rasterio"]["count"]
        said = f"rasterio: {each * 1e3:.2f} ms to judge a patch, extrapolated to {sizes[2]:,}: {each * sizes[2]:.0f} s"
        ratios = [f"{each * sizes[2] / r['seconds']:.1f} × {n}" for n, r in found.items() if "uneven" in r]
        print(f"{said}; that alone is {', '.join(ratios)}")


if __name__ == "__main__":
    main()

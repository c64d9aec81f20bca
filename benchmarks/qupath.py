"""QuPath's files at size: 100,000 polygons in a project, 100,000 and 725,000 features of GeoJSON.

    python benchmarks/qupath.py                 # with PAQUO_QUPATH_DIR set and paquo installed: against paquo, too
    python benchmarks/qupath.py --only read_qpdata --only read_paquo
    python benchmarks/qupath.py --quick         # a hundredth of everything, to see that it runs

Every task runs in a process of its own, one after the other; CPU seconds (user + system) and peak memory are the
operating system's, less those of a process that only imports the same packages and makes the same inputs. Each task
is repeated and the fastest kept, the spread is printed. Ratios are to a named reference in the same run.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import shapely

VERTICES = 20
# paquo 0.9.0 on QuPath 0.6.0, 100,000 polygons of 20 vertices, 2 cores, 2026-11: opening + iterating geometry, class
# and name. Quoted where no QuPath is installed.
PAQUO_READ_S = 0.8 + 8.7


def outlines(count: int) -> list[shapely.Polygon]:
    """Irregular convex polygons, 30 px wide, on a grid; coordinates with two decimals, as QuPath exports them."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(count)))
    angle = np.sort(rng.random((count, VERTICES)), axis=1) * 2 * np.pi
    centre = np.stack(np.divmod(np.arange(count), side), axis=1) * 40.0 + 20
    xy = centre[:, None] + 15 * np.stack([np.cos(angle), np.sin(angle)], axis=2)
    return list(shapely.polygons(xy.round(2)))


def annotations(count: int) -> list:  # type: ignore[type-arg]
    from qp2train import Annotation

    names = ("Tumor", "Stroma", "Immune cells")
    return [Annotation(polygon, names[i % 3]) for i, polygon in enumerate(outlines(count))]


# Each task prepares what is not measured and returns the work, which says how many objects went through its hands.
Work = Callable[[], int]


def read_qpdata(folder: Path, count: int) -> Work:
    from qp2train import Project

    return lambda: len(Project(folder / "project")["1"].annotations())


def read_paquo(folder: Path, count: int) -> Work:
    from paquo.projects import QuPathProject

    def work() -> int:
        with QuPathProject(folder / "project" / "project.qpproj", mode="r") as project:
            drawn = project.images[0].hierarchy.annotations
            return len([(a.roi, a.path_class and a.path_class.name, a.name) for a in drawn])

    return work


def write_qpdata(folder: Path, count: int) -> Work:
    from qp2train import Project

    made = annotations(count)
    return lambda: Project(folder / "empty").write("1", made, source="m").added


def read_geojson(folder: Path, count: int) -> Work:
    from qp2train import read_geojson as read

    return lambda: len(read(folder / "features.geojson"))


def read_geojson_package(folder: Path, count: int) -> Work:
    import geojson

    def work() -> int:
        with (folder / "features.geojson").open() as file:
            features = geojson.load(file)["features"]
        return len([(shapely.geometry.shape(f["geometry"]), f["properties"]["classification"]) for f in features])

    return work


def read_large_geojson(folder: Path, count: int) -> Work:
    from qp2train import read_geojson as read

    return lambda: len(read(folder / "large.geojson.gz"))


def write_geojson(folder: Path, count: int) -> Work:
    from qp2train import write_geojson as write

    made = annotations(count)

    def work() -> int:
        write(folder / "out.geojson", made)
        return len(made)

    return work


TASKS: dict[str, Callable[[Path, int], Work]] = {
    task.__name__: task
    for task in (
        read_qpdata, read_paquo, write_qpdata, read_geojson, read_geojson_package, read_large_geojson, write_geojson,
    )
}  # fmt: skip


def prepare(folder: Path, count: int, large: int) -> None:
    """Projects and files that the tasks read, made by qp2train's own writers."""
    from qp2train import Project
    from qp2train import write_geojson as write

    made = annotations(count)
    project = Project.create(folder / "project")
    project.add_image(folder / "slide.svs", width=100_000, height=100_000, annotations=made)
    Project.create(folder / "empty").add_image(folder / "slide.svs", width=100_000, height=100_000)
    write(folder / "features.geojson", made)
    with gzip.open(folder / "large.geojson.gz", "wb", compresslevel=1) as file:
        lines = (folder / "features.geojson").read_bytes()
        features = json.loads(lines)["features"]
        file.write(b'{"type":"FeatureCollection","features":[')
        for i in range(large):
            feature = {k: v for k, v in features[i % count].items() if k != "id"}
            file.write((b"," if i else b"") + json.dumps(feature).encode())
        file.write(b"]}")


class Result:
    """CPU seconds of several runs, peak memory in MB, and how many objects came."""

    def __init__(self, seconds: list[float], megabytes: float, objects: int) -> None:
        self.seconds, self.megabytes, self.objects = seconds, megabytes, objects

    @property
    def best(self) -> float:
        return min(self.seconds)


def measure(name: str, folder: Path, count: int, repeats: int) -> Result:
    seconds, megabytes, objects = [], 0.0, 0
    for _ in range(repeats):
        command = [sys.executable, __file__, "--task", name, "--folder", str(folder), "--count", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        said = dict(line.split(" ") for line in done.stdout.splitlines() if line.startswith(("sec", "meg", "obj")))
        seconds.append(float(said["seconds"]))
        megabytes = max(megabytes, float(said["megabytes"]))
        objects = int(said["objects"])
    return Result(seconds, megabytes, objects)


def peak_mb() -> float:
    """The most memory that this process had so far; getrusage would count the parent's, from before exec."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def run_task(name: str, folder: Path, count: int) -> None:
    """In a process of its own: what is imported and prepared is not measured."""
    importlib.import_module("qp2train.qupath.project")
    importlib.import_module("qp2train.qupath.geojson")
    work = TASKS[name](folder, count)
    before = peak_mb()
    start = time.process_time()
    objects = work()
    print(f"seconds {time.process_time() - start}")
    print(f"megabytes {peak_mb() - before}")
    print(f"objects {objects}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a hundredth of everything")
    parser.add_argument("--only", action="append", choices=TASKS, help="only this task; may be repeated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        run_task(given.task, given.folder, given.count)
        return
    count, large = (1000, 7250) if given.quick else (100_000, 725_000)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; best of {given.repeats}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, count, large)
        with_paquo = bool(os.environ.get("PAQUO_QUPATH_DIR")) and importlib.util.find_spec("paquo") is not None
        wanted = [t for t in given.only or TASKS if with_paquo or t != "read_paquo"]
        results = {task: measure(task, folder, count, 1 if "large" in task else given.repeats) for task in wanted}
    print(f"{'':22}{'objects':>9}{'CPU s':>8}{'spread':>16}{'MB':>7}")
    for task, r in results.items():
        spread = f"{r.best:.2f}–{max(r.seconds):.2f}"
        print(f"{task:22}{r.objects:>9,}{r.best:>8.2f}{spread:>16}{r.megabytes:>7.0f}")
    if {"read_qpdata", "read_paquo"} <= set(results):
        ours, paquo = results["read_qpdata"], results["read_paquo"]
        print(
            f"read_qpdata: {paquo.best / ours.best:.1f} times as fast as paquo, "
            f"in {ours.megabytes / paquo.megabytes:.2f} of its memory"
        )
    elif "read_qpdata" in results and not given.quick:
        ratio = PAQUO_READ_S / results["read_qpdata"].best
        print(f"read_qpdata: {ratio:.1f} times as fast as paquo was on another machine; none here (PAQUO_QUPATH_DIR)")
    if {"read_geojson", "read_geojson_package"} <= set(results):
        ratio = results["read_geojson_package"].best / results["read_geojson"].best
        print(f"read_geojson: {ratio:.1f} times as fast as geojson.load + shape()")


if __name__ == "__main__":
    main()

"""kill -9 at random instants of a write-back loop: the project opens, every human object is there, the next write runs.

    python benchmarks/kill.py [--kills 200] [--seed 0] [--data ../shared/data] [--keep FOLDER]

A child process writes, adds and clears predictions of two models in copies of real projects (and in one made here)
without a pause; this process kills it, looks at everything that lies there, starts the next child on what the last one
left behind, and at the end takes all predictions out: the files must be the original ones, byte for byte.
SIGKILL shows what a dying process leaves, not what a power cut does. Exit status 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import json
import logging
import mmap
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import shapely

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # for the worked example, and what an object's own bytes are

from qupath.own_bytes import human_objects  # noqa: E402
from qupath.test_qpdata import ZOO  # noqa: E402

from qp2train.core.annotation import Annotation  # noqa: E402
from qp2train.qupath.pathobject import walk  # noqa: E402
from qp2train.qupath.project import Project  # noqa: E402
from qp2train.qupath.qpdata import load, read_annotations  # noqa: E402
from qp2train.qupath.savefile import BACKUP_SUFFIX, LOCK_SUFFIX, TEMPORARY_SUFFIX  # noqa: E402
from qp2train.qupath.writeback import write_objects  # noqa: E402

BATCH = 40  # predictions per write; the n-th of a batch carries batch and n as metadata
SOURCES = ("unet-1", "unet-2")
LARGE = 500_000  # bytes; such an entry is left alone, it takes the time of many kills
IDLE, WRITING = 0, 1


def copies(data: Path, folder: Path) -> list[Path]:
    """Projects to write into: one of ours with nested objects of all kinds, and copies of QuPath's own."""
    ours = Project.create(folder / "made", classes={"Tumor": (200, 0, 0)})
    entry = ours.add_image(folder / "slide.svs", width=1000, height=800)
    entry.data_path.write_bytes(ZOO)
    contents = load(ZOO)
    outer = Annotation(shapely.box(0, 0, 500, 500), "Region*", name="drawn")
    inner = Annotation(shapely.box(1, 1, 200, 200), "Tumor", kind="cell", parent=outer.id)
    write_objects(contents, [outer, inner], source=None)
    entry.data_path.write_bytes(contents.to_bytes())
    result = [ours.path]
    for version in sorted((data / "qupath_written").glob("*/project")):
        shutil.copytree(version, copy := folder / version.parent.name)
        for path in [copy, *copy.rglob("*")]:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
        result.append(copy)
    return result


def predictions(rng: Random, parents: list[str]) -> list[Annotation]:
    """One batch, as a model writes them: some under the human's objects or each other, of classes old and new."""
    batch = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    result: list[Annotation] = []
    for n in range(BATCH):
        x, y = rng.random() * 900, rng.random() * 700
        parent = rng.choice([None, *parents, *(a.id for a in result[-3:])])
        made = Annotation(
            shapely.box(x, y, x + 30, y + 20),
            rng.choice(["Tumor", "Stroma", "Predicted: Yes", None]),
            kind=rng.choice(["annotation", "detection", "tile"]),
            id=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            parent=parent,
            metadata={"batch": batch, "n": str(n)},
            measurements={"p": rng.random()},
        )
        result.append(made)
    return result


def write_for_ever(path: Path, number: int, seed: int, mark: mmap.mmap) -> None:
    """The child: change the entries of a project in turn until killed."""
    rng = Random(f"{seed}:{number}")
    project = Project(path)
    entries = [entry for entry in project if entry.data_path.stat().st_size < LARGE]
    parents = {
        entry.id: [a.id for a in entry.annotations("all") if a.source is None and a.kind == "annotation"][:5]
        for entry in entries
    }
    while True:
        for entry in entries:
            what = rng.choice(("replace", "replace", "add", "clear"))
            source = rng.choice(SOURCES)
            batch = predictions(rng, parents[entry.id])
            mark[0] = WRITING
            if what == "clear":
                project.clear(source=source, entries=[entry])
            else:
                project.write(entry, batch, source=source, mode=what)
            mark[0] = IDLE
            mark[1:9] = (int.from_bytes(mark[1:9], "little") + 1).to_bytes(8, "little")


class Original:
    """What a human had drawn in a project, and what must be true of it for ever."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = {entry.id: entry.data_path.read_bytes() for entry in Project(path)}
        loaded = {key: load(raw) for key, raw in self.files.items()}
        self.objects = {key: human_objects(data) for key, data in loaded.items()}
        self.annotations = {key: self._drawn(raw) for key, raw in self.files.items()}
        self.classes = Project(path).classes

    @staticmethod
    def _drawn(raw: bytes) -> list[str]:
        found = read_annotations(load(raw)).annotations
        return [repr(replace(a, parent=None, nucleus=None)) for a in found if a.source is None]

    def check(self) -> None:
        """Raise AssertionError if anything of the human's is not as it was, or if a part of a write is there."""
        project = Project(self.path)
        assert {e.id for e in project} == set(self.files)
        assert self.classes.items() <= project.classes.items()
        for entry in project:
            raw = entry.data_path.read_bytes()
            if raw == self.files[entry.id]:
                continue
            data = load(raw)
            assert human_objects(data) == self.objects[entry.id], f"{entry}: a human's object is not as it was"
            assert self._drawn(raw) == self.annotations[entry.id], f"{entry}: a human's annotation is not as it was"
            assert data.to_bytes() == raw
            batches = Counter(o.metadata["batch"] for o in walk(data.root) if "batch" in o.metadata)
            assert set(batches.values()) <= {BATCH}, f"{entry}: a part of a write is there: {batches}"
            backup = entry.data_path.with_name(entry.data_path.name + BACKUP_SUFFIX)
            assert not backup.exists() or backup.read_bytes() == self.files[entry.id]
            json.loads((entry.folder / "summary.json").read_bytes())

    def next_write(self) -> float:
        """Write and clear as a user would who starts again; the seconds that the first write took."""
        project = Project(self.path)
        took = 0.0
        for entry in project:
            before = entry.data_path.read_bytes()
            if len(before) > LARGE:
                continue
            began = time.monotonic()
            project.write(entry, [Annotation(shapely.box(0, 0, 9, 9), "Tumor")], source="next")
            took = max(took, time.monotonic() - began)
            project.clear(source="next", entries=[entry])
            assert entry.data_path.read_bytes() == before, f"{entry}: write and clear changed the file"
        return took

    def check_cleared(self) -> None:
        """Take all predictions out: the original bytes, and nothing left over."""
        project = Project(self.path)
        for source in SOURCES:
            project.clear(source=source)
        for entry in project:
            assert entry.data_path.read_bytes() == self.files[entry.id], f"{entry}: not the original bytes after all"
        left = [p.name for p in self.path.rglob("*") if p.name.endswith((TEMPORARY_SUFFIX, LOCK_SUFFIX))]
        assert not left, f"left over: {left}"


def kill_one(path: Path, number: int, rng: Random, asked: argparse.Namespace, mark: mmap.mmap) -> tuple[str, list[str]]:
    """Start a child, kill it; where that fell, and what it left behind.

    Half of the children die at any instant; the others within some ms of a temporary file's appearance, since the
    replacing of a file is a small part of a write.
    """
    mark[:9] = bytes(9)
    child = os.fork()
    if child == 0:
        try:
            os.nice(1)
            write_for_ever(path, number, asked.seed, mark)
        except BaseException as error:  # noqa: BLE001  a child must not return into this program
            print(f"child {number}: {type(error).__name__}: {error}", flush=True)
        os._exit(1)
    time.sleep(rng.uniform(0.02, asked.longest))
    if number % 2:
        deadline = time.monotonic() + asked.longest
        while not any(path.glob(f"data/*/*{TEMPORARY_SUFFIX}")) and time.monotonic() < deadline:
            pass
        time.sleep(rng.uniform(0, 0.004))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        return "FAILED: the child ended by itself", []
    left = [p.name for p in path.rglob("*") if p.name.endswith((TEMPORARY_SUFFIX, LOCK_SUFFIX))]
    if any(name.endswith(TEMPORARY_SUFFIX) for name in left):
        return "while a file was being replaced", left
    if left:
        return "with the entry locked", left
    return "in a write, before or after its lock" if mark[0] == WRITING else "between two writes", left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=1.0, help="seconds that a child lives at most")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--keep", type=Path, help="work here and leave the projects")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    rng = Random(asked.seed)
    fell: Counter[str] = Counter()
    writes, slowest, failures = 0, 0.0, 0
    with tempfile.TemporaryDirectory() as temporary, mmap.mmap(-1, 16) as mark:
        folder = asked.keep or Path(temporary)
        originals = [Original(path) for path in copies(asked.data, folder)]
        for number in range(asked.kills):
            original = originals[number // 2 % len(originals)]
            where, left = kill_one(original.path, number, rng, asked, mark)
            fell[where] += 1
            writes += int.from_bytes(mark[1:9], "little")
            try:
                original.check()
                slowest = max(slowest, original.next_write())
            except Exception as error:  # noqa: BLE001  whatever it is, it is reported
                failures += 1
                print(f"kill {number} ({where}; {left}): {type(error).__name__}: {error}", flush=True)
        for original in originals:
            try:
                original.check_cleared()
            except Exception as error:  # noqa: BLE001
                failures += 1
                print(f"at the end: {type(error).__name__}: {error}", flush=True)
    objects = sum(len(o) for original in originals for o in original.objects.values())
    print(f"{asked.kills} kills, {len(originals)} projects, {objects} human objects, {writes} whole writes in between")
    for where, count in fell.most_common():
        print(f"  {count:4} {where}")
    failures += sum(count for where, count in fell.items() if where.startswith("FAILED"))
    print(f"slowest next write {slowest:.2f} s; failures: {failures}")
    return int(failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())

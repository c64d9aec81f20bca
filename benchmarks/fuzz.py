"""Mutated `.qpdata` and GeoJSON files: only named errors may come out, none may take long or much memory.

    python benchmarks/fuzz.py --inputs 100000 --processes 2 --out runs/fuzz [--data ../shared/data] [--seed 0]

Input i of a kind depends on seed and i alone; `--show qpdata:123` writes that one to a file. Each process works in a
child with a memory limit and a CPU-time limit per input, so that a crash of an extension module is seen and the next
input goes on. A second call with the same --out goes on where the first stopped. Exit status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import logging
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import shapely

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the mutator is the tests'

from qupath.mutate_geojson import mutated_geojson  # noqa: E402
from qupath.mutate_qpdata import mutated_qpdata  # noqa: E402
from qupath.test_qpdata import ZOO  # noqa: E402
from qupath.worked_example import TRIANGLE  # noqa: E402

from qp2train.core.annotation import Annotation  # noqa: E402
from qp2train.errors import Qp2trainError  # noqa: E402
from qp2train.qupath.geojson import read_geojson, write_geojson  # noqa: E402
from qp2train.qupath.qpdata import load, read_annotations  # noqa: E402
from qp2train.qupath.writeback import remove_objects, write_objects  # noqa: E402

MAX_SEED_BYTES = 100_000
MAX_CPU_S = 1.0
GIVE_UP_CPU_S = 20
MAX_BYTES = 1 << 30
KINDS = ("qpdata", "geojson")
PREDICTION = Annotation(shapely.box(0, 0, 5, 5), "New: Class", id="ffffffff-0000-4000-8000-000000000001")


def seeds(kind: str, data: Path | None) -> list[bytes]:
    """What is mutated: the real files of at most 100 kB, smaller ones more often, and small ones made here."""
    found = sorted(data.rglob(f"*.{kind}")) if data is not None and data.is_dir() else []
    real = [file.read_bytes() for file in found if file.stat().st_size <= MAX_SEED_BYTES]
    made = [TRIANGLE, ZOO] if kind == "qpdata" else [_as_geojson(d, f) for d in (TRIANGLE, ZOO) for f in (True, False)]
    small = [raw for raw in real if len(raw) < 20_000]
    return [*made, *made, *small, *small, *real]


def _as_geojson(data: bytes, nested: bool) -> bytes:
    """The objects of a file with everything that the dialect knows, as a collection or as children of each other."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "f.geojson"
        found = read_annotations(load(data)).annotations
        write_geojson(file, [replace(a, source="model") if i % 2 else a for i, a in enumerate(found)])
        content = json.loads(file.read_bytes())
    if nested:
        first, *others = content["features"]
        first["properties"]["childObjects"] = others
        content = [first]
    return json.dumps(content).encode()


def made(kind: str, index: int, seed: int, known: list[bytes]) -> bytes:
    """Input `index` of a kind."""
    rng = Random(f"{seed}:{kind}:{index}")
    mutate = mutated_qpdata if kind == "qpdata" else mutated_geojson
    data = mutate(rng, rng.choice(known), known)
    if kind == "geojson" and rng.random() < 0.05:
        data = gzip.compress(data, 1, mtime=0)
        if rng.random() < 0.7:
            data = mutate(rng, data, [data])
    return data


def check_qpdata(data: bytes, folder: Path) -> None:
    """Read; if it can be read, write into it, read that, clear it and find it as it was."""
    found = read_annotations(load(data)).annotations
    changed = load(data)
    before = changed.to_bytes()
    write_objects(changed, [PREDICTION], source="m")
    again = load(changed.to_bytes())
    after = read_annotations(again).annotations
    assert len(after) == len(found) + 1, f"{len(found)} objects, then {len(after)} after one was added"
    remove_objects(again, "m")
    assert again.to_bytes() == before, "write and clear did not give the bytes of before"


def check_geojson(data: bytes, folder: Path) -> None:
    """Read; if it can be read, write it and read it again: the same objects."""
    file, copy = folder / "in.geojson", folder / "out.geojson"
    file.write_bytes(data)
    found = read_geojson(file)
    write_geojson(copy, found)
    again = read_geojson(copy) if found else []
    drawn = [a.id for a in found if not a.geometry.is_empty]
    assert [a.id for a in again] == drawn, "other ids after writing and reading"


CHECKS: dict[str, Callable[[bytes, Path], None]] = {"qpdata": check_qpdata, "geojson": check_geojson}


def work(kind: str, start: int, stop: int, asked: argparse.Namespace) -> None:
    """Try inputs start..stop; one JSON line per input that failed, one at the end with the sums."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("error")  # numpy's and GEOS's doubts are ours to settle, not the user's to read
    known = seeds(kind, asked.data)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MAX_BYTES, size + MAX_BYTES))
    outcomes: Counter[str] = Counter()
    slowest, slowest_at = 0.0, start
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for index in range(start, stop):
            os.pwrite(asked.progress, struct.pack("<q", index), 0)
            data = made(kind, index, asked.seed, known)
            signal.setitimer(signal.ITIMER_PROF, GIVE_UP_CPU_S)  # ends the process; whoever started it says where
            before = time.process_time()
            try:
                CHECKS[kind](data, Path(folder))
                outcome = "read"
            except Qp2trainError as error:
                outcome = type(error).__name__
            except BaseException as error:  # noqa: BLE001  that is what is looked for
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(last.filename).name}:{last.lineno}"
                outcome = f"FAILED {type(error).__name__}"
                _say(kind, index, f"{type(error).__name__}: {str(error)[:300]} ({where})")
            spent = time.process_time() - before
            signal.setitimer(signal.ITIMER_PROF, 0)
            outcomes[outcome] += 1
            if spent > slowest:
                slowest, slowest_at = spent, index
            if spent > MAX_CPU_S:
                outcomes["FAILED slow"] += 1
                _say(kind, index, f"slow: {spent:.2f} s CPU for {len(data)} bytes")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > MAX_BYTES:
        outcomes["FAILED memory"] += 1
        _say(kind, stop - 1, f"memory: {peak >> 20} MiB at some input from {start} to {stop}")
    sums = {"outcomes": outcomes, "slowest_s": slowest, "slowest": f"{kind}:{slowest_at}", "peak": peak}
    print(json.dumps(sums), flush=True)


def _say(kind: str, index: int, what: str) -> None:
    print(json.dumps({"failed": f"{kind}:{index}", "what": what}), flush=True)


def run_chunk(kind: str, start: int, stop: int, asked: argparse.Namespace) -> list[dict]:
    """Work in child processes until the chunk is done; a child that dies costs the input it died of."""
    lines: list[dict] = []
    while start < stop:
        with tempfile.TemporaryFile() as progress:
            os.pwrite(progress.fileno(), struct.pack("<q", start), 0)
            command = [sys.executable, __file__, "--work", f"{kind}:{start}:{stop}", "--seed", str(asked.seed)]
            command += ["--data", str(asked.data), "--progress", str(progress.fileno())]
            done = subprocess.run(command, capture_output=True, text=True, pass_fds=[progress.fileno()], check=False)
            lines += [json.loads(line) for line in done.stdout.splitlines()]
            if done.returncode == 0:
                return lines
            (at,) = struct.unpack("<q", os.pread(progress.fileno(), 8, 0))
        name = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit {done.returncode}"
        lines.append({"failed": f"{kind}:{at}", "what": f"the interpreter ended: {name} {done.stderr[-500:]}"})
        lines.append({"outcomes": {"FAILED crash": 1, "lost count of": at - start}, "slowest_s": 0, "peak": 0})
        start = at + 1
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="of both kinds together")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--chunk", type=int, default=2500, help="inputs per process")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", metavar="KIND:INDEX", help="write one input to KIND-INDEX and try it")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--progress", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        kind, start, stop = asked.work.split(":")
        work(kind, int(start), int(stop), asked)
        return 0
    if asked.show:
        return show(*asked.show.split(":"), asked)  # type: ignore[call-arg]
    return fuzz(asked)


def show(kind: str, index: str, asked: argparse.Namespace) -> int:
    data = made(kind, int(index), asked.seed, seeds(kind, asked.data))
    file = (asked.out or Path()) / f"{kind}-{index}"
    file.write_bytes(data)
    print(f"{file}: {len(data)} bytes")
    began = time.process_time()
    try:
        with tempfile.TemporaryDirectory() as folder:
            CHECKS[kind](data, Path(folder))
    except Qp2trainError as error:
        print(f"{type(error).__name__}: {error}")
    print(f"{time.process_time() - began:.3f} s CPU")
    return 0


def fuzz(asked: argparse.Namespace) -> int:
    from concurrent.futures import ThreadPoolExecutor, as_completed

    each = asked.inputs // len(asked.kinds)
    chunks = [(k, i, min(i + asked.chunk, each)) for i in range(0, each, asked.chunk) for k in asked.kinds]
    journal = None if asked.out is None else asked.out / f"fuzz-seed{asked.seed}.jsonl"
    finished: list[dict] = []
    if journal is not None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            finished = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    known = {tuple(entry["chunk"]) for entry in finished}
    failed = False
    with ThreadPoolExecutor(asked.processes) as pool:
        futures = {pool.submit(run_chunk, *chunk, asked): chunk for chunk in chunks if chunk not in known}
        for future in as_completed(futures):
            entry = {"chunk": futures[future], "lines": future.result()}
            finished.append(entry)
            for line in entry["lines"]:
                if "failed" in line:
                    print(f"{line['failed']}: {line['what']}", flush=True)
            if journal is not None:
                with journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
    for kind in asked.kinds:
        sums = [s for e in finished if e["chunk"][0] == kind for s in e["lines"] if "outcomes" in s]
        outcomes = sum((Counter(s["outcomes"]) for s in sums), Counter())
        failed |= any(name.startswith("FAILED") for name in outcomes)
        inputs = sum(e["chunk"][2] - e["chunk"][1] for e in finished if e["chunk"][0] == kind)
        worst = max(sums, key=lambda s: s["slowest_s"])
        print(f"{kind}: {inputs} inputs; " + ", ".join(f"{name} {n}" for name, n in outcomes.most_common()))
        print(f"  slowest {1000 * worst['slowest_s']:.0f} ms CPU ({worst['slowest']})", end="; ")
        print(f"peak RSS {max(s['peak'] for s in sums) >> 20} MiB")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())

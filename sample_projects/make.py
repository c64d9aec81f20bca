"""Make the sample project: `python sample_projects/make.py FOLDER [--seed 0] [--patients 3]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from qp2train.errors import Qp2trainError
from qp2train.sample.project import make_project


def main() -> int:
    """Parse the command line, make the project, say where it is."""
    parser = argparse.ArgumentParser(description="Draw H&E-like slides and make a QuPath project of them.")
    parser.add_argument("folder", type=Path, help="output folder: new, empty, or an earlier sample project")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same slides (default: 0)")
    parser.add_argument("--patients", type=int, default=3, help="the last one stays unannotated (default: 3)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier sample project")
    given = parser.parse_args()
    start = time.perf_counter()
    try:
        project = make_project(given.folder, seed=given.seed, patients=given.patients, overwrite=given.overwrite)
    except (Qp2trainError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in given.folder.rglob("*") if file.is_file())
    print(f"{project}: {size / 1e6:.1f} MB in {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

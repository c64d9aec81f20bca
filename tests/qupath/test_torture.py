"""Damaged, hostile and interrupted: only named errors come out, at a bounded cost, and nothing of a human's is lost.

Short runs of benchmarks/fuzz.py and benchmarks/kill.py; the long ones are run by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from .hostile import GEOJSON, QPDATA
from .mutate_geojson import mutated_geojson
from .mutate_qpdata import mutated_qpdata
from .worked_example import TRIANGLE

ROOT = Path(__file__).parents[2]
MAX_CPU_S = 1.0
MAX_MIB = 1024


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_thousand_mutated_files_give_named_errors_in_time() -> None:
    said = run("benchmarks/fuzz.py", "--inputs", "2000", "--chunk", "1000")
    assert "qpdata: 1000 inputs" in said
    assert "geojson: 1000 inputs" in said
    assert "read" in said  # some are still files: what lies behind the parser is reached


def test_kills_while_writing_lose_nothing() -> None:
    said = run("benchmarks/kill.py", "--kills", "10", "--longest", "0.3")
    assert "10 kills" in said
    assert "failures: 0" in said


@pytest.fixture(scope="module")
def costs() -> dict[tuple[str, str], dict[str, object]]:
    lines = map(json.loads, run("tests/qupath/hostile.py").splitlines())
    return {(line["kind"], line["name"]): line for line in lines}


@pytest.mark.parametrize(
    ("kind", "name"), [("qpdata", name) for name in QPDATA] + [("geojson", name) for name in GEOJSON]
)
def test_hostile_files_are_read_or_refused_in_time(
    costs: dict[tuple[str, str], dict[str, float | str]], kind: str, name: str
) -> None:
    cost = costs[kind, name]
    assert str(cost["outcome"]).startswith(("read: ", "refused: ")), cost
    assert float(cost["cpu_s"]) < MAX_CPU_S, cost
    assert float(cost["peak_mib"]) < MAX_MIB, cost


def test_the_mutator_repeats_itself_and_changes_most_inputs() -> None:
    text = b'{"type":"Feature","geometry":{"type":"Point","coordinates":[1,2]},"properties":{"name":"a"}}'
    for mutate, data in ((mutated_qpdata, TRIANGLE), (mutated_geojson, text)):
        made = [mutate(Random(i), data, [data]) for i in range(200)]
        assert made == [mutate(Random(i), data, [data]) for i in range(200)]
        assert len(set(made)) > 150

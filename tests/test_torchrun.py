"""A recipe trained by two processes that torchrun started: one of them writes and talks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import BLUE, RED, square, write_png

import qp2train as qp

SETTINGS = """
project: .
labels: {classes: [Tumor]}
sample: {size: 32, mpp: 1, per_class: 24}
split: {assign: {P1: val, P2: test}}
model: {encoder: resnet18, encoder_weights: null, options: {encoder_depth: 3, decoder_channels: [16, 8, 8]}}
fit: {epochs: 1, batch_size: 4, augment: none, track: csv, accelerator: cpu, devices: 2}
out: run
"""


@pytest.mark.slow
def test_two_processes_make_one_run(tmp_path: Path) -> None:
    rows = ["slide,patient,mpp"]
    for i in range(3):
        picture = np.full((96, 96, 3), BLUE, np.uint8)
        picture[20:60, 20:60] = RED
        write_png(tmp_path / f"s{i}.png", picture)
        qp.write_geojson(tmp_path / f"s{i}.geojson", [square(0, 0, 96, "Region*"), square(20, 20, 40)])
        rows.append(f"s{i}.png,P{i},1")
    (tmp_path / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(SETTINGS, encoding="utf-8")
    (tmp_path / "run.py").write_text("from qp2train.cli import app\napp()\n", encoding="utf-8")
    launched = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "run.py", "train", "recipe.yaml"]
    done = subprocess.run(
        [sys.executable, *launched],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.count("report: ") == 1
    table = qp.PatchTable.load(tmp_path / "run" / "patches.parquet")
    assert set(table.rows["split"]) == {"train", "val", "test"}
    assert qp.load_model(tmp_path / "run").about["arguments"]["seed"] == 0

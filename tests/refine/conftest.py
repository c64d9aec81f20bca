from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import BLUE, RED, FakeEntry, square, write_png

from qp2train import LabelMap, Model, PatchTable, fit, sample_patches
from qp2train.learn.prompted import Prompted


@pytest.fixture(scope="session")
def red_squares(tmp_path_factory) -> PatchTable:
    """Four patients, a slide each, of red squares apart from one another on blue ground."""
    folder, rng, entries = tmp_path_factory.mktemp("slides"), np.random.default_rng(0), []
    for i in range(4):
        array, drawn = np.full((256, 256, 3), BLUE, np.uint8), [square(-9, -9, 400, "Region*", id=f"r{i}")]
        for n in range(4):
            x, y = 20 + 130 * (n % 2) + int(rng.integers(0, 30)), 20 + 130 * (n // 2) + int(rng.integers(0, 30))
            side = int(rng.integers(30, 60))
            array[y : y + side, x : x + side] = RED
            drawn.append(square(x, y, side, id=f"t{i}{n}"))
        array = np.clip(array + rng.integers(-20, 21, array.shape), 0, 255).astype(np.uint8)
        path = write_png(folder / f"{i}.png", array)
        entries.append(FakeEntry(f"s{i}", drawn, array, 1.0, {"patient": f"P{i}"}, str(path)))
    table = sample_patches(entries, LabelMap(["Tumor"]), size=64, per_class=20)
    return replace(table, rows=table.rows.assign(group=table.rows["entry"]))


@pytest.fixture(scope="session")
def click_model(red_squares) -> Model:
    torch.set_num_threads(1)
    options = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    spec = Prompted(red_squares.labels, encoder="resnet18", encoder_weights=None, options=options)
    train, _ = red_squares.split(fractions=(0.5, 0.5))
    return fit(spec, train, epochs=30, batch_size=8, ema=0.9, progress=False, track="csv", name="squares")

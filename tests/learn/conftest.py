from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import BLUE, RED, FakeEntry, square, write_png

from qp2train import LabelMap, PatchTable, Segmentation, sample_patches

# Tiny networks on a shared machine: more threads wait for each other longer than they compute.
torch.set_num_threads(1)

# The smallest U-Net that smp builds quickly.
SMALL = {"encoder_depth": 3, "decoder_channels": (16, 8, 8)}


@pytest.fixture(scope="session")
def labels() -> LabelMap:
    return LabelMap(["Tumor"])


@pytest.fixture(scope="session")
def spec(labels) -> Segmentation:
    return Segmentation(labels, encoder="resnet18", encoder_weights=None, options=SMALL)


@pytest.fixture(scope="session")
def two_colours(tmp_path_factory, labels) -> PatchTable:
    """Four patients, a slide each: red squares are tumour, all else is blue. Anything learns that."""
    folder = tmp_path_factory.mktemp("slides")
    rng = np.random.default_rng(0)
    entries = []
    for i in range(4):
        array = np.full((256, 256, 3), BLUE, np.uint8)
        drawn = [square(-9, -9, 400, "Region*", id=f"r{i}")]
        for n in range(6):
            x, y = (int(v) for v in rng.integers(0, 200, 2))
            array[y : y + 40, x : x + 40] = RED
            drawn.append(square(x, y, 40, id=f"t{i}{n}"))
        noise = rng.integers(-20, 21, array.shape)
        array = np.clip(array + noise, 0, 255).astype(np.uint8)
        path = write_png(folder / f"{i}.png", array)
        entries.append(FakeEntry(f"s{i}", drawn, array, 1.0, {"patient": f"P{i}"}, str(path)))
    table = sample_patches(entries, labels, size=64, per_class=12)
    return replace(table, rows=table.rows.assign(group=table.rows["entry"]))


@pytest.fixture(scope="session")
def train_val(two_colours) -> tuple[PatchTable, PatchTable]:
    train, val = two_colours.split(fractions=(0.5, 0.5))
    return train, val

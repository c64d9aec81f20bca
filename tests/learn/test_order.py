"""An epoch is a seeded permutation, in which neighbours come soon after one another."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from qp2train import LabelMap
from qp2train.core.patches import COLUMNS, PatchTable, SlideRef
from qp2train.errors import Qp2trainError
from qp2train.learn.balance import drawing_shares
from qp2train.learn.classweights import class_weights
from qp2train.learn.order import LANES, EpochOrder


def grid_table(slides: int = 4, across: int = 24, *, step: float = 64.0) -> PatchTable:
    """Patches of 64 px at 1 µm/px side by side on slides of 1 µm/px."""
    rows = [
        (f"s{s}", x * step, y * step, "Tumor", "", 1.0, f"s{s}", "", 1.0 + (x == 0))
        for s in range(slides)
        for y in range(across)
        for x in range(across)
    ]
    refs = {f"s{s}": SlideRef(f"s{s}", f"s{s}", "/x", 1.0, (9999, 9999), {}, ()) for s in range(slides)}
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return PatchTable(frame, refs, LabelMap(["Tumor"]), 64, 1.0)


def batches(table: PatchTable, *, epoch: int = 0, seed: int = 0, batch_size: int = 16, balanced: bool = False):
    order = EpochOrder(table, batch_size=batch_size, seed=seed, balanced=balanced)
    order.set_epoch(epoch)
    return list(order)


def rows_of(listed) -> list[int]:
    return [row for batch in listed for row, _ in batch]


def tiles_read(table: PatchTable, listed, *, workers: int, kept: int, tile: int = 256) -> int:
    """Tiles decoded when batch i goes to process i modulo `workers`, and each keeps the last `kept` tiles."""
    x, y, slide = (table.rows[c].to_numpy() for c in ("x", "y", "entry"))
    held: list[dict] = [{} for _ in range(workers)]
    read = 0
    for i, batch in enumerate(listed):
        mine = held[i % workers]
        for row, _ in batch:
            key = (slide[row], x[row] // tile, y[row] // tile)
            read += key not in mine
            mine.pop(key, None)
            mine[key] = True
            if len(mine) > kept:
                mine.pop(next(iter(mine)))
    return read


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf])
def test_weights_that_nothing_can_be_drawn_by(weight):
    table = grid_table(1, 2)
    table.rows["weight"] = weight
    with pytest.raises(Qp2trainError, match="weights must not be negative"):
        EpochOrder(table, batch_size=2, seed=0, balanced=True)
    assert len(batches(table, batch_size=2)) == 2  # nobody asks for weights


class TestRandomness:
    @pytest.mark.parametrize("slides", [1, 4, 40])
    @pytest.mark.parametrize("batch_size", [1, 7, 16])
    def test_every_row_comes_once(self, slides, batch_size):
        table = grid_table(slides, 8)
        listed = batches(table, batch_size=batch_size)
        rows = rows_of(listed)
        assert len(rows) == len(set(rows)) == len(table) // batch_size * batch_size
        assert {len(batch) for batch in listed} == {batch_size}
        assert len(listed) == len(EpochOrder(table, batch_size=batch_size, seed=0))

    def test_fewer_rows_than_a_batch_are_one_batch(self):
        assert [len(batch) for batch in batches(grid_table(1, 3))] == [9]

    def test_it_depends_on_seed_and_epoch_only(self):
        table = grid_table()
        assert batches(table, seed=1) == batches(table, seed=1)
        assert batches(table, seed=1) != batches(table, seed=1, epoch=1)
        assert batches(table, seed=1) != batches(table, seed=2)
        augmentations = {seed for batch in batches(table) for _, seed in batch}
        assert len(augmentations) > 0.99 * len(table)

    def test_each_place_of_an_epoch_may_be_any_row(self):
        """Over many epochs a row's place is spread evenly: by thirds of the epoch, within four standard deviations."""
        table = grid_table(3, 12)
        epochs, n = 150, len(table)
        places = np.zeros((n, 3))
        for epoch in range(epochs):
            rows = rows_of(batches(table, epoch=epoch, batch_size=1))
            places[rows, np.arange(n) * 3 // n] += 1
        spread = np.sqrt(epochs * (1 / 3) * (2 / 3))
        assert np.abs(places - epochs / 3).max() < 4.6 * spread
        assert np.abs(places.mean(axis=0) - epochs / 3).max() < 1e-9

    def test_a_small_table_is_shuffled_entirely(self):
        """No trace of neighbourhood: two rows that follow one another are as far apart as any two."""
        table = grid_table(1, 18)  # 324 patches, as many as are open at a time
        x, y = table.rows["x"].to_numpy() / 64, table.rows["y"].to_numpy() / 64
        apart, any_two = [], []
        for epoch in range(30):
            rows = np.array(rows_of(batches(table, epoch=epoch, batch_size=1)))
            apart.append(np.hypot(np.diff(x[rows]), np.diff(y[rows])).mean())
            rows = np.random.default_rng(epoch).permutation(rows)
            any_two.append(np.hypot(np.diff(x[rows]), np.diff(y[rows])).mean())
        assert np.mean(apart) == pytest.approx(np.mean(any_two), rel=0.03)

    def test_batches_mix_slides_and_places(self):
        table = grid_table(6, 24)
        slide = table.rows["entry"].to_numpy()
        x, y = (table.rows[c].to_numpy() // 192 for c in "xy")
        listed = batches(table)
        assert np.mean([len({slide[row] for row, _ in batch}) for batch in listed]) > 4
        assert np.mean([len({(slide[r], x[r], y[r]) for r, _ in batch}) for batch in listed]) > 8

    def test_balanced_draws_by_weight(self):
        table = grid_table(2, 20)
        table.rows["weight"] = np.where(table.rows["x"] == 0, 19.0, 1.0)
        first = table.rows["x"].to_numpy() == 0
        share = np.mean([first[rows_of(batches(table, epoch=e, balanced=True))].mean() for e in range(20)])
        assert share == pytest.approx(0.5, abs=0.02)


class TestBalance:
    """Two classes, of which the part that is trained on has 30 and 2 patches."""

    @pytest.fixture
    def table(self):
        table = grid_table(1, 8).take(range(32))
        label = np.where(np.arange(32) < 30, "Tumor", "Necrosis")
        weight = np.where(np.arange(32) == 0, 3.0, 1.0)
        return replace(
            table, rows=table.rows.assign(label=label, weight=weight), labels=LabelMap(["Tumor", "Necrosis"])
        )

    def test_every_class_comes_equally_often_and_its_rows_by_their_weight(self, table):
        shares = drawing_shares(table)
        # Of Tumor's half 3 of 32 parts are the first row's, and 1 of 32 each other's.
        assert shares.tolist() == pytest.approx([3 / 64] + [1 / 64] * 29 + [1 / 4] * 2)

    def test_an_epoch_is_drawn_so(self, table):
        rows = [r for e in range(100) for r in rows_of(batches(table, epoch=e, balanced=True))]
        assert np.mean([r >= 30 for r in rows]) == pytest.approx(0.5, abs=0.03)
        assert np.mean([r == 0 for r in rows]) == pytest.approx(3 / 64, abs=0.015)

    def test_a_classifiers_classes_may_be_others_than_the_tables(self, table):
        shares = drawing_shares(table, np.arange(32) % 2)
        assert shares[::2].sum() == pytest.approx(0.5)

    def test_a_class_whose_rows_all_weigh_nothing_is_not_drawn(self, table):
        weight = np.where(np.arange(32) < 30, 1.0, 0.0)
        shares = drawing_shares(replace(table, rows=table.rows.assign(weight=weight)))
        assert shares.tolist() == pytest.approx([1 / 30] * 30 + [0, 0])

    def test_the_class_weights_count_what_is_drawn(self, table):
        table.rows["weight"] = 0.0
        with pytest.raises(Qp2trainError, match="weights must not be negative"):
            class_weights("auto", table, balanced=True)


class TestTileOrder:
    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_a_decoded_tile_serves_most_of_its_patches(self, workers):
        """16 patches share a tile. In random order it would be decoded about 14 times, with room for 500 tiles."""
        table = grid_table(4, 96)
        tiles = len(table) / 16
        listed = batches(table)
        assert tiles_read(table, listed, workers=workers, kept=512 // workers) < 4.5 * tiles
        at_random = [[(row, 0)] for row in np.random.default_rng(0).permutation(len(table))]
        assert tiles_read(table, at_random, workers=workers, kept=512 // workers) > 9 * tiles

    def test_few_slides_are_open_at_a_time(self):
        table = grid_table(60, 12)
        slide = table.rows["entry"].to_numpy()
        listed = batches(table)
        windows = [listed[i : i + 4 * LANES] for i in range(0, len(listed) - 4 * LANES, LANES)]
        assert max(len({slide[row] for batch in window for row, _ in batch}) for window in windows) <= 24

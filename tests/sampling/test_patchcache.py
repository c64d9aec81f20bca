"""A patch cache gives back what was stored, or nothing."""

import logging
import multiprocessing
import os
import pickle
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEntry, square, write_pyramid

from qp2train import LabelMap, PatchTable, sample_patches
from qp2train.errors import Qp2trainError
from qp2train.learn.augment import Augmentation
from qp2train.learn.data import PatchDataset
from qp2train.sampling.patchcache import PatchCache
from qp2train.slides.reading import Reading

PX = 32
ROW_BYTES = PX * PX * 4 + 4


@pytest.fixture
def table(tmp_path) -> PatchTable:
    array = np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    path = write_pyramid(tmp_path / "s.tif", [array])
    entry = FakeEntry("a", [square(20, 20, 150)], array, 0.5, path=str(path))
    return sample_patches([entry], LabelMap(["Tumor"]), size=PX, mpp=0.5, per_class=12)


def pair(row: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(row)
    return rng.integers(0, 256, (PX, PX, 3), dtype=np.uint8), rng.integers(0, 256, (PX, PX), dtype=np.uint8)


def same(found, row: int) -> bool:
    return found is not None and all(np.array_equal(a, b) for a, b in zip(found, pair(row), strict=True))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.patches"))


def test_what_was_stored_is_there_in_the_next_run(tmp_path, table):
    cache = PatchCache(tmp_path / "c", table, px=PX)
    assert cache.get(3) is None
    for row in (3, 11, 0):
        cache.put(row, *pair(row))
    for again in (cache, PatchCache(tmp_path / "c", table, px=PX), pickle.loads(pickle.dumps(cache))):
        assert [same(again.get(row), row) for row in (0, 3, 11)] == [True] * 3
        assert again.get(5) is None


def test_what_it_gives_may_be_written_to(tmp_path, table):
    cache = PatchCache(tmp_path, table, px=PX)
    cache.put(0, *pair(0))
    image, mask = cache.get(0)
    image[:], mask[:] = 0, 0
    assert same(cache.get(0), 0)


@pytest.mark.parametrize(("name", "beside"), [("s.mrxs", "s/Data0000.dat"), ("s.vsi", "_s_/stack1/frame_t_0.ets")])
def test_pixels_in_a_folder_beside_the_slide_count(tmp_path, table, name, beside):
    stub, pixels = tmp_path / name, tmp_path / beside
    pixels.parent.mkdir(parents=True)
    stub.write_bytes(b"contents")
    slides = {e: replace(ref, path=str(stub)) for e, ref in table.slides.items()}
    for value in (b"one", b"two", b"one"):
        pixels.write_bytes(value)
        PatchCache(tmp_path / "c", replace(table, slides=slides), px=PX)
    assert len(files(tmp_path / "c")) == 2


def test_damaged_rows_are_not_given(tmp_path, table):
    cache = PatchCache(tmp_path / "c", table, px=PX)
    for row in range(4):
        cache.put(row, *pair(row))
    (file,) = files(tmp_path / "c")
    data = bytearray(file.read_bytes())
    data[ROW_BYTES + 40] ^= 1  # a bit of row 1's picture
    data[2 * ROW_BYTES] ^= 1  # of row 2's checksum
    file.write_bytes(data[: 4 * ROW_BYTES - 1])  # row 3 is cut off
    again = PatchCache(tmp_path / "c", table, px=PX)
    assert [again.get(row) is not None for row in range(4)] == [True, False, False, False]
    again.put(1, *pair(1))
    assert same(again.get(1), 1)


def _store_for_ever(folder: Path, table: PatchTable, started) -> None:
    cache = PatchCache(folder, table, px=PX)
    started.set()
    while True:
        for row in range(12):
            cache.put(row, *pair(row))


@pytest.mark.parametrize("seed", range(3))
def test_killed_processes_leave_nothing_wrong(tmp_path, table, seed):
    """Two processes store the same rows and are killed at a random instant."""
    context = multiprocessing.get_context("fork")
    started = [context.Event() for _ in range(2)]
    processes = [context.Process(target=_store_for_ever, args=(tmp_path / "c", table, event)) for event in started]
    for process in processes:
        process.start()
    for event in started:
        assert event.wait(30)
    started[0].clear()
    started[0].wait(float(np.random.default_rng(seed).uniform(0.005, 0.05)))
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    cache = PatchCache(tmp_path / "c", table, px=PX)
    found = [cache.get(row) for row in range(12)]
    assert all(one is None or same(one, row) for row, one in enumerate(found))
    assert any(one is not None for one in found)


class TestKey:
    def test_a_moved_slide_keeps_its_patches(self, tmp_path, table):
        PatchCache(tmp_path / "c", table, px=PX)
        (ref,) = table.slides.values()
        shutil.move(ref.path, tmp_path / "other.tif")
        moved = replace(table, slides={"a": replace(ref, path=str(tmp_path / "other.tif"))})
        PatchCache(tmp_path / "c", moved, px=PX)
        assert len(files(tmp_path / "c")) == 1

    def test_other_pixels_annotations_or_sizes_have_files_of_their_own(self, tmp_path, table):
        PatchCache(tmp_path / "c", table, px=PX)
        PatchCache(tmp_path / "c", table, px=PX + 1)
        PatchCache(tmp_path / "c", table, px=PX, reading=Reading(scaled_decode=True))
        PatchCache(tmp_path / "c", table, px=PX, reading=Reading(stain="macenko"))
        (ref,) = table.slides.values()
        PatchCache(tmp_path / "c", replace(table, slides={"a": replace(ref, annotations=(square(0, 0, 9),))}), px=PX)
        path = Path(ref.path)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        PatchCache(tmp_path / "c", table, px=PX)
        assert len(files(tmp_path / "c")) == 6


class TestBounds:
    def test_of_a_large_table_the_first_rows_are_kept(self, tmp_path, table):
        cache = PatchCache(tmp_path, table, px=PX, limit_gb=5.5 * ROW_BYTES / 1e9)
        for row in range(12):
            cache.put(row, *pair(row))
        assert [cache.get(row) is not None for row in range(12)] == [True] * 5 + [False] * 7
        assert sum(file.stat().st_size for file in files(tmp_path)) <= 5.5 * ROW_BYTES

    def test_files_not_used_for_longest_go_first(self, tmp_path, table):
        tables = [table.take(range(i, i + 4)) for i in range(3)]
        for age, one in enumerate(tables):
            cache = PatchCache(tmp_path / "c", one, px=PX, limit_gb=8.5 * ROW_BYTES / 1e9)
            for row in range(4):
                cache.put(row, *pair(row))
            for file in files(tmp_path / "c"):
                stat = file.stat()
                os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns - 10**9 * (3 - age)))
        assert len(files(tmp_path / "c")) == 2
        found = [PatchCache(tmp_path / "c", one, px=PX).get(0) is not None for one in tables]
        assert found == [False, True, True]

    @pytest.mark.parametrize("limit", [0, -1, float("nan")])
    def test_a_limit_of_nothing_is_refused(self, tmp_path, table, limit):
        with pytest.raises(Qp2trainError, match="limit"):
            PatchCache(tmp_path, table, px=PX, limit_gb=limit)

    def test_a_full_disk_ends_the_storing_only(self, tmp_path, table, caplog):
        cache = PatchCache(tmp_path, table, px=PX)
        cache.put(0, *pair(0))
        cache._file.close()
        cache._file = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115
        with caplog.at_level(logging.WARNING):
            cache.put(1, *pair(1))
            cache.put(2, *pair(2))
        cache._file.close()
        cache._file = None
        assert caplog.text.count("no further patches are kept") == 1
        assert [cache.get(row) is not None for row in range(3)] == [True, False, False]


def test_a_dataset_reads_each_patch_once_for_all_runs(tmp_path, table):
    plain = PatchDataset(table, Augmentation(PX, "medium"))
    px = plain.augmentation.read_px
    for run in range(2):
        cached = PatchDataset(table, Augmentation(PX, "medium"), cache=PatchCache(tmp_path / "c", table, px=px))
        for row in range(len(table)):
            for a, b in zip(plain[row, 7], cached[row, 7], strict=True):
                assert np.array_equal(a, b)
        assert bool(cached._open) == (run == 0)  # the second run opens no slide

"""Windows and the map they add up to, on arrays small enough to see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qp2train.infer.stitch import Stitcher, blend_weights, window_starts


def stitched(windows: dict[tuple[int, int], np.ndarray], height: int, width: int, size: int) -> np.ndarray:
    stitcher = Stitcher(1, height, width, size=size)
    out = np.zeros((1, height, width), np.float32)
    ys = sorted({y for _, y in windows})
    for y, finished in stitcher.bands(ys):
        for (x, at), window in windows.items():
            if at == y:
                stitcher.add(window, x, y)
        top, rows = stitcher.rows_above(finished)
        out[:, top : top + rows.shape[1]] = rows
    return out[0]


def test_starts_by_hand():
    assert window_starts(100, 40, 0.0) == [0, 40, 80]
    assert window_starts(100, 40, 0.5) == [-10, 10, 30, 50, 70]
    assert window_starts(10, 40, 0.25) == [-5]
    assert window_starts(1, 1, 0.0) == [0]


@given(length=st.integers(1, 500), size=st.integers(1, 80), overlap=st.floats(0, 0.99))
def test_windows_cover_everything_and_overlap_as_asked(length, size, overlap):
    starts = window_starts(length, size, overlap)
    step = max(1, round(size * (1 - overlap)))
    assert starts[0] <= 0
    assert starts[-1] + size >= length
    assert set(np.diff(starts)) <= {step}
    seen = np.zeros(length, int)
    for s in starts:
        seen[max(s, 0) : s + size] += 1
    assert seen.min() >= 1
    # The border is seen by the inner part of a window: it lies half an overlap inside.
    assert starts[0] == -((size - step) // 2)


def test_no_window_lies_beside_the_map():
    for length in range(1, 60):
        starts = window_starts(length, 16, 0.5)
        assert starts[-1] < length


def test_weights_are_a_bell_and_never_nothing():
    weights = blend_weights(8)
    assert weights.shape == (8, 8)
    assert weights.min() > 0
    assert weights.max() == weights[3, 3] == weights[4, 4]
    assert np.array_equal(weights, weights.T)
    assert np.array_equal(weights, weights[::-1])


def test_one_window_comes_out_as_it_is():
    window = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    assert stitched({(0, 0): window}, 4, 4, 4) == pytest.approx(window[0])


def test_a_window_over_the_border_is_cut():
    window = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    assert stitched({(-1, -2): window}, 2, 3, 4) == pytest.approx(window[0, 2:, 1:])


def test_two_windows_meet_in_the_middle():
    ones, threes = np.full((1, 4, 4), 1, np.float32), np.full((1, 4, 4), 3, np.float32)
    row = stitched({(0, 0): ones, (2, 0): threes}, 4, 6, 4)[0]
    bell = np.sin(np.pi * (np.arange(4) + 0.5) / 4) ** 2
    second = (1 * bell[2] + 3 * bell[0]) / (bell[2] + bell[0])
    third = (1 * bell[3] + 3 * bell[1]) / (bell[3] + bell[1])
    assert row == pytest.approx([1, 1, second, third, 3, 3], abs=1e-5)


def test_where_no_window_was_it_is_zero():
    ones = np.ones((1, 2, 2), np.float32)
    assert stitched({(0, 0): ones}, 2, 4, 2).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    size=st.integers(2, 24),
    overlap=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_windows_cut_from_a_map_give_it_back(height, width, size, overlap, seed):
    pad = 30
    field = np.random.default_rng(seed).random((1, height + 2 * pad, width + 2 * pad), dtype=np.float32)
    windows = {
        (x, y): field[:, y + pad : y + pad + size, x + pad : x + pad + size]
        for y in window_starts(height, size, overlap)
        for x in window_starts(width, size, overlap)
    }
    out = stitched(windows, height, width, size)
    assert out == pytest.approx(field[0, pad : pad + height, pad : pad + width], abs=1e-5)


def test_memory_is_one_band_however_high_the_map():
    stitcher = Stitcher(3, 100_000, 50, size=16)
    assert stitcher._sum.shape == (3, 16, 50)
    stitcher.add(np.ones((3, 16, 16), np.float32), 0, 0)
    top, rows = stitcher.rows_above(8)
    assert (top, rows.shape) == (0, (3, 8, 50))
    assert stitcher._sum.shape == (3, 16, 50)

"""Many outlines → many small masks at once, by the pixel-centre rule."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

# Pixels of spans that are written out at once; 4 million are 50 MB of indices.
PIXELS_AT_ONCE = 1 << 22


def paint_ranks(
    polygons: NDArray[np.object_],
    rank: Ints,
    pair_window: Ints,
    pair_polygon: Ints,
    *,
    corners: Floats,
    step: tuple[float, float],
    px: int,
) -> NDArray[np.int32]:
    """In every pixel of every window, the highest rank of the polygons in which the pixel's centre lies.

    What rasterio does one call at a time, with a conversion of every polygon in each (0.1 ms), here takes one
    pass over all edges: each crosses some rows, and between every two crossings of a row lies the inside.
    Source: the even-odd scan conversion of any textbook.

    Args:
        polygons: Shapely polygons, finite, with holes or not.
        rank: (polygons) ≥ 1.
        pair_window: (pairs) which window …
        pair_polygon: (pairs) … which polygon may touch.
        corners: (windows, 2) their top-left corners.
        step: Width and height of a pixel.
        px: Side of a window in pixels.

    Returns:
        (windows, px, px) int32; 0 = no polygon.
    """
    out = np.zeros((len(corners), px, px), dtype=np.int32)
    pair, top, bottom, x, slope = _edges(polygons, pair_polygon)
    left_edge, top_edge = corners[pair_window[pair]].T
    # The rows whose centre lies in [top, bottom) of the edge.
    first = _cell((top - top_edge) / step[1], px)
    rows = _cell((bottom - top_edge) / step[1], px) - first
    crossing = np.repeat(np.arange(len(pair)), rows)
    row = np.arange(len(crossing)) - np.repeat(np.cumsum(rows) - rows, rows) + first[crossing]
    y = top_edge[crossing] + (row + 0.5) * step[1]
    at = x[crossing] + (y - top[crossing]) * slope[crossing]
    column = _cell((at - left_edge[crossing]) / step[0], px)
    # Sorted by pair, row and column, crossings alternate between entering and leaving.
    keys = np.sort((pair[crossing] * px + row) * (px + 1) + column)
    line, start = np.divmod(keys[0::2], px + 1)
    length = keys[1::2] - keys[0::2]
    inside = length > 0
    line, start, length = line[inside], start[inside], length[inside]
    which, row = np.divmod(line, px)
    height = rank[pair_polygon[which]].astype(np.int32)
    row_of_all = pair_window[which] * px + row
    whole = length == px
    _raise_rows(out, row_of_all[whole], height[whole])
    _raise_spans(out, row_of_all[~whole] * px + start[~whole], length[~whole], height[~whole])
    return out


def _edges(polygons: NDArray[np.object_], pair_polygon: Ints) -> tuple[Ints, Floats, Floats, Floats, Floats]:
    """Of every pair the edges of its polygon that are not level: pair, top, bottom, x at the top, dx/dy."""
    used, of_used = np.unique(pair_polygon, return_inverse=True)
    rings, owner = shapely.get_rings(polygons[used], return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    joined = np.flatnonzero((ring[1:] == ring[:-1]) & (xy[1:, 1] != xy[:-1, 1]))
    (x0, y0), (x1, y1) = xy[joined].T, xy[joined + 1].T
    down = y0 < y1
    top, bottom, x = np.where(down, y0, y1), np.where(down, y1, y0), np.where(down, x0, x1)
    slope = (x1 - x0) / (y1 - y0)
    count = np.bincount(owner[ring[joined]], minlength=len(used))
    begin = np.cumsum(count) - count
    per_pair = count[of_used]
    pair = np.repeat(np.arange(len(pair_polygon)), per_pair)
    edge = np.arange(len(pair)) + np.repeat(begin[of_used] - (np.cumsum(per_pair) - per_pair), per_pair)
    return pair, top[edge], bottom[edge], x[edge], slope[edge]


def _cell(position: Floats, px: int) -> Ints:
    """The first pixel whose centre does not lie before a position, within the window."""
    return np.clip(np.ceil(position - 0.5), 0, px).astype(np.intp)


def _raise_rows(out: NDArray[np.int32], row: Ints, height: NDArray[np.int32]) -> None:
    """Whole rows: one number each, instead of all their pixels."""
    floor = np.zeros(out.shape[0] * out.shape[1], dtype=np.int32)
    np.maximum.at(floor, row, height)
    np.maximum(out, floor.reshape(out.shape[:2])[..., None], out=out)


def _raise_spans(out: NDArray[np.int32], start: Ints, length: Ints, height: NDArray[np.int32]) -> None:
    flat, ends = out.reshape(-1), np.cumsum(length)
    done = 0
    while done < len(start):
        written = ends[done - 1] if done else 0
        upto = max(int(np.searchsorted(ends, written + PIXELS_AT_ONCE, side="right")), done + 1)
        some = length[done:upto]
        within = np.arange(some.sum()) - np.repeat(np.cumsum(some) - some, some)
        np.maximum.at(flat, np.repeat(start[done:upto], some) + within, np.repeat(height[done:upto], some))
        done = upto

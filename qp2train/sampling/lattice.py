"""The cells that QuPath's LabeledImageServer gives a shape, for comparing masks with QuPath's own.

QuPath draws with Java2D, without antialiasing and with its default stroke control: a cell belongs to an area when its
top left *corner* lies inside (OpenJDK, java2d/loops/ProcessPath.c). Corners of outlines are first rounded to single
precision and cut to 1/1024 of a cell, outlines are clipped to the tile, and an edge goes down from row to row by a
slope that is itself cut to 1/1024. All of that is done here in the same steps, as any other arithmetic differs in some
pixels of long edges.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
Singles = NDArray[np.float32]
Tile = NDArray[np.uint8]

_ONE = 1024  # fixed point: ten bits below the point
_HALF = np.float32(0.5)
_BELOW, _ABOVE, _OUTSIDE = 1, 2, 3
_FAR = 2.0**30  # cells; beyond, single precision is coarser than a tile


def draw(
    tile: Tile, geometry: BaseGeometry, value: int, *, origin: tuple[float, float], cell: tuple[float, float]
) -> None:
    """Draw a shape into a tile, where Java2D would.

    Areas are filled by the even-odd rule. A rectangle parallel to the axes is taken for one of QuPath's rectangle
    tool, which Java2D treats apart: each side goes to the cell border at or before it, once a quarter of a cell is
    added. (As a polygon of QuPath's it would be treated as any other; an annotation does not say which it was.) Lines
    are one cell wide; points are the cell that they lie in.

    Args:
        tile: (height, width) uint8, drawn into.
        geometry: In full-resolution pixels.
        value: What the cells get.
        origin: Of the tile: (x, y) in full-resolution pixels.
        cell: (width, height) of a cell in full-resolution pixels.
    """
    size = tile.shape[1], tile.shape[0]
    scale = 1 / np.asarray(cell)
    shift = -np.asarray(origin) * scale
    if _is_rectangle(geometry):
        corners = np.array(geometry.bounds).reshape(2, 2) * scale + shift
        (left, top), (right, bottom) = np.clip(np.floor(corners + 0.25), 0, size).astype(int).tolist()
        tile[top:bottom, left:right] = value
        return
    parts = shapely.get_parts(shapely.get_parts(geometry))  # twice: a collection may hold a MultiPolygon
    rings = [np.asarray(r.coords) for p in parts if p.geom_type == "Polygon" for r in (p.exterior, *p.interiors)]
    if rings:
        ends = [_in_cells_single(xy, scale, shift) for xy in rings]
        if not _thin(cell):
            ends = [np.floor(xy + np.float32(0.25)) - np.float32(0.25) for xy in ends]
        _fill(tile, np.concatenate([np.hstack([xy[:-1], xy[1:]]) for xy in ends]), value)
    for part in parts:
        if part.geom_type in ("LineString", "LinearRing"):
            xy = np.asarray(part.coords)
            if len(xy) == 2:
                segments = [_straight(_in_cells(xy, scale, shift))]
            else:
                segments = _segments(_in_cells_single(xy, scale, shift), size)
            for segment in segments:
                for column, row in _cells_between(*segment, size=size):
                    tile[row, column] = value
        elif part.geom_type == "Point" and not part.is_empty:
            column, row = np.floor((part.x - origin[0]) / cell[0]), np.floor((part.y - origin[1]) / cell[1])
            if 0 <= column < size[0] and 0 <= row < size[1]:
                tile[int(row), int(column)] = value


def _thin(cell: tuple[float, float]) -> bool:
    """Whether QuPath's pen, one cell in single precision, counts as thin: Java2D then fills in another way as well."""
    return float(np.float32(cell[0])) ** 2 <= cell[0] ** 2 * 1.000000001


def _in_cells(xy: Doubles, scale: Doubles, shift: Doubles) -> Doubles:
    return np.clip(xy[:, :2] * scale + shift, -_FAR, _FAR)


def _in_cells_single(xy: Doubles, scale: Doubles, shift: Doubles) -> Singles:
    if (scale == 1).all():  # Java2D then rounds before it moves the shape, and not after
        return np.clip(xy[:, :2], -_FAR, _FAR).astype(np.float32) + shift.astype(np.float32)
    return _in_cells(xy, scale, shift).astype(np.float32)


def _is_rectangle(geometry: BaseGeometry) -> bool:
    if geometry.geom_type != "Polygon" or geometry.is_empty or geometry.interiors or len(geometry.exterior.coords) != 5:
        return False
    x, y = np.asarray(geometry.exterior.coords)[:, :2].T
    left, top, right, bottom = geometry.bounds
    on_border = np.isin(x, (left, right)) & np.isin(y, (top, bottom))
    return bool(on_border.all() and ((np.diff(x) == 0) ^ (np.diff(y) == 0)).all())


def _fill(tile: Tile, edges: Singles, value: int) -> None:
    """Fill between edges, (n, 4) x1 y1 x2 y2 in cells, by the even-odd rule."""
    height, width = tile.shape
    ends = _clipped(edges, width, height)
    ends = ends[ends[:, 1] != ends[:, 3]]
    upwards = ends[:, 1] > ends[:, 3]
    ends[upwards] = ends[upwards][:, [2, 3, 0, 1]]
    x, top, x_bottom, bottom = ends.T
    first, last = -(-top // _ONE), -(-bottom // _ONE)  # rows whose corner lies in [top, bottom)
    rows = last - first
    across, down = x_bottom - x, bottom - top
    x = x + _cut(across * (first * _ONE - top), down)
    slope = _cut(across * _ONE, down)
    edge = np.repeat(np.arange(len(ends)), rows)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows)
    row = first[edge] + step
    column = np.clip(-(-(x[edge] + step * slope[edge]) // _ONE), 0, width)
    inside = (row >= 0) & (row < height)
    row, column = row[inside], column[inside]
    if not row.size:
        return
    window = slice(row.min(), row.max() + 1), slice(column.min(), column.max() + 1)
    crossings = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), dtype=np.int64)
    np.add.at(crossings, (row - window[0].start, column - window[1].start), 1)
    odd = (np.cumsum(crossings, axis=1) & 1).astype(bool)
    tile[window][odd[:, : width - window[1].start]] = value
    open_to_right = odd[:, -1]  # edges beyond the right border have been left out
    tile[window[0], window[1].stop :][open_to_right] = value


def _clipped(edges: Singles, width: int, height: int) -> Ints:
    """Edges within the tile, in fixed point. What lies left of it becomes a part of its left border."""
    low = -_HALF
    right, bottom = (np.float32(n) - _HALF - np.float32(1 / _ONE) for n in (width, height))
    x1, y1, x2, y2 = edges.T
    y1, x1, side = _cut_first(y1, x1, y2, x2, low, bottom)
    y2, x2, other = _cut_first(y2, x2, y1, x1, low, bottom)
    kept = (side != _OUTSIDE) & (other != _OUTSIDE)
    x1, y1, x2, y2 = (v[kept] for v in (x1, y1, x2, y2))
    beyond = (x1 > right) & (x2 > right)
    x1, y1, x2, y2 = (v[~beyond] for v in (x1, y1, x2, y2))
    before = (x1 < low) & (x2 < low)
    x1, x2 = np.where(before, low, x1), np.where(before, low, x2)
    from_x, from_y, first = _cut_first(x1, y1, x2, y2, low, right)
    to_x, to_y, second = _cut_first(x2, y2, from_x, from_y, low, right)
    pieces = [np.column_stack([from_x, from_y, to_x, to_y])]
    enters, leaves = first == _BELOW, second == _BELOW
    pieces.append(np.column_stack([from_x, y1, from_x, from_y])[enters])
    pieces.append(np.column_stack([to_x, to_y, to_x, y2])[leaves])
    return _fixed(np.concatenate(pieces))


def _cut_first(
    a1: Singles, b1: Singles, a2: Singles, b2: Singles, low: np.float32, high: np.float32
) -> tuple[Singles, Singles, Ints]:
    """The first ends moved along their edges to low ≤ a ≤ high, and what was done to each."""
    done = np.zeros(len(a1), dtype=np.int64)
    done[a1 < low], done[a1 > high] = _BELOW, _ABOVE
    done[((a1 < low) & (a2 < low)) | ((a1 > high) & (a2 > high))] = _OUTSIDE
    to = np.where(done == _BELOW, low, high).astype(np.float64)
    run = np.where(a2 == a1, np.float32(1), a2 - a1).astype(np.float64)
    moved = (b1 + (to - a1) * (b2 - b1).astype(np.float64) / run).astype(np.float32)
    cut = (done == _BELOW) | (done == _ABOVE)
    return np.where(cut, to.astype(np.float32), a1), np.where(cut, moved, b1), done


def _fixed(values: Singles) -> Ints:
    cut: Ints = np.trunc(values * np.float32(_ONE)).astype(np.int64)
    return cut


def _cut(numerator: Ints, denominator: Ints) -> Ints:
    """Division as in C: towards zero. The denominator is positive."""
    quotient: Ints = np.sign(numerator) * (np.abs(numerator) // denominator)
    return quotient


def _straight(ends: Doubles) -> tuple[int, int, int, int]:
    """QuPath's line, of two ends: Java2D draws it from the cell of one to the cell of the other."""
    x1, y1, x2, y2 = np.floor(ends).astype(int).ravel().tolist()
    return x1, y1, x2, y2


def _segments(xy: Singles, size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """First and last cell of each segment of a line that the tile shows."""
    low = -_HALF
    right, bottom = (np.float32(n) - _HALF - np.float32(1 / _ONE) for n in size)
    x1, y1, x2, y2 = np.hstack([xy[:-1], xy[1:]]).T
    y1, x1, a = _cut_first(y1, x1, y2, x2, low, bottom)
    y2, x2, b = _cut_first(y2, x2, y1, x1, low, bottom)
    x1, y1, c = _cut_first(x1, y1, x2, y2, low, right)
    x2, y2, d = _cut_first(x2, y2, x1, y1, low, right)
    seen = np.all(np.array([a, b, c, d]) != _OUTSIDE, axis=0)
    fixed = _fixed(np.column_stack([x1, y1, x2, y2])[seen])
    return [pair for pair in map(_ends, fixed.tolist()) if pair is not None]


def _ends(segment: list[int]) -> tuple[int, int, int, int] | None:
    """The first and last cell of a segment in fixed point; None if it stays within one cell."""
    x1, y1, x2, y2 = segment
    if x1 // _ONE == x2 // _ONE and y1 // _ONE == y2 // _ONE:
        return ((x1 + 512) // _ONE, (y1 + 512) // _ONE) * 2 if (x1, y1) == (x2, y2) else None
    if x1 == x2 or y1 == y2:
        return (x1 + 512) // _ONE, (y1 + 512) // _ONE, (x2 + 512) // _ONE, (y2 + 512) // _ONE
    return *_end(x1, y1, x2, y2), *_end(x2, y2, x1, y1)


def _end(x: int, y: int, to_x: int, to_y: int) -> tuple[int, int]:
    """The cell where a slanted segment leaves the lattice square of its first end."""
    left, top = x // _ONE * _ONE, y // _ONE * _ONE
    across, down = to_x - x, to_y - y
    if left != x and top != y:
        border = left + _ONE if across > 0 else left
        crossing = y + int((border - x) * down / across)
        if top <= crossing <= top + _ONE:
            x, y = border - 512, crossing
        else:
            border = top + _ONE if down > 0 else top
            x, y = x + int((border - y) * across / down), border - 512
    return (x + 512) // _ONE, (y + 512) // _ONE


def _cells_between(x1: int, y1: int, x2: int, y2: int, *, size: tuple[int, int]) -> list[tuple[int, int]]:
    """The part of Bresenham's line that lies in the tile."""
    across, down = abs(x2 - x1), abs(y2 - y1)
    to_right, to_bottom = (1 if x2 > x1 else -1), (1 if y2 > y1 else -1)
    steps, minor = max(across, down), min(across, down)
    # Of a long line only the steps within the tile: its longer axis says which.
    start, way, room = (x1, to_right, size[0]) if across >= down else (y1, to_bottom, size[1])
    first, last = sorted((-start * way, (room - 1 - start) * way))
    along = np.arange(max(0, first), min(steps, last) + 1)
    beside = (2 * along * minor + steps) // max(1, 2 * steps)
    dx, dy = (along, beside) if across >= down else (beside, along)
    column, row = x1 + to_right * dx, y1 + to_bottom * dy
    inside = (column >= 0) & (column < size[0]) & (row >= 0) & (row < size[1])
    return list(zip(column[inside].tolist(), row[inside].tolist(), strict=True))

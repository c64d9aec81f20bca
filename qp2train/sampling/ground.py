"""Ground: what is painted on one slide, asked for at many points and in many patches at once."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from qp2train.core.labels import BACKGROUND, IGNORE, LabelMap
from qp2train.core.snapshot import Snapshot
from qp2train.sampling.order import bottom_to_top, values_of
from qp2train.sampling.scan import Floats, Ints, paint_ranks

# An outline with more corners is cut up: else every patch within it would look at all of them.
CORNERS = 256
# Pixels of masks that are held at once (5 bytes each), and edges that they may look at (60 bytes each).
PIXELS_AT_ONCE, CORNERS_AT_ONCE = 1 << 21, 1 << 20


class Ground:
    """The annotations of one slide as `Painter` paints them, for thousands of places in one call.

    Args:
        annotations: The objects of the slide.
        shapes: Their geometries.
        labels: Class → pixel value.
        slide_size: (width, height) in full-resolution pixels; beyond it everything is ignored.
    """

    @np.errstate(invalid="ignore")  # coordinates that are no numbers: their shapes are left out
    def __init__(
        self, annotations: Snapshot, shapes: NDArray[np.object_], labels: LabelMap, *, slide_size: tuple[int, int]
    ) -> None:
        names = annotations.column("class_name")
        order = bottom_to_top(shapes, names, annotations.column("id"), annotations.column("parent"), labels)
        blank = IGNORE if labels.unannotated == "ignore" else BACKGROUND
        # By rank, 0 = nobody painted here.
        self._values = np.array([blank, *values_of(names, labels)[order]], dtype=np.uint8)
        self._size = np.array(slide_size, dtype=np.float64)
        pieces, of_shape = _pieces(shapes[order])
        areal = shapely.get_dimensions(pieces) == 2
        self._areas, self._area_rank = pieces[areal], of_shape[areal] + 1
        self._thin, self._thin_rank = pieces[~areal], of_shape[~areal] + 1
        self._area_corners = shapely.get_num_coordinates(self._areas)
        self._area_tree, self._thin_tree = shapely.STRtree(self._areas), shapely.STRtree(self._thin)

    def values_at(self, points: Floats) -> NDArray[np.uint8]:
        """The value at each of (N, 2) points. Lines are one pixel wide, points one pixel large."""
        rank = np.zeros(len(points), dtype=np.intp)
        places = shapely.points(points)
        which, piece = self._area_tree.query(places, predicate="intersects")
        np.maximum.at(rank, which, self._area_rank[piece])
        if len(self._thin):
            which, piece = self._thin_tree.query(places, predicate="dwithin", distance=0.5)
            np.maximum.at(rank, which, self._thin_rank[piece])
        values = self._values[rank]
        values[((points < 0) | (points >= self._size)).any(axis=1)] = IGNORE
        return values

    def masks(self, corners: Floats, *, step: tuple[float, float], px: int) -> NDArray[np.uint8]:
        """(N, px, px): the mask of each window.

        Args:
            corners: (N, 2), the windows' top-left corners.
            step: Width and height of a mask pixel, in full-resolution pixels.
            px: Side of a window in mask pixels.
        """
        windows = shapely.box(*corners.T, *(corners + np.multiply(step, px)).T)
        window, piece = self._area_tree.query(windows)
        place = (corners, step, px)
        rank = paint_ranks(self._areas, self._area_rank, window, piece, corners=corners, step=step, px=px)
        if len(self._thin):
            self._draw_thin(rank, windows, *place)
        masks = self._values[rank]
        for axis in (0, 1):
            centre = corners[:, axis, None] + (np.arange(px) + 0.5) * step[axis]
            beyond = (centre < 0) | (centre >= self._size[axis])
            if beyond.any():
                masks[np.broadcast_to(beyond[:, None, :] if axis == 0 else beyond[:, :, None], masks.shape)] = IGNORE
        return masks

    def counts(self, corners: Floats, *, side: float, px: int) -> NDArray[np.int64]:
        """(N, 256): how many of px × px points of each patch have which value; `corners` are the patches' top-left."""
        out = np.zeros((len(corners), IGNORE + 1), dtype=np.int64)
        most = max(1, PIXELS_AT_ONCE // px**2)
        for first in range(0, len(corners), most):
            for some in self._bundles(corners[first : first + most], side):
                at = first + some
                masks = self.masks(corners[at], step=(side / px, side / px), px=px)
                key = masks.reshape(len(at), -1) + np.arange(len(at))[:, None] * (IGNORE + 1)
                found = np.bincount(key.ravel(), minlength=len(at) * (IGNORE + 1))
                out[at] = found.reshape(-1, IGNORE + 1)
        if self._values[0] == IGNORE:
            out[~out.any(axis=1), IGNORE] = px**2
        return out

    def _bundles(self, corners: Floats, side: float) -> list[Ints]:
        """Windows that can be painted together without taking much memory, leaving out those with nothing in them."""
        windows = shapely.box(*corners.T, *(corners + side).T)
        window, piece = self._area_tree.query(windows)
        edges = np.bincount(window, self._area_corners[piece], minlength=len(windows))
        busy = (edges > 0) | (self._values[0] != IGNORE)
        busy[self._thin_tree.query(windows)[0]] = True
        which = np.flatnonzero(busy)
        bundle = np.cumsum(edges[which]) // CORNERS_AT_ONCE
        return np.split(which, np.flatnonzero(np.diff(bundle)) + 1) if which.size else []

    def _draw_thin(
        self, rank: NDArray[np.int32], windows: NDArray[np.object_], corners: Floats, step: tuple[float, float], px: int
    ) -> None:
        """Lines and points: every pixel that they come through (a line by steps of half a pixel)."""
        window, piece = self._thin_tree.query(windows)
        if not window.size:
            return
        inside = shapely.segmentize(shapely.intersection(self._thin[piece], windows[window]), min(step) / 2)
        xy, pair = shapely.get_coordinates(inside, return_index=True)
        cell = np.floor((xy - corners[window[pair]]) / step).astype(np.intp)
        pair, cell = pair[ok := ((cell >= 0) & (cell < px)).all(axis=1)], cell[ok]
        np.maximum.at(rank, (window[pair], cell[:, 1], cell[:, 0]), self._thin_rank[piece[pair]].astype(np.int32))


def _pieces(shapes: NDArray[np.object_]) -> tuple[NDArray[np.object_], Ints]:
    """Polygons, lines and points of few corners each, and of which shape they are."""
    owner = np.arange(len(shapes))
    parts = shapes
    if (shapely.get_num_geometries(shapes) != 1).any():
        parts, owner = shapely.get_parts(shapes, return_index=True)
    xy, index = shapely.get_coordinates(parts, return_index=True)
    endless = np.zeros(len(parts), dtype=bool)
    endless[index[~np.isfinite(xy).all(axis=1)]] = True
    plain = ~endless & ~shapely.is_empty(parts)
    large = plain & (shapely.get_num_coordinates(parts) > CORNERS)
    large[large] = shapely.is_valid(parts[large])
    found, owners = [parts[plain & ~large]], [owner[plain & ~large]]
    for i in np.flatnonzero(large):
        cut = shapely.get_parts(_cut_up(parts[i]))
        found.append(cut)
        owners.append(np.full(len(cut), owner[i]))
    return np.concatenate(found), np.concatenate(owners)


def _cut_up(shape: BaseGeometry) -> list[BaseGeometry]:
    """A large outline in pieces: halved where it is longer until each has few corners. They tile it exactly."""
    done, left = [], [shape]
    while left:
        one = left.pop()
        x0, y0, x1, y1 = one.bounds
        if shapely.get_num_coordinates(one) <= CORNERS or max(x1 - x0, y1 - y0) < 1:
            done.append(one)
            continue
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        halves = [(x0, y0, x, y1), (x, y0, x1, y1)] if x1 - x0 > y1 - y0 else [(x0, y0, x1, y), (x0, y, x1, y1)]
        cut = [shapely.clip_by_rect(one, *half) for half in halves]
        left += [
            half for half in cut if not half.is_empty and shapely.get_dimensions(half) == shapely.get_dimensions(one)
        ]
    return done

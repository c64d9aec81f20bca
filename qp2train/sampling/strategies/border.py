"""Border: points on the outline of a class, where another class or background begins."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from qp2train.core.labels import IGNORE
from qp2train.sampling.site import Floats, Site, Values


class OnOutlines:
    """Uniformly along what is to be seen of the outlines. Where nothing is annotated beyond, there is no border."""

    tries = 1

    def weights(self, site: Site) -> Floats:
        areal = site.has_place & (shapely.get_dimensions(site.shapes) == 2)
        return np.where(areal, shapely.length(site.shapes), 0)

    def points(
        self, site: Site, chosen: NDArray[np.intp], values: Values, rng: np.random.Generator
    ) -> tuple[Floats, NDArray[np.bool_]]:
        points, normal = _on_outlines(site.shapes[chosen], step=site.scale / 2, rng=rng)
        one, other = (site.ground.values_at(points + side * normal) for side in (1, -1))
        beyond = np.where(one == values, other, one)
        seen = (one == values) | (other == values)
        return points, seen & (beyond != values) & (beyond != IGNORE)


def _on_outlines(shapes: NDArray[np.object_], *, step: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(N, 2) a uniformly drawn point of each area's outline, holes included, and (N, 2) across it, `step` long."""
    rings, owner = shapely.get_parts(shapely.boundary(shapes), return_index=True)
    length = shapely.length(rings)
    end = np.cumsum(length)
    last = np.searchsorted(owner, np.arange(len(shapes)), side="right") - 1
    first = np.searchsorted(owner, np.arange(len(shapes)))
    begin = end[first] - length[first]
    place = rng.uniform(begin, end[last])
    ring = np.clip(np.searchsorted(end, place, side="right"), first, last)
    along = place - (end[ring] - length[ring])
    # Of the ring's direction there, from a stretch that does not reach over its end.
    start = np.clip(along - step / 2, 0, np.maximum(length[ring] - step, 0))
    xy, before, after = (_at(rings[ring], d) for d in (along, start, np.minimum(start + step, length[ring])))
    (dx, dy), stretch = (after - before).T, np.maximum(np.linalg.norm(after - before, axis=1), 1e-9)
    return xy, step * np.stack([-dy, dx], axis=1) / stretch[:, None]


def _at(lines: NDArray[np.object_], distance: Floats) -> Floats:
    xy: Floats = shapely.get_coordinates(shapely.line_interpolate_point(lines, distance))
    return xy

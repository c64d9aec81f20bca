"""Random: points drawn uniformly from the bounding boxes of what is annotated."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from qp2train.core.labels import IGNORE
from qp2train.sampling.site import Floats, Site, Values


class InBoxes:
    """Where boxes overlap, points are denser; a box may reach beside its annotation."""

    tries = 1

    def weights(self, site: Site) -> Floats:
        x0, y0, x1, y1 = shapely.bounds(site.shapes).T
        used = (site.values >= 0) & (site.values != IGNORE) & site.has_place
        return np.where(used, np.maximum(x1 - x0, 1) * np.maximum(y1 - y0, 1), 0)

    def points(
        self, site: Site, chosen: NDArray[np.intp], values: Values, rng: np.random.Generator
    ) -> tuple[Floats, NDArray[np.bool_]]:
        x0, y0, x1, y1 = shapely.bounds(site.shapes[chosen]).T
        points = np.stack([rng.uniform(x0, x1), rng.uniform(y0, y1)], axis=1)
        return points, np.ones(len(points), dtype=bool)

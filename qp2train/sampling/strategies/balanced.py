"""Balanced: an annotation of the class, then a point in it that shows the class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from qp2train.sampling.drawn import TRIES
from qp2train.sampling.points import points_within
from qp2train.sampling.site import Floats, Site, Values

AnnotationWeight = Literal["equal", "sqrt_area", "area"]

_WEIGHTS: dict[AnnotationWeight, Callable[[Floats], Floats]] = {
    "equal": np.ones_like,
    "sqrt_area": np.sqrt,
    "area": np.asarray,
}


class InAnnotations:
    """So that a small annotation gets as many patches as a large one, or more and less by its area."""

    tries = TRIES

    def __init__(self, weight: AnnotationWeight) -> None:
        self.weight = weight

    def weights(self, site: Site) -> Floats:
        weights = _WEIGHTS[self.weight](np.maximum(shapely.area(site.shapes), 1))
        return np.where(site.has_place, weights, 0)

    def points(
        self, site: Site, chosen: NDArray[np.intp], values: Values, rng: np.random.Generator
    ) -> tuple[Floats, NDArray[np.bool_]]:
        points = points_within(site.shapes[chosen], rng)
        return points, site.ground.values_at(points) == values

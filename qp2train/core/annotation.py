"""Annotation: one drawn or predicted object, in full-resolution pixels."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

from shapely.geometry.base import BaseGeometry

Kind = Literal["annotation", "detection", "cell", "tile", "tma_core"]

# In the metadata of a refined outline: the human's object whose place it took, as a GeoJSON feature.
REPLACED_KEY = "qp2train replaced"


@dataclass(frozen=True, slots=True)
class Plane:
    """Where in a stack an object lies: channel (-1 = all), z-slice, time point; as QuPath counts."""

    c: int = -1
    z: int = 0
    t: int = 0


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object on a slide.

    Args:
        geometry: Polygon, MultiPolygon, (Multi)LineString or (Multi)Point in full-resolution pixels,
            x right, y down, (0, 0) = the top-left corner of the first pixel.
        class_name: QuPath's class, derived classes joined by ": " ("Tumor: Positive"); None = unclassified.
        kind: QuPath's object type.
        name: The object's own name, None if it has none.
        measurements: Name → number; NaN is legal.
        locked: Whether QuPath lets a user move it.
        id: UUID text; made up when not given.
        parent: The id of the object it lies under in QuPath's hierarchy; None = directly under the image.
        plane: Channel, z-slice and time point.
        ellipse: The ROI is an ellipse and `geometry` its polygon approximation.
        color: The object's own (r, g, b), when it differs from its class's.
        source: The model that made it; None = a human.
        metadata: QuPath's text metadata of the object, provenance excluded.
        nucleus: Of a cell: the outline of its nucleus; None = it has none, or the object is no cell.
    """

    geometry: BaseGeometry
    class_name: str | None = None
    _: KW_ONLY
    kind: Kind = "annotation"
    name: str | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)
    locked: bool = False
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    parent: str | None = None
    plane: Plane = Plane()
    ellipse: bool = False
    color: tuple[int, int, int] | None = None
    source: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    nucleus: BaseGeometry | None = None

    @property
    def drawn(self) -> bool:
        """Whether a human drew it, or asked for it in place of what a human drew: what a model may learn from."""
        return self.source is None or REPLACED_KEY in self.metadata

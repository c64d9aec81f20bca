"""Entry: what sampling needs of an annotated image, wherever it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from qp2train.core.annotation import Annotation
from qp2train.slides import Slide

Objects = Literal["annotation", "detection", "all"]


class Entry(Protocol):
    """One image with its annotations: a QuPath project's entry, or a slide with a GeoJSON file."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...

    def slide(self) -> Slide: ...

    def annotations(self, kinds: Objects = "annotation") -> list[Annotation]:
        """The objects of some kinds: "detection" are detections, cells and tiles."""

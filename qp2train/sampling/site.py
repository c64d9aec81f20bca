"""Site: one slide while patches are placed on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from qp2train.core.geometry import Box
from qp2train.core.labels import BACKGROUND, IGNORE, LabelMap
from qp2train.core.patches import SlideRef
from qp2train.sampling.ground import Ground
from qp2train.sampling.inspector import Inspector
from qp2train.sampling.order import values_of
from qp2train.sampling.spacing import Spacing
from qp2train.slides import Slide

Floats = NDArray[np.float64]
Values = NDArray[np.int16]
Include = Literal["any", "centre"]

# A patch is judged on at most this many points a side: shares to 1 %, at a 16th of the time of a full mask.
JUDGED_PX = 64
# "Whatever is there": the label of a patch that was not drawn for a class.
WHATEVER = -1


class Row(NamedTuple):
    """One patch, as the table's first columns have it."""

    entry: str
    x: float
    y: float
    label: str
    annotation: str
    annotated: float


@dataclass(frozen=True)
class Rules:
    """What every patch must be like.

    Args:
        labels: Class → pixel value.
        size: Side in pixels.
        mpp: µm per pixel.
        include: "any" = something in the patch is annotated, "centre" = its central pixel is.
        min_annotated: Least share that is not ignored.
        unlabelled: Also where nothing is annotated.
        min_distance_um: Between the centres of one slide.
        inspector: Judges the pictures; None = they are not read.
    """

    labels: LabelMap
    size: int
    mpp: float
    include: Include = "any"
    min_annotated: float = 0.0
    unlabelled: bool = False
    min_distance_um: float = 0.0
    inspector: Inspector | None = None


class Site:
    """A slide's annotations and pixels as they are needed, and which patches on it are good.

    Args:
        ref: The slide.
        rules: What every patch must be like.
        spacing: The centres on it so far.
        open_slide: Opens its pixels.
    """

    def __init__(self, ref: SlideRef, rules: Rules, spacing: Spacing, open_slide: Callable[[], Slide]) -> None:
        self.ref, self.rules = ref, rules
        self.scale = rules.mpp / ref.mpp  # full-resolution pixels per patch pixel
        self.side = rules.size * self.scale
        self._spacing, self._open_slide = spacing, open_slide

    @cached_property
    def ground(self) -> Ground:
        return Ground(self.ref.snapshot, self.shapes, self.rules.labels, slide_size=self.ref.size)

    @cached_property
    def shapes(self) -> NDArray[np.object_]:
        return self.ref.snapshot.geometries()

    @cached_property
    def ids(self) -> list[str]:
        return self.ref.snapshot.column("id")

    @cached_property
    def values(self) -> Values:
        """What each annotation paints, -1 = nothing."""
        return values_of(self.ref.snapshot.column("class_name"), self.rules.labels)

    @cached_property
    def has_place(self) -> NDArray[np.bool_]:
        """Which annotations are not empty, and have only coordinates that are numbers."""
        with np.errstate(invalid="ignore", over="ignore"):
            extent = np.column_stack(
                [shapely.bounds(self.shapes), shapely.area(self.shapes), shapely.length(self.shapes)]
            )
        found: NDArray[np.bool_] = np.isfinite(extent).all(axis=1)
        return found

    @cached_property
    def slide(self) -> Slide:
        return self._open_slide()

    def close(self) -> None:
        if "slide" in self.__dict__:
            self.slide.close()

    def place(
        self, centres: Floats, *, values: Values | int = WHATEVER, annotations: Sequence[str] | None = None
    ) -> list[Row | None]:
        """The patch round each centre, None where it breaks a rule.

        Args:
            centres: (N, 2), full-resolution pixels.
            values: The class that each is drawn for; WHATEVER = the one that fills most of it, or the one at its centre
                with `include="centre"`.
            annotations: The annotation's id that each is drawn for.
        """
        rules = self.rules
        # On whole patch pixels, as prediction reads them: between them a picture would be interpolated, and softer.
        corners = np.round((centres - self.side / 2) / self.scale) * self.scale
        labels = np.broadcast_to(np.asarray(values, dtype=np.int16), len(corners)).copy()
        free, possible = labels == WHATEVER, np.ones(len(corners), dtype=bool)
        if rules.include == "centre":
            # Of an even side the pixel to the lower right of the middle.
            middle = self.ground.values_at(corners + (rules.size // 2 + 0.5) * self.scale)
            labels[free] = middle[free]
            possible = ~free | (middle != IGNORE) | rules.unlabelled
        share, most = self._judged(corners[possible])
        good = share >= rules.min_annotated
        if rules.include == "any":
            labels[free] = most[free]
            good &= ~free | (share > 0) | rules.unlabelled
        rows: list[Row | None] = [None] * len(corners)
        for k, i in zip(np.flatnonzero(good), np.flatnonzero(possible)[good].tolist(), strict=True):
            x, y = corners[i].tolist()
            if self._is_welcome(x, y):
                name = "" if labels[i] == IGNORE else rules.labels.names[labels[i]]
                rows[i] = Row(
                    self.ref.entry, x, y, name, "" if annotations is None else annotations[i], float(share[k])
                )
        return rows

    def _judged(self, corners: Floats) -> tuple[Floats, Values]:
        """Of each patch the share that is not ignored, and the class that fills most; IGNORE = nothing is annotated."""
        px = min(self.rules.size, JUDGED_PX)
        counts = self.ground.counts(corners, side=self.side, px=px)[:, :IGNORE]
        share, classes = counts.sum(axis=1) / px**2, counts[:, 1:]
        most = np.where(classes.any(axis=1), classes.argmax(axis=1) + 1, np.where(share > 0, BACKGROUND, IGNORE))
        return share, most.astype(np.int16)

    def _is_welcome(self, x: float, y: float) -> bool:
        """Whether a patch is far enough from the others and its picture good; if so, it counts from now on."""
        centre = x + self.side / 2, y + self.side / 2
        inspector, size = self.rules.inspector, self.rules.size
        if not self._spacing.allows(*centre):
            return False
        if inspector is not None and inspector.refuses(self.slide.read(Box(x, y, self.side, self.side), (size, size))):
            return False
        self._spacing.add(*centre)
        return True


class Sites:
    """The slides of a sampling, one at a time: what was decoded of one is let go before the next.

    Args:
        refs: The slides.
        rules: What every patch must be like.
        opened: Entry id → opens its pixels.
    """

    def __init__(self, refs: Sequence[SlideRef], rules: Rules, opened: Callable[[str], Slide]) -> None:
        self.refs, self.rules = refs, rules
        self._opened = opened
        self._spacings = [Spacing(rules.min_distance_um / ref.mpp) for ref in refs]

    def __len__(self) -> int:
        return len(self.refs)

    def __iter__(self) -> Iterator[Site]:
        return (site for _, site in self.some(range(len(self.refs))))

    def some(self, indices: Sequence[int]) -> Iterator[tuple[int, Site]]:
        """(index, slide) of some."""
        for i in indices:
            ref = self.refs[i]
            site = Site(ref, self.rules, self._spacings[i], partial(self._opened, ref.entry))
            try:
                yield i, site
            finally:
                site.close()

    def place_each(
        self, where: NDArray[np.intp], place: Callable[[Site, NDArray[np.intp]], list[Row | None]]
    ) -> list[Row | None]:
        """Places picks slide by slide, and gives their rows back in the order of the picks.

        Args:
            where: (picks) index of the slide.
            place: The rows of some picks of one slide.
        """
        rows: list[Row | None] = [None] * len(where)
        for i, site in self.some(np.unique(where).tolist()):
            picks = np.flatnonzero(where == i)
            for k, row in zip(picks.tolist(), place(site, picks), strict=True):
                rows[k] = row
        return rows

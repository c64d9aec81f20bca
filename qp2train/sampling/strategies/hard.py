"""Hard: places where a model is sure of a class, and the annotations say another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qp2train.core.labels import IGNORE, LabelMap
from qp2train.core.scores import STEPS, ScoreMap
from qp2train.errors import LabelError
from qp2train.sampling.site import Floats, Row, Site, Sites, Values

# Side of the parts of a map that are looked at, in map pixels.
PART_PX = 512
# So many candidates are kept for each patch, for those that break a rule.
SPARE = 4

# Of a slide; None = there is no map of it.
Maps = Callable[[str], ScoreMap | None]


def hard(sites: Sites, maps: Maps, *, per_class: int, rng: np.random.Generator) -> dict[int, list[Row]]:
    """For each class, patches centred where it is wrongly predicted: value of the class → patches.

    Pixels of the score map are drawn without repetition, with the square of the class's score as weight, among those
    where something else is painted. (The square, for a good model is a little unsure of millions of pixels and
    wrong on thousands.) A patch carries the class that is painted at its centre.

    Args:
        sites: Where.
        maps: Entry id → score map.
        per_class: Patches for each class.
        rng: The random numbers.

    Raises:
        LabelError: A map that does not know one of the classes.
    """
    labels = sites.rules.labels
    wrong = {value: _Heaviest(per_class * SPARE) for value in range(1, len(labels.names))}
    for i, site in sites.some(range(len(sites))):
        found = maps(site.ref.entry)
        if found is not None:
            _check(found, labels, site)
            for corner, truth, scores in _parts(site, found):
                for value, heap in wrong.items():
                    heap.add(i, *_candidates(value, corner, truth, scores[value - 1], found, rng))
    return {value: _rows(sites, heap, per_class) for value, heap in wrong.items()}


@dataclass
class _Heaviest:
    """The candidates with the greatest keys so far: which slide, where, and what is painted there."""

    count: int
    kept: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, site: int, keys: Floats, points: Floats, truth: Values) -> None:
        if len(keys):
            self.kept.append(np.column_stack([keys, np.full(len(keys), site), points, truth]))
            if sum(map(len, self.kept)) > 8 * self.count:
                self.kept = [self.best()]

    def best(self) -> NDArray[np.float64]:
        every = np.concatenate(self.kept) if self.kept else np.empty((0, 5))
        return every[np.argsort(-every[:, 0], kind="stable")[: self.count]]


def _parts(site: Site, scores: ScoreMap) -> Iterator[tuple[tuple[int, int], NDArray[np.uint8], NDArray[np.uint8]]]:
    """(left, top), truth (h, w) and scores of the classes (C, h, w) of every part of a map that has annotations."""
    height, width = scores.shape
    px = min(PART_PX, max(height, width))
    rows = [scores.labels.names.index(name) for name in site.rules.labels.classes]
    for top in range(0, height, px):
        for left in range(0, width, px):
            part = scores.scores[rows, top : top + px, left : left + px]
            if part.any():
                corner = np.array([[scores.box.x + left * scores.scale[0], scores.box.y + top * scores.scale[1]]])
                truth = site.ground.masks(corner, step=scores.scale, px=px)[0, : part.shape[1], : part.shape[2]]
                if (truth != IGNORE).any():
                    yield (left, top), truth, part


def _candidates(
    value: int,
    corner: tuple[int, int],
    truth: NDArray[np.uint8],
    score: NDArray[np.uint8],
    found: ScoreMap,
    rng: np.random.Generator,
) -> tuple[Floats, Floats, Values]:
    """Key, point and truth of each pixel that is wrongly taken for a class.

    Source of the keys: Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006.
    """
    y, x = np.nonzero((truth != IGNORE) & (truth != value) & (score > 0))
    weight = (score[y, x] / STEPS) ** 2
    keys = np.log(rng.uniform(np.finfo(float).tiny, 1, len(weight))) / weight
    points = np.array([found.box.x, found.box.y]) + (np.stack([x, y], axis=1) + corner + 0.5) * found.scale
    return keys, points, truth[y, x].astype(np.int16)


def _rows(sites: Sites, heap: _Heaviest, per_class: int) -> list[Row]:
    best = heap.best()
    rows: list[Row] = []
    while len(best) and len(rows) < per_class:
        # Not one by one: each round goes over the slides.
        some, best = np.split(best, [max(per_class - len(rows), per_class // 4)])

        def place(site: Site, picks: NDArray[np.intp], some: Floats = some) -> list[Row | None]:
            return site.place(some[picks, 2:4], values=some[picks, 4].astype(np.int16))

        rows += [row for row in sites.place_each(some[:, 1].astype(np.intp), place) if row is not None]
    return rows[:per_class]


def _check(found: ScoreMap, labels: LabelMap, site: Site) -> None:
    unknown = [name for name in labels.classes if name not in found.labels.names]
    if unknown:
        raise LabelError(
            f"the score map of {site.ref.name} knows {', '.join(found.labels.classes)}, not {unknown[0]!r}: it was "
            "made by a model of other classes"
        )

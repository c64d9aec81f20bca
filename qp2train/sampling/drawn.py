"""Patches that are drawn: an annotation by its weight, then a point of it, until there are as many as asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qp2train.sampling.site import Floats, Row, Site, Sites, Values

# Points that are tried on an annotation before it is given up as painted over or too sparsely annotated around.
TRIES = 50
# Rounds over the slides. In each, what is still missing is drawn, and a few more, for some will not do.
ROUNDS, MORE, MOST = 50, 1.2, 10


class Draw(Protocol):
    """How a strategy draws."""

    # Points tried on a drawn annotation. 1: another annotation is drawn instead, so that weights hold for points.
    tries: int

    def weights(self, site: Site) -> Floats:
        """(annotations) how often each is drawn; 0 = never."""

    def points(
        self, site: Site, chosen: NDArray[np.intp], values: Values, rng: np.random.Generator
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """A point for each chosen annotation, and whether it will do for the value it is drawn for."""


@dataclass(frozen=True)
class _Pool:
    """The annotations that may be drawn for one value, of all slides: which slide, which of its annotations."""

    site: NDArray[np.int32]
    index: NDArray[np.int32]
    weight: Floats

    def pick(self, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """So many, by weight, with repetition."""
        cumulated = np.cumsum(self.weight)
        at = np.searchsorted(cumulated, rng.uniform(0, cumulated[-1], count), side="right")
        picked: NDArray[np.intp] = np.minimum(at, np.flatnonzero(self.weight)[-1])
        return picked


def draw(
    sites: Sites, how: Draw, quotas: Mapping[int, int], rng: np.random.Generator, *, of_class: bool
) -> dict[int, list[Row]]:
    """So many patches for each value, as far as there are places for them.

    Args:
        sites: Where.
        how: The strategy.
        quotas: Value → number of patches.
        rng: The random numbers.
        of_class: Annotations are drawn for their own value, and the patches carry their id; False = any for any.
    """
    pools = _pools(sites, how, list(quotas), of_class=of_class)
    found: dict[int, list[Row]] = {value: [] for value in quotas}
    rate, tried = dict.fromkeys(quotas, 1.0), dict.fromkeys(quotas, 0)
    for _ in range(ROUNDS):
        picks: dict[int, NDArray[np.intp]] = {}
        for value, quota in quotas.items():
            need, pool = quota - len(found[value]), pools[value]
            if need > 0 and tried[value] < quota * TRIES and pool.weight.any():
                more = 1.0 if how.tries > 1 else min(MORE / max(rate[value], 1 / TRIES), MOST)
                picks[value] = pool.pick(math.ceil(need * more), rng)
        if not picks:
            break
        for value, rows in _rows(sites, how, pools, picks, rng, named=of_class).items():
            good = [row for row in rows if row is not None]
            rate[value], tried[value] = len(good) / len(rows), tried[value] + len(rows)
            found[value] += good[: quotas[value] - len(found[value])]
            if how.tries > 1:
                hit = np.array([row is not None for row in rows])
                pools[value].weight[np.setdiff1d(picks[value][~hit], picks[value][hit])] = 0
    return found


def _pools(sites: Sites, how: Draw, values: list[int], *, of_class: bool) -> dict[int, _Pool]:
    parts: dict[int, list[tuple[NDArray[np.int32], NDArray[np.int32], Floats]]] = {value: [] for value in values}
    for i, site in sites.some(range(len(sites))):
        weights = how.weights(site)
        for value in values:
            index = np.flatnonzero((weights > 0) & (site.values == value if of_class else True)).astype(np.int32)
            parts[value].append((np.full(len(index), i, dtype=np.int32), index, weights[index]))
    return {value: _Pool(*map(np.concatenate, zip(*found, strict=True))) for value, found in parts.items()}


def _rows(
    sites: Sites,
    how: Draw,
    pools: Mapping[int, _Pool],
    picks: Mapping[int, NDArray[np.intp]],
    rng: np.random.Generator,
    *,
    named: bool,
) -> dict[int, list[Row | None]]:
    """The patch of each pick, in the order of the picks, though made slide by slide."""
    values = np.repeat(np.array(list(picks), dtype=np.int16), [len(at) for at in picks.values()])
    where = np.concatenate([pools[v].site[at] for v, at in picks.items()])
    index = np.concatenate([pools[v].index[at] for v, at in picks.items()])

    def place(site: Site, picks: NDArray[np.intp]) -> list[Row | None]:
        rows: list[Row | None] = [None] * len(picks)
        left = np.arange(len(picks))
        for _ in range(how.tries):
            centres, ok = how.points(site, index[picks[left]], values[picks[left]], rng)
            at = picks[left[ok]]
            names = [site.ids[k] for k in index[at]] if named else None
            for k, row in zip(left[ok], site.place(centres[ok], values=values[at], annotations=names), strict=True):
                rows[k] = row
            left = np.array([k for k in left if rows[k] is None], dtype=np.intp)
            if not left.size:
                break
        return rows

    rows = sites.place_each(where, place)
    ends = np.cumsum([len(at) for at in picks.values()]).tolist()
    return {v: rows[end - len(at) : end] for (v, at), end in zip(picks.items(), ends, strict=True)}

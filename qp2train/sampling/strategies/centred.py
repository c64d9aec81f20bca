"""Centred: one patch on each annotation or cell."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from qp2train.core.labels import BACKGROUND, IGNORE, REGION
from qp2train.sampling.points import middles
from qp2train.sampling.site import Row, Site, Sites

ROUNDS = 20


def centred(sites: Sites, *, per_class: int | None, rng: np.random.Generator) -> dict[int, list[Row]]:
    """A patch on the middle of every object of a class: value → patches.

    Objects of a class that is painted as background have their patches too, `Region*` has none. What lies
    beside the slide is left out.

    Args:
        sites: Where.
        per_class: At most so many of each class, chosen at random; None = all.
        rng: The random numbers.
    """
    queues = _queues(sites, rng, shuffled=per_class is not None)
    found: dict[int, list[Row]] = {value: [] for value in queues}
    while any(map(len, queues.values())):
        taken = {}
        for value, queue in queues.items():
            need = len(queue) if per_class is None else per_class - len(found[value])
            # Those that break a rule are replaced by the next; not one by one, for each round goes over the slides.
            taken[value] = queue[: max(need, len(queue) // ROUNDS) if need > 0 else 0]
            queues[value] = queue[len(taken[value]) :] if need > 0 else queue[:0]
        for value, rows in _rows(sites, taken).items():
            found[value] = (found[value] + rows)[:per_class]
    return found


def _queues(sites: Sites, rng: np.random.Generator, *, shuffled: bool) -> dict[int, NDArray[np.intp]]:
    """Value → (N, 2) slide and annotation, in the order in which they are taken."""
    parts: dict[int, list[NDArray[np.intp]]] = {}
    for i, site in sites.some(range(len(sites))):
        region = np.array([n == REGION for n in site.ref.snapshot.column("class_name")], dtype=bool)
        wanted = (site.values >= 0) & (site.values != IGNORE) & ~(region & (site.values == BACKGROUND))
        wanted &= site.has_place
        for value in np.unique(site.values[wanted]).tolist():
            index = np.flatnonzero(wanted & (site.values == value))
            parts.setdefault(value, []).append(np.stack([np.full_like(index, i), index], axis=1))
    queues = {value: np.concatenate(parts[value]) for value in sorted(parts)}
    return {value: rng.permutation(queue) if shuffled else queue for value, queue in queues.items()}


def _rows(sites: Sites, taken: Mapping[int, NDArray[np.intp]]) -> dict[int, list[Row]]:
    values = np.repeat(np.array(list(taken), dtype=np.int16), [len(queue) for queue in taken.values()])
    where, index = np.concatenate(list(taken.values())).T

    def place(site: Site, picks: NDArray[np.intp]) -> list[Row | None]:
        chosen = index[picks]
        centres = middles(site.shapes[chosen])
        inside = ((centres >= 0) & (centres < site.ref.size)).all(axis=1)
        rows: list[Row | None] = [None] * len(picks)
        placed = site.place(
            centres[inside], values=values[picks[inside]], annotations=[site.ids[k] for k in chosen[inside]]
        )
        for k, row in zip(np.flatnonzero(inside), placed, strict=True):
            rows[k] = row
        return rows

    rows = sites.place_each(where, place)
    return {value: [r for r, v in zip(rows, values, strict=True) if r is not None and v == value] for value in taken}

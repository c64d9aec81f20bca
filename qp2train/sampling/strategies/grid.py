"""Grid: the slide cut into patches, of which those are kept that the rules allow."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qp2train.sampling.site import Floats, Row, Site, Sites

# Patches judged at once, and the fewest patch pixels from one to the next.
AT_ONCE, LEAST_STEP = 10_000, 1


def grid(sites: Sites, *, overlap: float) -> Iterator[Row]:
    """The patches of every slide, row by row from its top-left corner.

    Args:
        sites: Where.
        overlap: Share of a patch's side that neighbours have in common, 0 ≤ overlap < 1.
    """
    for site in sites:
        for centres in _centres(site, overlap):
            yield from (row for row in site.place(centres) if row is not None)


def _centres(site: Site, overlap: float) -> Iterator[Floats]:
    step = max(site.side * (1 - overlap), LEAST_STEP * site.scale)
    width, height = site.ref.size
    xs = np.arange(0, width, step) + site.side / 2
    ys = np.arange(0, height, step) + site.side / 2
    rows = max(1, AT_ONCE // len(xs))
    for start in range(0, len(ys), rows):
        x, y = np.meshgrid(xs, ys[start : start + rows])
        yield np.stack([x.ravel(), y.ravel()], axis=1)

"""How often a balanced training draws each patch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qp2train.core.patches import PatchTable
from qp2train.errors import Qp2trainError


def drawing_shares(
    table: PatchTable, classes: Sequence[object] | NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """(N,) the probability of each row, so that every class comes equally often.

    Rows of a class keep their weights among themselves. The table's weights alone would not do: they were made before
    the split, of which a part may have other shares of the classes.

    Args:
        table: The patches that are trained on.
        classes: (N,) what each row counts as; None = its `label`.

    Raises:
        Qp2trainError: Weights that are negative, not finite or all 0.
    """
    weights = table.rows["weight"].to_numpy(dtype=np.float64)
    if not (0 < weights.sum() < np.inf and weights.min() >= 0):
        raise Qp2trainError("the table's weights must not be negative, and at least one must be more than 0")
    named = np.asarray(table.rows["label"] if classes is None else classes).astype(str)
    _, of_row = np.unique(named, return_inverse=True)
    sums = np.bincount(of_row, weights=weights)[of_row]
    of_class = np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)
    shares: NDArray[np.float64] = of_class / of_class.sum()
    return shares

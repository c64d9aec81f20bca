"""Dealing whole groups (patients, slides) out to parts, so that each part also has its share of every class."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qp2train.core.splitting import check_folds, deal

Floats = NDArray[np.float64]

# A group is tried against so many others at most: dealing out 10,000 patients stays a matter of seconds, and among so
# many a partner that fits is found all the same.
PARTNERS = 256
# A handful is usual. Each round makes the imbalance less, so there is an end; this makes it come in time.
ROUNDS = 50


def deal_stratified(counts: Mapping[str, Sequence[int]], fractions: Sequence[float], *, seed: int) -> dict[str, int]:
    """Group → index of its part, so that each part comes near its fraction of the patches of every class.

    What `deal` gives by size alone is bettered by moving groups and by exchanging two, until nothing helps.

    Args:
        counts: Group → number of patches of each class.
        fractions: Share of each part.
        seed: Which of equally good divisions is taken.

    Raises:
        SplitError: As `deal`.
    """
    start = deal({g: sum(n) for g, n in counts.items()}, fractions, seed=seed)
    return _bettered(counts, fractions, start, seed=seed)


def deal_folds_stratified(counts: Mapping[str, Sequence[int]], k: int, *, seed: int) -> dict[str, int]:
    """Group → fold (0 … k-1), so that each fold has about the same number of patches of every class.

    scikit-learn's StratifiedGroupKFold makes the first draft, which is bettered as in `deal_stratified`. It looks at
    each group only once, leaves a fold empty where groups are few, and needs a class with k patches.

    Args:
        counts: Group → number of patches of each class.
        k: Number of folds.
        seed: Which of equally good divisions is taken.

    Raises:
        SplitError: As `deal_folds`.
    """
    check_folds(len(counts), k)
    fractions = [1 / k] * k
    start = deal({g: sum(n) for g, n in counts.items()}, fractions, seed=seed)
    drafts = [start, *_draft(counts, k, seed=seed)]
    found = [_bettered(counts, fractions, draft, seed=seed) for draft in drafts]
    return min(found, key=lambda part: imbalance(counts, fractions, part))


def imbalance(counts: Mapping[str, Sequence[int]], fractions: Sequence[float], part: Mapping[str, int]) -> float:
    """How far the parts are from their fractions of every class and of all patches; 0 = nowhere.

    The sum of (share - fraction)² / fraction over parts and classes (chi-square of shares): a rare class weighs as much
    as a common one, and a small part as much as a large one.
    """
    shares = _shares(counts)
    lacks = np.array([-f * np.ones(shares.shape[1]) for f in fractions])
    np.add.at(lacks, [part[g] for g in counts], shares)
    return float((lacks**2 / np.array(fractions)[:, None]).sum())


def _shares(counts: Mapping[str, Sequence[int]]) -> Floats:
    """(groups, classes + 1): which share of each class's patches, and of all patches, a group has."""
    table = np.array([*counts.values()], dtype=np.float64)
    table = np.column_stack([table, table.sum(axis=1)])
    table = table[:, table.any(axis=0)]
    shares: Floats = table / table.sum(axis=0)
    return shares


def _draft(counts: Mapping[str, Sequence[int]], k: int, *, seed: int) -> list[dict[str, int]]:
    """StratifiedGroupKFold's folds, if it can make them and none of them is empty."""
    from sklearn.model_selection import StratifiedGroupKFold  # on demand: reading a table needs none of it

    table = np.array([*counts.values()])
    if table.sum(axis=0).max() < k:
        return []
    group, label = (np.repeat(axis.ravel(), table.ravel()) for axis in np.indices(table.shape))
    part = np.zeros(len(counts), dtype=np.intp)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer patches than folds
        folds = StratifiedGroupKFold(k, shuffle=True, random_state=seed % 2**32).split(group, label, group)
        for fold, (_, held_out) in enumerate(folds):
            part[np.unique(group[held_out])] = fold
    if len(np.unique(part)) < k:
        return []
    return [dict(zip(counts, part.tolist(), strict=True))]


def _bettered(
    counts: Mapping[str, Sequence[int]], fractions: Sequence[float], start: Mapping[str, int], *, seed: int
) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    names, parts = [*counts], len(fractions)
    # The last rows are nobody in each part: to move is to change places with nobody.
    shares = _shares(counts)
    shares = np.vstack([shares, np.zeros((parts, shares.shape[1]))])
    where = np.array([*(start[g] for g in names), *range(parts)])
    wanted = np.array(fractions)
    lacks = -np.repeat(wanted[:, None], shares.shape[1], axis=1)
    np.add.at(lacks, where, shares)
    for _ in range(ROUNDS):
        changed = False
        for g in rng.permutation(len(names)).tolist():
            others = _partners(len(names), parts, alone=(where[: len(names)] == where[g]).sum() == 1, rng=rng)
            others = others[where[others] != where[g]]
            a, b, more = where[g], where[others], shares[others] - shares[g]
            gain = (_cost(lacks[a], wanted[a]) + _cost(lacks[b], wanted[b])) - (
                _cost(lacks[a] + more, wanted[a]) + _cost(lacks[b] - more, wanted[b])
            )
            if len(others) == 0 or gain.max() < 1e-12:
                continue
            best = int(gain.argmax())
            h = int(others[best])
            lacks[a] += more[best]
            lacks[where[h]] -= more[best]
            if h < len(names):
                where[g], where[h] = where[h], a
            else:
                where[g] = where[h]
            changed = True
        if not changed:
            break
    return dict(zip(names, where[: len(names)].tolist(), strict=True))


def _partners(groups: int, parts: int, *, alone: bool, rng: np.random.Generator) -> NDArray[np.intp]:
    """With whom a group may change places. The only group of its part must not leave it empty."""
    others = np.arange(groups) if groups <= PARTNERS else rng.choice(groups, PARTNERS, replace=False)
    return others if alone else np.concatenate([others, np.arange(groups, groups + parts)])


def _cost(lack: Floats, fraction: Floats) -> Floats:
    cost: Floats = (lack**2).sum(axis=-1) / fraction
    return cost

"""Dealing whole groups (patients, slides) out to parts, by size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qp2train.errors import SplitError


def deal(sizes: Mapping[str, int], fractions: Sequence[float], *, seed: int) -> dict[str, int]:
    """Group → index of its part, so that each part comes near its fraction of the sum of sizes.

    The largest group is dealt first, each to the part that lacks most of its share; groups of equal size
    come in seeded order. Then every part that must not be empty gets a group.

    Raises:
        SplitError: Fractions that are not positive or do not add up to 1, or fewer groups than parts.
    """
    if seed < 0:
        raise SplitError(f"seed must not be negative, not {seed}")
    if not fractions or not min(fractions) > 0 or not abs(sum(fractions) - 1) <= 1e-6:
        raise SplitError(f"fractions must be positive and add up to 1, not {tuple(fractions)}")
    if len(sizes) < len(fractions):
        raise SplitError(
            f"{len(sizes)} group(s) ({', '.join(sorted(sizes)[:5])}) cannot be dealt out to {len(fractions)} parts "
            "without dividing one. Annotate more patients, ask for fewer parts, or split by='slide'."
        )
    total = sum(sizes.values())
    wanted = np.array(fractions) * total
    dealt = np.zeros(len(fractions))
    members: list[list[str]] = [[] for _ in fractions]
    for group in _largest_first(sizes, seed):
        empty = [i for i, m in enumerate(members) if not m]
        groups_left = len(sizes) - sum(map(len, members))
        # As soon as only enough groups are left to fill the empty parts, those come first.
        candidates = empty if len(empty) >= groups_left else range(len(fractions))
        part = max(candidates, key=lambda i: (wanted[i] - dealt[i]) / wanted[i])
        members[part].append(group)
        dealt[part] += sizes[group]
    return {g: i for i, groups in enumerate(members) for g in groups}


def deal_folds(sizes: Mapping[str, int], k: int, *, seed: int) -> dict[str, int]:
    """Group → fold (0 … k-1), the folds as equal in size as whole groups allow.

    Raises:
        SplitError: k < 2, or fewer groups than folds.
    """
    check_folds(len(sizes), k)
    return deal(sizes, [1 / k] * k, seed=seed)


def check_folds(groups: int, k: int) -> None:
    """Raise SplitError unless so many groups can be dealt out to `k` folds."""
    if k < 2 or groups < k:
        raise SplitError(
            f"{k} folds need at least 2 folds and as many groups; there are {groups} groups. Ask for fewer folds, "
            "annotate more patients, or split by='slide'."
        )


def _largest_first(sizes: Mapping[str, int], seed: int) -> list[str]:
    names = sorted(sizes)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    return sorted((names[i] for i in shuffled), key=lambda g: -sizes[g])

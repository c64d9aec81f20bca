"""Whole groups, and of every class its share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fakes import table_of
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from qp2train import LabelMap, PatchTable
from qp2train.core.stratified import deal_folds_stratified, deal_stratified, imbalance
from qp2train.errors import SplitError

COUNTS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3),
    st.lists(st.integers(0, 30), min_size=3, max_size=3).filter(any),
    min_size=5,
    max_size=25,
)


def test_pairs_that_make_each_other_whole_come_together():
    counts = {"a": [9, 1], "b": [1, 9], "c": [7, 3], "d": [3, 7]}
    part = deal_folds_stratified(counts, 2, seed=0)
    assert part["a"] == part["b"] != part["c"] == part["d"]
    assert imbalance(counts, [0.5, 0.5], part) == pytest.approx(0)


def test_imbalance_by_hand():
    """All of class 1 and half of the patches in the first half: (1 - ½)²/½ twice for each class."""
    assert imbalance({"a": [4, 0], "b": [0, 4]}, [0.5, 0.5], {"a": 0, "b": 1}) == pytest.approx(2)


def test_unequal_parts():
    """Six groups of two kinds: two thirds and one third of each kind."""
    counts = {g: ([6, 0] if g < "d" else [0, 6]) for g in "abcdef"}
    part = deal_stratified(counts, [2 / 3, 1 / 3], seed=0)
    assert sorted(part[g] for g in "abc") == sorted(part[g] for g in "def") == [0, 0, 1]


@given(counts=COUNTS, k=st.integers(2, 5), seed=st.integers(0, 9))
def test_never_worse_than_scikit_learns(counts, k, seed):
    part = deal_folds_stratified(counts, k, seed=seed)
    assert set(part) == set(counts)
    assert set(part.values()) == set(range(k))
    table = np.array([*counts.values()])
    if table.sum(axis=0).max() < k:
        return
    group, label = (np.repeat(axis.ravel(), table.ravel()) for axis in np.indices(table.shape))
    folds = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    names, theirs = [*counts], {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fewer patches of a class than folds
        for fold, (_, held) in enumerate(folds.split(group, label, group)):
            theirs.update({names[g]: fold for g in set(group[held].tolist())})
    if set(theirs.values()) == set(range(k)):  # it may leave a fold empty
        assert imbalance(counts, [1 / k] * k, part) <= imbalance(counts, [1 / k] * k, theirs) + 1e-9


@given(counts=COUNTS, seed=st.integers(0, 9))
def test_no_part_is_empty_and_same_seed_same_division(counts, seed):
    parts = [deal_stratified(counts, [0.7, 0.15, 0.15], seed=seed) for _ in range(2)]
    assert parts[0] == parts[1]
    assert set(parts[0].values()) == {0, 1, 2}


def test_other_seed_other_division():
    counts = {f"g{i}": [5, 5] for i in range(20)}
    assert len({str(sorted(deal_folds_stratified(counts, 4, seed=s).items())) for s in range(4)}) > 1


def test_two_thousand_patients_are_dealt_out_evenly():
    rng = np.random.default_rng(0)
    counts = {f"P{i}": rng.multinomial(50, rng.dirichlet([0.3] * 3)).tolist() for i in range(2000)}
    assert imbalance(counts, [0.7, 0.15, 0.15], deal_stratified(counts, [0.7, 0.15, 0.15], seed=0)) < 1e-6


@pytest.mark.parametrize("k", [0, 1, 6])
def test_too_few_or_too_many_folds(k):
    with pytest.raises(SplitError, match="5 groups"):
        deal_folds_stratified({g: [1, 2] for g in "abcde"}, k, seed=0)


def skewed() -> PatchTable:
    """24 patients with few to many patches; the first eight have mostly tumour, the next eight some necrosis."""
    classes = ("Stroma", "Tumor", "Necrosis")
    sizes = {f"s{i:02}": 10 + 5 * (i % 7) for i in range(24)}
    table = table_of(sizes, **{s: {"patient": s} for s in sizes})
    labels: list[str] = []
    for i, n in enumerate(sizes.values()):
        share = ((0.1, 0.9, 0.0), (0.6, 0.0, 0.4), (1.0, 0.0, 0.0))[i // 8]
        ends = np.cumsum(share) * n
        labels += [classes[int(np.searchsorted(ends, j, side="right"))] for j in range(n)]
    return replace(table, rows=table.rows.assign(label=labels), labels=LabelMap(classes))


def farthest(parts: Sequence[PatchTable], table: PatchTable) -> float:
    """The largest difference between a class's share of a part and of the table."""

    def shares(of: PatchTable) -> pd.Series:
        return of.rows["label"].value_counts(normalize=True)

    return max(shares(part).sub(shares(table), fill_value=0).abs().max() for part in parts)


class TestTables:
    def test_stratified_folds_are_nearer_to_the_tables_proportions(self):
        table = skewed()
        for seed in range(3):
            plain, better = (
                farthest([val for _, val in table.folds(4, seed=seed, stratify=s)], table) for s in (False, True)
            )
            assert better < 0.03 < 0.2 < plain

    def test_a_stratified_split_too_and_it_keeps_to_the_fractions(self):
        table = skewed()
        plain, better = (table.split(stratify=s) for s in (False, True))
        assert farthest(better, table) < 0.05 < 0.2 < farthest(plain, table)
        assert [len(p) / len(table) for p in better] == pytest.approx([0.7, 0.15, 0.15], abs=0.02)
        groups = [set(p.rows["group"]) for p in better]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 24

    def test_every_group_is_held_out_once(self):
        held = [g for _, val in skewed().folds(4, stratify=True) for g in val.rows["group"].unique()]
        assert sorted(held) == sorted(f"s{i:02}" for i in range(24))


class TestNested:
    def test_inner_folds_make_up_the_outer_training_part(self):
        table, tested = skewed(), []
        for fold in table.nested_folds(4, 3, stratify=True):
            outside, inside = set(fold.test.rows["group"]), set(fold.train.rows["group"])
            assert not outside & inside
            assert set(fold.test.rows["split"]) == {"test"}
            held = [set(val.rows["group"]) for _, val in fold.inner]
            assert sum(map(len, held)) == len(inside)
            assert set.union(*held) == inside
            for train, val in fold.inner:
                assert set(train.rows["group"]) | set(val.rows["group"]) == inside
                assert len(train) + len(val) == len(fold.train)
            tested += sorted(outside)
        assert sorted(tested) == sorted(f"s{i:02}" for i in range(24))

    def test_too_few_groups_for_the_inner_folds(self):
        with pytest.raises(SplitError, match=r"4 folds need .* there are 3 groups"):
            next(table_of(dict.fromkeys("abcd", 3)).nested_folds(4, 4, by="slide"))


class TestSeveralKeys:
    METADATA: Mapping[str, Mapping[str, str]] = {
        "a": {"patient": "P1", "block": "B1"},
        "b": {"patient": "P2", "block": "B1"},
        "c": {"patient": "P2", "block": "B2"},
        "d": {"patient": "P3", "block": "B3"},
        "e": {"patient": "P4", "block": "B4"},
    }

    def test_what_shares_either_stays_together_also_through_others(self):
        """a and b share a block, b and c a patient."""
        table = table_of(dict.fromkeys("abcde", 2), **self.METADATA)
        parts = table.split(by=["patient", "block"], fractions=(0.5, 0.25, 0.25))
        assert sorted(sorted(set(p.rows["entry"])) for p in parts) == [["a", "b", "c"], ["d"], ["e"]]
        assert {g for p in parts for g in p.rows["group"]} == {"P1 + P2", "P3", "P4"}

    def test_the_order_of_the_keys_does_not_matter(self):
        table = table_of(dict.fromkeys("abcde", 2), **self.METADATA)
        other = table.split(by=["block", "patient"], fractions=(0.5, 0.25, 0.25))
        assert sorted(sorted(set(p.rows["entry"])) for p in other) == [["a", "b", "c"], ["d"], ["e"]]

    def test_one_key_in_a_list_is_that_key(self):
        table = table_of(dict.fromkeys("abcde", 2), **self.METADATA)
        assert [p.digest() for p in table.split(by=["patient"])] == [p.digest() for p in table.split(by="patient")]

    def test_no_key(self):
        with pytest.raises(SplitError, match="by names no metadata key"):
            table_of({"a": 1, "b": 1, "c": 1}).split(by=[])

from collections import Counter
from itertools import combinations
from math import dist

import pytest
from sketch import LABELS, REGION, places, sketch

from qp2train import sample_patches

FIELD = """
SSSSSS
SSSSTS
SSSSSS
SSIISS
SSIISS
SSSSSS
"""


def test_each_class_where_it_is_to_be_seen():
    # One Stroma below everything, so that Tumor and Ignore* are drawn over it.
    table = sample_patches([sketch(FIELD)], LABELS, size=1, per_class=300)
    assert set(places(table, "Tumor")) == {(4, 1)}
    hidden = {(4, 1), (2, 3), (3, 3), (2, 4), (3, 4)}
    assert set(places(table, "Stroma")) == {(x, y) for x in range(6) for y in range(6)} - hidden


def test_as_many_of_each_class_as_asked_however_rare_and_hidden():
    crowded = sketch("TTTTTT " * 5 + "TTTTTS", REGION, id="b")
    hidden = sketch("IIIIII IIIIII ...... ...... ...... ......", *sketch("TTTTTT " * 2 + "...... " * 4).drawn, id="c")
    table = sample_patches([sketch(FIELD), crowded, hidden], LABELS, size=2, per_class=997)
    assert Counter(table.rows["label"]) == {"Tumor": 997, "Stroma": 997}
    assert set(table.rows["entry"]) == {"a", "b"}


def test_background_where_a_region_makes_it():
    entry = sketch("TTTTTT TTTTTT TTTTTT TTTTTT TTTTTT TTTSS.", REGION)
    table = sample_patches([entry], LABELS, size=1, per_class=50)
    assert places(table, "Background") == [(5, 5)] * 50


def test_least_distance_holds_between_classes_too():
    table = sample_patches([sketch(FIELD)], LABELS, size=1, per_class=30, min_distance_um=2)
    found = places(table)
    assert min(dist(*pair) for pair in combinations(found, 2)) >= 2
    assert len(places(table, "Tumor")) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_same_seed_same_table(seed):
    one, other = (sample_patches([sketch(FIELD)], LABELS, size=1, per_class=20, seed=seed) for _ in range(2))
    assert places(one) == places(other)

import logging
from itertools import combinations
from math import dist

import pytest
from sketch import REGION, places, sketch

from qp2train import LabelMap, sample_patches

TUMOR = LabelMap(["Tumor"])

FIELD = """
......
.TT...
.TT...
......
......
......
"""


def test_only_what_is_annotated():
    table = sample_patches([sketch(FIELD)], TUMOR, size=1, strategy="random", count=200)
    assert set(places(table)) == {(1, 1), (2, 1), (1, 2), (2, 2)}
    assert len(table) == 200


def test_by_the_central_pixel():
    # 3 px wide, round a point of the 2×2 square.
    entry = sketch(FIELD)
    centred = sample_patches([entry], TUMOR, size=3, strategy="random", count=100, include="centre")
    assert set(places(centred)) == {(0, 0), (1, 0), (0, 1), (1, 1)}


@pytest.mark.parametrize("mpp", [1.0, 0.5])
def test_least_distance_in_micrometres_on_each_slide(mpp, caplog):
    entries = [sketch(FIELD, REGION, id=i, mpp=mpp) for i in "ab"]
    with caplog.at_level(logging.WARNING):
        table = sample_patches(
            entries, TUMOR, size=1, mpp=mpp, strategy="random", count=500, min_distance_um=2, include="centre"
        )
    for entry in "ab":
        found = places(table.take((table.rows["entry"] == entry).to_numpy()))
        assert 3 * mpp < len(found) <= 16 / mpp
        assert min(dist(*pair) for pair in combinations(found, 2)) * mpp >= 2
    assert f"{len(table)} of 500 random patches" in caplog.text


def test_slides_get_their_share_by_area():
    entries = [sketch(FIELD, id="a"), sketch("TTTTTT " * 6, id="b")]  # 4 and 36 pixels
    table = sample_patches(entries, TUMOR, size=1, strategy="random", count=2000)
    assert (table.rows["entry"] == "a").mean() == pytest.approx(0.1, abs=0.03)

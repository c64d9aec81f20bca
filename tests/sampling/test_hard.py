from collections import Counter

import numpy as np
import pytest
from sketch import LABELS, REGION, places, sketch

from qp2train import Box, LabelMap, ScoreMap, sample_patches
from qp2train.errors import LabelError, NoAnnotationError, Qp2trainError

FIELD = """
TTT...
TTT...
......
...SSS
...SSS
......
"""


WHOLE = Box(0, 0, 6, 6)


def scores(tumor, stroma=None, *, box=WHOLE, labels=LABELS) -> ScoreMap:
    """A score map of 6 × 6 pixels, given in tenths of the classes' probability."""
    planes = [np.array([list(map(int, line)) for line in (text or "000000 " * 6).split()]) for text in (tumor, stroma)]
    planes = np.stack([10 - sum(planes), *planes])
    as_bytes = (planes * 25.5).round().astype(np.uint8)
    return ScoreMap(as_bytes, as_bytes.argmax(axis=0).astype(np.uint8), box, 1.0, 1.0, labels)


def hard(entry, found, *, size=1, **more):
    return sample_patches([entry], LABELS, size=size, strategy="hard", scores={"a": found}, **more)


def test_where_a_class_is_predicted_and_another_annotated():
    found = scores("999000 999000 000000 000900 000000 000900")  # (3, 5): nothing annotated, so nobody knows
    table = hard(sketch(FIELD), found, per_class=10)
    assert places(table) == [(3, 3)]
    assert table.rows["label"].tolist() == ["Stroma"], "the patch carries what is painted"


def test_in_a_region_background_counts_as_another():
    table = hard(sketch(FIELD, REGION), scores("000000 000000 000000 000000 000000 000900"), per_class=10)
    assert (places(table), table.rows["label"].tolist()) == ([(3, 5)], ["Background"])


def test_for_each_class():
    found = scores("000000 000000 000000 000990 000000 000000", "990000 000000 000000 000000 000000 000000")
    table = hard(sketch(FIELD), found, per_class=10)
    assert sorted(places(table, "Stroma")) == [(3, 3), (4, 3)]
    assert sorted(places(table, "Tumor")) == [(0, 0), (1, 0)]


def test_the_surer_the_likelier_by_the_square_of_the_score():
    found = scores("000000 000000 000000 000840 000000 000000")
    drawn = Counter(places(hard(sketch(FIELD), found, per_class=1, seed=seed))[0] for seed in range(150))
    assert drawn[3, 3] / 150 == pytest.approx(0.8**2 / (0.8**2 + 0.4**2), abs=0.1)


def test_coarse_maps_of_a_part_of_the_slide():
    # 6 × 6 map pixels over the lower right quarter, half a pixel each.
    found = scores("000000 999999 000000 000000 000000 000000", box=Box(3, 3, 3, 3))
    table = sample_patches(
        [sketch(FIELD)], LABELS, size=1, mpp=0.5, strategy="hard", scores=lambda entry: found, per_class=10
    )
    assert sorted(places(table)) == [(3 + i / 2, 3.5) for i in range(6)]


def test_least_distance_and_the_spare_candidates():
    found = scores("000000 000000 000000 000999 000999 000000")
    table = hard(sketch(FIELD), found, per_class=2, min_distance_um=2)
    assert len(table) == 2
    (x0, y0), (x1, y1) = places(table)
    assert np.hypot(x1 - x0, y1 - y0) >= 2


def test_a_perfect_map_leaves_nothing():
    with pytest.raises(NoAnnotationError, match="score maps"):
        hard(sketch(FIELD), scores("999000 999000 000000 000000 000000 000000"))


def test_maps_of_other_classes_and_of_other_images_are_refused():
    with pytest.raises(LabelError, match="'Tumor'"):
        hard(sketch(FIELD), scores("000000 " * 6, labels=LabelMap(["Gland", "Stroma"])))
    with pytest.raises(Qp2trainError, match="'b'"):
        sample_patches([sketch(FIELD)], LABELS, size=1, strategy="hard", scores={"b": scores("000000 " * 6)})


def test_scores_and_the_strategy_belong_together():
    for given in ({"strategy": "hard"}, {"scores": {"a": scores("000000 " * 6)}}):
        with pytest.raises(Qp2trainError, match="give both or neither"):
            sample_patches([sketch(FIELD)], LABELS, **given)

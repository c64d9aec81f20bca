import logging

import pytest
import shapely
from sketch import LABELS, REGION, places, sketch

from qp2train import Annotation, LabelMap, sample_patches
from qp2train.errors import NoAnnotationError

HALVES = "TTTSSS\n" * 6


def border(text, *more, size=2, mpp=1.0, labels=LABELS, per_class=40, **rest):
    entry = sketch(text, *more)
    return sample_patches([entry], labels, size=size, mpp=mpp, strategy="border", per_class=per_class, **rest)


def test_centres_lie_where_two_classes_meet_and_not_where_the_slide_ends():
    table = border(HALVES)
    assert {x for x, _ in places(table, "Tumor")} == {x for x, _ in places(table, "Stroma")} == {2}
    assert {y for _, y in places(table)} == {-1, 0, 1, 2, 3, 4, 5}
    assert table.rows["label"].value_counts().to_dict() == {"Tumor": 40, "Stroma": 40}


def test_uniformly_along_the_outline_holes_included():
    # Outline of the 4 × 4 square 16 px, of the hole of 2 × 2 px in it 8 px.
    ring = "...... .TTTT. .T..T. .T..T. .TTTT. ......"
    table = border(ring, REGION, labels=LabelMap(["Tumor"]), mpp=0.125, size=8, per_class=3000)
    x, y = (table.rows[c] + 0.5 for c in "xy")
    in_hole = x.between(1.9, 4.1) & y.between(1.9, 4.1)
    assert in_hole.mean() == pytest.approx(8 / 24, abs=0.03)
    left = (x - 1).abs() < 0.07
    assert left.mean() == pytest.approx(4 / 24, abs=0.03)


def test_where_nothing_is_annotated_beyond_there_is_no_border():
    with pytest.raises(NoAnnotationError, match="no class has an outline"):
        border("...... .TT... .TT... ....SS ....SS ......")
    with pytest.raises(NoAnnotationError, match="no class has an outline"):
        border("IIIIII ITTTTI ITTTTI IIIIII ...... ......", labels=LabelMap(["Tumor"]))


def test_a_border_with_background_alone_counts():
    table = border("...... .TT... .TT... ...... .....S ......", REGION, per_class=200)
    assert {x + 1 for x, y in places(table, "Tumor")} == {1, 2, 3}
    assert set(places(table, "Tumor")) == {(x - 1, y - 1) for x in (1, 2, 3) for y in (1, 2, 3)} - {(1, 1)}


def test_a_class_without_a_border_is_said(caplog):
    left_half = Annotation(shapely.box(0, 0, 3, 6), "Region*")
    with caplog.at_level(logging.WARNING):
        table = border("...... .T.... ...... ....SS ....SS ......", left_half)
    assert set(table.rows["label"]) == {"Tumor"}
    assert "class 'Stroma': 0 of 40 patches on borders" in caplog.text

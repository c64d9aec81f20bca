from collections import Counter

import shapely
from sketch import LABELS, REGION, places, sketch

from qp2train import Annotation, LabelMap, sample_patches

FIELD = """
TT..SS
TT..SS
......
..SS..
..SS..
......
"""


def centred(*entries, labels=LABELS, size=2, **more):
    return sample_patches(entries, labels, size=size, strategy="centred", **more)


def test_one_patch_on_each_annotation_of_a_class():
    table = centred(sketch(FIELD, REGION))
    assert places(table, "Tumor") == [(0, 0)]
    assert sorted(places(table, "Stroma")) == [(2, 3), (4, 0)]
    assert sorted(table.rows["annotation"]) == ["S1", "S2", "T1"]


def test_at_most_so_many_of_each_class():
    for seed in range(5):
        table = centred(sketch(FIELD), per_class=1, seed=seed)
        assert Counter(table.rows["label"]) == {"Tumor": 1, "Stroma": 1}
    found = {places(centred(sketch(FIELD), per_class=1, seed=seed), "Stroma")[0] for seed in range(20)}
    assert found == {(2, 3), (4, 0)}


def test_another_takes_the_place_of_one_that_breaks_a_rule():
    far = sketch("TT...S " + "...... " * 4 + "S....S")  # single pixels: a quarter of a patch
    near = sketch("TT.... ...... ...... SS.... SS.... SS....", id="b")
    table = centred(far, near, per_class=1, min_annotated=0.5)
    assert places(table, "Stroma") == [(0, 3)] or places(table, "Stroma") == [(0, 4)]


def test_on_cells_and_detections():
    cells = sketch(FIELD, kind="cell").drawn
    entry = sketch("......\n" * 6, REGION, *cells)
    assert sorted(places(centred(entry, objects="detection"))) == [(0, 0), (2, 3), (4, 0)]
    assert sorted(places(centred(entry, objects="all"))) == [(0, 0), (2, 3), (4, 0)]
    only_cells, all_kinds = (centred(entry, objects=o).rows["annotated"].tolist() for o in ("detection", "all"))
    assert only_cells == all_kinds == [1.0] * 3


def test_the_middle_of_a_bent_shape_is_put_inside():
    entry = sketch("TTTTTT T....T T....T T....T T....T ......")
    table = centred(entry, labels=LabelMap(["Tumor"]), size=1)
    assert table.rows["annotated"].tolist() == [1.0]


def test_objects_painted_as_background_have_patches_too_and_regions_none():
    labels = LabelMap(["Tumor"], background=["Stroma"])
    table = centred(sketch(FIELD, REGION), labels=labels)
    assert sorted(places(table, "Background")) == [(2, 3), (4, 0)]


def test_what_lies_beside_the_slide_is_left_out():
    beside = Annotation(shapely.box(20, 20, 24, 24), "Stroma")
    assert sorted(places(centred(sketch(FIELD, beside)))) == [(0, 0), (2, 3), (4, 0)]

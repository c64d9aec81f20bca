import pytest
from sketch import LABELS, REGION, places, sketch

from qp2train import LabelMap, sample_patches
from qp2train.errors import Qp2trainError

FIELD = """
......
.TT...
.TT...
....SS
....SS
......
"""


def grid(*, entry=None, size=2, labels=LABELS, **more):
    return sample_patches([entry or sketch(FIELD)], labels, size=size, strategy="grid", **more)


def test_any_annotated_pixel_keeps_a_patch_and_what_fills_most_names_it():
    table = grid()
    assert places(table) == [(0, 0), (2, 0), (0, 2), (2, 2), (4, 2), (4, 4)]
    assert table.rows["label"].tolist() == ["Tumor"] * 4 + ["Stroma"] * 2
    assert table.rows["annotated"].tolist() == [0.25] * 4 + [0.5] * 2


def test_or_only_an_annotated_centre_which_then_names_it():
    assert places(grid(include="centre")) == [(0, 0), (4, 2)]
    odd = grid(size=3, include="centre", entry=sketch("SSS... STS... SSS... ...... ...... ......"))
    assert (places(odd), odd.rows["label"].tolist()) == ([(0, 0)], ["Tumor"])


def test_or_a_share():
    assert places(grid(min_annotated=0.5)) == [(4, 2), (4, 4)]
    assert places(grid(min_annotated=0.5, include="centre")) == [(4, 2)]


def test_overlap():
    assert places(grid(overlap=0.5, min_annotated=1.0)) == [(1, 1), (4, 3)]
    assert places(grid(overlap=0.999, min_annotated=1.0)) == [(1, 1), (4, 3)], "never less than a patch pixel apart"


def test_ignored_is_not_annotated_and_a_region_is():
    entry = sketch("II.... II.... ...... .....T ...... ......", REGION)
    assert places(grid(entry=entry, labels=LabelMap(["Tumor"]))) == [(x, y) for y in (0, 2, 4) for x in (0, 2, 4)][1:]


def test_beyond_the_slide_nothing_is_annotated():
    table = grid(size=4, entry=sketch("TTTTTT " * 6), labels=LabelMap(["Tumor"]))
    assert dict(zip(places(table), table.rows["annotated"], strict=True)) == {
        (0, 0): 1.0,
        (4, 0): 0.5,
        (0, 4): 0.5,
        (4, 4): 0.25,
    }


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"include": "centre!"}, "include must be one of any, centre"), ({"min_distance_um": 3}, "grid")],
)
def test_what_makes_no_sense(wrong, said):
    with pytest.raises(Qp2trainError, match=said):
        grid(**wrong)

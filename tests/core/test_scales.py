from dataclasses import replace

import pytest
from fakes import FakeEntry, square, table_of

from qp2train import Box, LabelMap, PatchTable, sample_patches
from qp2train.errors import Qp2trainError


def test_one_centre_at_several_scales():
    table = replace(table_of({"a": 2}), context=(2.0, 0.25))  # 64 px at 1 µm/px, of a slide at 0.5 µm/px
    assert table.scales == (1.0, 2.0, 0.25)
    assert table.box(1) == table.box(1, mpp=1.0) == Box(8, 0, 128, 128)
    assert table.box(1, mpp=2.0) == Box(8 - 64, -64, 256, 256)
    assert table.box(1, mpp=0.25) == Box(8 + 48, 48, 32, 32)


def test_they_are_sampled_saved_and_part_of_the_digest(tmp_path):
    entry = FakeEntry("a", [square(0, 0, 100)])
    one, two = (sample_patches([entry], LabelMap(["Tumor"]), size=8, mpp=m, per_class=5) for m in (0.5, [0.5, 2.0]))
    assert (two.mpp, two.context, two.scales) == (0.5, (2.0,), (0.5, 2.0))
    assert one.rows.equals(two.rows)
    assert one.digest() != two.digest()
    back = PatchTable.load(two.save(tmp_path / "t.parquet"))
    assert (back.scales, back.digest()) == (two.scales, two.digest())
    assert two.split(by="patch", fractions=(0.5, 0.5))[0].scales == (0.5, 2.0)


@pytest.mark.parametrize("mpp", [[], [0.5, 0.5], [0.5, 0.0], [0.5, float("nan")]])
def test_scales_that_make_no_sense(mpp):
    with pytest.raises(Qp2trainError, match="mpp"):
        sample_patches([FakeEntry("a", [square(0, 0, 100)])], LabelMap(["Tumor"]), mpp=mpp)


def test_a_context_far_larger_than_the_slide_is_a_slip_of_the_pen():
    with pytest.raises(Qp2trainError, match="Is mpp = 1000 µm per px meant"):
        sample_patches([FakeEntry("a", [square(0, 0, 100)])], LabelMap(["Tumor"]), size=64, mpp=[1, 1000])

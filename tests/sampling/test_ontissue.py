import logging
from collections import Counter

import numpy as np
import pytest
from fakes import FakeEntry, square
from sketch import LABELS, places, sketch

from qp2train import LabelMap, sample_patches
from qp2train.core.patches import SlideRef
from qp2train.errors import LabelError, NoAnnotationError, Qp2trainError
from qp2train.sampling.site import Rules, Sites
from qp2train.sampling.strategies.ontissue import scatter

PINK = (200, 80, 140)


def stained(id, x0=100, y0=40, x1=160, y1=120, *, drawn=(), size=(200, 200), **metadata) -> FakeEntry:
    """A white slide with a rectangle of tissue."""
    array = np.full((size[1], size[0], 3), 255, np.uint8)
    array[y0:y1, x0:x1] = PINK
    return FakeEntry(id, list(drawn), array, metadata=metadata)


def tissue(*entries, labels=LABELS, size=8, **more):
    return sample_patches(entries, labels, size=size, strategy="tissue", **more)


def test_centres_lie_on_the_mask_wherever_it_is():
    mask = np.zeros((6, 6), dtype=bool)
    mask[1:3, 3:5] = mask[5, 0] = True
    ref = SlideRef("a", "a.svs", "/a.svs", 1.0, (12, 12), {}, ())  # a pixel of the mask is 2 px wide
    (site,) = Sites([ref], Rules(LABELS, 1, 1.0, unlabelled=True), lambda _: pytest.fail("no pixel is needed"))
    rows = scatter(site, mask, 400, np.random.default_rng(0))
    found = Counter((row.x, row.y) for row in rows)
    assert set(found) == {(x, y) for x in (6, 7, 8, 9) for y in (2, 3, 4, 5)} | {
        (x, y) for x in (0, 1) for y in (10, 11)
    }
    assert {row.label for row in rows} == {""}
    assert {row.annotated for row in rows} == {0.0}


def test_as_many_from_each_slide_annotated_or_not_and_only_tissue():
    small = stained("b", 10, 10, 50, 60)
    table = tissue(
        stained("a"), small, stained("c", drawn=[square(100, 40, 200)]), count=100, labels=LabelMap(["Tumor"])
    )
    assert sorted(Counter(table.rows["entry"]).items()) == [("a", 33), ("b", 33), ("c", 34)]
    x, y = (table.rows.loc[table.rows["entry"] == "a", c] + 4 for c in "xy")
    assert x.between(95, 165).all()
    assert y.between(35, 125).all()
    assert set(table.rows.loc[table.rows["entry"] == "c", "label"]) == {"Tumor"}


def test_slides_without_tissue_are_named_and_the_others_share_their_part(caplog):
    with caplog.at_level(logging.WARNING):
        table = tissue(stained("a"), stained("bare", 0, 0, 0, 0), count=10)
    assert set(table.rows["entry"]) == {"a"}
    assert len(table) == 10
    assert "no tissue found on 1 of 2 slides: slide bare" in caplog.text
    with pytest.raises(NoAnnotationError, match="no slide has tissue"):
        tissue(stained("bare", 0, 0, 0, 0))


class TestWeakLabels:
    def test_every_patch_has_its_slides_class(self):
        entries = [stained("a", diagnosis="Tumor"), stained("b", diagnosis="Stroma"), stained("c", diagnosis="tumour")]
        labels = LabelMap({"Tumor": ["tumour"], "Stroma": ["Stroma"]})
        table = tissue(*entries, labels=labels, label_from="diagnosis", count=90)
        assert {e: set(r["label"]) for e, r in table.rows.groupby("entry")} == {
            "a": {"Tumor"},
            "b": {"Stroma"},
            "c": {"Tumor"},
        }
        assert table.rows.groupby("label")["weight"].sum().tolist() == pytest.approx([45, 45])

    def test_what_is_drawn_on_a_slide_does_not_matter(self):
        entries = [stained("a", drawn=[square(0, 0, 9, "Other")], d="Tumor"), stained("b", d="Stroma")]
        assert len(tissue(*entries, label_from="d", count=4)) == 4

    def test_slides_without_it_are_named(self):
        with pytest.raises(LabelError, match=r"1 of 2 slides have no such metadata: slide b\. Fill it in"):
            tissue(stained("a", d="Tumor"), stained("b"), label_from="d")

    def test_values_that_are_no_class_are_named(self):
        with pytest.raises(LabelError, match=r"on 1 of 2 slides.*Tumor, Stroma: slide b: 'benign'"):
            tissue(stained("a", d="Tumor"), stained("b", d="benign"), label_from="d")

    def test_a_class_of_no_slide_is_named(self):
        with pytest.raises(LabelError, match="'Stroma'"):
            tissue(stained("a", d="Tumor"), label_from="d")

    def test_only_where_no_annotation_is_needed(self):
        with pytest.raises(Qp2trainError, match="goes with strategy='tissue'"):
            sample_patches([sketch("TS")], LABELS, label_from="d")


def test_least_distance():
    table = tissue(stained("a"), count=500, min_distance_um=20)
    found = np.array(places(table))
    apart = np.linalg.norm(found[:, None] - found, axis=2)[~np.eye(len(found), dtype=bool)]
    assert len(found) > 8
    assert apart.min() >= 20

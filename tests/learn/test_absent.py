"""What a training cannot learn is said before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes import FakeEntry, square

from qp2train import LabelMap, sample_patches
from qp2train.learn.absent import LOOKED_AT, warn_of_absent, warn_of_unlearnt
from qp2train.learn.augment import Augmentation
from qp2train.learn.schedule import Optimisation
from qp2train.learn.tasks import prepare

LABELS = LabelMap(["Tumor", "Necrosis"])


def table_of(*drawn, labels=LABELS):
    """Patches of 20 px over a slide of 40 px."""
    entry = FakeEntry("a", drawn, np.zeros((40, 40, 3), np.uint8))
    there = LabelMap([name for name in labels.classes if name in {a.class_name for a in drawn}])
    table = sample_patches([entry], there, size=20, strategy="grid", min_annotated=0)
    return replace(table, labels=labels)  # of a split that left one of its classes in another part


REGION, TUMOR, NECROSIS = square(0, 0, 40, "Region*"), square(0, 0, 10), square(20, 20, 10, "Necrosis")


class TestSegmentation:
    def test_nothing_is_said_where_all_are_there(self, caplog):
        warn_of_absent(table_of(REGION, TUMOR, NECROSIS))
        assert caplog.text == ""

    def test_a_class_without_a_pixel_is_named(self, caplog):
        warn_of_absent(table_of(REGION, TUMOR))
        assert "none of 4 training patches has a pixel of Necrosis: the network cannot learn it" in caplog.text
        assert len(caplog.records) == 1

    def test_without_background_everything_will_be_a_class(self, caplog):
        warn_of_absent(table_of(TUMOR, NECROSIS))
        assert "has a pixel of background, so that everything will be called Tumor or Necrosis" in caplog.text
        assert len(caplog.records) == 1

    def test_a_rare_class_that_a_patch_was_drawn_for_is_believed(self, caplog):
        table = table_of(REGION, TUMOR)
        warn_of_absent(replace(table, rows=table.rows.assign(label=["Necrosis", "", "", ""])))
        assert caplog.text == ""

    def test_of_a_large_table_a_part_is_looked_at(self, caplog, monkeypatch):
        table = table_of(REGION, TUMOR).take([0, 1, 2, 3] * 100)
        painted = []
        box = type(table).box
        monkeypatch.setattr(type(table), "box", lambda self, row: painted.append(row) or box(self, row))
        warn_of_absent(table)
        assert f"none of {LOOKED_AT} of the training patches has a pixel of Necrosis" in caplog.text
        assert len(painted) == LOOKED_AT
        assert (painted[0], painted[-1]) == (0, 399)

    def test_a_training_says_it(self, caplog, spec):
        table = table_of(TUMOR, labels=LabelMap(["Tumor"]))
        prepare(
            spec, spec.build(), table, None, Optimisation(), augmentation=Augmentation(20, "none"), batch_size=2, seed=0
        )
        assert "everything will be called Tumor" in caplog.text


class TestOverlapping:
    def test_a_class_that_nothing_is_not(self, caplog):
        # What is Necrosis says nothing about Tumor where there is no Region*.
        warn_of_absent(table_of(TUMOR, NECROSIS), multilabel=True)
        assert "has a pixel that is not Tumor or Necrosis, so that everything will be called so" in caplog.text
        assert len(caplog.records) == 1

    def test_nothing_is_said_where_all_are_there(self, caplog):
        warn_of_absent(table_of(REGION, TUMOR, NECROSIS), multilabel=True)
        assert caplog.text == ""


@pytest.mark.parametrize(
    ("counts", "said"),
    [((0, 3, 1), []), ((5, 3, 0), ["no training patch is Necrosis: the network will never say so"])],
)
def test_classes_that_a_classifier_has_no_patch_of(caplog, counts, said):
    warn_of_unlearnt(LABELS.names, counts)
    assert [r.getMessage() for r in caplog.records] == said

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import FakeEntry, square
from sketch import LABELS

from qp2train import LabelMap, PatchTable, sample_patches
from qp2train.core.patches import SlideRef
from qp2train.core.snapshot import Snapshot
from qp2train.errors import LabelError, Qp2trainError
from qp2train.sampling.inspector import Inspector
from qp2train.sampling.site import Rules, Sites
from qp2train.sampling.strategies.grid import grid

# What a stand-in for the judge of pictures says of 2 × 2 px patches, by their grey.
FAULTS = {0: {"pen"}, 50: {"blur", "pen"}, 250: {"blank"}}


def faults(picture, *, mpp):
    assert (picture.shape, mpp) == ((2, 2, 3), 1.0)
    return frozenset(FAULTS.get(int(picture[0, 0, 0]), ()))


class Remembered:
    def __init__(self):
        self.pictures = []

    def seen(self, picture):
        known = any(np.array_equal(picture, other) for other in self.pictures)
        self.pictures.append(picture)
        return known


GREYS = np.array([[0, 50, 250], [100, 100, 120], [100, 140, 250]], np.uint8)
SLIDE = FakeEntry("a", [square(0, 0, 6)], np.repeat(np.kron(GREYS, np.ones((2, 2), np.uint8))[..., None], 3, axis=2))


def kept(*reject):
    inspector = Inspector(reject, mpp=1.0, faults=faults, memory=Remembered())
    slide = SLIDE.slide()
    ref = SlideRef("a", "a", "a", slide.mpp, slide.size, {}, Snapshot(SLIDE.drawn))
    sites = Sites([ref], Rules(LabelMap(["Tumor"]), 2, 1.0, inspector=inspector), lambda _: SLIDE.slide())
    rows = list(grid(sites, overlap=0))
    return [int(GREYS[int(row.y) // 2, int(row.x) // 2]) for row in rows], dict(inspector.rejected)


def test_nothing_is_rejected_unless_asked():
    assert kept("pen")[0] == [250, 100, 100, 120, 100, 140, 250]


def test_every_rejection_is_counted_once_for_the_first_fault_asked():
    assert kept("blank", "blur", "pen") == ([100, 100, 120, 100, 140], {"blank": 2, "blur": 1, "pen": 1})
    assert kept("pen", "blur") == ([250, 100, 100, 120, 100, 140, 250], {"pen": 2, "blur": 0})


def test_duplicates_are_looked_for_among_what_is_kept():
    assert kept("duplicate") == ([0, 50, 250, 100, 120, 140], {"duplicate": 3})
    assert kept("duplicate", "blank") == ([0, 50, 100, 120, 140], {"duplicate": 2, "blank": 2})


def test_the_table_and_the_log_say_how_many(tmp_path, monkeypatch, caplog):
    quality = SimpleNamespace(faults=faults, Duplicates=Remembered)
    monkeypatch.setitem(sys.modules, "qp2train.slides.quality", quality)
    asked = {"size": 2, "strategy": "grid"}
    with caplog.at_level(logging.INFO):
        table = sample_patches([SLIDE], LabelMap(["Tumor"]), reject=["blank", "pen", "duplicate"], **asked)
    assert dict(table.rejected) == {"blank": 2, "pen": 2, "duplicate": 2}
    assert len(table) == 9 - 6
    assert "left out: 2 blank, 2 pen, 2 duplicate" in caplog.text
    assert PatchTable.load(table.save(tmp_path / "t.parquet")).rejected == table.rejected
    assert sample_patches([SLIDE], LabelMap(["Tumor"]), **asked).rejected == {}


def test_other_places_are_drawn_instead(monkeypatch):
    monkeypatch.setitem(sys.modules, "qp2train.slides.quality", SimpleNamespace(faults=faults, Duplicates=Remembered))
    table = sample_patches([SLIDE], LabelMap(["Tumor"]), size=2, per_class=100, reject=["blank"])
    assert len(table) == 100
    assert table.rejected["blank"] > 0


def test_a_class_of_which_all_pictures_are_left_out_says_why(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "qp2train.slides.quality", SimpleNamespace(faults=lambda *_, **__: {"blur"}, Duplicates=Remembered)
    )
    with pytest.raises(LabelError, match=r"or their pictures were left out \(of all classes: {'blur': \d+}\)"):
        sample_patches([SLIDE], LabelMap(["Tumor"]), size=2, per_class=3, reject=["blur"])


@pytest.mark.parametrize("wrong", ["blur", ["ugly"]])
def test_unknown_faults_are_refused(wrong):
    with pytest.raises(Qp2trainError, match="reject must be a list of blank, blur, pen, duplicate"):
        sample_patches([SLIDE], LABELS, reject=wrong)

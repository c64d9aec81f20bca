"""What the table alone tells about a split: patients, ids and files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import table_of

from qp2train import PatchTable
from qp2train.core.leakage import Leak, Parts, leaks, plain_id, report
from qp2train.errors import SplitError


def by_hand(split: Mapping[str, str], patients: Mapping[str, str]) -> PatchTable:
    """Two patches per slide, in the split that is given by slide."""
    table = table_of(dict.fromkeys(split, 2), **{s: {"patient": p} for s, p in patients.items()})
    return replace(table, rows=table.rows.assign(split=table.rows["entry"].map(split)))


def found(*tables: PatchTable, **arguments: str) -> list[Leak]:
    return leaks(Parts.of(tables), **arguments)


def with_slide(table: PatchTable, entry: str, **changes: str) -> PatchTable:
    return replace(table, slides={**table.slides, entry: replace(table.slides[entry], **changes)})


LEAKY = {"a": "train", "b": "train", "c": "test", "d": "test"}, {"a": "P1", "b": "P2", "c": "P2", "d": "P3"}


class TestPatients:
    def test_one_in_two_parts_is_certain_and_named_with_the_parts(self):
        (leak,) = found(by_hand(*LEAKY))
        assert (leak.kind, leak.certain, leak.names) == ("group", True, ("P2",))
        assert "'P2' (test and train)" in leak.text

    def test_as_two_tables(self):
        table = by_hand(*LEAKY)
        (leak,) = found(table.select("train"), table.select("test"))
        assert leak.names == ("P2",)

    def test_as_two_tables_that_were_never_split(self):
        table = by_hand(*LEAKY)
        bare = replace(table, rows=table.rows.assign(split=""))
        (leak,) = found(bare.take(range(4)), bare.take(range(4, 8)))
        assert leak.names == ("P2",)
        assert "'P2' (table 1 and table 2)" in leak.text

    def test_by_another_key(self):
        assert found(by_hand(*LEAKY), by="centre") == []

    def test_a_split_by_patient_has_none(self):
        table = by_hand(*LEAKY)
        assert found(*table.split(fractions=(0.5, 0.5))) == []
        assert all(found(train, val) == [] for train, val in table.folds(3))

    @pytest.mark.parametrize("by", ["slide", "patch"])
    def test_a_split_that_was_asked_for_is_told_and_not_refused(self, by, caplog):
        table = by_hand(dict.fromkeys("abcd", ""), dict.fromkeys("abcd", "P1"))
        parts = table.split(by=by, fractions=(0.5, 0.5))
        leak = found(*parts)[0]
        assert (leak.kind, leak.certain, leak.names) == ("group", False, ("P1",))
        report([leak])
        assert "'P1' (train and val)" in caplog.text

    def test_parts_of_splits_by_different_keys_are_told_if_none_was_by_patient(self):
        table = by_hand(dict.fromkeys("abcd", ""), dict.fromkeys("abcd", "P1"))
        table = replace(
            table, slides={e: replace(r, metadata={**r.metadata, "block": e}) for e, r in table.slides.items()}
        )
        one, two = (
            table.split(by=by, fractions=(0.5, 0.5), assign={"a": "train", "b": "train", "c": "test", "d": "test"})
            for by in ("slide", "block")
        )
        assert [leak.certain for leak in found(one[0], two[1])] == [False]

    def test_the_parts_of_two_different_splits_are_refused(self):
        table = by_hand(*LEAKY)
        one, two = (table.split(fractions=(0.5, 0.5), assign={g: "test"}) for g in ("P1", "P3"))
        assert any(leak.certain and "P2" in leak.names for leak in found(one[0], two[0]))

    def test_the_way_of_splitting_is_kept_in_the_file(self, tmp_path: Path):
        parts = by_hand(dict.fromkeys("abcd", ""), dict.fromkeys("abcd", "P1")).split(by="slide", fractions=(0.5, 0.5))
        back = [PatchTable.load(p.save(tmp_path / f"{i}.parquet")) for i, p in enumerate(parts)]
        assert [leak.certain for leak in found(*back)] == [False]


class TestSpelling:
    @pytest.mark.parametrize("other", ["p1 ", "P 01", "p001", "P１"])
    def test_ids_that_may_be_one_patient_are_doubtful(self, other):
        (leak,) = found(by_hand({"a": "train", "b": "val"}, {"a": "P01", "b": other}))
        assert (leak.kind, leak.certain) == ("spelling", False)
        assert set(leak.names) == {"P01", other}

    @pytest.mark.parametrize("other", ["P10", "P1A", "PP1", "P0"])
    def test_others_are_not(self, other):
        assert found(by_hand({"a": "train", "b": "val"}, {"a": "P1", "b": other})) == []

    def test_within_one_part_they_do_no_harm(self):
        assert found(by_hand({"a": "train", "b": "train", "c": "val"}, {"a": "P1", "b": "p1", "c": "P2"})) == []

    def test_zeros_only_in_front_of_a_number_are_dropped(self):
        assert [plain_id(name) for name in ("P-007", "100", "0", "A0B00")] == ["p-7", "100", "0", "a0b0"]


class TestFiles:
    PATIENTS = {"a": "P1", "b": "P2"}  # noqa: RUF012

    def test_a_slide_added_twice_under_two_patients_is_certain(self):
        table = with_slide(by_hand({"a": "train", "b": "test"}, self.PATIENTS), "b", path="/a.svs")
        (leak,) = found(table)
        assert (leak.kind, leak.certain, leak.names) == ("slide", True, ("b.svs", "a.svs"))

    def test_also_through_a_link(self, tmp_path: Path):
        (tmp_path / "a.svs").write_bytes(b"pixels")
        (tmp_path / "b.svs").symlink_to(tmp_path / "a.svs")
        table = by_hand({"a": "train", "b": "test"}, self.PATIENTS)
        for entry in "ab":
            table = with_slide(table, entry, path=str(tmp_path / f"{entry}.svs"))
        assert [leak.kind for leak in found(table)] == ["slide"]

    def test_in_one_part_it_is_none(self):
        table = with_slide(by_hand({"a": "train", "b": "train"}, self.PATIENTS), "b", path="/a.svs")
        assert found(table) == []

    @pytest.mark.parametrize(("view", "certain"), [("5,0 10x10", True), ("10,0 10x10", False)])
    def test_two_regions_of_a_file_are_certain_only_where_they_overlap(self, view, certain):
        table = with_slide(by_hand({"a": "train", "b": "test"}, self.PATIENTS), "a", view="0,0 10x10")
        (leak,) = found(with_slide(table, "b", path="/a.svs", view=view))
        assert (leak.kind, leak.certain) == ("slide", certain)

    def test_equal_ids_of_two_projects_are_two_slides(self):
        one = table_of({"1": 2}, **{"1": {"patient": "P1"}})
        other = with_slide(table_of({"1": 2}, **{"1": {"patient": "P2"}}), "1", path="/elsewhere/1.svs")
        assert found(one, other) == []

    def test_pictures_in_memory_with_one_name_are_not_one_file(self):
        table = by_hand({"a": "train", "b": "test"}, self.PATIENTS)
        for entry in "ab":
            table = with_slide(table, entry, path="array")
        assert found(table) == []


def test_what_is_certain_is_refused_after_what_is_doubtful_was_logged(caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(SplitError, match=r"^A is in both"):
        report(iter([Leak("group", True, ("A",), "A is in both."), Leak("picture", False, ("b", "c"), "b is like c")]))
    assert caplog.messages == ["b is like c"]


def test_many_names_are_cut_short():
    slides = {f"{part}{i}": part for i in range(30) for part in ("train", "test")}
    (leak,) = found(by_hand(slides, {s: f"P{s.removeprefix(part):>02}" for s, part in slides.items()}))
    assert len(leak.names) == 30
    assert leak.text.endswith("and 10 more.")

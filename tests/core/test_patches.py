import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from fakes import square, table_of
from hypothesis import given
from hypothesis import strategies as st

from qp2train import Annotation, Box, LabelMap, PatchTable
from qp2train.errors import Qp2trainError, SplitError

PATIENTS = {"a": {"patient": "P1"}, "b": {"patient": "P1"}, "c": {"patient": "P2"}, "d": {"patient": "P3"}}


def patients() -> PatchTable:
    return table_of({"a": 10, "b": 5, "c": 8, "d": 7}, **PATIENTS)


def test_a_patchs_box_is_in_full_resolution_pixels():
    table = table_of({"a": 2})  # 64 px at 1 µm/px of a slide at 0.5 µm/px
    assert table.box(1) == Box(8, 0, 128, 128)
    assert [(ref.entry, box.x) for ref, box in table] == [("a", 0), ("a", 8)]


def test_rows_are_taken_by_position_and_by_mask():
    table = patients()
    assert len(table.take([0, 29])) == 2
    assert len(table.take((table.rows["entry"] == "d").to_numpy())) == 7
    assert len(table.take([])) == 0
    assert table.take([29]).rows.index.tolist() == [0]


def test_counts_by_class_and_split():
    train, _, _ = patients().split(seed=0)
    assert train.counts().loc["Tumor", "train"] == len(train)
    assert patients().counts().loc["Tumor", "all"] == 30


def test_as_a_table_for_qupath_and_spreadsheets(tmp_path):
    table = table_of({"a": 2})
    written = pd.read_csv(table.to_csv(tmp_path / "new" / "patches.csv"))
    assert list(written.columns) == ["entry", "image", "x", "y", "size", "label", "split", "weight", "annotated"]
    assert written[["entry", "x", "y", "size", "label"]].to_numpy().tolist() == [
        ["a", 0, 0, 128, "Tumor"],
        ["a", 8, 0, 128, "Tumor"],
    ]
    assert written["image"][0] == table.slides["a"].name


class TestSplit:
    def test_by_patient_no_patient_straddles_and_every_patch_comes_once(self):
        parts = patients().split(by="patient", fractions=(0.5, 0.25, 0.25))
        groups = [set(p.rows["group"]) for p in parts]
        assert sum(len(g) for g in groups) == len(set.union(*groups)) == 3
        assert sum(map(len, parts)) == 30
        assert groups[0] == {"P1"}
        assert [set(p.rows["split"]) for p in parts] == [{"train"}, {"val"}, {"test"}]

    def test_by_slide(self):
        parts = patients().split(by="slide", fractions=(0.5, 0.5))
        assert set(parts[0].rows["entry"]).isdisjoint(parts[1].rows["entry"])
        assert sum(map(len, parts)) == 30

    def test_without_any_patient_each_slide_is_one_and_that_is_said(self, caplog):
        with caplog.at_level(logging.WARNING):
            parts = table_of({"a": 3, "b": 3, "c": 3}).split()
        assert "no slide has the metadata 'patient'" in caplog.text
        assert [set(p.rows["group"]) for p in parts] != []

    def test_with_only_some_patients_known_it_refuses(self):
        table = table_of({"a": 3, "b": 3, "c": 3}, a={"patient": "P1"})
        with pytest.raises(SplitError, match=r"2 of 3 slides have no such metadata \('b\.svs'"):
            table.split()

    def test_by_patch_says_loudly_what_it_does(self, caplog):
        with caplog.at_level(logging.WARNING):
            parts = table_of({"a": 100}).split(by="patch")
        assert "training AND testing" in caplog.text
        assert [len(p) for p in parts] == [70, 15, 15]

    def test_same_seed_same_split_other_seed_other(self):
        table = table_of(dict.fromkeys("abcdefghij", 5))
        digests = [table.split(by="slide", seed=s)[0].digest() for s in (0, 0, 1)]
        assert digests[0] == digests[1]
        assert digests[0] != digests[2]

    @pytest.mark.parametrize("fractions", [(0.5, 0.6), (1.2, -0.2), (), (0.5, 0.0, 0.5), (float("nan"), 0.5)])
    def test_fractions_that_are_none(self, fractions):
        with pytest.raises(SplitError, match="fractions"):
            patients().split(fractions=fractions)

    def test_more_fractions_than_names(self):
        with pytest.raises(SplitError, match="train, val, test"):
            table_of(dict.fromkeys("abcd", 5)).split(by="slide", fractions=(0.25, 0.25, 0.25, 0.25))

    def test_fewer_groups_than_parts(self):
        with pytest.raises(SplitError, match="2 group"):
            table_of({"a": 3, "b": 3}).split(by="slide")

    @pytest.mark.parametrize("by", ["", [], ["patient", ""]])
    def test_by_nothing(self, by):
        with pytest.raises(SplitError, match="by names no metadata key"):
            patients().split(by=by)

    def test_by_hand(self):
        train, test = patients().split(assign={"P2": "test"})
        assert set(train.rows["group"]) == {"P1", "P3"}
        assert set(test.rows["group"]) == {"P2"}

    def test_by_hand_with_a_group_or_split_that_is_none(self):
        with pytest.raises(SplitError, match="'P9'; the groups are P1, P2, P3"):
            patients().split(assign={"P9": "test"})
        with pytest.raises(SplitError, match="'testing'"):
            patients().split(assign={"P1": "testing"})

    def test_select_gives_a_part_again(self):
        table = patients()
        rows = table.rows.assign(split=np.where(table.rows["entry"] == "a", "val", "train"))
        assert len(replace(table, rows=rows).select("val")) == 10

    @given(
        sizes=st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 30), min_size=3, max_size=20),
        seed=st.integers(0, 9),
        patients=st.integers(3, 8),
    )
    def test_no_group_ever_straddles_and_no_patch_is_lost(self, sizes, seed, patients):
        metadata = {s: {"patient": f"P{i % patients}"} for i, s in enumerate(sizes)}
        table = table_of(sizes, **metadata)
        parts = table.split(seed=seed)
        groups = [set(p.rows["group"]) for p in parts]
        assert all(groups)
        assert sum(map(len, groups)) == len(set.union(*groups))
        assert sum(map(len, parts)) == len(table)
        places = pd.concat([p.rows for p in parts])[["entry", "x"]]
        assert not places.duplicated().any()

    @given(seed=st.integers(0, 100))
    def test_many_equal_groups_come_near_the_fractions(self, seed):
        parts = table_of({f"s{i}": 10 for i in range(20)}).split(by="slide", fractions=(0.7, 0.15, 0.15), seed=seed)
        assert [len(p) for p in parts] == [140, 30, 30]


class TestFolds:
    def test_each_group_is_held_out_once(self):
        held = [set(val.rows["group"]) for _, val in patients().folds(3)]
        assert sorted(g for groups in held for g in groups) == ["P1", "P2", "P3"]

    def test_training_and_held_out_make_up_the_table(self):
        for train, val in table_of(dict.fromkeys("abcdef", 4)).folds(4, by="slide"):
            assert set(train.rows["group"]).isdisjoint(val.rows["group"])
            assert len(train) + len(val) == 24
            assert set(train.rows["split"]) == {"train"}
            assert set(val.rows["split"]) == {"val"}

    @pytest.mark.parametrize("k", [0, 1, 4])
    def test_too_few_or_too_many_folds(self, k):
        with pytest.raises(SplitError, match="folds"):
            list(patients().folds(k))


class TestSaveAndLoad:
    def test_a_table_comes_back_as_it_was(self, tmp_path):
        table = replace(
            patients(),
            labels=LabelMap({"Tumor": ["Tumour"]}, ignore=["Blur"], colors={"Tumor": (1, 2, 3)}),
        )
        drawn = (square(1, 2, 3.25, name="ä", parent="x", locked=True), Annotation(shapely.Point(1, 1), None))
        slides = {**table.slides, "a": replace(table.slides["a"], annotations=drawn)}
        table = replace(table, slides=slides)
        back = PatchTable.load(table.save(tmp_path / "new" / "patches.parquet"))
        pd.testing.assert_frame_equal(back.rows, table.rows, check_dtype=False)
        assert back.labels == table.labels
        assert (back.size_px, back.mpp) == (table.size_px, table.mpp)
        assert back.slides == table.slides
        assert back.digest() == table.digest()

    def test_a_part_comes_back_with_its_digest(self, tmp_path):
        train, *_ = patients().split()
        assert PatchTable.load(train.save(tmp_path / "t.parquet")).digest() == train.digest()

    def test_a_slide_without_annotations_comes_back(self, tmp_path):
        table = table_of({"a": 1, "b": 1})
        table = replace(table, slides={**table.slides, "b": replace(table.slides["b"], annotations=())})
        assert PatchTable.load(table.save(tmp_path / "t.parquet")).slides == table.slides

    def test_saving_again_replaces(self, tmp_path):
        patients().save(tmp_path / "t.parquet")
        table_of({"z": 2}).save(tmp_path / "t.parquet")
        assert list(PatchTable.load(tmp_path / "t.parquet").slides) == ["z"]

    def test_two_tables_side_by_side_keep_their_annotations(self, tmp_path):
        one, two = table_of({"a": 1}), table_of({"b": 1})
        one.save(tmp_path / "cohort.1")
        two.save(tmp_path / "cohort.2")
        assert PatchTable.load(tmp_path / "cohort.1").digest() == one.digest()

    def test_nonsense_is_refused(self, tmp_path):
        nonsense = tmp_path / "x.parquet"
        nonsense.write_bytes(b"not parquet")
        with pytest.raises(Qp2trainError, match="no patch table"):
            PatchTable.load(nonsense)
        with pytest.raises(Qp2trainError, match="no patch table"):
            PatchTable.load(tmp_path / "absent.parquet")

    def test_somebody_elses_parquet_is_refused(self, tmp_path):
        other = tmp_path / "other.parquet"
        pd.DataFrame({"a": [1]}).to_parquet(other)
        with pytest.raises(Qp2trainError, match="no patch table"):
            PatchTable.load(other)

    @pytest.mark.parametrize("about", [b"{}", b"[]", b'{"slides": [{}]}', b'{"slides": [{"entry": 1, "size": 1}]}'])
    def test_a_damaged_description_is_refused(self, tmp_path, about):
        path = patients().save(tmp_path / "t.parquet")
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({b"qp2train": about}), path)
        with pytest.raises(Qp2trainError, match="no patch table"):
            PatchTable.load(path)

    def test_damaged_annotations_are_refused(self, tmp_path):
        path = patients().save(tmp_path / "t.parquet")
        beside = tmp_path / "t.annotations.parquet"
        frame = pd.read_parquet(beside)
        frame.assign(geometry=[b"\x01\x02"] * len(frame)).to_parquet(beside)
        with pytest.raises(Qp2trainError, match="no patch table"):
            PatchTable.load(path)
        beside.unlink()
        with pytest.raises(Qp2trainError, match="no patch table"):
            PatchTable.load(path)

    def test_rows_without_the_columns_are_refused(self, tmp_path):
        path = patients().save(tmp_path / "t.parquet")
        table = pq.read_table(path)
        pq.write_table(pa.table({"x": [1.0]}).replace_schema_metadata(table.schema.metadata), path)
        with pytest.raises(Qp2trainError, match="no patch table"):
            PatchTable.load(path)


class TestDigest:
    def test_everything_that_changes_a_mask_or_picture_changes_it(self):
        table = table_of({"a": 2})
        ref = table.slides["a"]
        moved = table.rows.assign(x=table.rows["x"] + 1)
        others = [
            replace(table, rows=moved),
            replace(table, size_px=65),
            replace(table, mpp=0.9),
            replace(table, labels=LabelMap(["Tumor"], unannotated="background")),
            replace(table, slides={"a": replace(ref, mpp=0.6)}),
            replace(table, slides={"a": replace(ref, annotations=(square(0, 0, 8),))}),
            replace(table, slides={"a": replace(ref, annotations=(square(0, 0, 9, "Stroma"),))}),
            replace(table, slides={"a": replace(ref, annotations=(square(0, 0, 9, parent="x"),))}),
        ]
        digests = {t.digest() for t in [table, *others]}
        assert len(digests) == 1 + len(others)

    def test_it_is_what_version_0_1_said(self):
        table = table_of({"a": 2, "b": 1})
        drawn = (square(1, 2, 3.25, None, parent="x"), square(0, 0, 1, "Stroma"))
        table = replace(table, slides={**table.slides, "b": replace(table.slides["b"], annotations=drawn)})
        assert table.digest() == "782d1809b872221f"

    def test_where_the_files_lie_does_not(self):
        table = table_of({"a": 2})
        moved = replace(table, slides={"a": replace(table.slides["a"], path="/elsewhere/a.svs")})
        assert moved.digest() == table.digest()


def test_the_notebook_view_escapes_names():
    table = table_of({"a": 1})
    table = replace(table, slides={"a": replace(table.slides["a"], name="<script>x</script>")})
    table = replace(table, rows=table.rows.assign(label="<b>"))
    view = table._repr_html_()
    assert "<script>" not in view
    assert "&lt;script&gt;" in view
    assert "&lt;b&gt;" in view


def test_the_text_view_says_size_and_scale():
    assert repr(patients()) == "PatchTable(30 patches of 64 px at 1 µm/px from 4 slides)"

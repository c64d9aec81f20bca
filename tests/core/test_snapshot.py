import math
import pickle

import pandas as pd
import pyarrow as pa
import pytest
import shapely
from fakes import square

from qp2train import Annotation
from qp2train.core.snapshot import CHUNK, Snapshot
from qp2train.core.snapshotfile import read_snapshots, write_snapshots


def test_what_painting_and_provenance_need_survives():
    hole = shapely.box(0, 0, 9, 9).difference(shapely.box(2, 2, 3.25, 3))
    drawn = [
        Annotation(hole, "Tumor: Positive", name="it's <b>", measurements={"µm": 1.5, "none": math.nan}, locked=True),
        Annotation(shapely.MultiPoint([(1, 2), (3.5, 4)]), None, source="unet-1", kind="detection", parent="x", id="y"),
        Annotation(shapely.Polygon(), "Empty"),
    ]
    back = list(Snapshot(drawn))
    for was, now in zip(drawn, back, strict=True):
        assert was.geometry.equals(now.geometry)
        for field in ("class_name", "kind", "name", "locked", "id", "parent", "source"):
            assert getattr(now, field) == getattr(was, field), field
    assert back[0].measurements["µm"] == 1.5
    assert math.isnan(back[0].measurements["none"])


def test_it_is_a_sequence():
    snapshot = Snapshot([square(i, 0, 1, id=str(i)) for i in range(5)])
    assert [a.id for a in snapshot] == ["0", "1", "2", "3", "4"]
    assert (len(snapshot), snapshot[1].id, snapshot[-1].id) == (5, "1", "4")
    assert [a.id for a in snapshot[1:3]] == ["1", "2"]
    with pytest.raises(IndexError, match="annotation 5 of 5"):
        snapshot[5]


def test_no_annotations_are_an_empty_one():
    assert not Snapshot()
    assert list(Snapshot([])) == []
    assert Snapshot().geometries().tolist() == []


def test_equal_if_all_that_is_kept_is_equal():
    one = Annotation(shapely.Point(1, 1), "Tumor", id="a")
    same = Annotation(shapely.Point(1, 1), "Tumor", id="a")
    assert Snapshot([one]) == Snapshot([same]) == pickle.loads(pickle.dumps(Snapshot([one])))
    for other in (Annotation(shapely.Point(1, 2), "Tumor", id="a"), Annotation(shapely.Point(1, 1), None, id="a")):
        assert Snapshot([one]) != Snapshot([other])
    assert Snapshot([one]) != Snapshot([one, same])


def test_columns_without_decoding_the_rest():
    snapshot = Snapshot([square(0, 0, 2, "Tumor", id="a"), square(5, 0, 2, None, id="b", parent="a")])
    assert snapshot.column("class_name") == ["Tumor", None]
    assert snapshot.column("parent") == [None, "a"]
    assert shapely.area(snapshot.geometries()).tolist() == [4, 4]


def test_more_than_one_chunk_stays_in_order(tmp_path):
    snapshot = Snapshot(Annotation(shapely.Point(i, 0), id=str(i)) for i in range(CHUNK + 3))
    assert snapshot[CHUNK + 1].id == str(CHUNK + 1)
    assert snapshot.column("id")[CHUNK:] == [str(CHUNK), str(CHUNK + 1), str(CHUNK + 2)]
    write_snapshots(tmp_path / "a.parquet", {"e": snapshot})
    assert read_snapshots(tmp_path / "a.parquet") == {"e": snapshot}


def test_a_file_that_pandas_wrote_in_one_piece_is_read(tmp_path):
    # Run folders of version 0.1 hold the annotations of all slides one after the other.
    first, second = square(0, 0, 2, id="a", parent="p"), Annotation(shapely.Point(1, 2), None, id="b", locked=True)
    columns = ["id", "parent", "kind", "class_name", "name", "locked", "source"]
    rows = [[*(getattr(a, c) for c in columns), a.geometry.wkb, "{}", e] for a, e in ((first, "x"), (second, "y"))]
    frame = pd.DataFrame(rows, columns=[*columns, "geometry", "measurements", "entry"])
    frame.to_parquet(tmp_path / "old.parquet", index=False)
    assert read_snapshots(tmp_path / "old.parquet") == {"x": Snapshot([first]), "y": Snapshot([second])}


def test_it_takes_little_memory():
    outline = [(math.cos(i / 3) * 30 + 1000 / 7, math.sin(i / 3) * 30) for i in range(20)]
    snapshot = Snapshot(Annotation(shapely.Polygon(outline), "Tumor") for _ in range(1000))
    assert len(pickle.dumps(snapshot)) < 400 * 1000


@pytest.mark.parametrize(
    "damaged", [{"geometry": [b"\x01\x02"]}, {"measurements": ["{"]}, {"id": None}, {"locked": [object]}]
)
def test_damaged_tables_are_refused(damaged):
    (table,) = Snapshot([square(0, 0, 2)]).tables()
    data = table.to_pydict()
    with pytest.raises((KeyError, ValueError, TypeError, pa.ArrowException, shapely.errors.ShapelyError)):
        Snapshot.of_tables([pa.table({**data, **damaged} if damaged != {"id": None} else {"id": ["a"]})])

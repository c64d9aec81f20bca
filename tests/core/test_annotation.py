import math

import shapely

from qp2train import Annotation
from qp2train.core.annotation import from_frame, to_frame


def test_what_painting_and_provenance_need_survives_the_table():
    hole = shapely.box(0, 0, 9, 9).difference(shapely.box(2, 2, 3.25, 3))
    drawn = [
        Annotation(hole, "Tumor: Positive", name="it's <b>", measurements={"µm": 1.5, "none": math.nan}, locked=True),
        Annotation(shapely.MultiPoint([(1, 2), (3.5, 4)]), None, source="unet-1", kind="detection", parent="x", id="y"),
        Annotation(shapely.Polygon(), "Empty"),
    ]
    back = from_frame(to_frame(drawn))
    for was, now in zip(drawn, back, strict=True):
        assert was.geometry.equals(now.geometry)
        for field in ("class_name", "kind", "name", "locked", "id", "parent", "source"):
            assert getattr(now, field) == getattr(was, field), field
    assert back[0].measurements["µm"] == 1.5
    assert math.isnan(back[0].measurements["none"])


def test_no_annotations_are_an_empty_table():
    frame = to_frame([])
    assert len(frame) == 0
    assert from_frame(frame) == []


def test_annotations_have_ids_of_their_own():
    a, b = Annotation(shapely.Point(0, 0)), Annotation(shapely.Point(0, 0))
    assert a.id != b.id

import shapely

from qp2train import Annotation


def test_annotations_have_ids_of_their_own():
    a, b = Annotation(shapely.Point(0, 0)), Annotation(shapely.Point(0, 0))
    assert a.id != b.id

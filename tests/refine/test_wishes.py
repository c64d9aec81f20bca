"""Which prompts on an image belong to one object."""

from __future__ import annotations

import shapely

from qp2train import Annotation, Box
from qp2train.core.annotation import Plane
from qp2train.refine.wishes import Wish, wishes


def points(class_name: str, *xy: tuple[float, float], **more: object) -> Annotation:
    return Annotation(shapely.MultiPoint(xy), class_name, **more)  # type: ignore[arg-type]


def area(class_name: str, *edges: float, **more: object) -> Annotation:
    return Annotation(shapely.box(*edges), class_name, **more)  # type: ignore[arg-type]


def test_the_points_of_one_annotation_are_one_object() -> None:
    found = wishes([points("Prompt+", (1, 2), (3, 4)), points("Prompt+: Gland", (50, 50))])
    assert found == [Wish(None, ((1, 2), (3, 4)), (1, 1)), Wish("Gland", ((50, 50),), (1,))]


def test_a_box_is_an_object_with_the_class_behind_its_own() -> None:
    assert wishes([area("Prompt box: Tumor: Positive", 1, 2, 11, 22)]) == [
        Wish("Tumor: Positive", box=Box(1, 2, 10, 20))
    ]


def test_points_in_a_box_or_outline_belong_to_it_the_smallest_first() -> None:
    large, small = area("Gland", 0, 0, 100, 100), area("Gland", 10, 10, 20, 20)
    drawn = [large, small, area("Prompt box", 200, 0, 300, 50), points("Prompt+: Tumor", (15, 15), (250, 25), (50, 50))]
    outer, inner, box = wishes(drawn, outlines=["Gland"])
    assert (outer.points, inner.points, box.points) == (((50, 50),), ((15, 15),), ((250, 25),))
    assert (outer.class_name, inner.class_name, box.class_name) == ("Gland", "Gland", None)


def test_a_point_against_belongs_to_what_it_lies_in_or_to_the_nearest() -> None:
    drawn = [
        points("Prompt+", (0, 0)),
        area("Prompt box", 100, 100, 120, 120),
        points("Prompt-", (110, 110), (90, 100), (3, 3)),
    ]
    box, clicked = wishes(drawn)
    assert (box.points, box.labels) == (((110, 110), (90, 100)), (0, 0))
    assert (clicked.points, clicked.labels) == (((0, 0), (3, 3)), (1, 0))


def test_outlines_without_a_point_can_be_left_out() -> None:
    drawn = [area("Gland", 0, 0, 10, 10), area("Gland", 50, 0, 60, 10), points("Prompt-", (55, 5))]
    (only,) = wishes(drawn, outlines=["Gland"], prompted_only=True)
    assert only.extent.bounds == (50, 0, 60, 10)
    assert len(wishes(drawn, outlines=["Gland"])) == 2


def test_each_plane_has_its_own() -> None:
    up = Plane(z=1)
    drawn = [area("Prompt box", 0, 0, 10, 10), area("Prompt box", 0, 0, 10, 10, plane=up)]
    first, second = wishes([*drawn, points("Prompt-", (5, 5), plane=up)])
    assert (first.points, second.points, second.plane) == ((), ((5, 5),), up)


def test_what_is_no_prompt_or_empty_is_overlooked() -> None:
    drawn = [
        area("Gland", 0, 0, 10, 10),
        area("Prompted", 0, 0, 10, 10),
        Annotation(shapely.MultiPoint(), "Prompt+"),
        Annotation(shapely.LineString([(0, 0), (9, 0)]), "Prompt box"),
        points("Prompt-", (1, 1)),
    ]
    assert wishes(drawn) == []

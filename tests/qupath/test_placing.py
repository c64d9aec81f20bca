"""Predictions go under the annotation that encloses them, as QuPath's "Resolve hierarchy" has it."""

import shapely

from qp2train.core.annotation import Annotation, Kind, Plane
from qp2train.qupath.placing import under_enclosing
from qp2train.qupath.project import Project

from .worked_example import TRIANGLE_ID


def box(x: float, y: float, side: float, kind: Kind = "annotation", **more: object) -> Annotation:
    return Annotation(shapely.box(x, y, x + side, y + side), kind=kind, **more)  # type: ignore[arg-type]


FIELD = box(0, 0, 100, name="field")
GLAND = box(10, 10, 30, parent=FIELD.id)


def parent_of(prediction: Annotation, *there: Annotation) -> str | None:
    (placed,) = under_enclosing([prediction], there or [FIELD, GLAND])
    return placed.parent


def test_the_smallest_annotation_that_covers_it() -> None:
    assert parent_of(box(12, 12, 5)) == GLAND.id
    assert parent_of(box(50, 50, 5)) == FIELD.id
    assert parent_of(box(200, 200, 5)) is None


def test_an_annotation_must_lie_inside_wholly_a_detection_with_its_centroid() -> None:
    assert parent_of(box(35, 12, 8)) == FIELD.id
    assert parent_of(box(35, 12, 8, "detection")) == GLAND.id
    assert parent_of(box(37, 12, 8, "tile")) == FIELD.id


def test_its_own_outline_covers_it_and_of_equals_the_deepest_is_taken() -> None:
    inner = box(10, 10, 30, parent=GLAND.id)
    assert parent_of(box(10, 10, 30), FIELD, GLAND, inner) == inner.id


def test_only_what_a_human_drew_on_the_same_plane_with_an_area_encloses() -> None:
    predicted = box(10, 10, 30, source="m")
    cell = box(10, 10, 30, "cell")
    elsewhere = box(10, 10, 30, plane=Plane(z=3))
    line = Annotation(shapely.LineString([(0, 0), (99, 99)]))
    assert parent_of(box(12, 12, 5), FIELD, predicted, cell, elsewhere, line) == FIELD.id
    assert parent_of(box(12, 12, 5, plane=Plane(z=3)), FIELD, elsewhere) == elsewhere.id
    core = box(5, 5, 50, "tma_core")
    assert parent_of(box(12, 12, 5), FIELD, core) == core.id


def test_a_given_parent_is_kept() -> None:
    assert parent_of(box(12, 12, 5, parent="x")) == "x"
    assert under_enclosing([], [FIELD]) == []
    assert parent_of(Annotation(shapely.Polygon())) is None


def test_written_under_it_read_back_under_it(project: Project) -> None:
    (entry,) = project
    inside = Annotation(shapely.box(2.5, 2.2, 3, 2.5), "Tumor", kind="detection")
    outside = Annotation(shapely.box(50, 50, 60, 60), "Tumor")
    project.write(entry, [inside, outside], source="m", under="enclosing")
    parents = {a.id: a.parent for a in entry.annotations("all")}
    assert parents == {TRIANGLE_ID: None, inside.id: TRIANGLE_ID, outside.id: None}
    assert project.write(entry, [], source="m", under="enclosing").removed == 2
    assert [a.id for a in entry.annotations("all")] == [TRIANGLE_ID]

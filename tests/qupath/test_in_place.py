"""An outline in the place of a human's: it carries the human's along, and gives it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely

from qp2train.core.annotation import REPLACED_KEY, Annotation, Plane
from qp2train.core.labels import LabelMap
from qp2train.errors import ProjectError, QuPathFormatError
from qp2train.qupath.bridge import PaquoStore
from qp2train.qupath.hierarchy import Hierarchy
from qp2train.qupath.javanodes import JString
from qp2train.qupath.pathobject import PathObject, walk
from qp2train.qupath.project import Project
from qp2train.qupath.qpdata import load
from qp2train.qupath.writeback import remove_objects, write_objects
from qp2train.sampling.plan import sample_patches
from tests.fakes import write_png

from .test_bridge import needs_qupath
from .worked_example import TRIANGLE

HOLED = shapely.box(10, 10, 60, 60).difference(shapely.box(20, 20, 30, 30))
ROUGH = Annotation(
    HOLED,
    "Gland: Crypt",
    name="ß",
    measurements={"Area": 1.5, "none": float("nan")},
    locked=True,
    color=(1, 2, 3),
    plane=Plane(0, 0, 0),
    metadata={"ANNOTATION_DESCRIPTION": "seen", "k": "v"},
)
INNER = Annotation(shapely.box(12, 12, 14, 14), "Lumen", parent=ROUGH.id)
AFTER = Annotation(shapely.Point(70, 70).buffer(5), "Other", ellipse=True)
BETTER = Annotation(shapely.box(11, 11, 59, 59), "Gland: Crypt")


@pytest.fixture(params=["java-free", pytest.param("paquo", marks=needs_qupath)])
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Project:
    project = Project.create(tmp_path / "p")
    slide = write_png(tmp_path / "a.png", np.full((100, 100, 3), 200, np.uint8))
    project.add_image(slide, mpp=1.0, annotations=[ROUGH, INNER, AFTER])
    return Project(project.path, backend=request.param)


def again(project: Project) -> Project:
    """Opened anew, with the same backend."""
    return Project(project.path, backend="paquo" if isinstance(project._store, PaquoStore) else "java-free")


def there(project: Project) -> list[Annotation]:
    return Project(project.path)["a.png"].annotations("all")


def put(project: Project, better: Annotation = BETTER, old: str = ROUGH.id, source: str = "net") -> None:
    again(project).write("1", [better], source=source, in_place_of={better.id: old})


def same(a: Annotation, b: Annotation) -> bool:
    """Equal, NaN being NaN."""
    return repr(replace(a, geometry=None)) == repr(replace(b, geometry=None)) and a.geometry.equals(b.geometry)


def test_it_stands_where_the_humans_was_and_clear_puts_that_back_whole(project: Project) -> None:
    before = there(project)
    report = again(project).write("1", [BETTER], source="net", in_place_of={BETTER.id: ROUGH.id})
    assert (report.added, report.replaced, report.removed) == (1, 1, 0)
    assert "1 drawn by hand replaced, which clear puts back" in str(report)
    first, inner, last = there(project)
    assert (first.id, first.source, inner.parent, last.id) == (BETTER.id, "net", BETTER.id, AFTER.id)
    (cleared,) = again(project).clear(source="net")
    assert (cleared.removed, cleared.restored, cleared.moved_up) == (1, 1, 0)
    assert all(same(a, b) for a, b in zip(there(project), before, strict=True))


def test_written_again_it_still_carries_the_humans_and_not_the_earlier_one(project: Project) -> None:
    before = there(project)
    put(project)
    anew = replace(BETTER, id=str(INNER.id)[:-4] + "0000", geometry=shapely.box(12, 11, 59, 59))
    put(project, anew)
    assert [a.id for a in there(project)] == [anew.id, INNER.id, AFTER.id]
    again(project).clear(source="net")
    assert all(same(a, b) for a, b in zip(there(project), before, strict=True))


def test_a_later_write_that_does_not_replace_gives_the_humans_back(project: Project) -> None:
    put(project)
    report = again(project).write("1", [], source="net")
    assert report.restored == 1
    assert [a.id for a in there(project)] == [ROUGH.id, INNER.id, AFTER.id]


def edit(project: Project, change: Callable[[PathObject], None]) -> None:
    """What a human does in QuPath."""
    file = Project(project.path)["1"].data_path
    data = load(file.read_bytes())
    for obj in walk(data.root):
        change(obj)
    file.write_bytes(data.to_bytes())


def renamed(object_id: str) -> Callable[[PathObject], None]:
    def change(obj: PathObject) -> None:
        if obj.id == object_id:
            obj.node.contents[0] = JString("mine")

    return change


def test_once_a_human_has_edited_it_it_stays(project: Project) -> None:
    put(project)
    edit(project, renamed(BETTER.id))
    (report,) = again(project).clear(source="net")
    assert (report.removed, report.restored, report.kept_edited) == (0, 0, 1)
    assert there(project)[0].name == "mine"
    (report,) = again(project).clear(source="net", edited=True)
    assert report.restored == 1
    assert there(project)[0].id == ROUGH.id


def test_what_is_there_already_is_not_put_back_twice(project: Project) -> None:
    put(project)
    again(project).write("1", [replace(ROUGH, parent=None)], source="somebody", mode="add")
    (report,) = again(project).clear(source="net")
    assert report.restored == 0
    assert sorted(a.id for a in there(project)) == sorted([ROUGH.id, INNER.id, AFTER.id])


def test_what_something_else_has_the_id_of_by_now_comes_back_with_another(project: Project) -> None:
    put(project)
    stranger = Annotation(shapely.box(1, 1, 4, 4), "Other", id=ROUGH.id)
    again(project).write("1", [stranger], source="somebody", mode="add")
    (report,) = again(project).clear(source="net")
    assert report.restored == 1
    (back,) = (a for a in there(project) if a.name == ROUGH.name)
    assert back.id != ROUGH.id
    assert same(replace(back, id=ROUGH.id), ROUGH)
    assert next(a for a in there(project) if a.class_name == "Lumen").parent == back.id


def test_written_again_while_something_else_has_the_id_both_are_there_and_the_stranger_stays(project: Project) -> None:
    put(project)
    stranger = Annotation(shapely.box(1, 1, 4, 4), "Other", id=ROUGH.id)
    again(project).write("1", [stranger], source="somebody", mode="add")
    put(project)
    assert {a.name for a in there(project) if a.geometry.equals(ROUGH.geometry)} == {ROUGH.name}
    assert {a.id for a in there(project)} >= {BETTER.id, stranger.id}


def test_an_object_of_old_files_without_ids_does_not_give_way() -> None:
    tree = Hierarchy(load(TRIANGLE))
    for obj in tree:
        obj.id = None
    made_up = next(object_id for object_id, obj in tree.with_ids() if obj.kind == "annotation")
    with pytest.raises(ProjectError, match="open and save the image in a newer QuPath"):
        write_objects(tree, [BETTER], source="net", in_place_of={BETTER.id: made_up})


def test_what_a_human_made_of_a_prediction_is_that_again(project: Project) -> None:
    put(project)
    edit(project, renamed(BETTER.id))
    kept = there(project)[0]
    other = Annotation(shapely.box(12, 12, 50, 50), "Gland: Crypt")
    put(project, other, BETTER.id, source="sam")
    assert there(project)[0].source == "sam"
    again(project).clear(source="sam")
    assert same(there(project)[0], kept)
    again(project).clear(source="net", edited=True)
    assert there(project)[0].id == ROUGH.id


def test_what_lies_under_the_one_lies_under_the_other(project: Project) -> None:
    within = Annotation(shapely.box(40, 40, 45, 45), "Cell", plane=ROUGH.plane)
    for order in ([within, BETTER], [BETTER, within]):
        again(project).write("1", order, source="net", under="enclosing", in_place_of={BETTER.id: ROUGH.id})
        assert {a.id: a.parent for a in there(project)}[within.id] == BETTER.id
    again(project).write(
        "1", [replace(within, id=INNER.id[:-4] + "0000", plane=BETTER.plane)], source="unet", under="enclosing"
    )
    assert {a.id: a.parent for a in there(project)}[INNER.id[:-4] + "0000"] == BETTER.id


def test_what_could_not_be_written_again_is_counted_as_put_back(project: Project) -> None:
    put(project)
    report = again(project).write("1", [], source="net", in_place_of={BETTER.id: ROUGH.id})
    assert (report.replaced, report.restored) == (0, 1)


def test_a_copy_of_it_replaces_nothing(project: Project) -> None:
    put(project)
    copy = replace(there(project)[0], id=INNER.id[:-4] + "0000", parent=None)
    assert REPLACED_KEY in copy.metadata
    again(project).write("1", [copy], source="copy")
    (report,) = again(project).clear(source="copy")
    assert (report.removed, report.restored) == (1, 0)


def test_a_models_object_gives_way_by_clear_and_what_is_not_there_by_nothing(project: Project) -> None:
    again(project).write("1", [BETTER], source="net")
    other = Annotation(HOLED, "Gland")
    with pytest.raises(ProjectError, match="is a model's"):
        put(project, other, BETTER.id, source="another")
    with pytest.raises(ProjectError, match=r"no annotation .* whose place could be taken"):
        put(project, other, other.id)
    two = [other, replace(other, id=INNER.id[:-4] + "0000")]
    with pytest.raises(ProjectError, match="no annotation"):
        again(project).write("1", two, source="x", in_place_of={a.id: ROUGH.id for a in two})


def test_a_text_that_was_changed_is_an_error_and_nothing_is_lost(project: Project) -> None:
    put(project)
    file = Project(project.path)["1"].data_path
    data = load(file.read_bytes())
    (kept,) = (obj for obj in walk(data.root) if REPLACED_KEY in obj.metadata)
    values = next(
        node for node in kept.node.contents if getattr(node, "desc", None) and "MetadataMap" in node.desc.name
    )
    texts = values.contents[2].items
    texts[list(kept.metadata).index(REPLACED_KEY)] = JString("{")
    with pytest.raises(QuPathFormatError, match="cannot be put back"):
        remove_objects(load(data.to_bytes()), "net")


def test_a_model_learns_from_it_as_from_what_it_replaced_and_not_from_what_a_model_found(project: Project) -> None:
    put(project)
    again(project).write("1", [Annotation(HOLED, "Gland: Crypt")], source="other")
    table = sample_patches(Project(project.path), LabelMap(["Gland: Crypt"]), size=16, mpp=1.0, strategy="grid", seed=0)
    (snapshot,) = table.slides.values()
    assert [a.id for a in snapshot.annotations if a.class_name == "Gland: Crypt"] == [BETTER.id]
    assert Project(project.path).select("annotated")

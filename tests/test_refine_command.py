"""`qp2train refine`: prompts become outlines beside them, again in place of the first, and out again."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image
from shapely.geometry.base import BaseGeometry
from typer.testing import CliRunner

from qp2train import cli
from qp2train.core.annotation import Annotation
from qp2train.errors import ProjectError, PromptError
from qp2train.qupath.entry import ImageEntry
from qp2train.qupath.folder import SlideFolder
from qp2train.qupath.hierarchy import Hierarchy
from qp2train.qupath.javanodes import JString
from qp2train.qupath.pathobject import set_children, walk
from qp2train.qupath.project import Project
from qp2train.qupath.qpbuild import Builder
from qp2train.qupath.qpdata import load
from qp2train.qupath.writeback import write_objects
from qp2train.refine.fallback import ColourModel
from qp2train.refining import refine_project
from tests.fakes import write_pyramid

PINK, PURPLE = (230, 180, 210), (110, 60, 140)
DISCS = [shapely.Point(x, 200).buffer(50) for x in (120, 320, 520)]
CLICK = Annotation(shapely.MultiPoint([(320, 200)]), "Prompt+: Gland")
BOX = Annotation(shapely.box(460, 140, 580, 260), "Prompt box: Tumor")
ROUGH = Annotation(shapely.box(80, 165, 170, 255), "Gland", name="mine")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Three purple discs: a rough outline, a click, a box; a second slide is missing."""
    monkeypatch.setattr(cli.console, "width", 400)
    rows, columns = np.mgrid[:400, :640] + 0.5
    picture = np.full((400, 640, 3), PINK, np.uint8)
    for disc in DISCS:
        picture[np.hypot(columns - disc.centroid.x, rows - disc.centroid.y) <= 50] = PURPLE
    slide = write_pyramid(tmp_path / "a.tiff", [picture], mpp=1.0)
    project = Project.create(tmp_path / "p")
    project.add_image(slide, width=640, height=400, mpp=1.0, annotations=[ROUGH, CLICK, BOX])
    project.add_image(tmp_path / "gone.tiff", width=10, height=10)
    return project


def call(*arguments: str) -> tuple[int, str]:
    said = CliRunner().invoke(cli.app, list(arguments))
    return said.exit_code, said.output


def drawn(project: Project) -> list[Annotation]:
    return next(e for e in Project(project.path) if e.name == "a.tiff").annotations()


def refined(project: Project) -> list[Annotation]:
    return sorted((a for a in drawn(project) if a.source), key=lambda a: a.geometry.bounds)


def add_by_hand(entry: ImageEntry, annotations: Sequence[Annotation]) -> None:
    data = load(entry.data_path.read_bytes())
    write_objects(data, annotations, source=None)
    entry.data_path.write_bytes(data.to_bytes())


def fit(a: BaseGeometry, b: BaseGeometry) -> float:
    return float(a.intersection(b).area / a.union(b).area)


def test_without_write_it_only_says_what_it_would_do(project: Project) -> None:
    before = {f: f.read_bytes() for f in project.path.rglob("*") if f.is_file()}
    code, said = call("refine", str(project.path), "--image", "a.tiff")
    assert code == 0
    assert "a.tiff: 2 outlined" in said
    assert "nothing was written: add --write" in said
    assert {f: f.read_bytes() for f in project.path.rglob("*") if f.is_file()} == before


def test_a_model_that_is_none_is_named_before_anything_is_done(project: Project, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="there is no model at"):
        CliRunner().invoke(
            cli.app, ["refine", str(project.path), "--model", str(tmp_path / "gone")], catch_exceptions=False
        )


def test_clicks_boxes_and_rough_outlines_become_outlines_beside_them(project: Project) -> None:
    human = [a for a in drawn(project) if a.source is None]
    for _ in range(2):  # the second run replaces what the first one made
        code, said = call("refine", str(project.path), "--image", "a.tiff", "--from", "Gland", "--write")
        assert code == 0, said
        found = refined(project)
        assert [a.class_name for a in found] == ["Gland", "Gland", "Tumor"]
        assert [fit(a.geometry, disc) > 0.85 for a, disc in zip(found, DISCS, strict=True)] == [True] * 3
        assert all(0 < a.measurements["Predicted IoU"] <= 1 for a in found)
        assert [a for a in drawn(project) if a.source is None] == human
    code, _ = call("clear", str(project.path), "--source", "colour-fallback")
    assert code == 0
    assert refined(project) == []


def test_what_was_corrected_since_stays_and_is_not_doubled(project: Project) -> None:
    call("refine", str(project.path), "--image", "a.tiff", "--from", "Gland", "--write")
    first, before = refined(project)[0], len(drawn(project))
    entry = next(e for e in Project(project.path) if e.name == "a.tiff")
    data = load(entry.data_path.read_bytes())
    (corrected,) = (o for o in walk(data.root) if str(o.id) == first.id)
    corrected.node.contents[0] = JString("seen")
    entry.data_path.write_bytes(data.to_bytes())
    code, said = call("refine", str(project.path), "--image", "a.tiff", "--from", "Gland", "--write")
    assert code == 0, said
    assert len(drawn(project)) == before
    assert [a.name for a in drawn(project) if a.id == first.id] == ["seen"]


def test_replace_puts_better_outlines_in_the_place_of_rough_ones_until_they_are_cleared(project: Project) -> None:
    human = drawn(project)
    for _ in range(2):  # the second run starts from what the human drew, again
        code, said = call("refine", str(project.path), "--image", "a.tiff", "--from", "Gland", "--replace", "--write")
        assert code == 0, said
        assert "1 drawn by hand replaced, which clear puts back" in said
        first, *others = sorted(drawn(project), key=lambda a: a.geometry.bounds)
        assert (first.class_name, first.source) == ("Gland", "colour-fallback")
        assert first.id != ROUGH.id
        assert fit(first.geometry, DISCS[0]) > 0.85
        assert ROUGH.id not in {a.id for a in others}
        assert json.loads(first.metadata["qp2train prompt"])["mask"] == ROUGH.geometry.wkt
    entry = next(e for e in Project(project.path) if e.name == "a.tiff")
    for _ in refine_project(Project(project.path), entries=[entry], write=True):  # what was not asked this time stays
        assert len([a for a in drawn(project) if "qp2train replaced" in a.metadata]) == 1
    call("clear", str(project.path), "--source", "colour-fallback")
    assert drawn(project) == human


def test_replace_leaves_what_another_model_outlined_and_what_is_locked(project: Project) -> None:
    entry = next(e for e in Project(project.path) if e.name == "a.tiff")
    found = Annotation(shapely.box(275, 160, 360, 250), "Gland")
    Project(project.path).write(entry.id, [found], source="unet")
    data = load(entry.data_path.read_bytes())
    (mine,) = (o for o in walk(data.root) if o.name == "mine")
    mine.node.contents[5] = Builder(data.classes).boolean(True)
    entry.data_path.write_bytes(data.to_bytes())
    before = drawn(project)
    code, said = call("refine", str(project.path), "--image", "a.tiff", "--from", "Gland", "--replace", "--write")
    assert code == 0, said
    assert [a for a in drawn(project) if a.source != "colour-fallback"] == before
    assert before[0].locked


def test_objects_that_share_an_id_get_their_answers_beside_them(project: Project) -> None:
    entry = next(e for e in project if e.name == "a.tiff")
    other = Annotation(shapely.box(275, 160, 360, 240), "Gland", name="too")
    add_by_hand(entry, [other])
    a, b = uuid.UUID(other.id).bytes, uuid.UUID(ROUGH.id).bytes
    shared = entry.data_path.read_bytes().replace(a, b).replace(other.id.encode(), ROUGH.id.encode())
    entry.data_path.write_bytes(shared)
    before = {(a.name, a.id, a.geometry.wkt) for a in drawn(project) if a.class_name == "Gland"}
    assert len(before) == 2
    code, said = call("refine", str(project.path), "--image", "a.tiff", "--from", "Gland", "--replace", "--write")
    assert code == 0, said
    assert {
        (a.name, a.id, a.geometry.wkt) for a in drawn(project) if a.class_name == "Gland" and not a.source
    } == before
    better = Annotation(shapely.box(0, 0, 9, 9), "Gland")
    with pytest.raises(ProjectError, match="several objects have the id"):
        Project(project.path).write(entry.id, [better], source="net", in_place_of={better.id: ROUGH.id})


def test_replace_goes_on_where_glands_lie_in_glands_and_copies_lie_about(project: Project) -> None:
    entry = next(e for e in Project(project.path) if e.name == "a.tiff")
    inner = Annotation(shapely.box(290, 170, 350, 230), "Lumen", parent=ROUGH.id, name="within")
    add_by_hand(entry, [inner])
    human = drawn(project)

    def refine(*classes: str) -> None:
        again = Project(project.path)
        (outcome,) = refine_project(again, entries=[again[entry.id]], outlines=classes, in_place=True, write=True)
        assert outcome.error is None

    for classes in (["Gland", "Lumen"], ["Gland"], ["Lumen"]):
        refine(*classes)
        assert [a.name for a in drawn(project) if a.source and a.name] == ["mine", "within"]
    data = load(entry.data_path.read_bytes())
    tree = Hierarchy(data)
    twin = copy.deepcopy(next(obj for obj in tree if obj.name == "mine"))  # QuPath's copies keep the metadata
    values = twin.node.contents[2].contents[2].items
    values[[v.text for v in values].index(twin.id)] = JString(str(uuid.uuid4()))
    set_children(twin, [])
    set_children(tree.root, [*(child.node for child in tree.below(tree.root)), twin.node])
    entry.data_path.write_bytes(data.to_bytes())
    assert len([a for a in drawn(project) if a.name == "mine"]) == 2
    refine("Gland")
    call("clear", str(project.path), "--source", "colour-fallback")
    assert drawn(project) == human


def test_another_model_leaves_what_stands_in_your_outlines_place(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    class Other(ColourModel):
        id = "other"

    entry = next(iter(project))
    list(refine_project(project, entries=[entry], outlines=["Gland"], in_place=True, write=True))
    again = Project(project.path)
    how = {"entries": [again[entry.id]], "outlines": ["Gland"], "corrected": True, "in_place": True, "write": True}
    list(refine_project(again, model=Other(), **how))
    assert "colour-fallback stand in the place of yours" in caplog.text
    assert [a.source for a in drawn(project) if a.class_name == "Gland" and "qp2train replaced" in a.metadata] == [
        "colour-fallback"
    ]


def test_replace_needs_outlines_and_a_project_and_a_class_that_nothing_has_is_said(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    list(refine_project(project, entries=[next(iter(project))], outlines=["Glnad"]))
    assert "no area of class 'Glnad' is in these images" in caplog.text
    code, said = call("refine", str(project.path), "--replace")
    assert code == 2
    assert "--from Gland" in said
    with pytest.raises(ProjectError, match=r"--replace \(in_place=\) is for QuPath projects"):
        next(refine_project(SlideFolder(tmp_path), outlines=["Gland"], in_place=True))


def test_the_class_can_be_given_for_prompts_that_say_none(project: Project) -> None:
    code, _ = call("refine", str(project.path), "--image", "a.tiff", "--class", "Lumen", "--write")
    assert code == 0
    assert [a.class_name for a in refined(project)] == ["Gland", "Tumor"]  # theirs say it


def test_an_image_that_fails_is_named_and_the_others_are_done(project: Project) -> None:
    code, said = call("refine", str(project.path), "--write")
    assert code == 1
    assert "gone.tiff" in said
    assert "1 of 2 images failed" in said
    assert len(refined(project)) == 2


DAMAGED = ("no JSON", "[1]", '{"mask": "POLYGON 1"}', '{"mask": []}', '{"mask": "LINESTRING (0 0, nan 1)"}', "{}")


class TestCorrected:
    """A model has outlined the discs: the first one too large, the second one wrongly, the third one well."""

    PREDICTED = (
        Annotation(DISCS[0].buffer(25), "Gland"),
        Annotation(shapely.box(280, 120, 330, 280), "Gland"),
        Annotation(DISCS[2], "Tumor"),
    )

    @pytest.fixture
    def predicted(self, tmp_path: Path, project: Project) -> Project:
        other = Project.create(tmp_path / "predicted")
        slide = next(e for e in project if e.name == "a.tiff").path
        clicks = [
            Annotation(shapely.Point(120, 268), "Prompt-"),  # in the first one's rim
            Annotation(shapely.MultiPoint([(355, 200)]), "Prompt+"),  # just beside the second one, in its disc
        ]
        entry = other.add_image(slide, width=640, height=400, mpp=1.0, annotations=clicks)
        other.write(entry, self.PREDICTED, source="glands-1")
        return Project(other.path)

    def of(self, project: Project, source: str) -> list[Annotation]:
        return [a for a in drawn(project) if a.source == source]

    def test_predictions_with_a_point_give_way_to_better_ones_and_the_others_stay(self, predicted: Project) -> None:
        code, said = call("refine", str(predicted.path), "--corrected", "--write")
        assert code == 0, said
        assert [a.id for a in self.of(predicted, "glands-1")] == [self.PREDICTED[2].id]
        found = sorted(self.of(predicted, "colour-fallback"), key=lambda a: a.geometry.bounds)
        assert [a.class_name for a in found] == ["Gland", "Gland"]
        assert [a.metadata["qp2train corrects"] for a in found] == [a.id for a in self.PREDICTED[:2]]
        for after, before, disc in zip(found, self.PREDICTED, DISCS, strict=False):
            assert fit(after.geometry, disc) > fit(before.geometry, disc)
        assert len([a for a in drawn(predicted) if a.source is None]) == 2  # the points

    def test_running_again_changes_nothing_more(self, predicted: Project) -> None:
        states = []
        for arguments in (["--corrected"], ["--corrected"], [], ["--corrected"]):
            code, said = call("refine", str(predicted.path), *arguments, "--write")
            assert code == 0, said
            found = sorted((a for a in drawn(predicted) if a.source), key=lambda a: a.geometry.bounds)
            states.append([(a.source, a.class_name, a.geometry.wkt) for a in found])
        assert len(states[0]) == 3
        assert states[0] == states[1] == states[3]
        # Without the flag the points ask for nothing new either: what they corrected is known.
        assert states[2] == states[0]

    def test_a_point_is_a_correction_only_of_what_it_may_mean(self, predicted: Project) -> None:
        entry = next(iter(predicted))
        tissue = Annotation(shapely.box(0, 0, 640, 400), "Tissue")
        predicted.write(entry, [tissue], source="qp2train-tissue")
        stroma = Annotation(shapely.box(480, 140, 560, 260), "Stroma")
        predicted.write(entry, [*self.PREDICTED[:2], stroma], source="glands-1")
        clicks = [
            Annotation(shapely.Point(520, 200), "Prompt+: Gland"),  # a gland that was missed, in a predicted stroma
            Annotation(shapely.Point(635, 5), "Prompt-"),  # far from everything
        ]
        entries = Project(predicted.path)
        entries.write(next(iter(entries)), clicks, source="me")
        call("refine", str(predicted.path), "--corrected", "--write")
        assert {a.class_name for a in self.of(predicted, "qp2train-tissue")} == {"Tissue"}
        assert [a.class_name for a in self.of(predicted, "glands-1")] == ["Stroma"]
        found = self.of(predicted, "colour-fallback")
        assert sorted(a.class_name or "" for a in found) == ["Gland", "Gland", "Gland"]
        assert max(fit(a.geometry, DISCS[2]) for a in found) > 0.8

    def test_a_detection_is_a_prediction_too(self, predicted: Project) -> None:
        kept = [replace(a, kind="detection", id=str(uuid.uuid4())) for a in self.PREDICTED]
        predicted.write(next(iter(predicted)), kept, source="glands-1")
        call("refine", str(predicted.path), "--corrected", "--write")
        left = next(iter(Project(predicted.path))).annotations("detection")
        assert [a.id for a in left] == [kept[2].id]
        assert len(self.of(predicted, "colour-fallback")) == 2

    def test_without_write_nothing_is_taken_out_and_all_that_would_be_is_said(self, predicted: Project) -> None:
        _, said = call("refine", str(predicted.path), "--corrected")
        assert "2 of other models corrected and taken out" in said
        assert len(self.of(predicted, "glands-1")) == 3

    def test_what_is_predicted_anew_is_corrected_anew_once(self, predicted: Project) -> None:
        entry = next(iter(predicted))
        for _ in range(3):
            anew = [replace(a, id=str(uuid.uuid4()), name=f"number {i}") for i, a in enumerate(self.PREDICTED)]
            Project(predicted.path).write(entry.id, anew, source="glands-1")
            for _again in range(2):
                call("refine", str(predicted.path), "--corrected", "--write")
            assert sorted(a.name or "" for a in self.of(predicted, "colour-fallback")) == ["number 0", "number 1"]
            assert len(self.of(predicted, "glands-1")) == 1

    def test_metadata_that_are_damaged_stop_nothing(self, predicted: Project) -> None:
        keys = {"qp2train asked by": "q", "qp2train corrects": "x"}
        broken = [{**keys, "qp2train prompt": text} for text in DAMAGED]
        odd = [Annotation(shapely.box(600, 5 + 20 * i, 610, 15 + 20 * i), metadata=m) for i, m in enumerate(broken)]
        add_by_hand(next(iter(predicted)), odd)
        code, said = call("refine", str(predicted.path), "--corrected", "--write")
        assert code == 0, said
        assert len(self.of(predicted, "colour-fallback")) == 2
        assert " ".join(said.split()).count("what object") == len(DAMAGED)

    def test_a_correction_stays_when_what_lies_in_it_is_corrected(self, predicted: Project) -> None:
        """Most of the first disc is a lumen to the model; of the two, one after the other is corrected."""
        entry = next(iter(predicted))
        call("refine", str(predicted.path), "--corrected", "--write")
        first = self.of(predicted, "colour-fallback")
        lumen = Annotation(DISCS[0].buffer(-12), "Lumen")
        again = Project(predicted.path)
        again.write(entry.id, [lumen], source="lumens-1")
        add_by_hand(next(iter(again)), [Annotation(shapely.Point(120, 200), "Prompt+: Lumen")])
        _, said = call("refine", str(predicted.path), "--corrected", "--write")
        assert "1 of other models corrected" in said
        found = self.of(predicted, "colour-fallback")
        assert sorted(a.class_name or "" for a in found) == ["Gland", "Gland", "Lumen"]
        assert {a.metadata["qp2train corrects"] for a in first} <= {a.metadata["qp2train corrects"] for a in found}

    def test_a_correction_by_another_model_takes_the_place_of_the_first_ones(self, predicted: Project) -> None:
        class Other(ColourModel):
            id = "other"

        call("refine", str(predicted.path), "--corrected", "--write")
        again = Project(predicted.path)
        (outcome,) = refine_project(again, model=Other(), corrected=True, write=True)
        assert outcome.error is None
        made = [a for a in drawn(predicted) if "qp2train corrects" in a.metadata]
        for disc in DISCS[:2]:
            assert len([a for a in made if a.geometry.intersects(disc)]) == 1

    def test_without_the_flag_the_point_asks_for_an_object_of_its_own(self, predicted: Project) -> None:
        call("refine", str(predicted.path), "--write")
        assert len(self.of(predicted, "glands-1")) == 3
        (found,) = self.of(predicted, "colour-fallback")
        assert "qp2train corrects" not in found.metadata

    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        write_pyramid(tmp_path / "folder" / "b.tiff", [np.zeros((64, 64, 3), np.uint8)], mpp=1.0)
        with pytest.raises(ProjectError, match="for QuPath projects"):
            next(refine_project(SlideFolder(tmp_path / "folder"), corrected=True))


def test_answers_to_other_prompts_stay(project: Project) -> None:
    call("refine", str(project.path), "--image", "a.tiff", "--from", "Gland", "--write")
    before = refined(project)
    assert len(before) == 3
    for arguments in ([], ["--corrected"], ["--from", "Vessel"]):
        call("refine", str(project.path), "--image", "a.tiff", *arguments, "--write")
        assert [a.geometry.wkt for a in refined(project)] == [a.geometry.wkt for a in before]


def test_pictures_show_every_object_before_and_after(project: Project, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    call("refine", str(project.path), "--image", "a.tiff", "--from", "Gland", "--pictures", str(pictures))
    (file,) = pictures.iterdir()
    assert file.name.endswith("-a.png")
    height, width = np.asarray(Image.open(file)).shape[:2]
    assert width > 2 * height  # three objects side by side


def test_single_objects_of_a_source_can_be_cleared(project: Project) -> None:
    entry = next(e for e in project if e.name == "a.tiff")
    made = [Annotation(disc, "Gland") for disc in DISCS]
    project.write(entry, made, source="glands-1")
    (report,) = project.clear(source="glands-1", ids={made[0].id, made[2].id, ROUGH.id})
    assert report.removed == 2
    assert [a.id for a in drawn(project) if a.source] == [made[1].id]
    assert ROUGH.id in {a.id for a in drawn(project)}  # another's object is none of this source
    assert project.clear(source="glands-1", ids=set()) == []


def test_a_class_that_looks_like_a_formula_and_a_folder_that_is_a_file(project: Project, tmp_path: Path) -> None:
    entry = next(e for e in project if e.name == "a.tiff")
    (outcome,) = refine_project(project, entries=[entry], class_name="G $x^$", pictures=tmp_path / "pictures")
    assert outcome.error is None
    assert len(list((tmp_path / "pictures").iterdir())) == 1
    (tmp_path / "file").touch()
    (outcome,) = refine_project(project, entries=[entry], pictures=tmp_path / "file")
    assert "cannot be written" in str(outcome.error)


@pytest.mark.parametrize("mpp", [0, -1, float("nan")])
def test_a_scale_that_is_none_is_refused_before_any_image(project: Project, mpp: float) -> None:
    with pytest.raises(PromptError, match="mpp must be"):
        next(refine_project(project, mpp=mpp))

"""/api/v1: prompts on a project's slides, answers in slide coordinates, saved beside human work and out again."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shapely
from fastapi.testclient import TestClient
from PIL import Image
from servestubs import StubModel
from shapely.geometry import mapping, shape

from qp2train.core.annotation import Annotation
from qp2train.errors import NotAProjectError
from qp2train.qupath.javanodes import JString
from qp2train.qupath.pathobject import walk
from qp2train.qupath.project import Project
from qp2train.qupath.qpdata import load
from qp2train.refine.refiner import Refiner
from qp2train.serve.app import create_app
from qp2train.serve.models import Models
from qp2train.serve.openslides import OpenSlides
from qp2train.serve.project import ServedProject
from qp2train.serve.settings import Settings
from tests.fakes import FakeEntry, square, write_pyramid

WIDTH, HEIGHT = 400, 300
PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
HUMAN = square(5, 5, 20, "Tumor", name="mine")
REGION = {"x": 100, "y": 50, "width": 200, "height": 100}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A slide that a human has drawn on, and one that is missing."""
    slide = write_pyramid(tmp_path / "a.tiff", [PICTURE], mpp=0.5)
    project = Project.create(tmp_path / "p")
    project.add_image(slide, width=WIDTH, height=HEIGHT, mpp=0.5, annotations=[HUMAN])
    project.add_image(tmp_path / "gone.tiff", width=10, height=10)
    return project


@pytest.fixture
def stub() -> StubModel:
    return StubModel()


@pytest.fixture
def client(project: Project, stub: StubModel) -> Iterator[TestClient]:
    app = create_app(Models([("glands", stub)]), settings=Settings(region_px=512), project=ServedProject(project.path))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def predicted(client: TestClient, **more: object) -> list[dict]:
    answer = client.post("/api/v1/entries/1/predict", json={"region": REGION, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def drawn(project: Project) -> list[Annotation]:
    return Project(project.path)["1"].annotations()


def test_models_and_images_are_listed(client: TestClient) -> None:
    first, second = client.get("/api/v1/models").json()
    assert first == {
        "name": "glands", "url": "run:glands", "id": "stub-1", "source": "stub-1-clicks", "fallback": False,
    }  # fmt: skip
    assert second["fallback"] is True
    listed = client.get("/api/v1/entries").json()
    assert listed == [{"id": "1", "name": "a.tiff"}, {"id": "2", "name": "gone.tiff"}]
    assert client.get("/api/v1/entries/1").json() == {
        "id": "1", "name": "a.tiff", "width": WIDTH, "height": HEIGHT, "mpp": 0.5,
    }  # fmt: skip


def test_a_region_is_a_picture_of_its_pixels(client: TestClient) -> None:
    answer = client.get("/api/v1/entries/1/region.png", params=REGION)
    assert answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(answer.content))), PICTURE[50:150, 100:300])
    small = client.get("/api/v1/entries/1/region.png", params={"max_px": 40})
    assert Image.open(io.BytesIO(small.content)).size == (40, 30)
    assert client.get("/api/v1/entries/1/region.png", params={"max_px": 513}).status_code == 413
    for params, said in (
        ({"x": 1, "y": 2}, "width, height is missing"),
        ({**REGION, "x": 400}, "misses the slide"),
        ({**REGION, "width": 0}, "above 0"),
        ({**REGION, "x": "nan"}, "finite"),
        ({**REGION, "x": "1e300"}, "finite"),
    ):
        answer = client.get("/api/v1/entries/1/region.png", params=params)
        assert (answer.status_code, said in answer.json()["detail"]) == (422, True), answer.text


def test_answers_are_in_slide_coordinates(client: TestClient, stub: StubModel) -> None:
    """Looked at in half the resolution: 10 pixels of the view are 20 of the slide."""
    (feature,) = predicted(client, points=[[200, 100]], view_px=100, class_name="Gland: Large")
    assert stub.images[0].shape == (50, 100, 3)
    assert stub.asked[0].points == ((50.0, 25.0),)
    assert shape(feature["geometry"]).equals(shape(mapping(square(190, 90, 20).geometry)))
    assert feature["properties"]["classification"] == {"names": ["Gland", "Large"]}
    assert feature["properties"]["measurements"] == {"Predicted IoU": 0.9}
    prompt = json.loads(feature["properties"]["metadata"]["qp2train prompt"])
    assert prompt["points"] == [[200, 100]]
    assert prompt["region"] == [100, 50, 300, 150]


def test_the_same_as_the_refiner_in_python(client: TestClient, project: Project) -> None:
    refiner = Refiner(StubModel(), view_px=1024)
    with project["1"].slide() as slide:
        from qp2train import Box

        refiner.set_region(slide, Box(100, 50, 200, 100))
    (expected,) = refiner.predict(box=Box(120, 60, 33, 44))
    (feature,) = predicted(client, box={"x": 120, "y": 60, "width": 33, "height": 44})
    assert shape(feature["geometry"]).equals(expected.geometry)
    assert feature["properties"]["metadata"] == dict(expected.metadata)


def test_a_region_is_looked_at_once_and_masks_are_prompts(client: TestClient, stub: StubModel) -> None:
    (first,) = predicted(client, points=[[200, 100]])
    (second,) = predicted(client, mask=first["geometry"])
    assert second["geometry"] == first["geometry"]
    assert len(stub.images) == 1
    stub.masks = [(np.zeros((100, 200), np.bool_), 0.9)]
    assert predicted(client, points=[[200, 100]]) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "nothing is prompted"),
        ({"points": [[1]]}, "points.0"),
        ({"points": [[1, 2]], "labels": []}, "1 points, 0 labels"),
        ({"points": [[1, 2]], "model": "run:no"}, "run:glands"),
        ({"points": [[1, 2]], "nonsense": 1}, "nonsense"),
        ({"points": [[1, 2]], "region": {**REGION, "x": 1e9}}, "beyond the slide"),
        ({"mask": {"type": "Banana"}}, "no area"),
        ({"mask": {"type": "Polygon", "coordinates": [[[0, 0], [1e300, 0], [5, 5]]]}}, "not understood"),
    ],
)
def test_what_makes_no_sense_is_a_422_that_says_why(client: TestClient, more: dict, said: str) -> None:
    answer = client.post("/api/v1/entries/1/predict", json={"region": REGION, **more})
    assert (answer.status_code, said in answer.json()["detail"]) == (422, True), answer.text


@pytest.mark.parametrize(
    "entry_id", ["3", "a.tiff", "..", "%2e%2e", "..%2f..%2fp", "%2fetc%2fpasswd", "1%00", "%ff", "-1"]
)
def test_images_are_known_by_their_ids_alone(client: TestClient, entry_id: str) -> None:
    for path in ("", "/region.png"):
        assert client.get(f"/api/v1/entries/{entry_id}{path}").status_code == 404
    answer = client.post(
        f"/api/v1/entries/{entry_id}/objects", json={"features": [{"geometry": mapping(HUMAN.geometry)}]}
    )
    assert answer.status_code == 404


def test_a_slide_that_is_missing_is_named(client: TestClient) -> None:
    for answer in (
        client.get("/api/v1/entries/2"),
        client.post("/api/v1/entries/2/predict", json={"region": REGION, "points": [[1, 2]]}),
    ):
        assert answer.status_code == 409
        assert "gone.tiff" in answer.json()["detail"]


def test_saved_objects_lie_beside_human_work_and_come_out_to_the_byte(client: TestClient, project: Project) -> None:
    before = Project(project.path)["1"].data_path.read_bytes()
    (first,) = predicted(client, points=[[200, 100]], class_name="Gland")
    (second,) = predicted(client, points=[[250, 100]])
    saved = client.post("/api/v1/entries/1/objects", json={"model": "run:glands", "features": [first]}).json()
    assert saved == {
        "source": "stub-1-clicks", "added": 1, "removed": 0, "kept_edited": 0, "ids": [first["id"]],
    }  # fmt: skip
    client.post("/api/v1/entries/1/objects", json={"features": [second]})
    human, *ours = drawn(project)
    assert (human.name, human.source) == ("mine", None)
    assert [(a.id, a.class_name, a.source) for a in ours] == [
        (first["id"], "Gland", "stub-1-clicks"),
        (second["id"], None, "stub-1-clicks"),
    ]
    assert ours[0].geometry.equals(shape(first["geometry"]))
    assert ours[0].metadata == first["properties"]["metadata"]
    assert ours[0].measurements == {"Predicted IoU": 0.9}
    twice = client.post("/api/v1/entries/1/objects", json={"features": [second]})
    assert twice.status_code == 409

    gone = client.delete("/api/v1/entries/1/objects", params={"object_id": first["id"]}).json()
    assert (gone["removed"], gone["kept_edited"]) == (1, 0)
    assert [a.id for a in drawn(project)] == [HUMAN.id, second["id"]]
    assert client.delete("/api/v1/entries/1/objects", params={"object_id": first["id"]}).json()["removed"] == 0
    assert client.delete("/api/v1/entries/1/objects").json()["removed"] == 1
    assert Project(project.path)["1"].data_path.read_bytes() == before


def test_what_lies_beyond_the_slide_or_has_no_class_that_qupath_can_hold_is_refused(client: TestClient) -> None:
    far = {"geometry": mapping(shapely.box(9000, 0, 9010, 10))}
    nul = {"geometry": mapping(HUMAN.geometry), "properties": {"classification": {"name": "a\0b"}}}
    for feature, said in ((far, "feature 0 lies beyond the slide"), (nul, "class name")):
        answer = client.post("/api/v1/entries/1/objects", json={"features": [feature]})
        assert answer.status_code in (400, 409, 422), answer.text
        assert said in answer.json()["detail"]


def test_what_was_edited_since_stays(client: TestClient, project: Project) -> None:
    (feature,) = predicted(client, points=[[200, 100]])
    client.post("/api/v1/entries/1/objects", json={"features": [feature]})
    entry = Project(project.path)["1"]
    data = load(entry.data_path.read_bytes())
    (corrected,) = (o for o in walk(data.root) if str(o.id) == feature["id"])
    corrected.node.contents[0] = JString("seen")
    entry.data_path.write_bytes(data.to_bytes())
    assert client.delete("/api/v1/entries/1/objects", params={"object_id": feature["id"]}).json()["removed"] == 0
    assert [a.name for a in drawn(project)] == ["mine", "seen"]


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        ({"geometry": {"type": "Point", "coordinates": [1, 2]}}, "no area"),
        ({"geometry": mapping(HUMAN.geometry), "id": "../../x"}, "UUID"),
        ({"geometry": mapping(HUMAN.geometry), "properties": {"classification": {"names": [1]}}}, "classification"),
        ({"geometry": mapping(HUMAN.geometry), "properties": {"classification": {"name": "a\nb"}}}, "a\\nb"),
        ({"geometry": mapping(HUMAN.geometry), "properties": {"objectType": "tile"}}, "objectType"),
        ({}, "geometry"),
    ],
)
def test_what_cannot_be_an_object_is_not_saved(client: TestClient, project: Project, feature: dict, said: str) -> None:
    before = Project(project.path)["1"].data_path.read_bytes()
    answer = client.post("/api/v1/entries/1/objects", json={"features": [feature]})
    assert (answer.status_code, said in answer.json()["detail"]) == (422, True), answer.text
    assert Project(project.path)["1"].data_path.read_bytes() == before


def test_a_folder_of_slides_will_do(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tiff", [PICTURE], mpp=0.5)
    app = create_app(Models([("glands", StubModel())]), project=ServedProject(tmp_path))
    with TestClient(app, base_url="http://localhost") as client:
        body = {"region": REGION, "points": [[200, 100]]}
        (feature,) = client.post("/api/v1/entries/a/predict", json=body).json()
        assert client.post("/api/v1/entries/a/objects", json={"features": [feature]}).json()["added"] == 1
        assert (tmp_path / "a.stub-1-clicks.geojson").is_file()
        gone = client.delete("/api/v1/entries/a/objects", params={"object_id": feature["id"]}).json()
        assert gone["removed"] == 1
        assert sorted(os.listdir(tmp_path))[0] == "a.stub-1-clicks.geojson"


def test_without_a_project_there_are_no_images(tmp_path: Path) -> None:
    with TestClient(create_app(), base_url="http://localhost") as client:
        answer = client.get("/api/v1/entries")
        assert answer.status_code == 404
        assert "--project" in answer.json()["detail"]
    with pytest.raises(NotAProjectError):
        ServedProject(tmp_path)


def test_a_few_slides_stay_open_and_none_is_closed_while_it_is_read() -> None:
    slides, closed, here = OpenSlides(most=1), list[str](), Path(__file__)

    class Entry(FakeEntry):
        def slide(self):
            slide = super().slide()
            slide.close = lambda: closed.append(self.id)
            return slide

    a, b = Entry("a"), Entry("b")
    with slides.of(a, here), slides.of(b, here):
        assert closed == []
    assert closed == ["b"]  # a was in use when there was one too many
    with slides.of(b, here):
        assert closed == ["b", "a"]
    slides.close()
    assert closed == ["b", "a", "b"]


def test_a_slide_is_opened_anew_when_the_project_has_changed(client: TestClient, project: Project) -> None:
    assert client.get("/api/v1/entries/1").json()["mpp"] == 0.5
    file = project.file
    text = file.read_text(encoding="utf-8")
    assert '"value":0.5' in text.replace(" ", "")
    file.write_text(text.replace("0.5", "0.25"), encoding="utf-8")
    assert client.get("/api/v1/entries/1").json()["mpp"] == 0.25
    next(file.parent.parent.glob("a.tiff")).unlink()
    assert client.get("/api/v1/entries/1").status_code == 409


def test_damage_in_the_project_is_not_the_requests_fault(client: TestClient, project: Project) -> None:
    data = project["1"].data_path
    data.write_bytes(data.read_bytes()[:50])
    ring = [[1, 1], [9, 1], [9, 9], [1, 1]]
    one = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    answer = client.post("/api/v1/entries/1/objects", json={"model": "glands", "features": [one]})
    assert answer.status_code == 409, answer.text

"""A client like QuPath's SAM extension, written from the protocol alone, on a live server: every endpoint."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image
from servestubs import StubModel, b64, blank, file_of, listening, png
from shapely.geometry import shape

from qp2train import __version__
from qp2train.serve.app import create_app
from qp2train.serve.models import SAM_TYPES, Models
from qp2train.serve.samprotocol import ONE_PIXEL
from qp2train.serve.settings import Settings

HEIGHT, WIDTH = 40, 60


def square(top: int = 10, left: int = 20, side: int = 10) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.fixture(scope="module")
def stub() -> StubModel:
    return StubModel()


@pytest.fixture(scope="module")
def address(stub: StubModel) -> Iterator[str]:
    models = Models([("glands-3", stub), ("glands-3", StubModel(id="second-1"))])
    with listening(create_app(models, settings=Settings(seconds=20))) as base:
        yield base


@pytest.fixture
def client(address: str, stub: StubModel) -> Iterator[httpx.Client]:
    """As the extension: the base address with its slash, JSON without nulls."""
    stub.masks = None
    stub.asked.clear()
    stub.images.clear()
    with httpx.Client(base_url=f"{address}/sam/", timeout=30) as client:
        yield client


def body(**more: object) -> dict[str, object]:
    return {"type": "vit_h", "b64img": blank(HEIGHT, WIDTH), "checkpoint_url": "run:glands-3", **more}


def found(answer: httpx.Response) -> list[dict]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


@pytest.mark.parametrize("path", ["/sam", "/sam/"])
def test_a_square_mask_comes_back_as_that_square(address: str, stub: StubModel, path: str) -> None:
    stub.masks = [(square(), 0.875)]
    (feature,) = found(httpx.post(address + path, json=body(point_coords=[[25, 15]], point_labels=[1])))
    assert feature["type"] == "Feature"
    assert feature["geometry"]["type"] == "Polygon"
    assert shape(feature["geometry"]).bounds == (20, 10, 30, 20)
    assert shape(feature["geometry"]).area == 100
    assert feature["properties"] == {
        "label": "object",
        "quality": 0.875,
        "sam_model": "stub-1",
        "metadata": {"qp2train source": "stub-1-clicks"},
    }


def test_holes_and_all_parts_survive(client: httpx.Client, stub: StubModel) -> None:
    ring, speck = square(side=12) & ~square(13, 23, 4), square(2, 2, 1)
    stub.masks = [(ring | speck, 0.5)]
    (feature,) = found(client.post("", json=body(bbox=[0, 0, 60, 40])))
    assert feature["geometry"]["type"] == "MultiPolygon"
    outline = shape(feature["geometry"])
    assert outline.is_valid
    assert outline.area == 144 - 16 + 1
    assert sorted(len(part.interiors) for part in outline.geoms) == [0, 1]


def test_an_empty_mask_is_no_object(client: httpx.Client, stub: StubModel) -> None:
    stub.masks = [(np.zeros((HEIGHT, WIDTH), np.bool_), 0.9)]
    assert found(client.post("", json=body(point_coords=[[1, 1]], point_labels=[1]))) == []


def test_of_several_masks_each_has_its_own_score(client: httpx.Client, stub: StubModel) -> None:
    stub.masks = [(square(side=8), 0.9), (square(side=4), 0.7), (square(side=20), 0.4)]
    asked = body(point_coords=[[21, 11]], point_labels=[1], multimask_output=True)
    areas = [(shape(f["geometry"]).area, f["properties"]["quality"]) for f in found(client.post("", json=asked))]
    assert areas == [(64, 0.9), (16, 0.7), (400, 0.4)]
    (best,) = found(client.post("", json={**asked, "multimask_output": False}))
    assert shape(best["geometry"]).area == 64


def test_the_model_gets_what_was_sent(client: httpx.Client, stub: StubModel) -> None:
    """Background points come first; a click is its pixel's middle; what rounding put beyond the border is inside."""
    picture = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint32).reshape(HEIGHT, WIDTH, 3).astype(np.uint8)
    asked = body(
        b64img=png(picture), point_coords=[[3, 4], [60, 40]], point_labels=[0, 1], bbox=[-5, -6, 70, 30],
        b64mask=png(square().astype(np.uint8) * 255),
    )  # fmt: skip
    found(client.post("", json=asked))
    (prompt,) = stub.asked
    assert prompt.points == ((3.5, 4.5), (59.5, 39.5))
    assert prompt.labels == (0, 1)
    assert prompt.box == (-5, -6, 70, 30)
    np.testing.assert_array_equal(prompt.mask, square())
    np.testing.assert_array_equal(stub.images[0], picture)


@pytest.mark.parametrize("how", ["grey", "ones", "rgb", "alpha", "1 bit", "palette", "16 bit"])
def test_a_mask_in_any_form_is_a_prompt(client: httpx.Client, how: str) -> None:
    grey = Image.fromarray(square().astype(np.uint8) * 255)
    alpha = Image.new("RGBA", grey.size, (255, 255, 255, 0))
    alpha.putalpha(grey)
    sent = {
        "grey": grey,
        "ones": Image.fromarray(square().astype(np.uint8)),
        "rgb": grey.convert("RGB"),
        "alpha": alpha,
        "1 bit": grey.convert("1"),
        "palette": grey.convert("RGB").convert("P"),
        "16 bit": Image.fromarray(square().astype(np.uint16) * 65535),
    }[how]
    (feature,) = found(client.post("", json=body(b64mask=b64(file_of(sent)))))
    assert shape(feature["geometry"]).equals(shape({"type": "Polygon", "coordinates": [
        [[20, 10], [30, 10], [30, 20], [20, 20], [20, 10]]]}))  # fmt: skip


def test_a_prompt_on_the_same_image_is_not_looked_at_again(client: httpx.Client, stub: StubModel) -> None:
    for x in (5, 15, 25):
        found(client.post("", json=body(b64img=blank(value=101), point_coords=[[x, 5]], point_labels=[1])))
    assert len(stub.images) == 1
    assert len(stub.asked) == 3


@pytest.mark.parametrize("type", SAM_TYPES)
def test_every_model_is_listed_under_every_kind(client: httpx.Client, type: str) -> None:
    listed = client.get("weights/", params={"type": type}).json()
    assert listed == [
        {"type": type, "name": "glands-3", "url": "run:glands-3"},
        {"type": type, "name": "glands-3-2", "url": "run:glands-3-2"},
        {"type": type, "name": "colours", "url": "run:colours"},
    ]
    for entry in listed:  # what is listed answers
        assert client.post("weights/", json=entry).status_code == 200
        asked = body(type=type, checkpoint_url=entry["url"], bbox=[5, 5, 20, 20])
        assert client.post("", json=asked).status_code == 200


def test_all_weights_are_those_of_every_kind(client: httpx.Client) -> None:
    listed = client.get("weights/").json()
    assert [entry["type"] for entry in listed[::3]] == list(SAM_TYPES)


def test_checkpoint_url_chooses_the_model(client: httpx.Client) -> None:
    asked = body(point_coords=[[25, 15]], point_labels=[1])
    for url, model in (("run:glands-3-2", "second-1"), ("run:glands-3", "stub-1"), ("", "stub-1")):
        (feature,) = found(client.post("", json={**asked, "checkpoint_url": url}))
        assert feature["properties"]["sam_model"] == model
    del asked["checkpoint_url"]
    assert found(client.post("", json=asked))[0]["properties"]["sam_model"] == "stub-1"
    lost = client.post("", json={**asked, "checkpoint_url": "https://example.org/sam_vit_h.pth"})
    assert lost.status_code == 422
    assert "run:glands-3, run:glands-3-2, run:colours" in lost.json()["detail"]


def test_nothing_is_downloaded(client: httpx.Client) -> None:
    asked = {"type": "vit_h", "name": "mine", "url": "https://example.org/mine.pth"}
    answer = client.post("weights/", json=asked)
    assert answer.status_code == 422
    assert "downloads nothing" in answer.json()["detail"]
    assert client.get("weights/cancel/").text == "nothing is being downloaded"
    assert client.get("progress/").json() == {"message": None, "percent": -1}


def test_the_version_is_plain_text(client: httpx.Client) -> None:
    answer = client.get("version/")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == __version__


@pytest.mark.parametrize("path", ["upload/", "video/", "sam3video/"])
def test_stacks_and_videos_are_refused_in_words(client: httpx.Client, path: str) -> None:
    answer = client.post(path, content=b"\x00 whatever")
    assert answer.status_code == 501
    assert "video" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"type": "vit_x"}, "vit_h"),
        ({"point_coords": [[1, 2]], "point_labels": []}, "1 points, 0 labels"),
        ({"point_coords": [[1, 2, 3]]}, "point_coords.0"),
        ({"point_coords": [[1.5, 2]], "point_labels": [1]}, "point_coords.0.0"),
        ({"point_coords": [[10**400, 2]], "point_labels": [1]}, "point_coords.0.0"),
        ({"point_coords": [[1, 2]], "point_labels": [2]}, "point_labels.0"),
        ({"bbox": [5, 5, 5, 9]}, "is empty"),
        ({"bbox": [5, 5, 9]}, "bbox"),
        ({}, "nothing is prompted"),
        ({"b64mask": blank(10, 10)}, "10×10 px, the image 60×40"),
        ({"b64mask": "no"}, "b64mask"),
        ({"b64img": 3}, "b64img"),
        ({"b64img": "\ud800"}, "b64img"),
    ],
)
def test_what_makes_no_sense_is_a_422_that_says_why(client: httpx.Client, more: dict, said: str) -> None:
    import json

    sent = json.dumps(body(**more)).encode()
    answer = client.post("", content=sent, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert len(answer.content) < 3000


def test_automask_finds_every_object_once(client: httpx.Client, stub: StubModel) -> None:
    """The stub outlines 10 pixels round each point: of a 3×2 grid all stay, of a denser one the overlapping go."""
    few = found(client.post("automask/", json=body(points_per_side=2, include_image_edge=False)))
    assert sorted(shape(f["geometry"]).bounds for f in few) == [
        (10, 5, 20, 15), (10, 25, 20, 35), (40, 5, 50, 15), (40, 25, 50, 35),
    ]  # fmt: skip
    assert found(client.post("automask/", json=body(points_per_side=2, pred_iou_thresh=0.95))) == []
    stub.masks = [(square(), 0.9), (square(side=15), 0.95), (square(side=5), 0.89)]
    areas = {
        output: sorted(
            shape(f["geometry"]).area
            for f in found(client.post("automask/", json=body(points_per_side=3, output_type=output, box_nms_thresh=1)))
        )
        for output in (
            "Single mask",
            "Multi-mask (all)",
            "Multi-mask (largest)",
            "Multi-mask (smallest)",
            "Multi-mask (best quality)",
        )
    }
    assert areas == {
        "Single mask": [100],
        "Multi-mask (all)": [25, 100, 225],
        "Multi-mask (largest)": [225],
        "Multi-mask (smallest)": [25],
        "Multi-mask (best quality)": [225],
    }
    lost = client.post("automask/", json=body(output_type="Multi-mask"))
    assert lost.status_code == 422
    assert "Multi-mask (best quality)" in lost.json()["detail"]


def test_concept_boxes_are_x_y_width_height(client: httpx.Client, stub: StubModel) -> None:
    asked = body(type="sam3", positive_bboxes=[[5, 6, 10, 12], [30, 10, 4, 4]], negative_bboxes=[[8, 8, 2, 2]])
    first, second = found(client.post("sam3/", json=asked))
    assert shape(first["geometry"]).bounds == (5, 6, 15, 18)
    assert shape(second["geometry"]).bounds == (30, 10, 34, 14)
    assert [(p.points, p.labels) for p in stub.asked] == [(((9.0, 9.0),), (0,)), ((), ())]
    assert found(client.post("sam3/", json={**asked, "confidence_threshold": 0.95})) == []


def test_text_prompts_need_boxes(client: httpx.Client) -> None:
    answer = client.post("sam3/", json=body(type="sam3", text_prompt="gland"))
    assert answer.status_code == 422
    assert "'gland'" in answer.json()["detail"]
    assert "draw boxes" in answer.json()["detail"]
    boxes = body(type="sam3", text_prompt="gland", positive_bboxes=[[5, 6, 10, 12]])
    assert len(found(client.post("sam3/", json=boxes))) == 1


def test_real_colours_are_outlined_by_the_fallback(address: str) -> None:
    picture = np.full((120, 160, 3), (230, 180, 210), np.uint8)
    picture[40:80, 50:110] = (110, 60, 140)
    asked = {"type": "vit_b", "b64img": png(picture), "point_coords": [[5, 5], [80, 60]], "point_labels": [0, 1]}
    (feature,) = found(httpx.post(f"{address}/sam/", json={**asked, "checkpoint_url": "run:colours"}, timeout=30))
    outline, truth = (
        shape(feature["geometry"]),
        shape({"type": "Polygon", "coordinates": [[[50, 40], [110, 40], [110, 80], [50, 80], [50, 40]]]}),
    )
    assert outline.intersection(truth).area / outline.union(truth).area > 0.9
    assert 0 < feature["properties"]["quality"] <= 1


def test_the_example_picture_of_the_description_is_one() -> None:
    assert Image.open(io.BytesIO(base64.b64decode(ONE_PIXEL))).convert("RGB").size == (1, 1)

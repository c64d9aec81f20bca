"""COCO: objects of the annotations, read by pycocotools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from fakes import square
from PIL import Image
from pycocotools.coco import COCO
from small import picture, small_table

from qp2train import Annotation, Box, LabelMap, export_patches
from qp2train.sampling.export.coco import run_lengths
from qp2train.sampling.export.instances import Instances

# pycocotools' own, of numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def read(path: Path) -> COCO:
    return COCO(str(path))


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return export_patches(small_table(tmp_path), tmp_path / "out", format="coco")


def test_a_file_per_split_names_the_pictures_of_its_folder(exported):
    train, val = (read(exported / "annotations" / f"instances_{s}.json") for s in ("train", "val"))
    names = [i["file_name"] for i in train.loadImgs(train.getImgIds())]
    assert sorted(names) == sorted(p.name for p in (exported / "images" / "train").iterdir())
    assert [i["file_name"] for i in val.loadImgs(val.getImgIds())] == ["Case_B_x0_y0_Stroma_fibres.png"]
    shown = np.asarray(Image.open(exported / "images" / "val" / "Case_B_x0_y0_Stroma_fibres.png"))
    assert np.array_equal(shown, picture(ord("b"))[:8, :8])


def test_classes_have_the_masks_values(exported):
    coco = read(exported / "annotations" / "instances_train.json")
    assert [(c["id"], c["name"]) for c in coco.loadCats(coco.getCatIds())] == [(1, "Stroma"), (2, "Tumor")]


def test_pictures_say_where_they_come_from(exported):
    image = read(exported / "annotations" / "instances_train.json").imgs[1]
    said = {key: image[key] for key in ("width", "height", "slide", "x", "y", "mpp", "label", "roi", "patient")}
    assert said == {
        "width": 8,
        "height": 8,
        "slide": "Case A.svs",
        "x": 0.0,
        "y": 0.0,
        "mpp": 0.5,
        "label": "Tumor",
        "roi": "core",
        "patient": "Pa",
    }


def test_an_object_without_a_hole_is_a_polygon_and_keeps_what_lies_under_another(exported):
    coco = read(exported / "annotations" / "instances_train.json")
    over, under = coco.loadAnns(coco.getAnnIds(imgIds=[3]))
    assert (over["annotation"], over["name"], over["category_id"], over["iscrowd"]) == ("over", "edge", 2, 0)
    assert (over["bbox"], over["area"]) == ([0, 0, 8, 8], 64)
    assert (under["annotation"], under["category_id"]) == ("under", 1)
    assert under["bbox"] == [1, 1, 3, 4]
    corners = np.reshape(under["segmentation"], (-1, 2)).tolist()
    assert sorted(corners) == [[1, 1], [1, 5], [4, 1], [4, 5]]
    inside = np.zeros((8, 8), np.uint8)
    inside[1:5, 1:4] = 1
    assert np.array_equal(coco.annToMask(under), inside)


def test_an_object_with_a_hole_is_a_run_length_code(exported):
    coco = read(exported / "annotations" / "instances_train.json")
    (ring,) = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    # Down the columns: two full ones; then 2 in, 4 out, 2 in, four times; then two full ones.
    assert ring["segmentation"]["counts"] == [0, 18, 4, 4, 4, 4, 4, 4, 4, 18]
    inside = np.ones((8, 8), np.uint8)
    inside[2:6, 2:6] = 0
    assert np.array_equal(coco.annToMask(ring), inside)
    assert (ring["area"], ring["bbox"]) == (48, [0, 0, 8, 8])


def test_what_is_ignored_is_a_crowd_of_every_class(exported):
    coco = read(exported / "annotations" / "instances_val.json")
    fibres, *crowds = coco.loadAnns(coco.getAnnIds())
    assert (fibres["annotation"], fibres["iscrowd"]) == ("fibres", 0)
    assert [(c["category_id"], c["iscrowd"], c["bbox"], c["area"]) for c in crowds] == [
        (1, 1, [4, 4, 4, 4], 16),
        (2, 1, [4, 4, 4, 4], 16),
    ]
    ignored = np.zeros((8, 8), np.uint8)
    ignored[4:, 4:] = 1
    assert np.array_equal(coco.annToMask(crowds[0]), ignored)


def test_a_patch_without_objects_is_still_a_picture(exported):
    coco = read(exported / "annotations" / "instances_train.json")
    assert coco.imgs[4]["file_name"] == "Case_A_x12_y12_Background.png"
    assert {a["iscrowd"] for a in coco.loadAnns(coco.getAnnIds(imgIds=[4]))} == {1}


def test_evaluation_by_pycocotools_gives_full_marks_to_the_truth_and_minds_no_find_in_a_crowd(exported):
    from pycocotools.cocoeval import COCOeval

    coco = read(exported / "annotations" / "instances_val.json")
    box = [{"image_id": 2, "category_id": 1, "bbox": [0, 0, 8, 8], "score": 0.9}]
    in_the_crowd = [{"image_id": 2, "category_id": 1, "bbox": [4, 4, 4, 4], "score": 0.99}]
    result = COCOeval(coco, coco.loadRes(box + in_the_crowd), "bbox")
    result.evaluate()
    result.accumulate()
    result.summarize()
    assert result.stats[0] == pytest.approx(1)


def test_ids_are_distinct(exported):
    for file in (exported / "annotations").iterdir():
        data = json.loads(file.read_bytes())
        for kind in ("images", "annotations", "categories"):
            ids = [one["id"] for one in data[kind]]
            assert len(ids) == len(set(ids))


def test_run_lengths_begin_with_what_is_outside():
    assert run_lengths(np.array([[0, 1], [0, 1]], bool)) == [2, 2]
    assert run_lengths(np.array([[1, 0], [1, 0]], bool)) == [0, 2, 2]
    assert run_lengths(np.zeros((2, 2), bool)) == [4]
    assert run_lengths(np.ones((2, 2), bool)) == [0, 4]


# Which objects there are, and where


def found(annotations, box, size_px=8, labels=None) -> list[tuple[int, list[float], float]]:
    finder = Instances(annotations, labels or LabelMap(["Tumor"], ignore=["Fold"]))
    return [(i.value, [round(v, 6) for v in i.area.bounds], i.area.area) for i in finder.within(box, size_px)]


def test_objects_are_clipped_moved_and_scaled_to_the_patch():
    # 10–30 in a box 20–36, at half the scale: 0–5.
    assert found([square(10, 10, 20)], Box(20, 20, 16, 16)) == [(1, [0, 0, 5, 5], 25)]


def test_a_sliver_of_less_than_a_pixel_is_no_object():
    assert found([square(0, 0, 8)], Box(7.9, 0, 8, 8)) == []
    assert len(found([square(0, 0, 8)], Box(7.8, 0, 8, 8))) == 1


def test_background_what_is_ignored_lines_points_and_foreign_classes_are_no_objects():
    line, point = Annotation(shapely.LineString([(0, 0), (8, 8)]), "Tumor"), Annotation(shapely.Point(3, 3), "Tumor")
    others = [square(0, 0, 8, name) for name in ("Region*", "Fold", "Ignore*", "Nerve", None)]
    assert found([line, point, *others], Box(0, 0, 8, 8)) == []


def test_a_crossing_outline_is_repaired_first():
    bow = Annotation(shapely.Polygon([(0, 0), (8, 8), (8, 0), (0, 8)]), "Tumor")
    assert found([bow], Box(0, 0, 8, 8)) == [(1, [0, 0, 8, 8], 32)]

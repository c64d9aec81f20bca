"""YOLO: outlines as shares of the patch, holes by cuts; filled by OpenCV as ultralytics fills them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
import yaml
from small import RING, small_table

from qp2train import Annotation, Box, LabelMap, export_patches
from qp2train.sampling.export.yolo import one_outline
from qp2train.sampling.mask import paint


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return export_patches(small_table(tmp_path), tmp_path / "out", format="yolo")


def test_every_picture_has_a_label_file_of_the_same_name(exported):
    images = {p.relative_to(exported / "images").with_suffix("") for p in exported.glob("images/*/*.png")}
    labels = {p.relative_to(exported / "labels").with_suffix("") for p in exported.glob("labels/*/*.txt")}
    assert images == labels
    assert len(images) == 4


def test_data_yaml_names_folders_beside_it_and_classes_from_0(exported):
    data = yaml.safe_load((exported / "data.yaml").read_text(encoding="utf-8"))
    assert data == {"train": "images/train", "val": "images/val", "names": {0: "Stroma", 1: "Tumor"}}


def test_a_line_is_a_class_and_corners_as_shares(exported):
    lines = (exported / "labels/train/Case_A_x8_y0_Stroma_edge.txt").read_text().splitlines()
    over, under = ([float(v) for v in line.split()] for line in lines)
    assert over[0] == 1
    assert {tuple(c) for c in np.reshape(over[1:], (-1, 2))} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert under[0] == 0
    corners = {(0.125, 0.125), (0.125, 0.625), (0.5, 0.125), (0.5, 0.625)}
    assert {tuple(c) for c in np.reshape(under[1:], (-1, 2))} == corners


def test_a_patch_without_objects_has_an_empty_label_file(exported):
    assert (exported / "labels/train/Case_A_x12_y12_Background.txt").read_text() == ""


def test_parts_of_an_object_are_objects(tmp_path):
    two = Annotation(shapely.union(shapely.box(0, 0, 2, 2), shapely.box(5, 5, 8, 8)), "Tumor")
    table = small_table(tmp_path, [("a", 0, 0, "Tumor", "", "train")])
    slides = {"a": replace(table.slides["a"], annotations=(two,))}
    out = export_patches(replace(table, slides=slides), tmp_path / "out", format="yolo")
    (labels,) = out.glob("labels/train/*.txt")
    assert len(labels.read_text().splitlines()) == 2


def test_a_hole_is_joined_by_a_cut_that_has_no_area():
    outline = one_outline(RING)
    assert len(outline) == 4 + 4 + 2
    x, y = outline.T
    assert abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 == 48


def test_filled_by_opencv_holes_are_open():
    """Ten times as large, since OpenCV also fills the pixels on the outline itself."""
    holes = [shapely.box(x, y, x + 12, y + 12).exterior for x in (10, 40, 70) for y in (10, 40, 70)]
    polygon = shapely.Polygon(shapely.box(0, 0, 96, 96).exterior, holes)
    filled = cv2.fillPoly(np.zeros((96, 96), np.uint8), [np.rint(one_outline(polygon)).astype(np.int32)], 1)
    exact = paint([Annotation(polygon, "T")], LabelMap(["T"]), box=Box(0, 0, 96, 96), size=(96, 96)) == 1
    assert (filled[12:21, 12:21] == 0).all()
    assert (filled[42:51, 72:81] == 0).all()
    on_outlines = (filled == 1) & ~exact
    assert not (exact & (filled == 0)).any()
    assert on_outlines.sum() <= sum(polygon.boundary.length for _ in [0])


def test_what_is_not_annotated_is_warned_of_since_yolo_cannot_ignore(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        export_patches(small_table(tmp_path), tmp_path / "out", format="yolo")
    assert "2 of 4 patches are not annotated everywhere" in caplog.text


def test_without_splits_all_is_for_training_and_a_warning_says_what_stands_for_validation(tmp_path, caplog):
    table = small_table(tmp_path)
    with caplog.at_level(logging.WARNING):
        out = export_patches(replace(table, rows=table.rows.assign(split="")), tmp_path / "out", format="yolo")
    data = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert (data["train"], data["val"]) == ("images/train", "images/train")
    assert "no patch is for val" in caplog.text

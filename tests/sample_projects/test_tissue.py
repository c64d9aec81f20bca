"""Drawn slides: same seed same pixels, and a truth that is valid, disjoint and where the pixels say it is."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import shapely

from qp2train.sample.annotate import annotate
from qp2train.sample.artefacts import ARTEFACTS
from qp2train.sample.stain import STAINS
from qp2train.sample.tissue import DrawnSlide, draw_slide

SIZE = (1400, 1000)


@pytest.fixture(scope="module")
def slide() -> DrawnSlide:
    return draw_slide(3, size_px=SIZE, artefacts=("dust", "fold", "pen"))


def covered(slide: DrawnSlide, class_name: str) -> shapely.Geometry:
    return shapely.union_all([a.geometry for a in slide.of_class(class_name)])


def mean_color(slide: DrawnSlide, area: shapely.Geometry) -> np.ndarray:
    x, y = np.meshgrid(np.arange(0, SIZE[0], 3), np.arange(0, SIZE[1], 3))
    inside = shapely.contains_xy(area, x.ravel() + 0.5, y.ravel() + 0.5)
    return slide.image[y.ravel()[inside], x.ravel()[inside]].mean(0)


def test_image_has_the_size_asked_for(slide: DrawnSlide) -> None:
    assert slide.image.shape == (1000, 1400, 3)
    assert slide.image.dtype == np.uint8
    assert slide.size_px == SIZE


def test_same_seed_same_slide() -> None:
    one, two = (draw_slide([7, 1], size_px=(600, 500)) for _ in range(2))
    assert (one.image == two.image).all()
    assert [(a.id, a.class_name, a.geometry.wkb) for a in one.truth] == [
        (a.id, a.class_name, a.geometry.wkb) for a in two.truth
    ]
    assert (draw_slide([7, 2], size_px=(600, 500)).image != one.image).any()


@pytest.mark.parametrize("size", [(601, 503), (120, 90), (700, 3000)])
def test_odd_and_small_sizes_are_drawn(size: tuple[int, int]) -> None:
    slide = draw_slide(0, size_px=size, artefacts=tuple(ARTEFACTS))
    assert slide.size_px == size
    assert all(a.geometry.is_valid for a in slide.truth)
    annotate(slide, 0)


def test_truth_is_valid_and_inside_the_slide(slide: DrawnSlide) -> None:
    frame = shapely.box(0, 0, *SIZE).buffer(0.01)
    for annotation in slide.truth:
        assert annotation.geometry.is_valid
        assert annotation.geometry.area > 0
        assert frame.covers(annotation.geometry)
        assert (
            np.round(shapely.get_coordinates(annotation.geometry), 2) == shapely.get_coordinates(annotation.geometry)
        ).all()
    assert len({a.id for a in slide.truth}) == len(slide.truth)


def test_classes_of_the_truth_do_not_overlap(slide: DrawnSlide) -> None:
    objects = [a for a in slide.truth if not (a.class_name or "").endswith("*")]
    assert {a.class_name for a in objects} >= {"Gland", "Tumor", "Stroma"}
    overlap = [one.geometry.intersection(two.geometry).area for one, two in combinations(objects, 2)]
    assert max(overlap) < 0.5


def test_truth_covers_the_tissue_and_leaves_the_glass(slide: DrawnSlide) -> None:
    tissue = shapely.union_all([a.geometry for a in slide.truth if not (a.class_name or "").endswith("*")])
    spoilt = shapely.union_all([a.geometry for a in slide.artefacts]).buffer(6)
    glass = shapely.box(0, 0, *SIZE).difference(tissue.buffer(8)).difference(spoilt)
    assert mean_color(slide, glass).min() > 235
    assert 0.4 < tissue.area / (SIZE[0] * SIZE[1]) < 0.85
    (whole,) = slide.of_class("Region*")
    assert whole.geometry.area == SIZE[0] * SIZE[1]


def test_pixels_show_the_classes(slide: DrawnSlide) -> None:
    gland, tumour, stroma = (mean_color(slide, covered(slide, c)) for c in ("Gland", "Tumor", "Stroma"))
    assert tumour[1] < gland[1]  # the carcinoma is darker
    assert stroma[0] - stroma[2] > tumour[0] - tumour[2]  # stroma is pink, nuclei are blue


def test_artefacts_are_ignored_in_the_truth(slide: DrawnSlide) -> None:
    assert [a.name for a in slide.artefacts] == ["fold", "pen"]  # dust is too small to spoil an area
    assert slide.of_class("Ignore*") == slide.artefacts


def test_unknown_artefact_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown artefact 'hair': choose from fold, blur"):
        draw_slide(0, size_px=(200, 200), artefacts=("hair",))


def test_stains_differ_in_colour() -> None:
    means = [draw_slide(1, size_px=(600, 500), stain=stain).image.mean((0, 1)) for stain in STAINS]
    assert min(np.abs(a - b).max() for a, b in combinations(means, 2)) > 3


def test_annotations_are_sparse_valid_and_nearly_right(slide: DrawnSlide) -> None:
    drawn = annotate(slide, 5, regions=2, region_px=400)
    counts = Counter(a.class_name for a in drawn)
    assert counts["Region*"] in (1, 2)
    assert counts["Ignore*"] == 2
    assert counts[None] == 2
    assert min(counts[c] for c in ("Gland", "Tumor", "Stroma")) >= 1
    assert all(a.geometry.is_valid and not a.geometry.is_empty and a.source is None for a in drawn)
    assert {a.name for a in drawn if a.class_name is None} == {"mitoses?", "depth of invasion"}
    for class_name in ("Gland", "Tumor", "Stroma"):
        hand = shapely.union_all([a.geometry for a in drawn if a.class_name == class_name])
        right = hand.intersection(covered(slide, class_name)).area / hand.area
        assert 0.93 < right < 0.9999
        assert hand.area < 0.8 * covered(slide, class_name).area


def test_regions_are_complete(slide: DrawnSlide) -> None:
    drawn = annotate(slide, 5, regions=2, region_px=400)
    for region in (a for a in drawn if a.class_name == "Region*"):
        assert region.locked
        for class_name in ("Gland", "Tumor", "Stroma"):
            truth = covered(slide, class_name).intersection(region.geometry)
            hand = shapely.union_all([a.geometry for a in drawn if a.class_name == class_name])
            missed = truth.difference(hand.intersection(region.geometry)).area
            assert missed < 0.12 * truth.area + 500

"""paint ∘ vectorise = identity, and what the outlines are labelled with."""

import logging

import numpy as np
import pytest
import shapely
from fakes import speckle
from hypothesis import given
from hypothesis import strategies as st

from qp2train import Annotation, Box, LabelMap, ScoreMap, paint, vectorise
from qp2train.errors import Qp2trainError

LABELS = LabelMap(["A", "B", "C"])


def score_map(classmap: np.ndarray, *, downsample: float = 1.0, at: tuple[float, float] = (0, 0)) -> ScoreMap:
    height, width = classmap.shape
    scores = np.stack([classmap == i for i in range(4)]).astype(np.uint8) * 255
    box = Box(*at, width * downsample, height * downsample)
    return ScoreMap(scores, classmap, box, 0.5 * downsample, 0.5, LABELS)


def painted(annotations: list[Annotation], scores: ScoreMap) -> np.ndarray:
    height, width = scores.shape
    return paint(annotations, LABELS, box=scores.box, size=(width, height))


def literal(*rows: str) -> np.ndarray:
    return np.array([[int(c) for c in row.replace(".", "0")] for row in rows], np.uint8)


class TestExact:
    @given(
        seed=st.integers(0, 2**16),
        size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
        downsample=st.sampled_from([0.5, 1, 2, 3.7, 4, 16.003]) | st.floats(0.1, 70),
        at=st.tuples(st.integers(-5000, 5000), st.integers(0, 200_000)),
        band=st.integers(1, 31),
    )
    def test_painting_the_outlines_gives_the_map_back(self, seed, size, downsample, at, band):
        classmap = speckle(np.random.default_rng(seed), *size, classes=3)
        scores = score_map(classmap, downsample=downsample, at=at)
        expected = np.where((classmap == 0) | (classmap == 255), 255, classmap)
        found = vectorise(scores, band=band)
        assert np.array_equal(painted(found, scores), expected)
        assert all(a.geometry.is_valid and a.geometry.geom_type == "Polygon" for a in found)

    @given(seed=st.integers(0, 2**16), downsample=st.sampled_from([0.25, 1, 3.7, 4]) | st.floats(0.1, 70))
    def test_also_after_qupath_rounded_to_two_decimals(self, seed, downsample):
        classmap = speckle(np.random.default_rng(seed), 25, 25, classes=3)
        scores = score_map(classmap, downsample=downsample, at=(123, 456))
        rounded = [
            Annotation(shapely.transform(a.geometry, lambda xy: np.round(xy, 2)), a.class_name)
            for a in vectorise(scores)
        ]
        expected = np.where((classmap == 0) | (classmap == 255), 255, classmap)
        assert np.array_equal(painted(rounded, scores), expected)

    @given(seed=st.integers(0, 2**16), band=st.integers(1, 26))
    def test_the_result_does_not_depend_on_the_band(self, seed, band):
        scores = score_map(speckle(np.random.default_rng(seed), 25, 20, classes=2))
        whole, cut = vectorise(scores), vectorise(scores, band=band)
        assert len(whole) == len(cut)
        by_place = [sorted(a, key=lambda o: o.geometry.normalize().wkt) for a in (whole, cut)]
        for a, b in zip(*by_place, strict=True):
            assert a.geometry.normalize().equals_exact(b.geometry.normalize())
            assert a.class_name == b.class_name
            assert a.measurements == pytest.approx(b.measurements)

    def test_a_ring_keeps_its_hole_and_what_lies_in_it(self):
        found = vectorise(score_map(literal("11111", "1...1", "1.2.1", "1...1", "11111")))
        assert sorted((a.class_name, a.geometry.area, len(a.geometry.interiors)) for a in found) == [
            ("A", 16.0, 1),
            ("B", 1.0, 0),
        ]

    def test_pixels_that_touch_at_a_corner_are_two_objects(self):
        found = vectorise(score_map(literal("1.", ".1")))
        assert [a.geometry.bounds for a in found] == [(0, 0, 1, 1), (1, 1, 2, 2)]

    def test_different_classes_are_different_objects(self):
        assert len(vectorise(score_map(literal("1122", "1122")))) == 2

    def test_outlines_have_corners_only(self):
        found = vectorise(score_map(np.full((20, 20), 1, np.uint8)), band=3)
        assert len(found[0].geometry.exterior.coords) == 5

    def test_background_and_what_was_not_predicted_are_nothing(self):
        assert vectorise(score_map(np.zeros((5, 5), np.uint8))) == []
        assert vectorise(score_map(np.full((5, 5), 255, np.uint8))) == []

    def test_from_top_to_bottom(self):
        found = vectorise(score_map(literal("..1", "...", "1..")))
        assert [a.geometry.bounds[1] for a in found] == [0, 2]

    def test_coordinates_are_full_resolution_pixels(self):
        found = vectorise(score_map(literal("..", ".1"), downsample=4, at=(100, 200)))
        assert found[0].geometry.bounds == (104, 204, 108, 208)


class TestMeasurements:
    def test_area_and_mean_probability_by_hand(self):
        scores = score_map(literal("11.", "...", "..2"), downsample=4)  # 4 px of 0.5 µm: 2 µm, 4 µm² each
        scores.scores[1, 0, :2] = (255, 153)
        one, other = vectorise(scores)
        assert one.measurements == {"Mean probability": pytest.approx(0.8), "Area µm²": pytest.approx(8.0)}
        assert other.measurements == {"Mean probability": pytest.approx(1.0), "Area µm²": pytest.approx(4.0)}

    def test_the_area_is_that_of_the_outline_without_holes(self):
        found = vectorise(score_map(literal("111", "1.1", "111")))
        assert found[0].measurements["Area µm²"] == pytest.approx(found[0].geometry.area * 0.25) == pytest.approx(2.0)


class TestMinArea:
    def test_smaller_objects_are_left_out(self):
        scores = score_map(literal("11.2", "11..", "...."), downsample=2)  # 1 µm² per map pixel
        assert len(vectorise(scores, min_area_um2=1.0)) == 2
        assert [a.class_name for a in vectorise(scores, min_area_um2=1.01)] == ["A"]
        assert vectorise(scores, min_area_um2=4.01) == []

    def test_an_object_cut_by_bands_counts_whole(self):
        scores = score_map(np.full((10, 1), 1, np.uint8), downsample=2)
        assert len(vectorise(scores, min_area_um2=10.0, band=1)) == 1


class TestSimplify:
    def test_it_has_fewer_corners_and_says_what_moved(self, caplog):
        yy, xx = np.mgrid[:60, :60]
        disc = ((xx - 30) ** 2 + (yy - 30) ** 2 < 24**2).astype(np.uint8)
        exact = vectorise(score_map(disc))[0].geometry
        with caplog.at_level(logging.INFO, logger="qp2train"):
            simple = vectorise(score_map(disc), simplify_um=0.6)[0].geometry
        assert len(simple.exterior.coords) < len(exact.exterior.coords) / 2
        assert simple.hausdorff_distance(exact) <= 0.6 / 0.5 + 1e-9
        assert "simplified 1 outlines" in caplog.text
        assert "% of the area moved" in caplog.text

    def test_measurements_stay_those_of_the_exact_outline(self):
        classmap = speckle(np.random.default_rng(0), 30, 30, classes=1)
        exact, simple = vectorise(score_map(classmap)), vectorise(score_map(classmap), simplify_um=1.0)
        assert [a.measurements for a in exact] == [a.measurements for a in simple]

    def test_simplifying_nothing(self):
        assert vectorise(score_map(np.zeros((4, 4), np.uint8)), simplify_um=1) == []


@pytest.mark.parametrize("wrong", [{"min_area_um2": -1}, {"simplify_um": -0.1}, {"band": 0}])
def test_arguments_that_make_no_sense(wrong):
    with pytest.raises(Qp2trainError, match=next(iter(wrong))):
        vectorise(score_map(np.zeros((4, 4), np.uint8)), **wrong)

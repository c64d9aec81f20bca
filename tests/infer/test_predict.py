import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import BLUE, FIRST_LAB, RED, stained
from pixelnets import ByColour, Constant, LeftRight, model_of

from qp2train import ArraySlide, Box, paint, predict, vectorise
from qp2train.errors import MissingCalibrationError, ModelError, Qp2trainError
from qp2train.infer import predict as predicting
from qp2train.slides.stain import NormalisedSlide

ALL = {"tissue": False, "device": "cpu"}


def red_share(array: np.ndarray) -> np.ndarray:
    """What `ByColour` says of each pixel."""
    return 1 / (1 + np.exp(-(array[..., 0].astype(float) - array[..., 2]) / 40))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("size_px", [8, 15, 16, 200])
def test_no_seams_at_any_overlap_and_size(blots, overlap, size_px):
    """A network that looks at each pixel alone must give the same map as without windows."""
    found = predict(model_of(ByColour(), size_px=size_px), ArraySlide(blots, mpp=1.0), overlap=overlap, **ALL)
    assert found.shape == (70, 100)
    assert found.box == Box(0, 0, 100, 70)
    assert np.abs(found.probability("Tumor") - red_share(blots)).max() < 1.5 / 255
    assert np.array_equal(found.classmap, (blots[..., 0] > 100).astype(np.uint8))


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (16, 16), (17, 31), (5, 5)])
def test_slides_of_any_size(by_colour, shape):
    array = np.full((*shape, 3), RED, np.uint8)
    found = predict(by_colour, ArraySlide(array, mpp=1.0), **ALL)
    assert found.shape == shape
    assert (found.classmap == 1).all()


@pytest.mark.parametrize(("mpp", "shape"), [(0.5, (35, 50)), (0.25, (18, 25)), (2.0, (140, 200)), (0.37, (26, 37))])
def test_the_map_is_at_the_models_scale_and_covers_the_slide(by_colour, blots, mpp, shape):
    found = predict(by_colour, ArraySlide(blots, mpp=mpp), **ALL)
    height, width = shape
    assert found.shape == shape
    assert (found.box.x, found.box.y) == (0, 0)
    assert found.box.width == pytest.approx(width / mpp)  # exactly the model's scale …
    assert abs(found.box.width - 100) <= 0.5 / mpp  # … to half a map pixel the slide's width
    assert found.box.height == pytest.approx(height / mpp)
    assert abs(found.box.height - 70) <= 0.5 / mpp
    assert found.mpp == 1.0
    assert found.slide_mpp == mpp


@pytest.mark.parametrize("mpp", [1.0, 0.5, 0.3])
def test_objects_lie_where_they_are_on_the_slide(by_colour, mpp):
    array = np.full((120, 160, 3), BLUE, np.uint8)
    array[36:72, 48:108] = RED
    (found,) = vectorise(predict(by_colour, ArraySlide(array, mpp=mpp), **ALL))
    assert found.geometry.bounds == pytest.approx((48, 36, 108, 72), abs=0.6 / mpp)
    assert found.measurements["Area µm²"] == pytest.approx(60 * 36 * mpp**2, rel=0.1)


def test_from_slide_to_objects_to_mask_again(by_colour, blots):
    scores = predict(by_colour, ArraySlide(blots, mpp=1.0), **ALL)
    mask = paint(vectorise(scores), scores.labels, box=scores.box, size=(100, 70))
    assert np.array_equal(mask == 1, blots[..., 0] > 100)


class TestTissue:
    SLIDE = np.full((400, 400, 3), 255, np.uint8)
    SLIDE[100:300, 100:300] = RED

    def test_glass_is_left_unpredicted(self):
        model = model_of(Constant(), mpp=8.0)
        found = predict(model, ArraySlide(self.SLIDE, mpp=8.0), device="cpu")
        assert (found.classmap[110:290, 110:290] == 1).all()
        for glass in (found.classmap[:80], found.classmap[:, 320:]):
            assert (glass == 255).all()
        assert (found.scores[:, :80] == 0).all()
        assert found.areas_mm2()["Tumor"] < 0.32 * 400 * 400 * 64 / 1e6

    def test_or_predicted_when_asked_for(self):
        found = predict(model_of(Constant(), mpp=8.0), ArraySlide(self.SLIDE, mpp=8.0), **ALL)
        assert (found.classmap == 1).all()

    def test_clear_areas_within_tissue_are_predicted(self):
        array = self.SLIDE.copy()
        array[180:220, 180:220] = 255
        found = predict(model_of(Constant(), mpp=8.0), ArraySlide(array, mpp=8.0), device="cpu")
        assert (found.classmap[185:215, 185:215] == 1).all()

    def test_a_slide_of_glass_is_said_to_be_one(self, caplog):
        array = np.full((100, 100, 3), 250, np.uint8)
        with caplog.at_level(logging.WARNING):
            found = predict(model_of(Constant(), mpp=8.0), ArraySlide(array, mpp=8.0), device="cpu")
        assert (found.classmap == 255).all()
        assert "no tissue was found" in caplog.text
        assert vectorise(found) == []


class TestTestTimeAugmentation:
    def test_a_network_that_looks_at_pixels_alone_says_the_same(self, by_colour, blots):
        slide = ArraySlide(blots, mpp=1.0)
        plain, turned = (predict(by_colour, slide, tta=t, **ALL) for t in ("none", "dihedral"))
        assert np.abs(plain.scores.astype(int) - turned.scores).max() <= 1

    def test_it_is_the_average_of_the_eight_views(self):
        slide = ArraySlide(np.zeros((16, 16, 3), np.uint8), mpp=1.0)
        found = predict(model_of(LeftRight()), slide, overlap=0.0, tta="dihedral", **ALL).probability("Tumor")
        with torch.inference_mode():
            one = LeftRight()(torch.zeros(1, 3, 16, 16)).softmax(1)[0, 1].numpy()
        views = [np.rot90(v, k) for v in (one, one[:, ::-1]) for k in range(4)]
        assert found == pytest.approx(np.mean(views, axis=0), abs=1 / 255)
        assert found == pytest.approx(found[:, ::-1], abs=1.5 / 255)

    def test_an_unknown_one_is_refused(self, by_colour):
        with pytest.raises(Qp2trainError, match="'flips'"):
            predict(by_colour, ArraySlide(np.zeros((8, 8, 3), np.uint8), mpp=1.0), tta="flips", **ALL)


def test_a_large_map_lies_in_a_file(monkeypatch, by_colour, blots):
    slide = ArraySlide(blots, mpp=1.0)
    expected = predict(by_colour, slide, **ALL)
    monkeypatch.setattr(predicting, "IN_MEMORY_BYTES", 100)
    found = predict(by_colour, slide, **ALL)
    assert isinstance(found.scores, np.memmap)
    assert np.array_equal(found.scores, expected.scores)
    assert len(vectorise(found)) == len(vectorise(expected))


def test_progress_counts_windows(by_colour, blots):
    seen: list[tuple[int, int]] = []
    predict(by_colour, ArraySlide(blots, mpp=1.0), batch_size=3, progress=lambda *n: seen.append(n), **ALL)
    assert [d for d, _ in seen] == sorted({d for d, _ in seen})
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"overlap": 1.0}, "overlap"),
        ({"overlap": -0.1}, "overlap"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "toaster"}, "toaster"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_arguments_that_make_no_sense(by_colour, wrong, said):
    slide = ArraySlide(np.zeros((8, 8, 3), np.uint8), mpp=1.0)
    with pytest.raises(ModelError, match=said):
        predict(by_colour, slide, **ALL | wrong)


def test_a_slide_without_scale(by_colour):
    with pytest.raises(MissingCalibrationError):
        predict(by_colour, ArraySlide(np.zeros((8, 8, 3), np.uint8)), **ALL)


@pytest.mark.parametrize("stain", ["macenko", "reinhard"])
def test_a_model_of_normalised_stain_sees_every_slide_recoloured(by_colour, stain):
    array = stained(FIRST_LAB)
    slide = ArraySlide(array, mpp=1.0)
    found = predict(replace(by_colour, spec=replace(by_colour.spec, stain=stain)), slide, **ALL)
    recoloured = NormalisedSlide(slide, stain).read(Box(0, 0, 400, 300), (400, 300))
    assert np.abs(found.probability("Tumor") - red_share(recoloured)).max() < 1.5 / 255
    assert np.abs(found.probability("Tumor") - red_share(array)).max() > 0.1

"""Stain normalisation on made-up sections: two stains in known amounts, of slides whose dyes and baths differ."""

import logging

import numpy as np
import pytest
from fakes import FIRST_LAB, SECOND_LAB, stained

from qp2train import ArraySlide, Box
from qp2train.errors import SlideError
from qp2train.slides import stain as stains
from qp2train.slides.stain import Macenko, NormalisedSlide, Reinhard, normalised, tissue_pixels


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference in grey levels, without the margin of glass."""
    return float(np.abs(one[:, :-60].astype(float) - other[:, :-60]).mean())


def whole(slide) -> np.ndarray:
    return slide.read(Box(0, 0, *slide.size), slide.size)


@pytest.mark.parametrize(("stain", "left"), [("macenko", 0.1), ("reinhard", 0.67)])
def test_slides_of_two_laboratories_look_alike_afterwards(stain, left):
    one, other = stained(FIRST_LAB), stained(SECOND_LAB, bath=0.7)
    seen = [whole(NormalisedSlide(ArraySlide(a, mpp=1.0), stain)) for a in (one, other)]
    assert apart(one, other) > 15
    assert apart(*seen) < left * apart(one, other)


def test_macenko_finds_the_stains_and_gives_them_the_references_colours():
    slide = NormalisedSlide(ArraySlide(stained(FIRST_LAB), mpp=1.0), "macenko")
    pure = np.exp(-np.array([[FIRST_LAB[0] * 1.2, FIRST_LAB[1] * 0.8]]))
    recoloured = slide.transform(np.rint(256 * pure - 1).astype(np.uint8))
    density = -np.log((recoloured[0].astype(float) + 1) / 256)
    direction = density / np.linalg.norm(density, axis=1, keepdims=True)
    reference = stains.PURE / np.linalg.norm(stains.PURE, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip((direction * reference).sum(axis=1), -1, 1)))
    assert (angles < 4).all()


def test_reinhard_gives_tissue_the_references_mean_and_spread():
    tissue = tissue_pixels(ArraySlide(stained(SECOND_LAB), mpp=1.0))
    moved = Reinhard.of(tissue)(tissue[None])
    lab = stains._opponent(moved)[0]
    assert lab.mean(axis=0) == pytest.approx(stains.MEAN, abs=0.1)
    assert lab.std(axis=0) == pytest.approx(stains.SPREAD, rel=0.35)


@pytest.mark.parametrize("stain", ["macenko", "reinhard"])
def test_glass_stays_white(stain):
    slide = NormalisedSlide(ArraySlide(stained(FIRST_LAB), mpp=1.0), stain)
    assert (whole(slide)[:, -60:] == 255).all()
    assert (slide.read(Box(-50, -50, 20, 20), (20, 20)) == 255).all()


@pytest.mark.parametrize("stain", ["macenko", "reinhard"])
def test_a_patch_has_the_colours_that_it_has_in_the_whole_slide(stain):
    """What is estimated belongs to the slide, so that neighbouring patches fit together."""
    slide = NormalisedSlide(ArraySlide(stained(FIRST_LAB), mpp=1.0), stain)
    part = slide.read(Box(40, 60, 50, 30), (50, 30))
    assert np.array_equal(part, whole(slide)[60:90, 40:90])


def test_the_same_slide_is_always_recoloured_in_the_same_way():
    one, other = (NormalisedSlide(ArraySlide(stained(FIRST_LAB), mpp=1.0), "macenko") for _ in range(2))
    assert np.array_equal(one.transform.mixing, other.transform.mixing)


@pytest.mark.parametrize("stain", ["macenko", "reinhard"])
@pytest.mark.parametrize("grey", [255, 128, 0])
def test_a_slide_without_two_stains_stays_as_it_is_and_says_so(stain, grey, caplog):
    array = np.full((300, 400, 3), grey, np.uint8)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(whole(NormalisedSlide(ArraySlide(array, mpp=1.0, name="s7"), stain)), array)
    assert caplog.text.count("s7: too little stained tissue") == 1


def test_a_slide_too_small_to_tell_is_not_counted_several_times(caplog):
    array = stained(FIRST_LAB)[:20, :20]
    assert len(tissue_pixels(ArraySlide(array, mpp=1.0))) <= 400
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(whole(NormalisedSlide(ArraySlide(array, mpp=1.0), "macenko")), array)
    assert "too little" in caplog.text


@pytest.mark.parametrize("stain", ["macenko", "reinhard"])
@pytest.mark.parametrize("mpp", [1.0, 0.25])
def test_what_is_black_is_no_tissue(stain, mpp):
    """A scanner's fill on a tenth of the slide changes nothing elsewhere."""
    clean = np.tile(stained(FIRST_LAB)[:, :340], (2, 2, 1))
    filled = clean.copy()
    filled[:190, :230] = 0
    one, other = (NormalisedSlide(ArraySlide(a, mpp=mpp), stain) for a in (clean, filled))
    box, size = Box(300, 250, 300, 300), (300, 300)
    assert np.abs(one.read(box, size).astype(float) - other.read(box, size)).mean() < 3


def test_none_is_the_slide_itself_and_unknown_ways_are_named():
    slide = ArraySlide(stained(FIRST_LAB), mpp=1.0)
    assert normalised(slide, None) is slide
    with pytest.raises(SlideError, match="macenko, reinhard"):
        NormalisedSlide(slide, "vahadane")


def test_size_scale_and_name_are_the_slides_own():
    slide = ArraySlide(stained(FIRST_LAB), mpp=0.25, name="a")
    seen = normalised(slide, "macenko")
    assert (seen.name, seen.size, seen.mpp, seen.view) == ("a", (400, 300), 0.25, "")
    assert seen.downsamples == slide.downsamples


def test_of_too_few_pixels_nothing_is_said():
    assert Macenko.of(np.full((10, 3), 90, np.uint8)) is None
    assert Reinhard.of(np.full((10, 3), 90, np.uint8)) is None

"""Objects that touch are divided at their waists, and nothing else is."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize, shapes

from qp2train import Box, LabelMap, ScoreMap, vectorise
from qp2train.errors import Qp2trainError
from qp2train.infer.touching import separated

ROWS, COLUMNS = np.mgrid[:120, :240]


def disc(x: float, y: float, radius: float) -> np.ndarray:
    return (COLUMNS - x) ** 2 + (ROWS - y) ** 2 <= radius**2


def outline(mask: np.ndarray) -> shapely.Polygon:
    ((geometry, _),) = shapes(mask.astype(np.uint8), mask=mask, connectivity=4)
    return shapely.Polygon(geometry["coordinates"][0], geometry["coordinates"][1:])


@pytest.mark.parametrize(("apart", "parts"), [(20, 1), (50, 1), (60, 2), (75, 2)])
def test_two_discs_are_divided_where_the_neck_is_narrow_enough(apart, parts):
    """Of radius 40: half the neck is √(40² - (apart/2)²): .97, .78, .66 and .35 of the radius."""
    found = separated(outline(disc(60, 60, 40) | disc(60 + apart, 60, 40)), waist=0.7)
    assert len(found) == parts


@pytest.mark.parametrize("radius", [6, 12, 24])
def test_at_any_size(radius):
    pair = disc(60, 60, radius) | disc(60 + 1.8 * radius, 60, radius)
    left, right = sorted(separated(outline(pair), waist=0.7), key=lambda p: p.bounds)
    assert left.area + right.area == pair.sum()
    assert left.area == pytest.approx(right.area, rel=0.15)


def test_a_chain_of_unequal_ones():
    chain = disc(40, 60, 30) | disc(90, 60, 20) | disc(130, 60, 25)
    assert len(separated(outline(chain), waist=0.7)) == 3


@pytest.mark.parametrize(
    "mask",
    [
        ((COLUMNS - 120) / 100) ** 2 + ((ROWS - 60) / 25) ** 2 <= 1,
        disc(60, 60, 50) & ~disc(60, 60, 35),
        (abs(ROWS - 60) < 4) & (abs(COLUMNS - 120) < 100),
        disc(60, 60, 0),
    ],
    ids=["ellipse", "ring", "bar", "pixel"],
)
def test_what_has_no_waist_stays_whole(mask):
    whole = outline(mask)
    assert separated(whole, waist=0.7) == [whole]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_the_parts_cover_each_pixel_once(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros(ROWS.shape, bool)
    for x, y, r in zip(rng.uniform(20, 220, 9), rng.uniform(20, 100, 9), rng.uniform(3, 30, 9), strict=True):
        mask |= disc(x, y, r)
    for geometry, _ in shapes(mask.astype(np.uint8), mask=mask, connectivity=4):
        whole = shapely.Polygon(geometry["coordinates"][0], geometry["coordinates"][1:])
        parts = separated(whole, waist=0.8)
        assert all(p.is_valid for p in parts)
        times = sum(rasterize([p], ROWS.shape, dtype=np.uint8).astype(int) for p in parts)
        assert np.array_equal(times, rasterize([whole], ROWS.shape, dtype=np.uint8))


class TestVectorise:
    LABELS = LabelMap(["Stroma", "Nucleus"])

    def scores(self) -> ScoreMap:
        """A pair of discs that touch, of each class; the right disc of each pair is surer."""
        classmap = np.zeros((120, 480), np.uint8)
        for value, left in ((1, 0), (2, 240)):
            classmap[:, left : left + 240][disc(60, 60, 40) | disc(130, 60, 40)] = value
        scores = np.where(np.arange(480) % 240 >= 95, 255, 204) * (classmap == np.arange(3)[:, None, None])
        return ScoreMap(scores.astype(np.uint8), classmap, Box(0, 0, 480, 120), 1.0, 1.0, self.LABELS)

    def test_only_the_classes_that_are_named(self):
        found = vectorise(self.scores(), separate=["Nucleus"])
        assert [a.class_name for a in found] == ["Stroma", "Nucleus", "Nucleus"]
        stroma, *nuclei = found
        assert sum(a.measurements["Area µm²"] for a in nuclei) == stroma.measurements["Area µm²"]
        left, right = sorted(nuclei, key=lambda a: a.geometry.bounds)
        assert left.measurements["Mean probability"] == pytest.approx(0.8, abs=0.01)
        assert right.measurements["Mean probability"] == pytest.approx(1.0, abs=0.01)

    def test_wherever_the_bands_are_cut(self):
        wanted = {a.geometry.normalize().wkt for a in vectorise(self.scores(), separate=["Nucleus"])}
        assert {a.geometry.normalize().wkt for a in vectorise(self.scores(), separate=["Nucleus"], band=50)} == wanted

    def test_parts_that_are_too_small_are_left_out(self):
        area = disc(60, 60, 40).sum()
        assert len(vectorise(self.scores(), separate=["Nucleus"], min_area_um2=1.2 * area)) == 1

    @pytest.mark.parametrize("wrong", [{"separate": ["Tumor"]}, {"separate": "Nucleus"}, {"waist": 0}, {"waist": 1}])
    def test_arguments_that_make_no_sense(self, wrong):
        with pytest.raises(Qp2trainError, match="separate must be a list of Stroma, Nucleus"):
            vectorise(self.scores(), **wrong)

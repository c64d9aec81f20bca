"""Tiles: the mean of each class over a grid, as QuPath shows heatmaps."""

import numpy as np
import pytest

from qp2train import Box, LabelMap, ScoreMap, tiles
from qp2train.errors import Qp2trainError

# Background, Tumor, Stroma over 3×5 map pixels; the lower right corner is glass.
TUMOR = np.array([[255, 255, 0, 0, 51], [255, 255, 0, 0, 51], [0, 0, 0, 0, 0]], np.uint8)
STROMA = np.array([[0, 0, 255, 0, 204], [0, 0, 255, 0, 204], [0, 0, 255, 0, 0]], np.uint8)
CLASSES = np.array([[1, 1, 2, 0, 2], [1, 1, 2, 0, 2], [0, 0, 2, 255, 255]], np.uint8)
BACKGROUND = np.where(CLASSES == 255, 0, 255 - TUMOR - STROMA).astype(np.uint8)


@pytest.fixture
def scores() -> ScoreMap:
    maps = np.stack([BACKGROUND, TUMOR, STROMA])
    return ScoreMap(maps, CLASSES, Box(100, 200, 20, 12), 2.0, 0.5, LabelMap(["Tumor", "Stroma"]))


def test_each_tile_has_the_mean_probability_of_every_class(scores: ScoreMap) -> None:
    found = tiles(scores, size_um=4)  # two map pixels, eight px of the slide
    assert [t.geometry.bounds for t in found] == [
        (100, 200, 108, 208),
        (108, 200, 116, 208),
        (116, 200, 120, 208),
        (100, 208, 108, 212),
        (108, 208, 116, 212),
    ]
    assert {t.kind for t in found} == {"tile"}
    assert [t.class_name for t in found] == ["Tumor", None, "Stroma", None, "Stroma"]
    assert found[0].measurements == {"Probability Background": 0, "Probability Tumor": 1, "Probability Stroma": 0}
    assert found[1].measurements == {"Probability Background": 0.5, "Probability Tumor": 0, "Probability Stroma": 0.5}
    assert found[2].measurements == {"Probability Background": 0, "Probability Tumor": 0.2, "Probability Stroma": 0.8}


def test_glass_neither_makes_tiles_nor_thins_probabilities(scores: ScoreMap) -> None:
    *_, corner = tiles(scores, size_um=4)
    assert corner.measurements["Probability Stroma"] == 1  # one of its two pixels was predicted
    assert len(tiles(scores, size_um=2)) == 13


def test_a_tile_smaller_than_a_map_pixel_is_one_pixel(scores: ScoreMap) -> None:
    assert tiles(scores, size_um=0.1)[0].geometry.bounds == (100, 200, 104, 204)


@pytest.mark.parametrize("size_um", [0, -1, float("nan"), float("inf")])
def test_impossible_sizes_are_refused(scores: ScoreMap, size_um: float) -> None:
    with pytest.raises(Qp2trainError, match="size_um"):
        tiles(scores, size_um=size_um)

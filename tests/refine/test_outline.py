"""Masks and outlines are the same thing, to the pixel."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qp2train.core.geometry import Box
from qp2train.refine.outline import mask_of, outline_of


def test_a_square_comes_back_as_that_square() -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:15, 20:30] = True
    assert outline_of(mask, Box(0, 0, 40, 30)).equals(shapely.box(20, 5, 30, 15))
    assert outline_of(mask, Box(100, 200, 80, 60)).equals(shapely.box(140, 210, 160, 230))


def test_holes_and_parts_survive() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:10, 2:10] = True
    mask[4:8, 4:8] = False
    mask[15:18, 15:18] = True
    ring = shapely.box(2, 2, 10, 10) - shapely.box(4, 4, 8, 8)
    outline = outline_of(mask, Box(0, 0, 20, 20))
    assert outline.geom_type == "MultiPolygon"
    assert outline.equals(ring | shapely.box(15, 15, 18, 18))


def test_nothing_is_an_empty_polygon() -> None:
    assert outline_of(np.zeros((3, 3), bool), Box(0, 0, 3, 3)).is_empty
    assert not mask_of(shapely.Polygon(), Box(0, 0, 3, 3), (3, 3)).any()


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))), st.sampled_from([1.0, 2.0, 3.7]))
def test_the_way_there_and_back_changes_no_pixel(mask: np.ndarray, scale: float) -> None:
    height, width = mask.shape
    box = Box(13, -7, width * scale, height * scale)
    outline = outline_of(mask, box)
    assert outline.is_valid
    assert np.array_equal(mask_of(outline, box, (width, height)), mask)

"""The slide map: thumbnails with patches as squares."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from PIL import Image

from qp2train.report.slidemap import MappedSlide, slide_map

COLORS = {"Tumor": (255, 0, 0), "Stroma": (0, 0, 255)}


def slide(squares, *, side=100.0, keys=None, name="p01", outlines=()):
    white = np.full((40, 60, 3), 255, np.uint8)
    keys = keys or ("Tumor",) * len(squares)
    return MappedSlide(
        white, (600, 400), name, "train · 7", np.array(squares, float).reshape(-1, 2), side, keys, outlines
    )


def drawn(axes, kind):
    return [c for c in axes.collections if isinstance(c, kind)]


def test_a_square_lies_where_its_patch_does_in_the_colour_of_its_key():
    (axes,) = slide_map([slide([(0, 0), (500, 300)], keys=("Tumor", "Stroma"))], COLORS).axes
    (squares,) = drawn(axes, PolyCollection)
    assert squares.get_paths()[1].vertices[:4].tolist() == [[500, 300], [600, 300], [600, 400], [500, 400]]
    assert squares.get_edgecolors()[:, :3].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert axes.get_xlim() == (0, 600)
    assert axes.get_ylim() == (400, 0), "y points down"


def test_squares_are_seen_on_the_picture_and_the_rest_of_it_stays_as_it_is():
    buffer = io.BytesIO()
    slide_map([slide([(0, 0)], side=300)], COLORS).savefig(buffer, dpi=60)
    shown = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
    reddish = (shown[..., 0] > 200) & (shown[..., 1] < 230) & (shown[..., 2] < 230)
    assert 0.1 < reddish.mean() < 0.4


def test_outlines_are_lines():
    ring = np.array([[10, 10], [90, 10], [90, 90], [10, 10]], float)
    (axes,) = slide_map([slide([(0, 0)], outlines=[ring])], COLORS).axes
    (lines,) = drawn(axes, LineCollection)
    assert np.array_equal(lines.get_segments()[0], ring)


def test_where_patches_crowd_each_has_a_dot_and_paler_squares():
    apart, crowded = slide([(0, 0)]), slide([(0, 0)] * 100)
    one, many = slide_map([apart, crowded], COLORS).axes
    assert not drawn(one, PathCollection)
    (dots,) = drawn(many, PathCollection)
    assert dots.get_offsets()[0].tolist() == [50, 50]
    assert drawn(many, PolyCollection)[0].get_facecolors()[0, 3] < drawn(one, PolyCollection)[0].get_facecolors()[0, 3]


def test_five_slides_are_three_and_two_and_a_long_name_is_cut_and_not_what_stands_beside_it():
    figure = slide_map([slide([(0, 0)], name="t" * 50)] * 5, COLORS, note="5 slides")
    assert len(figure.axes) == 6
    assert figure.axes[0].get_title() == "t" * 30 + "… · train · 7"
    assert figure.get_suptitle() == "5 slides"
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert texts == ["Tumor", "Stroma", "annotation"]


def test_no_slide_and_a_slide_without_patches():
    assert slide_map([], COLORS).axes
    assert slide_map([slide([])], COLORS).axes

"""A view of a picture, by hand: each pixel says where in the file it is (ten times its row, plus its column)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qp2train import Box
from qp2train.core.view import View
from qp2train.errors import SlideError

FILE = 10 * np.arange(3)[:, None] + np.arange(4)  # 4 px wide, 3 px high
WHOLE = View(0, 0, 4, 3)


def seen(view: View) -> list[list[int]]:
    """The red channel of what a view shows of FILE."""
    rgb = np.stack([FILE, FILE + 100, FILE + 200], axis=-1).astype(np.uint8)
    box = view.to_file(Box(0, 0, *view.size))
    part = rgb[int(box.y) : int(box.bottom), int(box.x) : int(box.right)]
    return view.shown(part)[..., 0].tolist()


def test_all_of_it() -> None:
    assert seen(WHOLE) == [[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]


# What QuPath 0.7.0's own servers made of this picture (RotatedImageServer and so on)


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        (WHOLE.turned(1), [[20, 10, 0], [21, 11, 1], [22, 12, 2], [23, 13, 3]]),
        (WHOLE.turned(2), [[23, 22, 21, 20], [13, 12, 11, 10], [3, 2, 1, 0]]),
        (WHOLE.turned(3), [[3, 13, 23], [2, 12, 22], [1, 11, 21], [0, 10, 20]]),
        (WHOLE.flipped("horizontal"), [[3, 2, 1, 0], [13, 12, 11, 10], [23, 22, 21, 20]]),
        (WHOLE.flipped("vertical"), [[20, 21, 22, 23], [10, 11, 12, 13], [0, 1, 2, 3]]),
        (WHOLE.cropped(1, 1, 3, 2), [[11, 12, 13], [21, 22, 23]]),
        (WHOLE.cropped(1, 0, 2, 3).turned(1), [[21, 11, 1], [22, 12, 2]]),
        (WHOLE.turned(1).cropped(1, 1, 2, 3), [[11, 1], [12, 2], [13, 3]]),
        (WHOLE.turned(1).flipped("horizontal").cropped(0, 1, 2, 2), [[1, 11], [2, 12]]),
        (WHOLE.cropped(1, 1, 3, 2).cropped(1, 0, 2, 2).flipped("horizontal"), [[13, 12], [23, 22]]),
        (WHOLE.reordered("BRG"), [[200, 201, 202, 203], [210, 211, 212, 213], [220, 221, 222, 223]]),
        (
            WHOLE.flipped("vertical").turned(3).cropped(1, 0, 2, 3).reordered("GRB").turned(1),
            [[111, 112, 113], [101, 102, 103]],
        ),
    ],
)
def test_as_qupath_shows_it(view: View, shown: list[list[int]]) -> None:
    assert seen(view) == shown


def test_orders_follow_each_other() -> None:
    assert WHOLE.reordered("BRG").reordered("GRB").order == "RBG"


STEPS = st.one_of(
    st.tuples(st.just("turned"), st.integers(0, 3)),
    st.tuples(st.just("flipped"), st.sampled_from(["horizontal", "vertical"])),
    st.tuples(st.just("reordered"), st.sampled_from(["RGB", "RBG", "GRB", "GBR", "BRG", "BGR"])),
)


@given(st.lists(STEPS, max_size=6), st.booleans())
def test_any_chain_is_what_numpy_makes_of_the_picture(steps: list[tuple[str, object]], cropped: bool) -> None:
    picture = np.stack([FILE, FILE + 100, FILE + 200], axis=-1).astype(np.uint8)
    expected, view = picture, WHOLE
    for what, how in steps:
        if what == "turned":
            expected = np.rot90(expected, -int(how))  # type: ignore[call-overload]
        elif what == "flipped":
            expected = expected[:, ::-1] if how == "horizontal" else expected[::-1]
        else:
            expected = expected[..., ["RGB".index(c) for c in str(how)]]
        view = getattr(view, what)(how)
    if cropped:
        view, expected = view.cropped(1, 1, 2, 2), expected[1:3, 1:3]
    box = view.to_file(Box(0, 0, *view.size))
    part = picture[int(box.y) : int(box.bottom), int(box.x) : int(box.right)]
    assert np.array_equal(view.shown(part), expected)
    assert View.parse(str(view)) == view


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (View(10, -20, 300, 200), "10,-20 300x200"),
        (View(0, 0, 4, 3, mirrored=True, turns=3, order="BGR"), "0,0 4x3 mirrored turned 270 BGR"),
    ],
)
def test_views_as_text(view: View, text: str) -> None:
    assert str(view) == text
    assert View.parse(text) == view


@pytest.mark.parametrize(
    "text", ["4x3", "0,0 4x0", "0,0 4x3 turned 45", "0,0 4x3 RRB", "0,0 4x3 x", "0,0 4x3 BGR turned 90", "9" * 99]
)
def test_texts_that_are_no_view(text: str) -> None:
    with pytest.raises(SlideError, match="is no view"):
        View.parse(text)

"""heard: each click has an effect on the outline."""

from __future__ import annotations

import numpy as np

from qp2train.core.clicks import BitMask
from qp2train.refine.heard import heard


def square(left: int, top: int, right: int, bottom: int) -> BitMask:
    mask = np.zeros((20, 20), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def shares(mask: BitMask, inside: float = 0.9, outside: float = 0.05) -> np.ndarray:
    return np.where(mask, inside, outside).astype(np.float32)


ANSWER = square(2, 2, 8, 8)


def test_an_answer_that_follows_the_clicks_stays_as_it_is() -> None:
    found = heard(shares(ANSWER), ANSWER, [(4.5, 4.5), (15, 15)], [1, 0])
    np.testing.assert_array_equal(found, ANSWER)


def test_a_click_that_was_not_followed_takes_what_looks_alike_round_it() -> None:
    likely = shares(ANSWER)
    likely[2:8, 8:14] = 0.3  # beside it; not likely enough to be outlined
    likely[12:14, 12:14] = 0.3  # alike, but somewhere else
    np.testing.assert_array_equal(heard(likely, ANSWER, [(4, 4), (10, 4)], [1, 1]), square(2, 2, 14, 8))


def test_a_click_that_does_not_belong_takes_away_what_looks_alike() -> None:
    likely = shares(ANSWER)
    likely[2:8, 2:5] = 0.6  # the left half
    np.testing.assert_array_equal(heard(likely, ANSWER, [(6, 4), (3, 4)], [1, 0]), square(5, 2, 8, 8))


def test_a_click_against_what_the_network_is_sure_of_takes_nothing_with_it() -> None:
    np.testing.assert_array_equal(heard(shares(ANSWER), ANSWER, [(15, 15)], [1]), ANSWER)

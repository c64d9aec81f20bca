"""heard: each click has an effect on the outline."""

from __future__ import annotations

import numpy as np

from qp2train.core.clicks import BitMask
from qp2train.refine.heard import heard


def square(left: int, top: int, right: int, bottom: int) -> BitMask:
    mask = np.zeros((64, 64), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def likely(mask: BitMask, inside: float = 0.9, outside: float = 0.05) -> np.ndarray:
    return np.where(mask, inside, outside).astype(np.float32)


OBJECT = square(2, 2, 8, 8)


def test_an_answer_that_follows_the_clicks_stays_as_it_is() -> None:
    found = heard(likely(OBJECT), [(4.5, 4.5), (15, 15), (-3, 200)], [1, 0, 1])
    np.testing.assert_array_equal(found, likely(OBJECT))


def test_a_click_that_was_not_followed_takes_what_looks_alike_round_it() -> None:
    share = likely(OBJECT)
    share[2:8, 8:14] = 0.3  # beside it; not likely enough to be outlined
    share[12:14, 12:14] = 0.3  # alike, but somewhere else
    np.testing.assert_array_equal(heard(share, [(4, 4), (10, 4)], [1, 1]) > 0.5, square(2, 2, 14, 8))


def test_a_click_that_does_not_belong_takes_away_what_looks_alike() -> None:
    share = likely(OBJECT)
    share[2:8, 2:5] = 0.6  # the left half
    np.testing.assert_array_equal(heard(share, [(6, 4), (3, 4)], [1, 0]) > 0.5, square(5, 2, 8, 8))


def test_clicks_that_contradict_each_other_share_what_looks_the_same() -> None:
    for all_of_it in (0.6, 0.3):
        share = np.full((64, 64), all_of_it, np.float32)
        for order in ([0, 1], [1, 0]):
            points, labels = np.array([(5.5, 5.5), (15.5, 5.5)])[order].tolist(), np.array([1, 0])[order].tolist()
            belongs = heard(share, points, labels) > 0.5
            assert belongs[5, 5]
            assert not belongs[5, 15]
            assert not belongs[:, 11:].any()


def test_a_click_against_what_the_network_is_sure_of_takes_a_disk_alone() -> None:
    found = heard(likely(OBJECT), [(30.5, 30.5)], [1]) > 0.5
    assert found[30, 30]
    assert (found[2:8, 2:8]).all()
    assert 1 <= found.sum() - OBJECT.sum() <= 9

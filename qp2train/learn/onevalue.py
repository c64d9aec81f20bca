"""A batch of which batch normalisation cannot take a variance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qp2train.errors import Qp2trainError


@contextmanager
def variance_needed(patches: int) -> Iterator[None]:
    """Around a step of so many patches: says what to do where torch wants more than one value per channel.

    Raises:
        Qp2trainError: A layer's maps are of 1 × 1 pixel, and there is one patch.
    """
    try:
        yield
    except ValueError as error:
        if patches > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise Qp2trainError(
            "the network's deepest maps are of 1 × 1 pixel, of which one patch alone has no variance to normalise by: "
            "use batch_size=2 at least (and two patches), or larger patches"
        ) from error

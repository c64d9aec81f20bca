"""What may be asked of `sample_patches`: numbers, names, and which of them go together."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from qp2train.core.patches import SlideRef
from qp2train.errors import Qp2trainError
from qp2train.sampling.inspector import Fault

Strategy = Literal["balanced", "grid", "random", "centred", "border", "hard", "tissue"]

# A slide may be smaller than a patch, but a patch 8 times its size is a slip of the pen, and takes minutes to read.
LARGEST_PATCH = 8


def scales_of(mpp: float | Sequence[float]) -> tuple[float, ...]:
    """µm per pixel of each scale asked for."""
    try:
        return tuple(np.atleast_1d(np.asarray(mpp, float)).tolist())
    except (TypeError, ValueError) as error:
        raise Qp2trainError(f"mpp must be a number of µm per pixel, or several, not {mpp!r}") from error


def whole(name: str, value: int) -> int:
    """A whole number of any type as Python's own."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise Qp2trainError(f"{name} must be a whole number, not {value!r}") from error


def check_numbers(
    size: int, scales: Sequence[float], overlap: float, min_annotated: float, distance: float, seed: int
) -> None:
    numbers = size >= 1 and scales and all(0 < mpp < math.inf for mpp in scales) and len(set(scales)) == len(scales)
    if not (numbers and 0 <= overlap < 1 and 0 <= min_annotated <= 1 and 0 <= distance < math.inf and seed >= 0):
        raise Qp2trainError(
            "size must be ≥ 1 px, mpp > 0 (several: each another), 0 ≤ overlap < 1, 0 ≤ min_annotated ≤ 1, "
            f"min_distance_um ≥ 0 and seed ≥ 0, not size={size}, mpp={', '.join(f'{mpp:g}' for mpp in scales)}, "
            f"overlap={overlap}, min_annotated={min_annotated}, min_distance_um={distance}, seed={seed}"
        )


def check_choices(given: Mapping[str, tuple[str, object]]) -> None:
    for name, (value, known) in given.items():
        if value not in get_args(known):
            raise Qp2trainError(f"{name} must be one of {', '.join(get_args(known))}, not {value!r}")


def check_faults(reject: Sequence[Fault]) -> None:
    if isinstance(reject, str) or not set(reject) <= set(get_args(Fault)):
        raise Qp2trainError(f"reject must be a list of {', '.join(get_args(Fault))}, not {reject!r}")


def check_belongs(strategy: Strategy, *, scores: object, label_from: str | None, min_distance_um: float) -> None:
    """An argument that a strategy does not look at would be a wish unheard."""
    if (scores is not None) != (strategy == "hard"):
        raise Qp2trainError(
            "scores (entry id → score map) are what strategy='hard' looks for mistakes in: give both or neither, "
            f"not strategy={strategy!r} {'with' if scores is not None else 'without'} scores"
        )
    if label_from is not None and strategy != "tissue":
        raise Qp2trainError(f"label_from={label_from!r} goes with strategy='tissue', not {strategy!r}")
    if min_distance_um and strategy == "grid":
        raise Qp2trainError(
            "min_distance_um does not go with strategy='grid': its distance is size × mpp × (1 - overlap)"
        )


def check_sizes(refs: Sequence[SlideRef], size: int, scales: Sequence[float]) -> None:
    for ref in refs:
        for mpp in scales:
            if size * mpp / ref.mpp > LARGEST_PATCH * max(ref.size):
                slide_mm = max(ref.size) * ref.mpp / 1000
                raise Qp2trainError(
                    f"a patch of {size} px at {mpp:g} µm/px is {size * mpp / 1000:g} mm wide, more than "
                    f"{LARGEST_PATCH} times {ref.name} ({slide_mm:.3g} mm). Is mpp = {mpp:g} µm per px meant?"
                )

"""What the descriptions of networks have in common: options that can be kept in a file, and a known stain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from qp2train.errors import ModelError
from qp2train.learn.foundation import FETCHING
from qp2train.slides.stain import Stain


def check_options(options: Mapping[str, Any], *, ours: Mapping[str, str] | None = None) -> None:
    """Refuse options that a model's card cannot hold, that would fetch files, or that are not left to anyone.

    Args:
        options: Of an architecture.
        ours: Name → why it is no option.

    Raises:
        ModelError: They are no plain data, or one of them is refused.
    """
    fetching = dict.fromkeys(FETCHING, "encoder_weights says where its weights are")
    for name, why in {**fetching, **(ours or {})}.items():
        if name in options:
            raise ModelError(f"{name!r} is no option of a network: {why}")
    try:
        json.dumps(dict(options))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"options must be plain numbers, texts and lists, to be kept with the model: {error}"
        ) from error


def check_stain(stain: str | None) -> None:
    """Refuse a stain normalisation that there is not.

    Raises:
        ModelError: Naming those that there are.
    """
    if stain is not None and stain not in get_args(Stain):
        raise ModelError(f"stain must be one of {', '.join(get_args(Stain))}, or null, not {stain!r}")

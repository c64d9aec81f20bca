"""load_prompt_model: whatever can answer prompts, from a file or folder."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from qp2train.errors import PromptError
from qp2train.refine.prompts import PromptModel

# Each looks at a path that exists, and returns None if what lies there is not its kind of model.
_LOADERS: tuple[Callable[[Path], PromptModel | None], ...] = ()


def load_prompt_model(path: str | PathLike[str]) -> PromptModel:
    """A model that answers prompts.

    Args:
        path: The file or folder that holds it. Nothing is ever downloaded.

    Raises:
        PromptError: There is nothing at the path, or no such model.
    """
    given = Path(path)
    if not given.exists():
        raise PromptError(f"there is no model at {given}")
    for load in _LOADERS:
        model = load(given)
        if model is not None:
            return model
    raise PromptError(
        f"{given} holds no model that answers clicks and boxes. So far only the training-free fallback does, which "
        "needs no file: `qp2train serve` without a run, `Refiner()` without a model"
    )

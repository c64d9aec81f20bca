"""The one door to the transformers package, which is optional."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from qp2train.errors import ModelError


def of_transformers(*names: str) -> Any:
    """The first of these classes that the installed transformers has.

    Raises:
        ModelError: It is not installed, or too old.
    """
    try:
        package = import_module("transformers")
    except ImportError as error:
        raise ModelError(
            'models of the SAM family need the transformers package: pip install "qp2train[sam]"'
        ) from error
    for name in names:
        try:
            return getattr(package, name)
        except (AttributeError, ImportError):  # ImportError: one of its own requirements is missing
            continue
    raise ModelError(f"transformers {package.__version__} has no {names[0]}: update it (pip install -U transformers)")


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars: a library prints nothing."""
    logging = import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

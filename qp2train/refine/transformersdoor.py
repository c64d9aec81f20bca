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
    """Without transformers' progress bars and warnings on the terminal: a library prints nothing."""
    logging = import_module("transformers.utils.logging")
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()

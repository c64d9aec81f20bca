"""Arguments of the right type, or an error that names the argument, what it is and what it must be."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import ConfigDict, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from qp2train.errors import Qp2trainError

_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)  # "3" is no number, and 2.0 no count
_LONGEST = 80
# What pydantic's kinds of errors want, in our words.
_WORDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "True or False",
    "string_type": "a text",
    "dict_type": "a dictionary",
    "Sequence": "a list",
    "sequence_str": "a list",
    "Path": "a path",
}


def check_types(function: Callable[..., Any], given: Mapping[str, Any], error: type[Qp2trainError]) -> None:
    """Refuse arguments that are not of the types that a function or dataclass says.

    Numbers of numpy are numbers. A recipe's values are checked by the same types: see `recipe.checked_arguments`.

    Args:
        function: Whose annotations count.
        given: Argument → value; those without annotation are not looked at.
        error: What is raised.

    Raises:
        Qp2trainError: Of the kind `error`.
    """
    for name, (adapter, optional) in _adapters(function).items():
        if name not in given:
            continue
        value = plain(given[name])
        try:
            adapter.validate_python(value)
        except ValidationError as wrong:
            raise error(_said(name, value, wrong, optional=optional)) from wrong


def plain(value: Any) -> Any:
    """A value with Python's own numbers and lists in the place of numpy's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(v) for key, v in value.items()}
    return type(value)(plain(v) for v in value) if type(value) in (list, tuple) else value


@cache
def _adapters(function: Callable[..., Any]) -> dict[str, tuple[TypeAdapter[Any], bool]]:
    hints = get_type_hints(function)
    return {
        name: (TypeAdapter(_instances(hint), config=_STRICT), type(None) in get_args(hint))
        for name, hint in hints.items()
        if name != "return"
    }


def _instances(hint: Any) -> Any:
    """A type as it is checked: of classes of ours an instance, which pydantic would else look into."""
    if get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(_instances(part) for part in get_args(hint))]  # noqa: UP007  of a tuple
    if not (inspect.isclass(hint) and hint.__module__.startswith("qp2train")):
        return hint

    def checked(value: object) -> object:
        if not isinstance(value, hint):
            raise PydanticCustomError("instance", f"Input should be a {hint.__name__}")
        return value

    return Annotated[Any, PlainValidator(checked)]


def _said(name: str, value: Any, wrong: ValidationError, *, optional: bool) -> str:
    """The innermost of what pydantic says, in a sentence."""
    found = [(_path(value, e["loc"]), e) for e in wrong.errors()]
    inner = max(found, key=lambda pair: len(pair[0]))[0]
    wanted = dict.fromkeys(_wanted(e) for path, e in found if path == inner)
    if optional and not inner:
        wanted["None"] = None
    for part in inner:
        name, value = f"{name}[{part!r}]", value[part]
    shown = repr(value)
    return f"{name} must be {' or '.join(wanted)}, not {shown if len(shown) <= _LONGEST else shown[:_LONGEST] + '…'}"


def _wanted(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind == "is_instance_of":
        kind = error["ctx"]["class"]
    return _WORDS.get(kind) or error["msg"].removeprefix("Input should be ")


def _path(value: Any, loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Where in a value something is wrong, without pydantic's names of the types that it tried."""
    path: list[int | str] = []
    for part in loc:
        if (isinstance(value, Mapping) and part in value) or (
            isinstance(value, list | tuple) and isinstance(part, int)
        ):
            path.append(part)
            value = value[part]  # type: ignore[index]
    return tuple(path)

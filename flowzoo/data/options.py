"""Types for the options of sources, and the check of what a user gives against them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import pydantic
from pydantic import BeforeValidator, Field

from flowzoo.config_errors import describe
from flowzoo.errors import DataError, near_matches

Count = Annotated[int, Field(ge=1)]
"""A number of things, at least one."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed of random numbers."""

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A number that is not negative."""

Share = Annotated[float, Field(gt=0, le=1, strict=True)]
"""A share of something, all of it at most."""

Part = Annotated[int, Field(ge=0, strict=True)] | Annotated[float, Field(ge=0, lt=1, strict=True)]
"""A part of a data set: so many examples (an int), or such a fraction of them (a float)."""


Separator = Annotated[str, Field(min_length=1)]
"""What stands between two values: one character, or a regular expression."""


def _named(column: object) -> object:
    return str(column) if isinstance(column, int) and not isinstance(column, bool) else column


Column = Annotated[str, BeforeValidator(_named)]
"""The name of a column; of a table without names its number, from 0."""


def option_parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """Lists the options of a source's function: all its parameters but the first, `split`."""
    parameters = list(inspect.signature(function).parameters.values())
    return {parameter.name: parameter for parameter in parameters[1:]}


def checked_options(source: str, function: Callable, options: Mapping[str, Any]) -> dict[str, Any]:
    """Checks options by name and by type annotation.

    Args:
        source: The source's name, for messages.
        function: The source's function.
        options: What the user gave.

    Returns:
        The options, converted where nothing is lost (a list to a tuple, a string to a Path).

    Raises:
        DataError: An option that the source does not have, one that it needs and did not get, or a wrong
            value.
    """
    parameters = option_parameters(function)
    for name in options:
        if name not in parameters:
            accepted = ", ".join(parameters) or "none"
            raise DataError(
                f"Source {source!r} has no option {name!r}.{near_matches(name, parameters)} "
                f"Accepted: {accepted}."
            )
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise DataError(f"Source {source!r} needs the option {name!r}. Received: {sorted(options)}")
    hints = typing.get_type_hints(function, include_extras=True)
    return {name: _checked(source, name, hints.get(name, Any), value) for name, value in options.items()}


def _checked(source: str, name: str, hint: Any, value: object) -> Any:  # noqa: ANN401
    try:
        return pydantic.TypeAdapter(hint).validate_python(value)
    except pydantic.ValidationError as error:
        raise DataError(
            f"Source {source!r}, option {name!r} takes {describe(hint)}.{_spelling(name, value, hint)} "
            f"Received: {value!r}"
        ) from error


def _spelling(name: str, value: object, hint: Any) -> str:  # noqa: ANN401
    """Says how the command line, which reads values as YAML, takes a list of one, or digits as text."""
    accepted = describe(hint)
    if isinstance(value, str) and "a list of" in accepted:
        return f" A list is written -o {name}='[{value}]' on the command line."
    if isinstance(value, bool | int | float) and "text" in accepted:
        text = str(value).lower() if isinstance(value, bool) else value
        return f""" Such text is quoted on the command line: -o {name}="'{text}'"."""
    return ""

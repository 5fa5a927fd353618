"""Says in words what is wrong with a configuration: the key, what was received and what is accepted."""

from __future__ import annotations

import reprlib
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from flowzoo.errors import near_matches

_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
    dict: "a mapping",
    Any: "anything",
}
# The constraint as pydantic keeps it -> how it reads.
_BOUNDS = {
    "gt": "greater than {}",
    "ge": "at least {}",
    "lt": "less than {}",
    "le": "at most {}",
    "min_length": "not empty",
    "pattern": "matching {}",
}
_NOT_EMPTY = _BOUNDS["min_length"]


def problems(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    """Yields one line for each key that is wrong.

    Args:
        model: The model that was validated.
        error: What pydantic found.

    Yields:
        ``"optimizer.learning_rate: received 'ten'; accepted: a number (greater than 0)."`` and the like.
    """
    seen = set()
    for found in error.errors(include_url=False):
        keys, annotation = _follow(model, found["loc"])
        if found["type"] == "extra_forbidden":
            name = str(found["loc"][-1])
            near = near_matches(name, _fields(annotation))
            yield f"{_dotted((*keys, name))}: unknown key.{near} Accepted: {_keys(annotation)}."
        elif found["type"] == "value_error":  # of a check of our own, which says it all
            yield f"{_dotted(keys)}: {found['ctx']['error']}."
        elif keys not in seen:  # A union reports each of its members.
            seen.add(keys)
            wrong_key = found["type"] == "invalid_key" or found["loc"][-1:] == ("[key]",)
            accepted = "text as a key" if wrong_key else describe(annotation)
            yield f"{_dotted(keys)}: {_received(found)}; accepted: {accepted}."


def describe(annotation: Any) -> str:  # noqa: ANN401
    """Says in words which values a type annotation accepts."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        words, bounds = describe(arguments[0]), list(_bounds(arguments[1:]))
        if _NOT_EMPTY in bounds:
            bounds.remove(_NOT_EMPTY)
            article = "a " if words.startswith("a ") else ""
            words = f"{article}non-empty {words.removeprefix(article)}"
        return f"{words} ({', '.join(bounds)})" if bounds else words
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}: {describe(arguments[0])}"
    if origin in (list, tuple):
        return f"a list of: {describe(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a mapping with the keys {_keys(annotation)}"
    return _WORDS.get(origin or annotation, str(annotation))


_YAML = {None: "null", True: "true", False: "false"}
_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 80


def _received(found: Mapping[str, Any]) -> str:
    if found["type"] == "missing":
        return "missing"
    value = found["input"]
    return f"received {_YAML[value] if isinstance(value, bool | None) else _brief.repr(value)}"


def _follow(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[tuple[int | str, ...], Any]:
    """Walks down the annotations along a location, up to what is no key: a union's tag, an unknown key."""
    annotation: Any = model
    keys: list[int | str] = []
    for part in location:
        below = _below(annotation, part)
        if below is None:
            break
        keys.append(part)
        annotation = below
    return tuple(keys), annotation


def _below(annotation: Any, part: int | str) -> Any:  # noqa: ANN401
    """Returns the annotation of an item or a field, or None where there is no such thing."""
    for member in _members(annotation):
        if isinstance(part, int) and get_origin(member) in (list, tuple):
            return get_args(member)[0]
        if isinstance(member, type) and issubclass(member, BaseModel) and part in member.model_fields:
            field = member.model_fields[str(part)]
            return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return None


def _members(annotation: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yields the types behind an annotation: the members of a union, without what is annotated to them."""
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _bounds(metadata: tuple[Any, ...]) -> Iterator[str]:
    for item in metadata:
        for constraint in getattr(item, "metadata", [item]):  # a Field carries its constraints in a list
            for name, words in _BOUNDS.items():
                value = getattr(constraint, name, None)
                if value is not None:
                    yield words.format(value)


def _fields(annotation: Any) -> Mapping[str, Any]:  # noqa: ANN401
    for member in _members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member.model_fields
    return {}


def _keys(annotation: Any) -> str:  # noqa: ANN401
    return ", ".join(_fields(annotation))


def _dotted(keys: tuple[int | str, ...]) -> str:
    return ".".join(str(key) for key in keys) or "the whole"

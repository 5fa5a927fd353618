"""From names to bases."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import keras

from flowzoo._discovery import public_subclasses
from flowzoo.distributions.base import BaseDistribution
from flowzoo.errors import near_matches


def bases() -> dict[str, type[BaseDistribution]]:
    """Return the bases by name: the subclasses of BaseDistribution that have a `kind`."""
    package = importlib.import_module("flowzoo.distributions")
    found = public_subclasses(package.__name__, package.__path__, BaseDistribution).values()
    return {cls.kind: cls for cls in found if getattr(cls, "kind", None)}


def make_base(base: Any) -> BaseDistribution:
    """Return a base from itself, its name, its name with arguments, or its Keras config.

    Args:
        base: "student_t", {"name": "mixture", "components": 5}, a `BaseDistribution`, or what
            `keras.saving.serialize_keras_object` made of one.

    Raises:
        ValueError: an unknown name, or an argument that the base does not take.
        TypeError: `base` is something else.
    """
    if isinstance(base, BaseDistribution):
        return base
    if isinstance(base, dict) and "class_name" in base:
        return make_base(keras.saving.deserialize_keras_object(base))
    if isinstance(base, str):
        return _named(base, {})
    if isinstance(base, dict) and isinstance(base.get("name"), str):
        return _named(base["name"], {key: value for key, value in base.items() if key != "name"})
    raise TypeError(
        'base takes a name, a name with arguments such as {"name": "mixture", "components": 5}, or a '
        f"flowzoo.distributions.BaseDistribution. Received: {base!r}"
    )


def base_argument(base: Any) -> Any:
    """Return an instance given as `base=` as its config, which JSON can hold.

    Raises:
        TypeError: it is no BaseDistribution.
    """
    if not isinstance(base, BaseDistribution):
        raise TypeError(f"Arguments of a family are what JSON can hold, or a base. Received: {base!r}")
    return keras.saving.serialize_keras_object(base)


def _named(name: str, arguments: dict[str, Any]) -> BaseDistribution:
    known = bases()
    if name not in known:
        raise ValueError(
            f"base takes one of {', '.join(sorted(known))} or a BaseDistribution. "
            f"Received: {name!r}{near_matches(name, known)}"
        )
    parameters = inspect.signature(known[name]).parameters.values()
    accepted = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    for key in arguments:
        if key not in accepted:
            raise ValueError(
                f"base {name!r} takes the arguments {', '.join(accepted)}. "
                f"Received: {key!r}{near_matches(key, accepted)}"
            )
    return known[name](**arguments)

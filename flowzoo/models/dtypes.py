"""One dtype for a flow, its layers and its base."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from flowzoo.networks.base import mixed_policy


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Make layers under a global dtype policy, which they take when they are made."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def as_policy(dtype: Any) -> keras.DTypePolicy:
    """Return the dtype policy of a dtype, of the name of a policy, or of a policy; None is the global one.

    Raises:
        ValueError: there is no such dtype, or it is not one of floating-point numbers.
    """
    if dtype is None:
        return keras.config.dtype_policy()
    try:
        if isinstance(dtype, str) and dtype.startswith("mixed_"):
            dtype = keras.DTypePolicy(dtype)
        if not isinstance(dtype, keras.DTypePolicy):
            dtype = keras.DTypePolicy(keras.backend.standardize_dtype(dtype))
    except (TypeError, ValueError):
        raise ValueError(_ACCEPTED.format(dtype)) from None
    if "float" not in dtype.compute_dtype or dtype.quantization_mode is not None:
        raise ValueError(_ACCEPTED.format(dtype.name))
    return dtype


_ACCEPTED = (
    'dtype takes "float32", "float64", or with hidden layers in half precision "mixed_bfloat16" or '
    '"mixed_float16" (also as a dtype of NumPy or TensorFlow, or a keras.DTypePolicy). Received: {!r}'
)


@contextlib.contextmanager
def as_dtype(dtype: Any) -> Iterator[str]:
    """Have what is made inside compute in a dtype, or by a policy (see `as_policy`).

    A flow made under a mixed policy computes in the dtype of its weights, and the hidden layers of its
    networks as the policy says. None leaves the global policy. The block gets the dtype of weights.
    """
    policy = as_policy(dtype)
    with dtype_policy(policy.name):
        yield policy.variable_dtype


def own_policy(dtype: str) -> str:
    """Return the name of the policy of a flow that computes in a dtype and is being made now.

    A mixed global policy is that of its hidden layers where its weights have the dtype.
    """
    mixed = mixed_policy(dtype)
    return dtype if mixed is None else mixed.name


def check_dtypes(dtype: str, parts: Sequence[Any]) -> None:
    """Raise ValueError where layers or the base compute in another dtype than the flow."""
    for part in parts:
        if part.compute_dtype != dtype:
            raise ValueError(
                f"{part.name} computes in {part.compute_dtype}, and the flow in {dtype}: give each layer and "
                f"the base the same dtype, or call keras.config.set_dtype_policy({dtype!r}) before they are "
                f"made (flowzoo.build(..., dtype={dtype!r}) does so)."
            )

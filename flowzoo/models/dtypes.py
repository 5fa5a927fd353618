"""One dtype for a flow, its layers and its base."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Make layers under a global dtype policy, which they take when they are made."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def as_dtype(dtype: Any) -> Iterator[None]:
    """Have what is made inside compute in a dtype; None, and what the policy has already, changes nothing."""
    policy = keras.config.dtype_policy()
    if dtype is None or keras.backend.standardize_dtype(dtype) == policy.variable_dtype:
        yield
    else:
        with dtype_policy(keras.backend.standardize_dtype(dtype)):
            yield


def check_dtypes(dtype: str, parts: Sequence[Any]) -> None:
    """Raise ValueError where layers or the base compute in another dtype than the flow."""
    for part in parts:
        if part.compute_dtype != dtype:
            raise ValueError(
                f"{part.name} computes in {part.compute_dtype}, and the flow in {dtype}: give each layer and "
                f"the base the same dtype, or call keras.config.set_dtype_policy({dtype!r}) before they are "
                f"made (flowzoo.build(..., dtype={dtype!r}) does so)."
            )

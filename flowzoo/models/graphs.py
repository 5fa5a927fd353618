"""The compiled functions behind a flow's methods: one trace each, for any batch size."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import tensorflow as tf

from flowzoo.models import requests

# What `requests.finite` says where rounding would hide a NaN.
_NO_RESULT = "no finite result"


class Graphs:
    """Trace a flow's tensor functions once, on first use, and run them.

    Eager calls run the traced graph, several times faster than one operation at a time and the same
    for every batch size. Calls inside another graph go straight to the tensor function, which becomes
    part of that graph.
    """

    def __init__(self, flow: Any) -> None:
        self._flow = flow
        self._traced: dict[Hashable, Callable] = {}

    def __deepcopy__(self, memo: dict) -> Graphs:
        return Graphs(memo.get(id(self._flow), self._flow))

    def _specs(self) -> dict[str, tf.TensorSpec]:
        flow = self._flow
        dtype = flow.compute_dtype
        specs = {
            "x": tf.TensorSpec([None, *flow.event_shape], dtype),
            "z": tf.TensorSpec([None, *flow.latent_shape], dtype),
            "n": tf.TensorSpec([], tf.int32),
            "temperature": tf.TensorSpec([], dtype),
            "seed": tf.TensorSpec([2], tf.int32),
            "guidance": tf.TensorSpec([], dtype),
        }
        inner = flow.chain.condition_shape
        if inner is not None:
            specs["condition"] = tf.TensorSpec([None, *inner], dtype)
        return specs

    def _call(self, name: str, **arguments: Any) -> Any:
        return self.run(name, getattr(self._flow, f"raw_{name}"), **arguments)

    # Nothing here is written for AutoGraph, which would take several times as long as the tracing itself.
    @tf.autograph.experimental.do_not_convert
    def run(self, key: Hashable, function: Callable, **arguments: Any) -> Any:
        """Run a tensor function of the flow; what was traced under a key is used again.

        Args:
            key: tells functions apart, with all that they hold besides the flow and the arguments.
            function: takes the arguments by position.
            **arguments: tensors or None, by the names that `_specs` knows.

        Raises:
            FloatingPointError: (eager calls) the result holds NaN or infinity; see `Flow.log_prob`.
        """
        values = list(arguments.values())
        if not tf.executing_eagerly() or any(tf.is_symbolic_tensor(value) for value in values):
            return function(*values)
        if key not in self._traced:
            self._traced[key] = self._trace(function, list(arguments))
        try:
            result = self._traced[key](*[value for value in values if value is not None])
        except tf.errors.InvalidArgumentError as error:
            if _NO_RESULT not in str(error):
                raise
            raise FloatingPointError(self._flow.no_result(key)) from error
        if not _is_result(key, result):
            raise FloatingPointError(self._flow.no_result(key))
        return result

    def _trace(self, function: Callable, names: list[str]) -> Callable:
        specs = self._specs()
        given = [name for name in names if name in specs]

        def run(*values: tf.Tensor) -> Any:
            by_name = dict(zip(given, values, strict=True))
            with requests.guarded():
                return function(*[by_name.get(name) for name in names])

        traced = tf.function(run, input_signature=[specs[name] for name in given], autograph=False)
        return traced.get_concrete_function()

    def log_prob(self, x: tf.Tensor, condition: Any, seed: tf.Tensor) -> tf.Tensor:
        """Run `raw_log_prob`."""
        return self._call("log_prob", x=x, condition=condition, seed=seed)

    def to_latent(self, x: tf.Tensor, condition: Any) -> tf.Tensor:
        """Run `raw_to_latent`."""
        return self._call("to_latent", x=x, condition=condition)

    def from_latent(self, z: tf.Tensor, condition: Any) -> tf.Tensor:
        """Run `raw_from_latent`."""
        return self._call("from_latent", z=z, condition=condition)

    def before_rounding(self, z: tf.Tensor, condition: Any) -> tf.Tensor:
        """Run `raw_before_rounding`."""
        return self._call("before_rounding", z=z, condition=condition)

    def sample(self, n: Any, condition: Any, temperature: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Run `raw_sample`."""
        return self._call("sample", n=n, condition=condition, temperature=temperature, seed=seed)

    def sample_and_log_prob(
        self, n: Any, condition: Any, temperature: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Run `raw_sample_and_log_prob`."""
        return self._call("sample_and_log_prob", n=n, condition=condition, temperature=temperature, seed=seed)


def _is_result(key: Hashable, result: Any) -> bool:
    """Say whether what a function gave is finite; a log_prob may be -infinity, where a density is 0."""
    *others, last = result if isinstance(result, tuple | list) else (result,)
    density = key in ("log_prob", "sample_and_log_prob")
    return all(map(_is_finite, others)) and (_is_below_infinity(last) if density else _is_finite(last))


def _is_finite(value: tf.Tensor) -> bool:
    return not value.dtype.is_floating or bool(np.isfinite(np.asarray(value)).all())


def _is_below_infinity(value: tf.Tensor) -> bool:
    return bool((np.asarray(value) < np.inf).all())

"""The compiled functions behind a flow's methods: one trace each, for any batch size."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf


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

    def run(self, key: Hashable, function: Callable, **arguments: Any) -> Any:
        """Run a tensor function of the flow; what was traced under a key is used again.

        Args:
            key: tells functions apart, with all that they hold besides the flow and the arguments.
            function: takes the arguments by position.
            **arguments: tensors or None, by the names that `_specs` knows.
        """
        values = list(arguments.values())
        if not tf.executing_eagerly() or any(tf.is_symbolic_tensor(value) for value in values):
            return function(*values)
        if key not in self._traced:
            self._traced[key] = self._trace(function, list(arguments))
        return self._traced[key](*[value for value in values if value is not None])

    def _trace(self, function: Callable, names: list[str]) -> Callable:
        specs = self._specs()
        given = [name for name in names if name in specs]

        def run(*values: tf.Tensor) -> Any:
            by_name = dict(zip(given, values, strict=True))
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

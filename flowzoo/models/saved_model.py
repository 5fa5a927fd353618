"""A flow as a SavedModel: plain TensorFlow operations, named tensors, any batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from flowzoo import random
from flowzoo.files import staged_folder
from flowzoo.models import checks

WEIGHTS_DTYPES = ("float32", "float16", "bfloat16")
SIGNATURES = ("serving_default", "log_prob", "sample", "to_latent", "from_latent")


def write_saved_model(
    flow: Any, filepath: Any, *, weights_dtype: str = "float32", overwrite: bool = False
) -> None:
    """Write a flow as a SavedModel; see `Flow.export`.

    The weights are copies, listed in the order of `flow.weights`, so that the checkpoint inside
    (variables/variables, keys weights/<i>) can be read back without the graph. With half precision
    only kernels and matrices are stored in half: scales and shifts of data need the range of float32.
    """
    if weights_dtype not in WEIGHTS_DTYPES:
        raise ValueError(
            f"weights_dtype takes one of {', '.join(WEIGHTS_DTYPES)}. Received: {weights_dtype!r}"
        )
    with staged_folder(filepath, overwrite=overwrite) as folder:
        module = _ExportModule(flow, weights_dtype)
        # Served functions are not differentiated, and gradients of our own would hold the flow's weights.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        try:
            tf.saved_model.save(module, str(folder), signatures=module.signatures(), options=options)
        except tf.errors.OpError as error:
            raise OSError(f"{filepath} could not be written: {error.message}") from error


class _ExportModule(tf.Module):
    """Copies of a flow's weights and the functions that compute with them."""

    def __init__(self, flow: Any, weights_dtype: str) -> None:
        super().__init__(name="flowzoo")
        # Behind functions: as attributes the flow and its weights would be saved beside the copies.
        own = flow.weights
        self._flow_of, self._own_of = (lambda: flow), (lambda: own)
        # A SavedModel must not depend on the strategy that the flow was trained under.
        with tf.init_scope():
            self.weights = [
                tf.Variable(_stored(weight, weights_dtype), trainable=False, name=f"weight_{i}")
                for i, weight in enumerate(own)
            ]

    def _bound(self, function: Callable) -> Callable:
        """Return `function` computing with the copies instead of the flow's own weights."""

        def run(*arguments: Any) -> Any:
            pairs = zip(self._own_of(), self.weights, strict=True)
            mapping = [(own, tf.cast(copy, own.dtype)) for own, copy in pairs]
            with keras.StatelessScope(state_mapping=mapping):
                return function(*arguments)

        return run

    def _define(self, output: str, function: Callable, *names: str) -> Callable:
        """Make one signature: inputs of the names, and one output."""
        flow = self._flow_of()
        specs = input_specs(flow)
        if flow.condition_shape is not None:
            names = (*names, "condition")
        run = self._bound(function)

        def signature(*values: tf.Tensor) -> dict[str, tf.Tensor]:
            return {output: run(dict(zip(names, values, strict=True)))}

        return tf.function(signature, input_signature=[specs[name] for name in names], autograph=False)

    def signatures(self) -> dict[str, Callable]:
        """Return the signatures by name."""
        flow, inner = self._flow_of(), self._inner_condition

        def log_prob(given: dict[str, tf.Tensor]) -> tf.Tensor:
            x = tf.cast(given["x"], flow.compute_dtype)
            return flow.raw_log_prob(x, inner(given, tf.shape(x)[0]), random.as_seed(0))

        def to_latent(given: dict[str, tf.Tensor]) -> tf.Tensor:
            x = tf.cast(given["x"], flow.compute_dtype)
            return flow.raw_to_latent(x, inner(given, tf.shape(x)[0]))

        def from_latent(given: dict[str, tf.Tensor]) -> tf.Tensor:
            return flow.raw_from_latent(given["z"], inner(given, tf.shape(given["z"])[0]))

        def sample(given: dict[str, tf.Tensor]) -> tf.Tensor:
            n = given["num_samples"]
            return flow.raw_sample(n, inner(given, n), given["temperature"], given["seed"])

        density = self._define("log_prob", log_prob, "x")
        return {
            "serving_default": density,
            "log_prob": density,
            "sample": self._define("x", sample, "num_samples", "seed", "temperature"),
            "to_latent": self._define("z", to_latent, "x"),
            "from_latent": self._define("x", from_latent, "z"),
        }

    def _inner_condition(self, given: dict[str, tf.Tensor], batch: tf.Tensor) -> tf.Tensor | None:
        """Turn the condition of a request into what the layers take: one for all, or one each."""
        return checks.condition(self._flow_of(), given.get("condition"), batch)


def _stored(weight: Any, weights_dtype: str) -> tf.Tensor:
    value = tf.convert_to_tensor(weight)
    rank = getattr(weight, "element_rank", value.shape.rank)  # of one of several stacked weights
    if weights_dtype == "float32" or not value.dtype.is_floating or rank < 2:
        return value
    return tf.cast(value, weights_dtype) if weight.trainable else value


def input_specs(flow: Any) -> dict[str, tf.TensorSpec]:
    """Return the inputs of the signatures by name."""
    dtype = flow.compute_dtype
    specs = {
        "x": tf.TensorSpec([None, *flow.event_shape], flow.data_dtype, "x"),
        "z": tf.TensorSpec([None, *flow.latent_shape], dtype, "z"),
        "num_samples": tf.TensorSpec([], tf.int32, "num_samples"),
        "seed": tf.TensorSpec([2], tf.int32, "seed"),
        "temperature": tf.TensorSpec([], tf.float32, "temperature"),
    }
    if flow.condition_shape is not None:
        kind = tf.int32 if flow.num_classes else dtype
        specs["condition"] = tf.TensorSpec([None, *flow.condition_shape], kind, "condition")
    return specs

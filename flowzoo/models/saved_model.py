"""A flow as a SavedModel: plain TensorFlow operations, named tensors, any batch size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo import quantization
from flowzoo.files import staged_folder
from flowzoo.models.compact_graph import compact
from flowzoo.models.signatures import describe, make_signatures

WEIGHTS_DTYPES = ("float32", "float16", "bfloat16", "int8")
# Where a SavedModel keeps what is no part of its graph, and the description of its signatures there.
EXTRA, DESCRIPTION = "assets.extra", "signatures.json"


def write_saved_model(
    flow: Any, filepath: Any, *, weights_dtype: str = "float32", overwrite: bool = False
) -> None:
    """Write a flow as a SavedModel, whole or not at all; see `Flow.export`."""
    check_weights_dtype(weights_dtype)
    with staged_folder(filepath, overwrite=overwrite) as folder:
        fill_saved_model(flow, folder, weights_dtype, str(filepath))


def check_weights_dtype(weights_dtype: str) -> None:
    """Raise ValueError unless weights can be stored so."""
    if weights_dtype not in WEIGHTS_DTYPES:
        raise ValueError(
            f"weights_dtype takes one of {', '.join(WEIGHTS_DTYPES)}. Received: {weights_dtype!r}"
        )


def fill_saved_model(flow: Any, folder: Path, weights_dtype: str, target: str) -> None:
    """Fill an empty folder with the SavedModel of a flow and a description of its signatures.

    The weights are copies, listed in the order of `flow.weights`, so that the checkpoint inside
    (variables/variables, keys weights/<i>) can be read back without the graph. In half precision or
    int8 only kernels and matrices are stored so: scales and shifts of data need the range of float32.
    Beside int8 numbers stand their scales (keys scales/<i>); see `flowzoo.quantization`. A weight whose
    attribute `needs_half` is true is stored in float16 instead, and permutations in whole numbers.

    Args:
        flow: the flow.
        folder: the folder.
        weights_dtype: how weights are stored.
        target: what an error calls the folder.

    Raises:
        OSError: it cannot be written.
    """
    module = _ExportModule(flow, weights_dtype)
    # Served functions are not differentiated, and gradients of our own would hold the flow's weights.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    try:
        tf.saved_model.save(module, str(folder), signatures=module.signatures(), options=options)
    except tf.errors.OpError as error:
        raise OSError(f"{target} could not be written: {error.message}") from error
    compact(folder)
    (folder / EXTRA).mkdir()
    text = json.dumps(describe(flow), indent=2) + "\n"
    (folder / EXTRA / DESCRIPTION).write_text(text, encoding="utf-8")


class _ExportModule(tf.Module):
    """Copies of a flow's weights and the functions that compute with them."""

    def __init__(self, flow: Any, weights_dtype: str) -> None:
        super().__init__(name="flowzoo")
        # Behind functions: as attributes the flow and its weights would be saved beside the copies.
        own = flow.weights
        self._flow_of, self._own_of = (lambda: flow), (lambda: own)
        # A SavedModel must not depend on the strategy that the flow was trained under.
        with tf.init_scope():
            self.weights, self.scales = [], {}
            for i, weight in enumerate(own):
                value, scale = _stored(weight, weights_dtype)
                self.weights.append(tf.Variable(value, trainable=False, name=f"weight_{i}"))
                if scale is not None:
                    self.scales[str(i)] = tf.Variable(scale, trainable=False, name=f"scale_{i}")

    def _bound(self, function: Callable) -> Callable:
        """Return `function` computing with the copies instead of the flow's own weights."""

        def run(*arguments: Any, **named: Any) -> Any:
            mapping = [(own, tf.cast(self._value(i), own.dtype)) for i, own in enumerate(self._own_of())]
            with keras.StatelessScope(state_mapping=mapping):
                return function(*arguments, **named)

        return run

    def _value(self, index: int) -> tf.Tensor:
        """Return a weight as it is stored, or what its int8 numbers stand for."""
        copy, scale = tf.convert_to_tensor(self.weights[index]), self.scales.get(str(index))
        return copy if scale is None else quantization.dequantize_tensor(copy, tf.convert_to_tensor(scale))

    def signatures(self) -> dict[str, Callable]:
        """Return the signatures by name."""
        return make_signatures(self._flow_of(), self._bound)


def _stored(weight: Any, weights_dtype: str) -> tuple[Any, Any]:
    """Return what is stored of a weight, and its scales where that is int8."""
    value = tf.convert_to_tensor(weight)
    rank = getattr(weight, "element_rank", value.shape.rank)  # of one of several stacked weights
    floating = value.dtype.is_floating and weight.trainable
    if weights_dtype == "int8" and not weight.trainable and _whole(value):
        return tf.cast(value, "int8"), None  # a permutation as a matrix
    if weights_dtype == "float32" or not floating or rank < 2:
        return value, None
    if weights_dtype != "int8":
        return tf.cast(value, weights_dtype), None
    if np.prod(value.shape[value.shape.rank - rank :]) < quantization.SMALLEST:
        return value, None
    if getattr(weight, "needs_half", False):
        return tf.cast(value, "float16"), None
    return quantization.quantize(value, rank, weight.path)


def _whole(value: tf.Tensor) -> bool:
    """Say whether a matrix holds whole numbers alone, and small ones."""
    array = np.asarray(value)
    if array.ndim < 2 or array.dtype.kind != "f":
        return False
    return bool(np.all((np.abs(array) <= quantization.LARGEST) & (array == np.rint(array))))

"""Fully connected conditioners: plain and residual."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from flowzoo.networks.base import Conditioner, hidden_sizes, positive_int
from flowzoo.networks.dropout import checked_rate, drop


def _flat(inputs: tf.Tensor, condition: tf.Tensor | None, size: int, condition_size: int | None) -> tf.Tensor:
    """Join input and condition in one vector an example."""
    inputs = tf.reshape(inputs, [-1, size])
    if condition is None:
        return inputs
    return tf.concat([inputs, tf.reshape(condition, [-1, condition_size])], axis=-1)


@keras.saving.register_keras_serializable("flowzoo")
class MLP(Conditioner):
    """A multilayer perceptron; the condition joins its input.

    Args:
        hidden_units: sizes of the hidden layers.
        activation: of the hidden layers.
        dropout: share of the hidden units that is dropped in training (`flowzoo.networks.dropout`).
        **kwargs: of `Conditioner`.

    Raises:
        ValueError: a size is not a positive integer, or `dropout` not in [0, 1).
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (128, 128),
        activation: Any = "relu",
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, **kwargs)
        self.hidden_units = hidden_sizes(hidden_units)
        self.dropout = checked_rate(dropout)

    def _build(self) -> None:
        size, out, condition = self._sizes
        self.hidden = [
            keras.layers.Dense(
                units,
                self.activation,
                kernel_initializer="he_normal",
                dtype=self.hidden_dtype(),
                name=f"hidden_{i}",
            )
            for i, units in enumerate(self.hidden_units)
        ]
        self.last = keras.layers.Dense(out, kernel_initializer="zeros", dtype=self.dtype_policy, name="last")
        width = size + (condition or 0)
        for layer in [*self.hidden, self.last]:
            layer.build((None, width))
            width = layer.units

    def _run(self, inputs: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        size, _, condition_size = self._sizes
        x = _flat(inputs, condition, size, condition_size)
        for layer in self.hidden:
            x = drop(layer(x), self.dropout)
        return self.last(x)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal network."""
        config = {"hidden_units": list(self.hidden_units), "dropout": self.dropout}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("flowzoo")
class ResidualMLP(Conditioner):
    """A perceptron of pre-activation residual blocks; the condition joins its input.

    Hidden kernels and biases start uniformly, up to 1 / sqrt(inputs). With the wider start of He, and biases
    at zero, splines learn the rows of a small table by heart before its density (benchmarks/variants.md).

    Args:
        units: width of every layer.
        blocks: number of residual blocks, two layers each.
        activation: of the hidden layers.
        dropout: share of the units before a block's second layer that is dropped in training
            (`flowzoo.networks.dropout`).
        **kwargs: of `Conditioner`.

    Raises:
        ValueError: `units` or `blocks` is not a positive integer, or `dropout` not in [0, 1).

    References:
        Durkan et al., Neural Spline Flows (2019), https://arxiv.org/abs/1906.04032, appendix B.1.
    """

    def __init__(
        self,
        units: int = 128,
        blocks: int = 2,
        activation: Any = "relu",
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, **kwargs)
        self.units = positive_int("units", units)
        self.blocks = positive_int("blocks", blocks)
        self.dropout = checked_rate(dropout)

    def _build(self) -> None:
        size, out, condition = self._sizes
        hidden = self.hidden_dtype()

        def dense(name: str, inputs: int) -> keras.layers.Dense:
            most = 1 / math.sqrt(inputs)
            layer = keras.layers.Dense(
                self.units,
                kernel_initializer=keras.initializers.RandomUniform(-most, most),
                bias_initializer=keras.initializers.RandomUniform(-most, most),
                dtype=hidden,
                name=name,
            )
            layer.build((None, inputs))
            return layer

        self.first = dense("first", size + (condition or 0))
        self.inner = [
            (dense(f"block_{i}_a", self.units), dense(f"block_{i}_b", self.units)) for i in range(self.blocks)
        ]
        self.last = keras.layers.Dense(out, kernel_initializer="zeros", dtype=self.dtype_policy, name="last")
        self.last.build((None, self.units))

    def _run(self, inputs: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        size, _, condition_size = self._sizes
        x = self.first(_flat(inputs, condition, size, condition_size))
        for first, second in self.inner:
            x = x + second(drop(self.activation(first(self.activation(x))), self.dropout))
        return self.last(self.activation(x))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal network."""
        config = {"units": self.units, "blocks": self.blocks, "dropout": self.dropout}
        return {**super().get_config(), **config}

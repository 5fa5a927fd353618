"""MADE: a network whose i-th output sees only the inputs before i."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo.networks.base import Conditioner, hidden_sizes


@keras.saving.register_keras_serializable("flowzoo")
class MaskedDense(keras.layers.Dense):
    """A dense layer in which output j sees input i only where their degrees allow it.

    The mask is worked out from the degrees at each call: as a constant it would be as large as the
    kernel, once for every function of a SavedModel.

    Args:
        units: number of outputs.
        input_degrees: an integer an input.
        output_degrees: an integer an output; it sees the inputs of degrees up to its own.
        **kwargs: of `keras.layers.Dense`.
    """

    def __init__(self, units: int, input_degrees: Any, output_degrees: Any, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.degrees = [np.asarray(degrees, "int32") for degrees in (input_degrees, output_degrees)]

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Return activation(inputs (kernel * mask) + bias)."""
        kernel = tf.convert_to_tensor(self.kernel)
        before, after = self.degrees
        mask = tf.constant(before)[:, None] <= tf.constant(after)[None, :]
        kernel = kernel * tf.cast(mask, kernel.dtype)
        return self.activation(tf.matmul(inputs, kernel) + tf.convert_to_tensor(self.bias))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        before, after = (degrees.tolist() for degrees in self.degrees)
        return {**super().get_config(), "input_degrees": before, "output_degrees": after}


def made_degrees(size: int, hidden_units: Sequence[int]) -> list[np.ndarray]:
    """Return the degrees of inputs and hidden units, spread evenly over 1 … size - 1.

    An input has its position (from 1); a hidden unit of degree d sees the inputs up to d, so that no
    hidden unit is wasted on the last input: Germain et al. (2015), section 4.
    """
    degrees = [np.arange(1, size + 1)]
    for units in hidden_units:
        degrees.append(
            np.floor(np.linspace(1, max(size, 2) - 1e-6, units)).astype(int).clip(1, max(size - 1, 1))
        )
    return degrees


@keras.saving.register_keras_serializable("flowzoo")
class MADE(Conditioner):
    """Masked autoencoder: the parameters of entry i depend on the entries before i alone.

    The condition, seen by all entries, is added to the first hidden layer and to the output. One pass
    gives the parameters of every entry. An entry may be seen as several numbers (an angle as its cosine and
    its sine): the inputs then have one axis more than the entries.

    Args:
        hidden_units: sizes of the hidden layers.
        activation: of the hidden layers.
        **kwargs: of `Conditioner`.

    Raises:
        ValueError: a size is not a positive integer, or input and entries differ in shape.

    References:
        Germain et al., MADE: Masked Autoencoder for Distribution Estimation (2015),
        https://arxiv.org/abs/1502.03509, equations 12 and 13.
    """

    def __init__(
        self, hidden_units: Sequence[int] = (128, 128), activation: Any = "relu", **kwargs: Any
    ) -> None:
        super().__init__(activation, **kwargs)
        self.hidden_units = hidden_sizes(hidden_units)
        if not self.hidden_units:
            raise ValueError("hidden_units takes at least one size. Received: ()")

    def _build(self) -> None:
        seen, entries = list(self.shapes["input_shape"]), list(self.shapes["entry_shape"])
        if entries not in (seen, seen[:-1]):
            raise ValueError(f"MADE returns parameters of the entries that it sees. Received: {self.shapes}")
        width, out, condition = self._sizes
        numbers = 1 if seen == entries else seen[-1]
        positions, *degrees = made_degrees(width // numbers, self.hidden_units)
        degrees = [np.repeat(positions, numbers), *degrees]
        per_entry = self.shapes["params_per_entry"]
        self.hidden = []
        for i, units in enumerate(self.hidden_units):
            self.hidden.append(
                MaskedDense(
                    units,
                    degrees[i],
                    degrees[i + 1],
                    kernel_initializer="he_normal",
                    dtype=self.hidden_dtype(),
                    name=f"hidden_{i}",
                )
            )
        # Parameters of entry i see what is before it: degrees up to i - 1.
        last = np.repeat(positions - 1, per_entry)
        self.last = MaskedDense(
            out, degrees[-1], last, kernel_initializer="zeros", dtype=self.dtype_policy, name="last"
        )
        for layer in [*self.hidden, self.last]:
            layer.build((None, width))
            width = layer.units
        self.condition_in = self.condition_out = None
        if condition is not None:
            self._build_condition(condition, out)

    def _build_condition(self, size: int, out: int) -> None:
        self.condition_in = keras.layers.Dense(
            self.hidden_units[0], use_bias=False, dtype=self.hidden_dtype(), name="condition_in"
        )
        self.condition_out = keras.layers.Dense(
            out, use_bias=False, kernel_initializer="zeros", dtype=self.dtype_policy, name="condition_out"
        )
        self.condition_in.build((None, size))
        self.condition_out.build((None, size))

    def _run(self, inputs: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        size, _, condition_size = self._sizes
        x = tf.reshape(inputs, [-1, size])
        if condition is not None:
            condition = tf.reshape(condition, [-1, condition_size])
        for i, layer in enumerate(self.hidden):
            x = layer(x)
            if condition is not None and i == 0:
                x = x + self.condition_in(condition)
            x = self.activation(x)
        params = self.last(x)
        return params if condition is None else params + self.condition_out(condition)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal network."""
        return {**super().get_config(), "hidden_units": list(self.hidden_units)}

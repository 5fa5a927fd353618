"""Conditioner: a network that turns one part of an event into the parameters of a transform."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

Shape = tuple[int, ...]


class Conditioner(keras.layers.Layer):
    """Base of conditioning networks.

    A flow layer builds its conditioner once the shapes are known: with `input_shape` what the network
    sees, `entry_shape` the entries to be transformed and P the parameters an entry takes, the network
    maps [batch, *input_shape] to [batch, *entry_shape, P]. The last layer starts at zero, so that a
    new flow is the identity. Hidden layers follow the global dtype policy (mixed_bfloat16, say); the
    last layer computes in the flow layer's own dtype.

    A subclass writes `_build` and `_run`.

    Args:
        activation: of the hidden layers, a Keras name or callable.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, activation: Any = "relu", **kwargs: Any) -> None:
        kwargs.pop("dtype", None)  # given by the flow layer in build_for
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)
        self.shapes: dict[str, Any] | None = None

    def build_for(
        self,
        input_shape: Shape,
        entry_shape: Shape,
        params_per_entry: int,
        condition_shape: Shape | None = None,
        dtype: Any = None,
    ) -> None:
        """Create the weights for shapes without batch dimension.

        Args:
            input_shape: of what the network sees.
            entry_shape: of the entries whose parameters it returns.
            params_per_entry: parameters an entry takes.
            condition_shape: of one condition, or None.
            dtype: the flow layer's dtype policy.

        Raises:
            ValueError: the network was already built for other shapes.
        """
        shapes = {
            "input_shape": list(input_shape),
            "entry_shape": list(entry_shape),
            "params_per_entry": params_per_entry,
            "condition_shape": None if condition_shape is None else list(condition_shape),
        }
        if self.built:
            if self.shapes != shapes:
                raise ValueError(
                    f"{self.name} is built for {self.shapes} and cannot serve in a second place. "
                    f"Received: {shapes}"
                )
            return
        self.shapes = shapes
        if dtype is not None:
            self.dtype_policy = dtype
        self.build((None, *input_shape))

    def build(self, input_shape: Any) -> None:
        """Create the weights; `build_for` says for which shapes."""
        if self.shapes is None:
            raise ValueError(f"{self.name} is built by the flow layer that it serves, through build_for.")
        self._build()

    def get_build_config(self) -> dict[str, Any]:
        """Return what `build_from_config` needs."""
        return {"shapes": self.shapes, "policy": keras.saving.serialize_keras_object(self.dtype_policy)}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Build for the shapes that were saved."""
        if config.get("shapes"):
            policy = keras.saving.deserialize_keras_object(config["policy"])
            self.build_for(**config["shapes"], dtype=policy)

    def call(self, inputs: tf.Tensor, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Return the parameters, [batch, *entry_shape, params_per_entry]."""
        entries = self.shapes["entry_shape"]
        params = self._run(inputs, condition)
        return tf.reshape(params, [-1, *entries, self.shapes["params_per_entry"]])

    def _build(self) -> None:
        raise NotImplementedError

    def _run(self, inputs: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        raise NotImplementedError

    @property
    def _sizes(self) -> tuple[int, int, int | None]:
        """Flat sizes of input, output and condition."""
        shapes = self.shapes
        condition = shapes["condition_shape"]
        return (
            _size(shapes["input_shape"]),
            _size(shapes["entry_shape"]) * shapes["params_per_entry"],
            None if condition is None else _size(condition),
        )

    def hidden_dtype(self) -> Any:
        """Return the dtype policy of hidden layers: the global one if mixed, else the layer's own."""
        return mixed_policy(self.dtype_policy.variable_dtype) or self.dtype_policy

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal network."""
        config = super().get_config()
        config.pop("dtype", None)
        return {**config, "activation": keras.activations.serialize(self.activation)}


def mixed_policy(dtype: str) -> keras.DTypePolicy | None:
    """Return the global policy if it is mixed and `dtype` is that of its weights, else None."""
    policy = keras.config.dtype_policy()
    mixed = policy.compute_dtype != policy.variable_dtype
    return policy if mixed and policy.variable_dtype == dtype else None


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def as_conditioner(value: Any) -> Conditioner | None:
    """Return a Conditioner from itself, its Keras config or None.

    Raises:
        TypeError: `value` is something else.
    """
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if value is not None and not isinstance(value, Conditioner):
        raise TypeError(
            f"conditioner takes a flowzoo.networks.Conditioner or None. Received: {type(value).__name__}"
        )
    return value


def positive_int(name: str, value: Any, least: int = 1) -> int:
    """Return `value` if it is an integer of at least `least`, else raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} takes an integer of at least {least}. Received: {value!r}")
    return value


def checked_share(name: str, value: Any) -> float:
    """Return a share from 0 to below 1, else raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} takes a number in [0, 1). Received: {value!r}")
    return float(value)


def hidden_sizes(value: Any) -> tuple[int, ...]:
    """Return hidden layer sizes as a tuple of positive integers, else raise ValueError."""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ValueError(f"hidden_units takes a sequence of positive integers. Received: {value!r}")
    return tuple(
        positive_int("hidden_units", int(size) if hasattr(size, "__index__") else size) for size in value
    )

"""FlowLayer: the contract that every invertible layer keeps."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo.bijectors import FlowBijector
from flowzoo.layers.checkpointing import Checkpointed
from flowzoo.layers.domain import Domain

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LayerCase:
    """One configuration in which the tests examine a layer.

    Attributes:
        kwargs: the layer's arguments.
        event_shape: shape of one data example.
        condition_shape: shape of one condition, or None.
        support: where data lie: "real", "unit" (the open interval from 0 to 1), "integers", "positive",
            "angle" (latents are angles as well), "simplex" (the density is that of all entries of the last
            axis but the last), or a tuple with a support an entry, of which ("box", low, high) is one.
        trains: whether every trainable weight must receive a gradient.
    """

    kwargs: dict[str, Any]
    event_shape: Shape
    condition_shape: Shape | None = None
    support: str | tuple[Any, ...] = "real"
    trains: bool = True


def flow_dtype(dtype: Any = None) -> Any:
    """Return the dtype of a flow layer: its own, or the weights' dtype of the global policy.

    Under a mixed policy z and the log-determinant would lose their digits (inverse error 8e-3
    instead of 5e-7), so that only the hidden layers of conditioners follow it.
    """
    if dtype is None:
        return keras.config.dtype_policy().variable_dtype
    return dtype


def as_shape(shape: Any) -> Shape:
    """Return a shape without batch dimension as a tuple of integers."""
    return tuple(int(size) for size in shape)


class FlowLayer(Checkpointed, keras.layers.Layer):
    """An invertible transformation with a tractable log-determinant. Forward is latent to data.

    With f the forward map, x = f(z), a layer returns the value and the log-determinant from one pass
    of its conditioner:

    * `flow_forward(z, condition)` gives x and log |det df/dz|;
    * `flow_inverse(x, condition)` gives z and log |det df^-1/dx|, so that
      log p(x) = log p(z) + that.

    Both log-determinants have the shape [batch] and the layer's dtype (float32 by default). All
    layers take `condition=` and those that do not use it leave it alone.

    A subclass writes `_forward` and `_inverse`, creates its weights in `_build`, and says how the
    tests build it in `cases`. It overrides `_latent_shape` where latent and data shapes differ and
    `data_init` where its weights are set from data.

    Args:
        dtype: of values and log-determinants; float32 unless a float64 policy is set.
        **kwargs: of `keras.layers.Layer` (name, trainable).

    References:
        Papamakarios et al., Normalizing Flows for Probabilistic Modeling and Inference (2021),
        https://arxiv.org/abs/1912.02762, section 2.1.
    """

    # How many examples `data_init` wants to see; 0 says that no weight is set from data.
    data_init_examples: int = 0
    # The interval in which data must lie, or None.
    data_range: tuple[float, float] | None = None
    # The set in which data must lie where it is no such interval, or None.
    domain: Domain | None = None
    # False for a map that is many-to-one from latent to data, such as rounding: then data to latent to
    # data is exact, and latent to data to latent is not.
    bijective: bool = True

    def __init__(self, *, dtype: Any = None, **kwargs: Any) -> None:
        super().__init__(dtype=flow_dtype(dtype), **kwargs)
        self.event_shape: Shape = ()  # the three shapes are known once the layer is built
        self.latent_shape: Shape = ()
        self.condition_shape: Shape | None = None

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return the configurations in which the tests examine this layer."""
        raise NotImplementedError(f"{cls.__name__} must say in cases() how the tests build it.")

    # -- building ---------------------------------------------------------------------------------

    # Named after the arguments of `call`, so that Keras builds a layer of one's own at its first call.
    def build(self, x_shape: Any, condition_shape: Any = None) -> None:
        """Create the weights for data of a shape.

        Args:
            x_shape: shape of a batch of data, (None, *event_shape).
            condition_shape: shape of a batch of conditions, (None, *condition_shape), or None.
        """
        event_shape = as_shape(tuple(x_shape)[1:])
        condition_shape = None if condition_shape is None else as_shape(tuple(condition_shape)[1:])
        latent_shape = self._latent_shape(event_shape)
        self.event_shape, self.latent_shape = event_shape, latent_shape
        self.condition_shape = condition_shape
        self._build(event_shape, condition_shape)

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Build as a saved layer was; in older files the shape of data is called input_shape."""
        shapes = config.get("shapes_dict")
        if shapes and "input_shape" in shapes:
            config = {"shapes_dict": {"x_shape": shapes["input_shape"], **shapes}}
            del config["shapes_dict"]["input_shape"]
        super().build_from_config(config)

    def build_for(self, event_shape: Shape, condition_shape: Shape | None = None) -> FlowLayer:
        """Build for shapes without batch dimension, or check that the layer was built for them."""
        if self.built:
            if (self.event_shape, self.condition_shape) != (event_shape, condition_shape):
                raise ValueError(
                    f"{self.name} is built for event_shape={self.event_shape} and "
                    f"condition_shape={self.condition_shape} and cannot serve in a second place. "
                    f"Received: event_shape={event_shape}, condition_shape={condition_shape}"
                )
            return self
        batch_condition = None if condition_shape is None else (None, *condition_shape)
        self.build((None, *event_shape), batch_condition)
        return self

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        """Create the weights. Nothing to do for a layer without."""

    def _latent_shape(self, event_shape: Shape) -> Shape:
        """Return the latent shape that belongs to a data shape; raise ValueError if it cannot be."""
        return event_shape

    # -- the two directions -----------------------------------------------------------------------
    # In a user's tf.function AutoGraph would convert every line below, which takes longer than tracing them;
    # nothing is written for it.

    @tf.autograph.experimental.do_not_convert
    def flow_forward(self, z: Any, condition: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Map latent to data.

        Args:
            z: latent values, [batch, *latent_shape].
            condition: [batch, *condition_shape], or None.

        Returns:
            x of shape [batch, *event_shape] and log |det dx/dz| of shape [batch].

        Raises:
            ValueError: a shape is not the one that the layer was built for.
        """
        return self._forward(self._checked("z", z, "latent_shape"), self._checked_condition(condition))

    @tf.autograph.experimental.do_not_convert
    def flow_inverse(self, x: Any, condition: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Map data to latent.

        Args:
            x: data, [batch, *event_shape].
            condition: [batch, *condition_shape], or None.

        Returns:
            z of shape [batch, *latent_shape] and log |det dz/dx| of shape [batch].

        Raises:
            ValueError: a shape is not the one that the layer was built for.
        """
        return self._inverse(self._checked("x", x, "event_shape"), self._checked_condition(condition))

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        raise NotImplementedError

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        raise NotImplementedError

    def call(self, x: Any, condition: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Run `flow_inverse`: the direction of training, data to latent."""
        return self.flow_inverse(x, condition)

    def data_init(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Set the weights that come from data and return the latent of `x`.

        Args:
            x: data, [batch, *event_shape].
            condition: [batch, *condition_shape], or None.
        """
        return self.flow_inverse(x, condition)[0]

    def reseed(self, offset: int) -> None:
        """Shift the seed from which weights are drawn, where a layer has one: see `Repeat`."""

    def bijector(self, condition: Any = None) -> FlowBijector:
        """Return this layer as a `tfp.bijectors.Bijector` (forward: latent to data)."""
        return FlowBijector(self, condition)

    # -- checks at the door -----------------------------------------------------------------------

    def _checked(self, name: str, value: Any, which: str) -> tf.Tensor:
        if not self.built:
            raise ValueError(f"{self.name} is not built: call build((None, *event_shape)) first.")
        expected = getattr(self, which)
        value = tf.convert_to_tensor(value)
        if value.dtype != self.compute_dtype:
            value = tf.cast(value, self.compute_dtype)
        if value.shape.rank != len(expected) + 1 or not value.shape[1:].is_compatible_with(expected):
            raise ValueError(
                f"{self.name}: {name} takes the shape [batch, {', '.join(map(str, expected))}] "
                f"({which}={expected}). Received: {tuple(value.shape)}"
            )
        return value

    def _checked_condition(self, condition: Any) -> tf.Tensor | None:
        if self.condition_shape is None:
            if condition is not None:
                raise ValueError(f"{self.name} was built without condition_shape and takes no condition.")
            return None
        if condition is None:
            raise ValueError(
                f"{self.name} was built with condition_shape={self.condition_shape}: pass condition=."
            )
        condition = tf.cast(condition, self.compute_dtype)
        shape = condition.shape
        if shape.rank != len(self.condition_shape) + 1 or not shape[1:].is_compatible_with(
            self.condition_shape
        ):
            raise ValueError(
                f"{self.name}: condition takes the shape [batch, *{self.condition_shape}]. "
                f"Received: {tuple(shape)}"
            )
        return condition


def sum_event(log_det: tf.Tensor) -> tf.Tensor:
    """Sum an elementwise log-determinant over the event: [batch, ...] to [batch]."""
    return tf.reduce_sum(log_det, axis=list(range(1, log_det.shape.rank)))


def constant_log_det(value: Any, x: tf.Tensor) -> tf.Tensor:
    """Spread a log-determinant that is the same for every example over the batch of `x`."""
    # A Python number cast would pass through float32.
    value = tf.cast(value, x.dtype) if tf.is_tensor(value) else tf.constant(value, x.dtype)
    return tf.fill(tf.shape(x)[:1], value)


def event_size(shape: Shape) -> int:
    """Return the number of elements of one event."""
    return int(np.prod(shape, dtype="int64"))

"""Velocity networks: the right-hand sides of continuous flows, functions of value, time and condition."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo.networks.base import Conditioner, hidden_sizes, positive_int
from flowzoo.networks.convnet import _never_empty

# Of the thread: another one may trace a log_prob meanwhile, which sees every digit.
_MIXED: contextvars.ContextVar[bool] = contextvars.ContextVar("mixed", default=False)


class Velocity(Conditioner):
    """Base of velocity networks: f(x, t, condition) of the shape of x.

    A conditioner whose entries are those of its input, with one parameter each, and that takes the time as
    well. It computes in the flow's own dtype under a mixed policy too, since the step control of a solver
    would see the rounding of bfloat16 as error, and an inverse would miss where it came from; only in a
    block of `mixed` do hidden layers follow the policy. The last layer starts at zero, so that a new flow is
    the identity. Solvers need f to be smooth: the activation is "tanh" unless another is given.

    A subclass writes `_build` and `_velocity`, whose hidden layers compute in `inner_dtype`.

    Args:
        activation: of the hidden layers, a Keras name or callable; smooth.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, activation: Any = "tanh", **kwargs: Any) -> None:
        super().__init__(activation, **kwargs)

    def build(self, input_shape: Any) -> None:
        """Create the weights, and note the dtype policy of hidden layers."""
        super().build(input_shape)
        self._hidden = self.hidden_dtype().compute_dtype

    @contextlib.contextmanager
    def mixed(self) -> Iterator[None]:
        """Let hidden layers compute, in the block, in the mixed policy under which the network was made.

        For a regression on velocities, through which no solver steps, and for samples by fixed steps.
        """
        token = _MIXED.set(True)
        try:
            yield
        finally:
            _MIXED.reset(token)

    def inner_dtype(self, dtype: Any) -> Any:
        """Return what hidden layers compute in: the flow's dtype, or in a block of `mixed` the policy's."""
        return self._hidden if _MIXED.get() else dtype

    def call(self, inputs: tf.Tensor, condition: tf.Tensor | None = None, time: Any = 0.0) -> tf.Tensor:
        """Return `velocity`."""
        return self.velocity(inputs, time, condition)

    def velocity(self, x: tf.Tensor, time: Any, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Return dx/dt.

        Args:
            x: [batch, *event_shape].
            time: [] or [batch].
            condition: [batch, *condition_shape], or None.

        Returns:
            A tensor of the shape of `x`.
        """
        batch = tf.shape(x)[:1]
        time = tf.broadcast_to(tf.convert_to_tensor(time, x.dtype), batch)
        return tf.reshape(self._velocity(x, time, condition), tf.shape(x))

    def _velocity(self, x: tf.Tensor, time: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        raise NotImplementedError

    def guided(self, weight: Any) -> Callable[..., tf.Tensor]:
        """Return a function as `velocity`, with classifier-free guidance of a weight.

        Raises:
            ValueError: the network knows no velocity without condition; see `flowzoo.networks.Guided`.
        """
        raise ValueError(f"{self.name} was not made for guidance: wrap it in flowzoo.networks.Guided.")

    def _dense(self, name: str, inputs: int, units: int, kind: str = "glorot_uniform") -> tuple:
        """Create a kernel and a bias."""
        kernel = self.add_weight(shape=(inputs, units), initializer=kind, name=f"{name}_kernel")
        return kernel, self.add_weight(shape=(units,), initializer="zeros", name=f"{name}_bias")


def _affine(x: tf.Tensor, weights: tuple) -> tf.Tensor:
    kernel, bias = (as_dtype_of(x, weight) for weight in weights)
    return tf.matmul(x, kernel) + bias


def as_dtype_of(x: tf.Tensor, weight: Any) -> tf.Tensor:
    """Return a weight in the dtype of what it meets."""
    return tf.cast(tf.convert_to_tensor(weight), x.dtype)


@keras.saving.register_keras_serializable("flowzoo")
class ConcatSquash(Velocity):
    """Fully connected layers that time and condition gate and shift.

    With s the time and the condition, a layer is y = (W x + b) * sigmoid(G s + g) + U s. Between layers
    stands the activation.

    Args:
        hidden_units: sizes of the hidden layers.
        activation: of the hidden layers, smooth.
        **kwargs: of `Velocity`.

    Raises:
        ValueError: a size is not a positive integer.

    References:
        Grathwohl et al., FFJORD (2019), https://arxiv.org/abs/1810.01367, appendix B.1.
    """

    def __init__(
        self, hidden_units: Sequence[int] = (64, 64), activation: Any = "tanh", **kwargs: Any
    ) -> None:
        super().__init__(activation, **kwargs)
        self.hidden_units = hidden_sizes(hidden_units)

    def _build(self) -> None:
        size, out, condition = self._sizes
        signal = 1 + (condition or 0)
        self.stages = []
        width = size
        for i, units in enumerate((*self.hidden_units, out)):
            last = i == len(self.hidden_units)
            kind = "zeros" if last else "he_normal"
            name = "last" if last else f"hidden_{i}"
            main = self._dense(name, width, units, kind)
            gate = self._dense(f"{name}_gate", signal, units)
            shift = self.add_weight(shape=(signal, units), initializer=kind, name=f"{name}_shift")
            self.stages.append((main, gate, shift))
            width = units

    def _velocity(self, x: tf.Tensor, time: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        size, _, condition_size = self._sizes
        x = tf.reshape(x, [-1, size])
        signal, inner = time[:, None], self.inner_dtype(x.dtype)
        if condition is not None:
            signal = tf.concat([signal, tf.reshape(condition, [-1, condition_size])], axis=-1)
        for i, (main, gate, shift) in enumerate(self.stages):
            dtype = inner if i < len(self.hidden_units) else signal.dtype
            x = tf.cast(self.activation(x) if i else x, dtype)
            told = tf.cast(signal, dtype)
            shifted = tf.matmul(told, as_dtype_of(told, shift))
            x = _affine(x, main) * tf.sigmoid(_affine(told, gate)) + shifted
        return x

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal network."""
        return {**super().get_config(), "hidden_units": list(self.hidden_units)}


@keras.saving.register_keras_serializable("flowzoo")
class TimeMLP(Velocity):
    """A multilayer perceptron of x, the condition, and waves of the time.

    The time enters as t and as sin(pi k t), cos(pi k t) for k = 1 … `waves`.

    Args:
        hidden_units: sizes of the hidden layers.
        activation: of the hidden layers, smooth.
        waves: number of frequencies; 0 leaves t alone.
        **kwargs: of `Velocity`.

    Raises:
        ValueError: a size is not a positive integer, or `waves` is negative.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (64, 64),
        activation: Any = "tanh",
        waves: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, **kwargs)
        self.hidden_units = hidden_sizes(hidden_units)
        self.waves = positive_int("waves", waves, 0)

    def _build(self) -> None:
        size, out, condition = self._sizes
        width = size + (condition or 0) + 1 + 2 * self.waves
        self.stages = []
        for i, units in enumerate(self.hidden_units):
            self.stages.append(self._dense(f"hidden_{i}", width, units, "he_normal"))
            width = units
        self.stages.append(self._dense("last", width, out, "zeros"))

    def _velocity(self, x: tf.Tensor, time: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        size, _, condition_size = self._sizes
        angles = time[:, None] * tf.constant(np.pi * np.arange(1, self.waves + 1), x.dtype)
        parts = [tf.reshape(x, [-1, size]), time[:, None], tf.sin(angles), tf.cos(angles)]
        if condition is not None:
            parts.append(tf.reshape(condition, [-1, condition_size]))
        dtype, x = x.dtype, tf.cast(tf.concat(parts, axis=-1), self.inner_dtype(x.dtype))
        for stage in self.stages[:-1]:
            x = self.activation(_affine(x, stage))
        return _affine(tf.cast(x, dtype), self.stages[-1])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal network."""
        return {**super().get_config(), "hidden_units": list(self.hidden_units), "waves": self.waves}


@keras.saving.register_keras_serializable("flowzoo")
class ConvConcatSquash(Velocity):
    """Convolutions that time and condition gate and shift, at the resolution of the image.

    A layer is y = (K * x + b) sigmoid(G s + g) + U s, a gate and a shift a channel, with s the time and,
    where the condition is a vector, the condition. A condition that is an image is resized to the
    resolution and joins the input.

    Args:
        filters: channels of each hidden layer.
        activation: of the hidden layers, smooth.
        kernel_size: of the convolutions.
        **kwargs: of `Velocity`.

    Raises:
        ValueError: a size is not a positive integer, the event is not an image, or a condition is
            neither a vector nor an image.

    References:
        Grathwohl et al., FFJORD (2019), https://arxiv.org/abs/1810.01367, appendix B.1.
    """

    def __init__(
        self,
        filters: Sequence[int] = (64, 64, 64),
        activation: Any = "softplus",
        kernel_size: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, **kwargs)
        self.filters = hidden_sizes(filters)
        self.kernel_size = positive_int("kernel_size", kernel_size)

    def _build(self) -> None:
        shape, condition = self.shapes["input_shape"], self.shapes["condition_shape"]
        if len(shape) != 3:
            raise ValueError(
                f"ConvConcatSquash takes events (height, width, channels). Received: {tuple(shape)}"
            )
        if condition is not None and len(condition) not in (0, 1, 3):
            raise ValueError(
                f"ConvConcatSquash takes a vector or an image as condition. Received: {tuple(condition)}"
            )
        self.joined = condition is not None and len(condition) == 3
        signal = 1 if self.joined or condition is None else 1 + (self._sizes[2] or 0)
        width = shape[-1] + (condition[2] if self.joined else 0)
        self.stages = []
        for i, channels in enumerate((*self.filters, shape[-1])):
            last = i == len(self.filters)
            kind = "zeros" if last else "he_normal"
            name = "last" if last else f"hidden_{i}"
            size = (self.kernel_size, self.kernel_size, width, channels)
            kernel = self.add_weight(shape=size, initializer=kind, name=f"{name}_kernel")
            bias = self.add_weight(shape=(channels,), initializer="zeros", name=f"{name}_bias")
            gate = self._dense(f"{name}_gate", signal, channels)
            shift = self.add_weight(shape=(signal, channels), initializer=kind, name=f"{name}_shift")
            self.stages.append((kernel, bias, gate, shift))
            width = channels

    def _velocity(self, x: tf.Tensor, time: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        if x.shape[0]:
            return self._convolve(x, time, condition)
        # On the CPU TensorFlow's convolutions give an empty batch a wrong shape: never hand them one.
        batch = tf.shape(x)[0]
        condition = None if condition is None else _never_empty(condition)
        return self._convolve(_never_empty(x), _never_empty(time), condition)[:batch]

    def _convolve(self, x: tf.Tensor, time: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        signal, inner = time[:, None], self.inner_dtype(x.dtype)
        if self.joined:
            resized = tf.image.resize(condition, self.shapes["input_shape"][:2], antialias=False)
            x = tf.concat([x, tf.cast(resized, x.dtype)], axis=-1)
        elif condition is not None:
            signal = tf.concat([signal, tf.reshape(condition, [-1, self._sizes[2]])], axis=-1)
        for i, (kernel, bias, gate, shift) in enumerate(self.stages):
            dtype = inner if i < len(self.filters) else signal.dtype
            x = tf.cast(self.activation(x) if i else x, dtype)
            told = tf.cast(signal, dtype)
            x = tf.nn.conv2d(x, as_dtype_of(x, kernel), 1, "SAME") + as_dtype_of(x, bias)
            shifted = tf.matmul(told, as_dtype_of(told, shift))
            x = x * tf.sigmoid(_affine(told, gate))[:, None, None] + shifted[:, None, None]
        return x

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal network."""
        config = {"filters": list(self.filters), "kernel_size": self.kernel_size}
        return {**super().get_config(), **config}


def as_velocity(value: Any) -> Velocity | None:
    """Return a Velocity from itself, its Keras config or None.

    Raises:
        TypeError: `value` is something else.
    """
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if value is not None and not isinstance(value, Velocity):
        raise TypeError(
            f"velocity takes a flowzoo.networks.Velocity or None. Received: {type(value).__name__}"
        )
    return value

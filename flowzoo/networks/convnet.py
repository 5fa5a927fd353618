"""Convolutional conditioner: residual blocks at the resolution of the image."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.networks.base import Conditioner, positive_int
from flowzoo.networks.dropout import checked_rate, drop


@keras.saving.register_keras_serializable("flowzoo")
class ConvResNet(Conditioner):
    """Pre-activation residual convolutions: 3×3 in, blocks of 3×3 and 1×1, 3×3 out.

    A condition that is a vector is projected and added to every pixel of every block; one that is an
    image is resized to the resolution and joins the input.

    Args:
        filters: channels of the hidden layers.
        blocks: number of residual blocks.
        activation: of the hidden layers.
        kernel_size: of the spatial convolutions.
        dropout: share of the features before a block's second convolution that is dropped in training
            (`flowzoo.networks.dropout`).
        **kwargs: of `Conditioner`.

    Raises:
        ValueError: a size is not a positive integer, `dropout` not in [0, 1), the event is not an image, or a
            condition is neither a vector nor an image.

    References:
        Dinh et al., Density estimation using Real NVP (2017), https://arxiv.org/abs/1605.08803,
        section 4.1; He et al. (2016), https://arxiv.org/abs/1603.05027.
    """

    def __init__(
        self,
        filters: int = 64,
        blocks: int = 2,
        activation: Any = "relu",
        kernel_size: int = 3,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, **kwargs)
        self.dropout = checked_rate(dropout)
        self.filters = positive_int("filters", filters)
        self.blocks = positive_int("blocks", blocks)
        self.kernel_size = positive_int("kernel_size", kernel_size)

    def _build(self) -> None:
        height, width, channels = self._image()
        self.first = self._conv(self.kernel_size, "first")
        self.first.build((None, height, width, channels))
        self.inner = []
        for i in range(self.blocks):
            pair = self._conv(self.kernel_size, f"block_{i}_a"), self._conv(1, f"block_{i}_b")
            for layer in pair:
                layer.build((None, height, width, self.filters))
            self.inner.append(pair)
        self._build_last(height, width)
        self._build_projection()

    def _image(self) -> tuple[int, int, int]:
        """Return height, width and channels of what the first convolution sees."""
        shape, condition = self.shapes["input_shape"], self.shapes["condition_shape"]
        if len(shape) != 3:
            raise ValueError(
                f"{type(self).__name__} takes events (height, width, channels). Received: {tuple(shape)}"
            )
        if condition is not None and len(condition) not in (0, 1, 3):
            raise ValueError(
                f"{type(self).__name__} takes a vector or an image as condition. Received: {tuple(condition)}"
            )
        height, width, channels = shape
        joined = condition is not None and len(condition) == 3
        return height, width, channels + (condition[2] if joined else 0)

    def _build_last(self, height: int, width: int) -> None:
        self.last = keras.layers.Conv2D(
            self.shapes["entry_shape"][-1] * self.shapes["params_per_entry"],
            self.kernel_size,
            padding="same",
            kernel_initializer="zeros",
            dtype=self.dtype_policy,
            name="last",
        )
        self.last.build((None, height, width, self.filters))

    def _build_projection(self) -> None:
        self.project = None
        condition = self.shapes["condition_shape"]
        if condition is None or len(condition) == 3:
            return
        self.project = keras.layers.Dense(
            self.filters * (self.blocks + 1), use_bias=False, dtype=self.hidden_dtype(), name="project"
        )
        self.project.build((None, self._sizes[2]))

    def _conv(self, size: int, name: str) -> keras.layers.Conv2D:
        return keras.layers.Conv2D(
            self.filters,
            size,
            padding="same",
            kernel_initializer=self._start(),
            dtype=self.hidden_dtype(),
            name=name,
        )

    @staticmethod
    def _start() -> Any:
        """Return how a hidden kernel starts: with the variance 2/n of n inputs, which ReLUs keep."""
        return "he_normal"

    def _offsets(self, condition: tf.Tensor | None) -> list[Any]:
        if self.project is None:
            return [0.0] * (self.blocks + 1)
        projected = self.project(tf.reshape(condition, [-1, self._sizes[2]]))
        return tf.split(projected[:, None, None, :], self.blocks + 1, axis=-1)

    def _run(self, inputs: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        if inputs.shape[0]:
            return self._convolve(inputs, condition)
        # On the CPU TensorFlow's convolutions give an empty batch a wrong shape: never hand them one.
        batch = tf.shape(inputs)[0]
        condition = None if condition is None else _never_empty(condition)
        return self._convolve(_never_empty(inputs), condition)[:batch]

    def _convolve(self, inputs: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        offsets = self._offsets(condition)
        x = self.first(self._joined(inputs, condition)) + offsets[0]
        for (first, second), offset in zip(self.inner, offsets[1:], strict=True):
            x = x + second(drop(self.activation(first(self.activation(x)) + offset), self.dropout))
        return self.last(self.activation(x))

    def _joined(self, inputs: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        """Return the input, with a condition that is an image beside it."""
        if condition is None or self.project is not None:
            return inputs
        resized = tf.image.resize(condition, self.shapes["input_shape"][:2], antialias=False)
        return tf.concat([inputs, tf.cast(resized, inputs.dtype)], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal network."""
        config = {"filters": self.filters, "blocks": self.blocks, "kernel_size": self.kernel_size}
        return {**super().get_config(), **config, "dropout": self.dropout}


@keras.saving.register_keras_serializable("flowzoo")
class ConvNet(ConvResNet):
    """Three convolutions, 3×3, 1×1 and 3×3, with an activation between: the network of Glow.

    Conditions as in `ConvResNet`.

    Args:
        filters: channels of the two hidden layers.
        activation: of the hidden layers.
        kernel_size: of the first and the last convolution.
        dropout: share of the features before the last convolution that is dropped in training
            (`flowzoo.networks.dropout`).
        **kwargs: of `Conditioner`.

    Raises:
        ValueError: a size is not a positive integer, `dropout` not in [0, 1), the event is not an image, or a
            condition is neither a vector nor an image.

    References:
        Kingma & Dhariwal, Glow (2018), https://arxiv.org/abs/1807.03039, section 4.
    """

    def __init__(
        self,
        filters: int = 512,
        activation: Any = "relu",
        kernel_size: int = 3,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("blocks", None)
        super().__init__(filters, 1, activation, kernel_size, dropout, **kwargs)

    def _build(self) -> None:
        height, width, channels = self._image()
        self.first, self.second = self._conv(self.kernel_size, "first"), self._conv(1, "second")
        self.first.build((None, height, width, channels))
        self.second.build((None, height, width, self.filters))
        self._build_last(height, width)
        self._build_projection()

    @staticmethod
    def _start() -> Any:
        """Return how a hidden kernel starts: with the variance 1/n of n inputs.

        Half of He's variance makes the first steps of training smaller. 64 networks that start from 2/n, one
        after another, were behind all along (benchmarks/normflows_glow.md).
        """
        return keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal")

    def _convolve(self, inputs: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        first, second = self._offsets(condition)
        x = self.activation(self.first(self._joined(inputs, condition)) + first)
        return self.last(drop(self.activation(self.second(x) + second), self.dropout))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal network."""
        config = super().get_config()
        config.pop("blocks")
        return config


def _never_empty(x: tf.Tensor) -> tf.Tensor:
    """Add one example of zeros to a batch that has none."""
    missing = tf.cast(tf.equal(tf.shape(x)[0], 0), tf.int32)
    padded = tf.pad(x, [[0, missing], *([0, 0] for _ in x.shape[1:])])
    return tf.ensure_shape(padded, [None, *x.shape[1:]])

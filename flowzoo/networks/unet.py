"""A U-Net as a velocity: images seen at several resolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo.networks.base import hidden_sizes, positive_int
from flowzoo.networks.convnet import _never_empty
from flowzoo.networks.velocity import Velocity, _affine, as_dtype_of

# Angular frequencies of the waves of the time, from the slowest to the fastest.
_SLOWEST, _FASTEST, _WAVES = 0.5 * np.pi, 32 * np.pi, 16
_EPSILON = 1e-5


@keras.saving.register_keras_serializable("flowzoo")
class UNet(Velocity):
    """Residual blocks at falling and then rising resolution, with skips between: a velocity of images.

    Level i has `filters[i]` channels and `blocks` residual blocks on the way down and as many, each with a
    skip beside its input, on the way up. A strided convolution halves height and width, rounding up, and
    doubling by repetition, cut to size, undoes it: any height and width will do. At the lowest level stand
    two more blocks with self-attention between them.

    A residual block is x + conv(act(norm(conv(act(norm(x))) + W e))) with group norm and an embedding e of
    time and condition. The time enters as sines and cosines at 16 frequencies; a condition that is a vector
    joins it; one that is an image is resized and joins the input. The last convolution starts at zero.

    Group norm takes its mean over the whole image, so that each entry of the output depends on every entry
    of the input also without attention.

    Args:
        filters: channels of each level, from the full resolution down.
        blocks: residual blocks of a level, each way.
        attention: whether the lowest level has self-attention (of one head).
        activation: of the hidden layers, smooth.
        **kwargs: of `Velocity`.

    Raises:
        ValueError: a size is not a positive integer, the event is not an image, or a condition is neither
            a vector nor an image.

    References:
        Ronneberger et al., U-Net (2015), https://arxiv.org/abs/1505.04597; Ho et al., Denoising Diffusion
        Probabilistic Models (2020), https://arxiv.org/abs/2006.11239, appendix B; Wu & He, Group
        Normalization (2018), https://arxiv.org/abs/1803.08494.
    """

    def __init__(
        self,
        filters: Sequence[int] = (64, 128, 128),
        blocks: int = 2,
        attention: bool = True,
        activation: Any = "silu",
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, **kwargs)
        self.filters = hidden_sizes(filters)
        if not self.filters:
            raise ValueError("filters takes the channels of at least one level. Received: none")
        self.blocks = positive_int("blocks", blocks)
        self.attention = bool(attention)

    # -- building ---------------------------------------------------------------------------------

    def _build(self) -> None:
        shape, condition = self.shapes["input_shape"], self.shapes["condition_shape"]
        if len(shape) != 3:
            raise ValueError(f"UNet takes events (height, width, channels). Received: {tuple(shape)}")
        if condition is not None and len(condition) not in (0, 1, 3):
            raise ValueError(f"UNet takes a vector or an image as condition. Received: {tuple(condition)}")
        self.joined = condition is not None and len(condition) == 3
        vector = 0 if self.joined or condition is None else self._sizes[2] or 1
        self.embedding = 4 * self.filters[0]
        self.embed = [
            self._dense("embed_0", 2 * _WAVES + vector, self.embedding),
            self._dense("embed_1", self.embedding, self.embedding),
        ]
        width = self.filters[0]
        self.first = self._conv("first", shape[-1] + (condition[2] if self.joined else 0), width)
        skips, width = self._build_down(width)
        self.middle = [self._block(f"middle_{i}", width, width) for i in range(2)]
        self.attend = self._build_attention(width) if self.attention else None
        width = self._build_up(skips, width)
        self.last_norm = self._norm("last_norm", width)
        self.last = self._conv("last", width, shape[-1], kind="zeros")

    def _build_down(self, width: int) -> tuple[list[int], int]:
        skips: list[int] = []
        self.down, self.shrink = [], []
        for level, channels in enumerate(self.filters):
            blocks = []
            for i in range(self.blocks):
                blocks.append(self._block(f"down_{level}_{i}", width, channels))
                width = channels
                skips.append(width)
            self.down.append(blocks)
            if level + 1 < len(self.filters):
                self.shrink.append(self._conv(f"shrink_{level}", width, width))
        return skips, width

    def _build_up(self, skips: list[int], width: int) -> int:
        self.up, self.grow = [], []
        for level, channels in reversed(list(enumerate(self.filters))):
            blocks = []
            for i in range(self.blocks):
                blocks.append(self._block(f"up_{level}_{i}", width + skips.pop(), channels))
                width = channels
            self.up.append(blocks)
            if level:
                self.grow.append(self._conv(f"grow_{level}", width, width))
        return width

    def _build_attention(self, width: int) -> tuple:
        made = [self._dense(f"attention_{name}", width, width) for name in ("query", "value", "out")]
        # Softmax does not see a bias of the keys: a weight that nothing depends on would get no gradient.
        key = self.add_weight(shape=(width, width), initializer="glorot_uniform", name="attention_key")
        return self._norm("attention_norm", width), *made, key

    def _conv(self, name: str, inputs: int, units: int, size: int = 3, kind: str = "he_normal") -> tuple:
        kernel = self.add_weight(shape=(size, size, inputs, units), initializer=kind, name=f"{name}_kernel")
        return kernel, self.add_weight(shape=(units,), initializer="zeros", name=f"{name}_bias")

    def _norm(self, name: str, channels: int) -> tuple:
        scale = self.add_weight(shape=(channels,), initializer="ones", name=f"{name}_scale")
        return scale, self.add_weight(shape=(channels,), initializer="zeros", name=f"{name}_shift")

    def _block(self, name: str, inputs: int, units: int) -> dict[str, tuple]:
        weights = {
            "norm_a": self._norm(f"{name}_norm_a", inputs),
            "conv_a": self._conv(f"{name}_a", inputs, units),
            "embed": self._dense(f"{name}_embed", self.embedding, units),
            "norm_b": self._norm(f"{name}_norm_b", units),
            "conv_b": self._conv(f"{name}_b", units, units, kind="glorot_uniform"),
        }
        if inputs != units:
            weights["skip"] = self._dense(f"{name}_skip", inputs, units)
        return weights

    # -- running ----------------------------------------------------------------------------------

    def _velocity(self, x: tf.Tensor, time: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        if x.shape[0]:
            return self._run_all(x, time, condition)
        # On the CPU TensorFlow's convolutions give an empty batch a wrong shape: never hand them one.
        batch = tf.shape(x)[0]
        condition = None if condition is None else _never_empty(condition)
        return self._run_all(_never_empty(x), _never_empty(time), condition)[:batch]

    def _run_all(self, x: tf.Tensor, time: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        dtype, inner = x.dtype, self.inner_dtype(x.dtype)
        signal = tf.cast(self._embedded(time, condition), inner)
        if self.joined:
            resized = tf.image.resize(condition, self.shapes["input_shape"][:2], antialias=False)
            x = tf.concat([x, tf.cast(resized, x.dtype)], axis=-1)
        x = _convolved(tf.cast(x, inner), self.first)
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                x = self._residual(x, signal, block)
                skips.append(x)
            if level < len(self.shrink):
                x = _convolved(x, self.shrink[level], 2)
        x = self._residual(x, signal, self.middle[0])
        x = x if self.attend is None else self._attended(x)
        x = self._residual(x, signal, self.middle[1])
        for level, blocks in enumerate(self.up):
            for block in blocks:
                x = self._residual(tf.concat([x, skips.pop()], axis=-1), signal, block)
            if level < len(self.grow):
                x = _convolved(_doubled(x, skips[-1].shape), self.grow[level])
        return _convolved(self.activation(_normalised(tf.cast(x, dtype), self.last_norm)), self.last)

    def _embedded(self, time: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        angles = time[:, None] * tf.constant(np.geomspace(_SLOWEST, _FASTEST, _WAVES), time.dtype)
        parts = [tf.sin(angles), tf.cos(angles)]
        if condition is not None and not self.joined:
            parts.append(tf.reshape(condition, [-1, self._sizes[2]]))
        hidden = self.activation(_affine(tf.concat(parts, axis=-1), self.embed[0]))
        return self.activation(_affine(hidden, self.embed[1]))

    def _residual(self, x: tf.Tensor, signal: tf.Tensor, block: dict[str, tuple]) -> tf.Tensor:
        inner = _convolved(self.activation(_normalised(x, block["norm_a"])), block["conv_a"])
        inner += _affine(signal, block["embed"])[:, None, None]
        inner = _convolved(self.activation(_normalised(inner, block["norm_b"])), block["conv_b"])
        if "skip" not in block:
            return x + inner
        kernel, bias = (as_dtype_of(x, weight) for weight in block["skip"])
        return tf.tensordot(x, kernel, 1) + bias + inner

    def _attended(self, x: tf.Tensor) -> tf.Tensor:
        norm, query, value, out, key = self.attend
        height, width, channels = x.shape[1:]
        tokens = tf.reshape(_normalised(x, norm), [-1, channels])

        def heads(flat: tf.Tensor) -> tf.Tensor:
            return tf.reshape(flat, [-1, height * width, channels])

        keys = heads(tf.matmul(tokens, as_dtype_of(tokens, key)))
        scores = tf.matmul(heads(_affine(tokens, query)), keys, transpose_b=True) / math.sqrt(channels)
        mixed = tf.matmul(tf.nn.softmax(scores), heads(_affine(tokens, value)))
        mixed = _affine(tf.reshape(mixed, [-1, channels]), out)
        return x + tf.reshape(mixed, [-1, height, width, channels])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal network."""
        config = {"filters": list(self.filters), "blocks": self.blocks, "attention": self.attention}
        return {**super().get_config(), **config}


def _convolved(x: tf.Tensor, weights: tuple, stride: int = 1) -> tf.Tensor:
    kernel, bias = (as_dtype_of(x, weight) for weight in weights)
    return tf.nn.conv2d(x, kernel, stride, "SAME") + bias


def _normalised(x: tf.Tensor, weights: tuple) -> tf.Tensor:
    """Group norm: mean 0 and variance 1 over each group of channels and the whole image, then an affine.

    Its sums are those of the weights' dtype, whatever comes in.
    """
    scale, shift = (tf.convert_to_tensor(weight) for weight in weights)
    height, width, channels = x.shape[1:]
    # Groups of at least four channels: at a resolution of one pixel a channel alone would become zero.
    groups = math.gcd(channels, max(1, min(8, channels // 4)))
    grouped = tf.reshape(tf.cast(x, scale.dtype), [-1, height * width, groups, channels // groups])
    centred = grouped - tf.reduce_mean(grouped, axis=[1, 3], keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=[1, 3], keepdims=True)
    centred *= tf.math.rsqrt(variance + _EPSILON)
    return tf.cast(tf.reshape(centred, [-1, height, width, channels]) * scale + shift, x.dtype)


def _doubled(x: tf.Tensor, wanted: tf.TensorShape) -> tf.Tensor:
    """Repeat each pixel twice each way and cut the image to the height and width of `wanted`."""
    height, width, channels = x.shape[1:]
    x = tf.broadcast_to(x[:, :, None, :, None], [tf.shape(x)[0], height, 2, width, 2, channels])
    x = tf.reshape(x, [-1, 2 * height, 2 * width, channels])
    return x[:, : wanted[1], : wanted[2]]

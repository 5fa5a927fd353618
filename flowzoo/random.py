"""The one source of noise: counter-based and stateless.

Two kinds of noise are needed. Noise of a shape (`normal`, `uniform`) comes from TensorFlow's Philox
generator, which draws the same bits eagerly and in graphs, and under XLA other bits of the same law.
Noise of an example (`example_uniform`) is a hash of the example's own content and a seed: it does not
depend on the batch, the position in it, the replica that holds it or XLA, so that a score is a function
of the example and a run under several replicas equals a run under one.

In training equal examples of a batch must not share their noise. There the seed is one an example
(`seeds_of_rows`), a hash of the step's seed and the example's row in the batch of all replicas: `fold_in`
and the noise of examples take such seeds, int32 [batch, 2], in place of one.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

_ALG = "philox"
# Weyl increment and finaliser of SplitMix64: Steele, Lea & Flood (2014), figure 15.
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def as_seed(seed: Any = None) -> tf.Tensor:
    """Return `seed` as the int32 pair that every function here takes.

    Args:
        seed: None (drawn from TensorFlow's own generator, in a graph at each of its runs: no two calls
            agree, unless `keras.utils.set_random_seed` or `tf.random.set_seed` makes a program repeat), an
            integer, a `keras.random.SeedGenerator`, or an integer tensor of shape [2].

    Returns:
        An int32 tensor of shape [2].

    Raises:
        TypeError: `seed` is none of these.
    """
    if seed is None:
        # An operation and not a number of Python's, which a graph would hold as a constant: every run of a
        # user's tf.function would then draw the same.
        return tf.random.uniform([2], 0, tf.int32.max, tf.int32)
    if isinstance(seed, keras.random.SeedGenerator):
        return tf.bitcast(tf.cast(seed.next(), tf.uint32), tf.int32)
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        value = int(seed) & 0xFFFFFFFFFFFFFFFF
        words = np.array([value & 0xFFFFFFFF, value >> 32], dtype="uint32")
        return tf.constant(words.view("int32"))
    if not hasattr(seed, "shape") and not isinstance(seed, list | tuple):
        raise TypeError(f"seed takes None, an integer or two integers. Received: {seed!r}")
    tensor = tf.convert_to_tensor(seed)
    if not tensor.dtype.is_integer or tensor.shape.rank != 1 or tensor.shape[0] not in (2, None):
        raise TypeError(
            f"seed takes None, an integer or an integer tensor of shape [2]. "
            f"Received: {tensor.dtype.name} of shape {tuple(tensor.shape)}"
        )
    return tf.cast(tensor, tf.int32)


def fold_in(seed: Any, data: Any) -> tf.Tensor:
    """Return the seed of the `data`-th child of `seed`, or a seed an example where `seed` is that."""
    if _is_one_an_example(seed):
        return seeds_of_rows(seed, tf.cast(data, tf.int64))
    return tf.random.experimental.stateless_fold_in(as_seed(seed), data, alg=_ALG)


def seeds_of_rows(seed: Any, rows: tf.Tensor) -> tf.Tensor:
    """Return a seed for each row of a batch.

    Args:
        seed: whatever `as_seed` takes, or a seed an example.
        rows: integers, [batch]: where each example stands in the batch of all replicas. (Or [], one for all,
            with a seed an example.)

    Returns:
        An int32 tensor of shape [batch, 2]: 64 bits that differ from row to row.
    """
    key = _mix(_key(seed) + (tf.cast(rows, tf.int64) + 1) * tf.constant(_signed(_GOLDEN), tf.int64))
    return tf.stack([tf.cast(key, tf.int32), tf.cast(_shift_right(key, 32), tf.int32)], axis=-1)


def normal(shape: Any, seed: Any, dtype: Any = "float32") -> tf.Tensor:
    """Draw standard normal noise of `shape`."""
    return tf.random.stateless_normal(shape, as_seed(seed), dtype=dtype, alg=_ALG)


def uniform(shape: Any, seed: Any, dtype: Any = "float32") -> tf.Tensor:
    """Draw uniform noise in [0, 1) of `shape`."""
    return tf.random.stateless_uniform(shape, as_seed(seed), dtype=dtype, alg=_ALG)


def open_uniform(shape: Any, seed: Any, dtype: Any = "float32") -> tf.Tensor:
    """Draw uniform noise in (0, 1) of `shape`, from 2^-24 to 1 - 2^-24: its logarithms are finite."""
    # Philox gives multiples of 2^-23 in float32: half a step keeps both ends of the interval away.
    return uniform(shape, seed, dtype) * (1 - 2.0**-23) + 2.0**-24


def student_t(shape: Any, degrees: Any, seed: Any, dtype: Any = "float32") -> tf.Tensor:
    """Draw standard Student-t noise of `shape`: t = sqrt(v (u^(-2/v) - 1)) cos(2 pi w).

    u and w are uniform, and t is one coordinate of a bivariate t, whose radius has a distribution function
    that can be inverted: the Box-Muller transform of the t. It rejects nothing, compiles under XLA
    (TensorFlow's stateless gamma has no kernel there), and is differentiable with respect to v. u is at
    least 2^-24, which cuts tails off beyond a probability of 6e-8.

    Args:
        shape: of the result.
        degrees: v, the degrees of freedom, positive; broadcast against `shape`.
        seed: whatever `as_seed` takes.
        dtype: of the result.

    References:
        Bailey, Polar generation of random variates with the t-distribution, Mathematics of Computation 62
        (1994).
    """
    radius = tf.math.log(open_uniform(shape, fold_in(seed, 0), dtype))
    angle = 2 * np.pi * uniform(shape, fold_in(seed, 1), dtype)
    degrees = tf.cast(degrees, dtype)
    return tf.sqrt(degrees * tf.math.expm1(-2 * radius / degrees)) * tf.cos(angle)


def permutation(n: int, seed: Any) -> tf.Tensor:
    """Return the numbers from 0 to n - 1 in an order drawn from `seed`, int64 [n]."""
    return tf.random.experimental.stateless_shuffle(tf.range(n, dtype=tf.int64), as_seed(seed), alg=_ALG)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(value: tf.Tensor, bits: int) -> tf.Tensor:
    # int64 shifts keep the sign; the mask makes the shift logical. (uint64 lacks GPU kernels.)
    mask = tf.constant((1 << (64 - bits)) - 1, tf.int64)
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(value, tf.constant(bits, tf.int64)), mask)


def _mix(value: tf.Tensor) -> tf.Tensor:
    value = tf.bitwise.bitwise_xor(value, _shift_right(value, 30)) * tf.constant(_signed(_MIX_1), tf.int64)
    value = tf.bitwise.bitwise_xor(value, _shift_right(value, 27)) * tf.constant(_signed(_MIX_2), tf.int64)
    return tf.bitwise.bitwise_xor(value, _shift_right(value, 31))


def _is_one_an_example(seed: Any) -> bool:
    return tf.is_tensor(seed) and seed.shape.rank == 2


def _key(seed: Any) -> tf.Tensor:
    """Return the 64 bits of a seed, int64 [], or of a seed an example, [batch]."""
    words = tf.cast(seed if _is_one_an_example(seed) else as_seed(seed), tf.int64)
    return _mix(words[..., 0] * tf.constant(_signed(_GOLDEN), tf.int64) + _mix(words[..., 1]))


def _weyl(count: int) -> tf.Tensor:
    # Counted in the graph, which would hold a constant of eight bytes a number otherwise.
    return tf.range(1, count + 1, dtype=tf.int64) * tf.constant(_signed(_GOLDEN), tf.int64)


def example_keys(x: tf.Tensor) -> tf.Tensor:
    """Hash each example of a batch to 64 bits.

    Args:
        x: a numeric tensor of shape [batch, ...] with static event dimensions.

    Returns:
        An int64 tensor of shape [batch]; equal examples have equal keys.
    """
    size = int(np.prod(x.shape[1:], dtype="int64"))
    flat = tf.reshape(x, [-1, size])
    if flat.dtype.is_floating:
        # Adding zero makes -0.0 equal to 0.0 before the bits are read.
        bits = tf.cast(tf.bitcast(tf.cast(flat, tf.float32) + 0.0, tf.int32), tf.int64)
    else:
        bits = tf.cast(flat, tf.int64)
    return tf.reduce_sum(_mix(bits + _weyl(size)), axis=1)


def example_uniform(x: tf.Tensor, seed: Any, dtype: Any = "float32") -> tf.Tensor:
    """Draw uniform noise in [0, 1) of the shape of `x`, a function of each example and the seed.

    Args:
        x: a numeric tensor of shape [batch, ...] with static event dimensions.
        seed: whatever `as_seed` takes, or a seed an example, [batch, 2] (see `seeds_of_rows`).
        dtype: of the result.

    Returns:
        A tensor of the shape of `x`: 24 random bits an element.
    """
    size = int(np.prod(x.shape[1:], dtype="int64"))
    return tf.reshape(keyed_uniform(example_keys(x), size, seed, dtype), tf.shape(x))


def keyed_uniform(keys: tf.Tensor, size: int, seed: Any, dtype: Any = "float32") -> tf.Tensor:
    """Draw uniform noise in [0, 1), [batch, size], a function of each example's key and the seed.

    Args:
        keys: a number an example, int64 [batch]; see `example_keys`.
        size: numbers an example.
        seed: whatever `as_seed` takes, or a seed an example, [batch, 2] (see `seeds_of_rows`).
        dtype: of the result.
    """
    bits = _mix(tf.bitwise.bitwise_xor(keys, _key(seed))[:, None] + _weyl(size))
    return tf.cast(_shift_right(bits, 40), dtype) * tf.constant(2.0**-24, dtype)

"""The probability of whole values under a TarFlow of one block that sees whole values: exact, no bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowzoo.distributions.standard import Normal
from flowzoo.layers.base import FlowLayer
from flowzoo.layers.transformer_autoregressive import TransformerAutoregressive

# A standard normal's values beyond every latent: the ends of the line.
_END = 1e3


def check_exact(name: str, base: Any, chained: list[FlowLayer]) -> None:
    """Raise ValueError where a flow has no exact probability of whole values."""
    blocks = [layer for layer in chained if isinstance(layer, TransformerAutoregressive)]
    if len(blocks) != 1 or blocks[0].levels is None or not isinstance(base, Normal):
        raise ValueError(
            f"{name}: exact_log_prob needs num_blocks=1, whole_values=True and base='normal'. "
            f"Received: {len(blocks)} blocks, whole_values={blocks[-1].levels is not None}, "
            f"{type(base).__name__}"
        )


def exact_log_prob(chained: list[FlowLayer], x: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
    """Return log P(x) of whole numbers, [batch]; for use inside graphs.

    An entry of the value k is sampled where its latent falls between those of the two ends of its bin,

        P(x_i = k | x_before) = Phi(f_i((k + 1) / K)) - Phi(f_i(k / K)),

    with f_i the monotone map of entry i, which depends on whole values alone, and the ends of the first and
    the last bin at minus and plus infinity, since sampling clips what lies outside to them.

    Args:
        chained: the layers, from the latent to the data.
        x: whole numbers as floats, [batch, *event_shape].
        condition: as the layers take it, or None.
    """
    block, *near = chained
    num = block.levels[0]

    def ordered(unit: tf.Tensor) -> tf.Tensor:
        for layer in reversed(near[:-1]):
            unit = layer.flow_inverse(unit, condition)[0]
        return block._ordered(unit)

    middle = ordered((x + 0.5) / num)
    params = block.conditioner.parameters(block._seen(middle), block.conditioner.context(condition))
    low, high = (
        tf.cast(block._transformed(ordered((x + end) / num), params, inverse=True)[0], tf.float64)
        for end in (0.0, 1.0)
    )
    value = tf.cast(block._ordered(near[0].flow_inverse(x, condition)[0]), tf.float64)
    low = tf.where(value <= 0, tf.constant(-_END, tf.float64), low)
    high = tf.where(value >= num - 1, tf.constant(_END, tf.float64), high)
    # The upper tail is the lower one mirrored: there the logarithm of Phi has its digits.
    mirrored = low > 0
    low, high = tf.where(mirrored, -high, low), tf.where(mirrored, -low, high)
    normal = tfp.distributions.Normal(np.float64(0), np.float64(1))
    log_probs = tfp.math.log_sub_exp(normal.log_cdf(high), normal.log_cdf(low))
    return tf.cast(tf.reduce_sum(log_probs, axis=[1, 2]), x.dtype)

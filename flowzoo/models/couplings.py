"""Minibatch couplings of flow matching: which noise of a batch goes with which example."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

COUPLINGS = ("independent", "exact", "sinkhorn")
# Sinkhorn's iterations end when no column sum of the plan is further from 1 than this, or after so many.
_TOLERANCE, _ITERATIONS = 1e-2, 1000


def squared_distances(z: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Return |z_j - x_i|^2 for every example i (rows) and noise j (columns), [batch, batch]."""
    size = int(np.prod(x.shape[1:], dtype="int64"))
    z, x = tf.reshape(z, [-1, size]), tf.reshape(x, [-1, size])
    cross = tf.matmul(x, z, transpose_b=True)
    cost = tf.reduce_sum(x * x, 1)[:, None] + tf.reduce_sum(z * z, 1)[None] - 2 * cross
    return tf.maximum(cost, 0.0)


def allowed_pairs(labels: tf.Tensor | None, batch: Any) -> tf.Tensor:
    """Return which noise may go with which example, bool [batch, batch]: that of the same class.

    Args:
        labels: one-hot class labels, [batch, classes], or None where any noise goes with any example.
        batch: size of the batch.
    """
    if labels is None:
        return tf.fill([batch, batch], True)
    classes = tf.argmax(labels, axis=-1, output_type=tf.int32)
    return classes[:, None] == classes[None]


def exact_coupling(cost: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    """Return the assignment of least total cost: for each example the index of its noise, int32 [batch].

    The optimal-transport plan between two uniform distributions on as many points is a permutation. It is
    found by SciPy's modified Jonker-Volgenant algorithm in float64, O(batch^3), in the host's memory: this
    cannot be compiled by XLA.

    Args:
        cost: of each example (rows) with each noise (columns), [batch, batch].
        allowed: which pairs may be made, bool [batch, batch]. Where it is the blocks of the classes a
            permutation within them exists, and no other is ever cheaper.

    References:
        Tong et al. (2023), https://arxiv.org/abs/2302.00482, OT-CFM; Crouse, On implementing 2D rectangular
        assignment algorithms (2016).
    """
    assignment = tf.numpy_function(_assign, [cost, allowed], tf.int32, stateful=False)
    return tf.ensure_shape(assignment, cost.shape[:1])


def _assign(cost: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    cost = np.where(allowed, cost.astype("float64"), np.inf)
    return linear_sum_assignment(cost)[1].astype("int32")


def sinkhorn_plan(cost: tf.Tensor, allowed: tf.Tensor, entropy: float) -> tf.Tensor:
    """Return the plan of entropy-regularised optimal transport, float64 [batch, batch], with row sums 1.

    It minimises sum p c + eps sum p log p over p with uniform marginals, with eps = entropy times the mean
    cost of the allowed pairs, so that it does not depend on the scale of the data; by Sinkhorn's iterations
    on logarithms, until every column sums to 1 within 0.01 (a smaller entropy takes more, 1,000 at most).

    Args:
        cost: of each example (rows) with each noise (columns), [batch, batch].
        allowed: which pairs may be made, bool [batch, batch].
        entropy: strength of the regularisation, positive; towards 0 the plan is the exact assignment.

    References:
        Cuturi, Sinkhorn Distances (2013), https://arxiv.org/abs/1306.0895; Peyré & Cuturi, Computational
        Optimal Transport (2019), https://arxiv.org/abs/1803.00567, section 4.4, on logarithms.
    """
    cost, inside = tf.cast(cost, tf.float64), tf.cast(allowed, tf.float64)
    mean = tf.math.divide_no_nan(tf.reduce_sum(cost * inside), tf.reduce_sum(inside))
    # Finite: minus infinity would give NaN where it meets itself.
    kernel = tf.where(allowed, -cost / (entropy * mean + 1e-300), tf.constant(-1e30, tf.float64))

    def goes_on(index: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor, error: tf.Tensor) -> tf.Tensor:
        return (index < _ITERATIONS) & (error > _TOLERANCE)

    def step(index: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor, error: tf.Tensor) -> tuple:
        new = -tf.reduce_logsumexp(kernel + rows[:, None], axis=0)
        sums = tf.abs(tf.math.expm1(columns - new))  # how far the columns' sums were from 1 before
        error = tf.reduce_max(tf.concat([sums, tf.zeros([1], sums.dtype)], 0))
        return index + 1, -tf.reduce_logsumexp(kernel + new[None], axis=1), new, error

    start = tf.zeros_like(cost[:, 0])
    infinite = tf.constant(np.inf, tf.float64)
    _, rows, columns, _ = tf.while_loop(goes_on, step, (tf.constant(0), start, start, infinite))
    return tf.exp(kernel + rows[:, None] + columns[None])


def sampled(plan: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Draw for each example a noise from its row of the plan: indices, int32 [batch].

    Args:
        plan: [batch, batch], rows that sum to about 1.
        uniform: [batch], in [0, 1).
    """
    total = tf.cumsum(plan, axis=1)
    # In float64 u times the sum stays below the sum, so that an entry beyond it exists, and one of weight
    # zero (another class) is never taken.
    reached = total > tf.cast(uniform, plan.dtype)[:, None] * total[:, -1:]
    return tf.argmax(reached, axis=1, output_type=tf.int32)


def couple(
    kind: str, z: tf.Tensor, x: tf.Tensor, labels: tf.Tensor | None, uniform: tf.Tensor, entropy: float
) -> tf.Tensor:
    """Return the noise of each example, a rearrangement of `z` (with "sinkhorn" some twice, some never).

    Args:
        kind: "independent" (z as it is), "exact" or "sinkhorn".
        z: noise, [batch, ...].
        x: examples of the shape of `z`.
        labels: one-hot class labels, [batch, classes], within which noise is exchanged; or None.
        uniform: [batch], in [0, 1): what "sinkhorn" draws pairs with.
        entropy: of "sinkhorn".

    References:
        Tong et al., Improving and generalizing flow-based generative models with minibatch optimal transport
        (2023), https://arxiv.org/abs/2302.00482, algorithm 3.
    """
    if kind == "independent":
        return z
    cost, allowed = squared_distances(z, x), allowed_pairs(labels, tf.shape(x)[0])
    if kind == "exact":
        chosen = exact_coupling(cost, allowed)
    else:
        chosen = sampled(sinkhorn_plan(cost, allowed, entropy), uniform)
    return tf.ensure_shape(tf.gather(z, chosen), z.shape)

"""Gradients that need no stored activations: what a step was given is computed again from what it gave.

The reverse pass of a stack of layers needs the input of each. A flow can compute it from the output, by the
layer's other direction, so that a stack of any depth keeps its output alone: Gomez et al., The Reversible
Residual Network (2017), https://arxiv.org/abs/1707.04585, algorithm 1; for flows Dinh et al., NICE (2014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from flowzoo.layers.base import constant_log_det
from flowzoo.networks.dropout import computed_again

Weights = Sequence[tf.Tensor]


def run_layer(
    layer: Any, weights: Weights, value: tf.Tensor, condition: tf.Tensor | None, inverse: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Run one direction of a layer with the given tensors in place of its weights.

    Args:
        layer: a built FlowLayer.
        weights: one tensor for each of `layer.weights`.
        value: what the direction takes, [batch, ...].
        condition: [batch, *condition_shape], or None.
        inverse: data to latent.
    """
    with keras.StatelessScope(state_mapping=zip(layer.weights, weights, strict=True)), computed_again():
        return (layer.flow_inverse if inverse else layer.flow_forward)(value, condition)


def step_gradient(
    layer: Any,
    weights: Weights,
    given: tf.Tensor,
    condition: tf.Tensor | None,
    upstream: tuple[tf.Tensor, tf.Tensor],
    inverse: bool,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None, list[tf.Tensor]]:
    """Go back through one layer from what it gave.

    Args:
        layer: a built FlowLayer, bijective.
        weights: one tensor for each of `layer.weights`.
        given: the value that the layer gave, [batch, ...].
        condition: [batch, *condition_shape], or None.
        upstream: gradients with respect to that value and to the log-determinant.
        inverse: the direction that gave it: data to latent.

    Returns:
        What the layer was given, and the gradients with respect to that, to the condition (None without) and
        to the floating weights (zeros where a weight has no part).
    """
    # tf.identity: to TFP's cache the value would be one whose image is known, and have no gradient.
    taken = tf.identity(run_layer(layer, weights, given, condition, not inverse)[0])
    floating = [weight for weight in weights if weight.dtype.is_floating]
    sources = [taken, *([] if condition is None else [condition]), *floating]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        outputs = run_layer(layer, weights, taken, condition, inverse)
    found = tape.gradient(outputs, sources, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    if condition is None:
        return taken, found[0], None, found[1:]
    return taken, found[0], found[1], found[2:]


def reversible(
    run: Callable[[tf.Tensor, tf.Tensor | None, Weights], tuple[tf.Tensor, tf.Tensor]],
    back: Callable[..., tuple[tf.Tensor, tf.Tensor | None, Weights]],
    value: tf.Tensor,
    condition: tf.Tensor | None,
    weights: Weights,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Run a stack so that its reverse pass is `back`, and nothing inside is kept for it.

    Args:
        run: takes value, condition and weights, gives value and log-determinant.
        back: takes the value that was given, the condition, the weights and the gradients with respect to
            value and log-determinant; gives those with respect to value, condition and floating weights.
        value: [batch, ...].
        condition: [batch, *condition_shape], or None.
        weights: tensors; gradients go to the floating ones.
    """
    floating = [place for place, weight in enumerate(weights) if weight.dtype.is_floating]

    def placed(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        filled = list(weights)
        for place, one in zip(floating, values, strict=True):
            filled[place] = one
        return filled

    def split(inputs: Sequence[tf.Tensor]) -> tuple[tf.Tensor | None, list[tf.Tensor]]:
        return (None, placed(inputs)) if condition is None else (inputs[0], placed(inputs[1:]))

    @tf.custom_gradient
    def stack(value: tf.Tensor, *inputs: tf.Tensor) -> Any:
        given, log_det = run(value, *split(inputs))

        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
            d_value, d_condition, d_weights = back(given, *split(inputs), upstream)
            return [d_value, *([] if condition is None else [d_condition]), *d_weights]

        return (given, log_det), gradient

    extra = [] if condition is None else [condition]
    return stack(value, *extra, *[weights[place] for place in floating])


def run_chain(
    layers: Sequence[Any], value: tf.Tensor, condition: tf.Tensor | None, inverse: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Run layers in order, `layers[0]` first, keeping no activation for the reverse pass.

    Args:
        layers: built, bijective FlowLayers, in the order in which this direction runs them.
        value: [batch, ...].
        condition: [batch, *condition_shape], or None.
        inverse: data to latent.
    """
    counts = [len(layer.weights) for layer in layers]

    def parts(weights: Weights) -> list[Weights]:
        ends = [sum(counts[: i + 1]) for i in range(len(counts))]
        return [weights[end - count : end] for end, count in zip(ends, counts, strict=True)]

    def run(value: tf.Tensor, condition: tf.Tensor | None, weights: Weights) -> tuple[tf.Tensor, tf.Tensor]:
        total = constant_log_det(0.0, value)
        for layer, own in zip(layers, parts(weights), strict=True):
            value, log_det = run_layer(layer, own, value, condition, inverse)
            total += log_det
        return value, total

    def back(
        given: tf.Tensor,
        condition: tf.Tensor | None,
        weights: Weights,
        upstream: tuple[tf.Tensor, tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor | None, Weights]:
        d_value, d_log_det = upstream
        d_condition = None if condition is None else tf.zeros_like(condition)
        d_weights: list[tf.Tensor] = []
        for layer, own in reversed(list(zip(layers, parts(weights), strict=True))):
            given, d_value, more, found = step_gradient(
                layer, own, given, condition, (d_value, d_log_det), inverse
            )
            d_condition = None if d_condition is None else d_condition + more
            d_weights = [*found, *d_weights]
            # The way back needs no gradient: left to itself a graph goes it to its end first, and keeps the
            # activations of all layers after all.
            with tf.control_dependencies([d_value, *found]):
                given = tf.identity(given)
        return d_value, d_condition, d_weights

    weights = [tf.convert_to_tensor(weight) for layer in layers for weight in layer.weights]
    return reversible(run, back, value, condition, weights)


def run_loop(
    layer: Any,
    stacked: Weights,
    times: int,
    value: tf.Tensor,
    condition: tf.Tensor | None,
    inverse: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Run one layer `times` times with the rows of stacked weights, keeping no activation; see `Repeat`.

    Args:
        layer: a built, bijective FlowLayer.
        stacked: tensors [times, ...], one for each of `layer.weights`.
        times: how many steps; forward takes the rows from the first, inverse from the last.
        value: [batch, ...].
        condition: [batch, *condition_shape], or None.
        inverse: data to latent.
    """

    def run(value: tf.Tensor, condition: tf.Tensor | None, weights: Weights) -> tuple[tf.Tensor, tf.Tensor]:
        def body(count: tf.Tensor, value: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, ...]:
            index = times - 1 - count if inverse else count
            value, log_det = run_layer(layer, _row(weights, index), value, condition, inverse)
            return count + 1, value, total + log_det

        start = (tf.constant(0), value, constant_log_det(0.0, value))
        return tf.while_loop(lambda count, *_: count < times, body, start, maximum_iterations=times)[1:]

    def back(
        given: tf.Tensor,
        condition: tf.Tensor | None,
        weights: Weights,
        upstream: tuple[tf.Tensor, tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor | None, Weights]:
        floating = [weight for weight in weights if weight.dtype.is_floating]
        d_condition = tf.zeros([]) if condition is None else tf.zeros_like(condition)
        rows = [tf.TensorArray(w.dtype, times, element_shape=w.shape[1:]) for w in floating]

        def body(
            count: tf.Tensor, given: tf.Tensor, d_value: tf.Tensor, d_condition: tf.Tensor, rows: Any
        ) -> Any:
            index = count if inverse else times - 1 - count
            given, d_value, more, found = step_gradient(
                layer, _row(weights, index), given, condition, (d_value, upstream[1]), inverse
            )
            d_condition = d_condition if more is None else d_condition + more
            rows = [row.write(index, one) for row, one in zip(rows, found, strict=True)]
            return count + 1, given, d_value, d_condition, rows

        start = (tf.constant(0), given, upstream[0], d_condition, rows)
        _, _, d_value, d_condition, rows = tf.while_loop(
            lambda count, *_: count < times, body, start, maximum_iterations=times
        )
        d_weights = [row.stack() for row in rows]
        return d_value, None if condition is None else d_condition, d_weights

    return reversible(run, back, value, condition, stacked)


def _row(weights: Weights, index: tf.Tensor) -> list[tf.Tensor]:
    return [tf.gather(weight, index) for weight in weights]

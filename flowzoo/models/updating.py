"""The optimizer's step on replicas that share a batch: one sum of gradients, the rest is each one's own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.optimizers.base_optimizer import BaseOptimizer

from flowzoo.models import replicas

_SUM = tf.distribute.ReduceOp.SUM


def scaling_losses(model: Any, optimizer: Any) -> Any:
    """Return the optimizer, one that scales losses if hidden layers compute in float16, as Keras has it.

    Gradients of float16 are 0 below 6e-8. Keras looks at the policy of the model, which of a flow is float32
    (or float64) whatever the global one.
    """
    half = any(layer.dtype_policy.name == "mixed_float16" for layer in model._flatten_layers())
    optimizer = keras.optimizers.get(optimizer)
    if not half or optimizer is None or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)


def apply_gradients(
    optimizer: Any, gradients: Sequence[tf.Tensor | None], variables: Sequence[Any], jit_compile: bool
) -> None:
    """Take a step of a Keras optimizer, of whose gradient each replica has its share.

    On several replicas the shares are summed first, in one exchange; then each replica clips the sum and
    updates and averages its own copy of the variables, as one device would. The copies stay equal because the
    sums are. Keras would clip the shares, and update the copies from outside of the replicas, where XLA
    compiles nothing.

    Args:
        optimizer: built.
        gradients: of each variable, or None: this replica's share, the sum of all being that of the batch.
        variables: the trainable variables.
        jit_compile: whether XLA compiles the update on each of several replicas.
    """
    if not variables:  # all frozen, or none: data alone set such a flow
        warnings.warn("The model does not have any trainable weights.", stacklevel=2)  # as Keras
        return
    context = replicas.replica_context()
    if context is None:
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return
    pairs = [pair for pair in zip(gradients, variables, strict=True) if pair[0] is not None]
    gradients, variables = [gradient for gradient, _ in pairs], [variable for _, variable in pairs]
    if not _is_plain(optimizer):
        gradients = _clipped_shares(optimizer, gradients, context)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return
    gradients = context.all_reduce(_SUM, gradients)

    # A function of its own in each trace: what it holds are the variables of one replica.
    @tf.function(jit_compile=jit_compile, autograph=False)
    def own(gradients: list[tf.Tensor]) -> None:
        _update(optimizer, gradients, variables)

    own(gradients)
    optimizer.iterations.assign_add(1)


def _is_plain(optimizer: Any) -> bool:
    """Say whether an optimizer takes its steps as Keras's own do; one that scales losses does not."""
    steps = ("apply", "_backend_apply_gradients")
    return all(getattr(type(optimizer), step) is getattr(BaseOptimizer, step) for step in steps)


def _clipped_shares(optimizer: Any, gradients: list[tf.Tensor], context: Any) -> list[tf.Tensor]:
    """Return shares of the clipped gradient of the batch: clipped and summed, they give it again.

    An optimizer that scales losses clips within, where gradients are unscaled.
    """
    inner, scale = getattr(optimizer, "inner_optimizer", optimizer), getattr(optimizer, "dynamic_scale", 1.0)
    if not (inner.global_clipnorm or inner.clipnorm or inner.clipvalue):
        return gradients
    summed = [gradient / scale for gradient in context.all_reduce(_SUM, gradients)]
    return [gradient * scale / context.num_replicas_in_sync for gradient in inner._clip_gradients(summed)]


def _update(optimizer: Any, gradients: Sequence[tf.Tensor], variables: Sequence[Any]) -> None:
    """Do what `BaseOptimizer.apply` does, to the variables of this replica alone.

    Keras's TensorFlow optimizers override two of these steps to reach into all replicas; those of the base
    class stay here. What cannot be done on several replicas, `replicas.check_strategy` has refused.
    """
    if optimizer.loss_scale_factor is not None:
        gradients = [gradient / optimizer.loss_scale_factor for gradient in gradients]
    gradients = optimizer._clip_gradients(gradients)
    BaseOptimizer._apply_weight_decay(optimizer, variables)
    BaseOptimizer._backend_update_step(optimizer, gradients, variables, optimizer.learning_rate)
    if optimizer.use_ema:
        optimizer._update_model_variables_moving_average(optimizer._trainable_variables)
    for variable in variables:
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))

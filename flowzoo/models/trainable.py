"""What `Flow` adds to Keras's compile, fit and evaluate."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from flowzoo import random
from flowzoo.models import checks, feeding

# Seeds of the dequantisation noise: one stream for training, one for evaluation.
_TRAIN_STREAM, _TEST_STREAM = 1, 2


class Trainable:
    """Maximum likelihood through `model.fit`: the loss is the mean of -log_prob, in nats.

    `fit` takes arrays, (x, condition) pairs, tf.data datasets of either, Keras's PyDataset and
    distributed datasets. Before its first step it sets the weights that come from data (`adapt`).
    """

    seed: int = 0
    # Whether `loss` is -log p(x) in nats. A family that learns by another loss says False, overrides
    # `example_loss`, and gets no bits per dimension from `fit` and `evaluate`.
    loss_in_nats: ClassVar[bool] = True

    # -- compile ------------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        metrics: Any = None,
        *,
        jit_compile: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        """Configure training.

        Args:
            optimizer: a Keras name or optimizer.
            loss: must stay None: the loss of a flow is its negative log-likelihood.
            metrics: must stay None: `loss` is in nats and `bits_per_dim` comes with discrete data.
            jit_compile: whether the training step is compiled with XLA; "auto" decides by the family and
                the device (and not under several replicas, where stock XLA fails).
            **kwargs: of `keras.Model.compile` (run_eagerly, steps_per_execution, auto_scale_loss).

        Raises:
            ValueError: a loss or metrics are given, or XLA is asked for under several replicas.
        """
        if loss is not None or metrics is not None:
            raise ValueError(
                "A flow is trained by its negative log-likelihood: compile takes neither loss nor metrics. "
                f"Received: loss={loss!r}, metrics={metrics!r}"
            )
        replicas = self.distribute_strategy.num_replicas_in_sync
        if replicas > 1 and jit_compile is True:
            raise ValueError(
                f"jit_compile=True works on one replica. Received: a strategy of {replicas} replicas"
            )
        if jit_compile == "auto":
            device = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
            jit_compile = replicas == 1 and self.prefers_xla[device] and not kwargs.get("run_eagerly", False)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        with self.distribute_strategy.scope():
            bits = self.discrete and self.loss_in_nats
            self._bits_tracker = keras.metrics.Mean("bits_per_dim") if bits else None

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as the saved model was."""
        config = keras.saving.deserialize_keras_object(config)
        kept = {
            key: config[key] for key in ("jit_compile", "run_eagerly", "steps_per_execution") if key in config
        }
        self.compile(optimizer=config["optimizer"], **kept)
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self) -> list[Any]:
        """The loss in nats and, where data are discrete, bits per dimension."""
        found = super().metrics
        tracker = getattr(self, "_bits_tracker", None)
        return [*found, tracker] if tracker is not None and tracker not in found else found

    # -- the steps ----------------------------------------------------------------------------------

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Take one step of maximum likelihood on a batch."""
        x, condition, weight = feeding.unpack(self, data)
        seed = self._noise_seed(_TRAIN_STREAM, self.optimizer.iterations)
        with tf.GradientTape() as tape:
            loss, losses = self.training_loss(x, condition, weight, seed)
            for penalty in self.losses:
                loss += penalty
            scaled = self.optimizer.scale_loss(loss / self.distribute_strategy.num_replicas_in_sync)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        gradients = clip_across_replicas(self.optimizer, gradients)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return self._report(losses, weight)

    def training_loss(
        self, x: tf.Tensor, condition: tf.Tensor | None, weight: tf.Tensor | None, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return what a training step minimises, [], and the loss of each example that it logs, [batch].

        A family that minimises more than the mean of `example_loss` overrides this.
        """
        losses = self.example_loss(x, condition, seed)
        return weighted_mean(losses, weight), losses

    def example_loss(self, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor) -> tf.Tensor:
        """Return the loss of each example, [batch]: -log p(x) in nats, unless `loss_in_nats` is False."""
        return -self.raw_log_prob(x, condition, seed)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Score a batch."""
        x, condition, weight = feeding.unpack(self, data)
        losses = self.example_loss(x, condition, self._noise_seed(_TEST_STREAM, 0))
        return self._report(losses, weight)

    def predict_step(self, data: Any) -> tf.Tensor:
        """Return log_prob of a batch."""
        x, condition, _ = feeding.unpack(self, data)
        return self.raw_log_prob(x, condition, random.as_seed(0))

    def _noise_seed(self, stream: int, step: Any) -> tf.Tensor:
        return random.fold_in(random.fold_in(random.as_seed(self.seed), stream), tf.cast(step, tf.int32))

    def _report(self, losses: tf.Tensor, weight: tf.Tensor | None) -> dict[str, tf.Tensor]:
        self._loss_tracker.update_state(losses, sample_weight=weight)
        if self._bits_tracker is not None:
            self._bits_tracker.update_state(losses / (self.event_size * np.log(2.0)), sample_weight=weight)
        return {metric.name: metric.result() for metric in self.metrics}

    # -- fit and evaluate ---------------------------------------------------------------------------

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, validation_data: Any = None, **kwargs: Any
    ) -> Any:
        """Train by maximum likelihood; arguments as `keras.Model.fit`.

        Args:
            x: data: an array or tensor, a pair (x, condition), a tf.data.Dataset of batches of x,
                (x, condition) or (x, condition, sample_weight), or a Keras PyDataset.
            y: conditions, where `x` is an array.
            *args: as `keras.Model.fit`.
            validation_data: as `x`, or (x, condition).
            **kwargs: as `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History` with `loss` in nats (and `bits_per_dim` for discrete data).

        Raises:
            ValueError: wrong shapes, NaN or infinity, values out of range, a missing condition.
            TypeError: data of a kind that is not taken.
        """
        x, y = feeding.training_data(self, x, y, "x")
        if validation_data is not None:
            val_x, val_y = feeding.training_data(self, validation_data, None, "validation_data")
            validation_data = val_x if val_y is None else (val_x, val_y)
            if val_y is None and not feeding.is_batched(val_x):
                validation_data = (val_x, None)
        if not self.adapted:
            self.adapt(x, y)
        if feeding.is_batched(x):
            kwargs.setdefault("shuffle", False)  # a dataset shuffles itself; Keras would warn
        elif y is None and kwargs.get("sample_weight") is not None:
            y = feeding.no_condition(x)
        with feeding.clear_errors():
            return super().fit(x, y, *args, validation_data=validation_data, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return the mean of -log_prob in nats (and bits per dimension); arguments as `fit`.

        The noise of a discrete flow comes from the model's seed, so that two calls agree.
        """
        if not kwargs.get("_use_cached_eval_dataset"):
            x, y = feeding.training_data(self, x, y, "x")
        with feeding.clear_errors():
            return super().evaluate(x, y, *args, **kwargs)

    # -- weights that come from data ------------------------------------------------------------------

    @property
    def adapted(self) -> bool:
        """Whether every weight that comes from data (Standardize, ActNorm) is set."""
        flags = [w for w in self.non_trainable_weights if w.name == "initialized"]
        return all(bool(np.all(keras.ops.convert_to_numpy(flag))) for flag in flags)

    def adapt(self, x: Any, y: Any = None) -> None:
        """Set the weights that come from data: the first step of `fit`, done once and saved with the model.

        Args:
            x: data, as `fit`; a spread of at most 65,536 examples of it is read.
            y: conditions, where `x` is an array.

        Raises:
            ValueError: there is no data, or what `fit` refuses.
        """
        x, y = feeding.training_data(self, x, y, "x")
        wanted = self.chain.data_init_examples
        if not wanted:
            return
        with feeding.clear_errors():
            x, condition = feeding.first_examples(x, y, wanted)
        if not len(x):
            raise ValueError("adapt takes at least one example. Received: none")
        x = checks.data(self, x)  # type: ignore[arg-type]
        self._set_from_data(x, checks.condition(self, condition, tf.shape(x)[0]))  # type: ignore[arg-type]

    def _set_from_data(self, x: tf.Tensor, condition: tf.Tensor | None) -> None:
        self.chain.data_init(x, condition)


def weighted_mean(values: tf.Tensor, weight: tf.Tensor | None) -> tf.Tensor:
    """Return the mean of [batch] values, weighted where weights are given."""
    if weight is None:
        return tf.reduce_mean(values)
    weight = tf.cast(weight, values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values * weight), tf.reduce_sum(weight))


def clip_across_replicas(optimizer: Any, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Clip the gradient of the whole batch where Keras would clip each replica's part of it.

    Returns what Keras may sum over the replicas, and clip once more without effect. On one replica, or
    without clipping, the gradients are returned as they are.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync if context else 1
    if replicas == 1 or not (optimizer.global_clipnorm or optimizer.clipnorm or optimizer.clipvalue):
        return gradients
    gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    if optimizer.global_clipnorm:
        gradients, _ = tf.clip_by_global_norm(gradients, optimizer.global_clipnorm)
    elif optimizer.clipnorm:
        gradients = [tf.clip_by_norm(gradient, optimizer.clipnorm) for gradient in gradients]
    else:
        low, high = -optimizer.clipvalue, optimizer.clipvalue
        gradients = [tf.clip_by_value(gradient, low, high) for gradient in gradients]
    return [gradient / replicas for gradient in gradients]

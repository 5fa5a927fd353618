"""What `Flow` adds to Keras's compile, fit and evaluate."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from flowzoo import random
from flowzoo.models import checks, digits, feeding, replicas, updating
from flowzoo.models.condition_scaling import EXAMPLES
from flowzoo.networks.dropout import dropping

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
    # What makes `fit` and `evaluate` take something else than data, which it unpacks and checks itself:
    # `flowzoo.models.pair_matching.PairMatching`, for the families that know it. None: data.
    lesson: Any = None

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
                the device. On one replica Keras compiles the whole step; on several its losses and gradients
                alone, since XLA takes neither the collectives nor the variables of several devices.
            **kwargs: of `keras.Model.compile` (run_eagerly, steps_per_execution, auto_scale_loss).

        Raises:
            ValueError: a loss or metrics are given, or the strategy cannot train a Keras model.
        """
        if loss is not None or metrics is not None:
            raise ValueError(
                "A flow is trained by its negative log-likelihood: compile takes neither loss nor metrics. "
                f"Received: loss={loss!r}, metrics={metrics!r}"
            )
        strategy, eager = self.distribute_strategy, kwargs.get("run_eagerly", False)
        if kwargs.get("auto_scale_loss", True):
            optimizer = updating.scaling_losses(self, optimizer)
        replicas.check_strategy(strategy, optimizer)
        if jit_compile == "auto":
            device = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
            jit_compile = self.prefers_xla[device] and not eager
        alone = strategy.num_replicas_in_sync == 1 and not replicas.several_workers(strategy)
        self._pure = replicas.Pure(self, bool(jit_compile) and not alone and not eager)
        super().compile(optimizer=optimizer, jit_compile=bool(jit_compile) and alone, **kwargs)
        with strategy.scope():
            bits = self.discrete and self.loss_in_nats
            self._bits_tracker = keras.metrics.Mean("bits_per_dim") if bits else None

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build what Keras builds before `fit` and `evaluate` under a strategy: here the optimizer alone.

        A flow and its metrics are built. Keras would take the mean of the replicas' parts of a batch to
        learn its shape, which fails where they differ in size or come as a tuple from several workers.
        """
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

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
        x, condition, weight = self._unpack(data)
        part = replicas.Part.of(x, weight)
        seed = self._noise_seed(_TRAIN_STREAM, self.optimizer.iterations)
        seed = random.seeds_of_rows(seed, part.rows)  # equal examples of a batch get other noise
        scale = self.optimizer.scale_loss(tf.ones([], x.dtype))
        others = self.from_whole_batch(part, x, condition, seed)
        losses, gradients = self._pure(self._gradients, x, condition, part.share, seed, scale, *others)
        updating.apply_gradients(self.optimizer, gradients, self.trainable_variables, self._pure.jit_compile)
        return self._report(losses, part)

    def _gradients(
        self,
        weights: list[tf.Tensor],
        x: tf.Tensor,
        condition: tf.Tensor | None,
        share: tf.Tensor,
        seed: tf.Tensor,
        scale: tf.Tensor,
        *others: tf.Tensor,
    ) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
        """Return the loss of each example and the gradient of this replica's share of what is minimised."""
        with tf.GradientTape() as tape:
            tape.watch(weights)
            minimised, losses = self.training_losses(x, condition, seed, *others)
            loss = tf.reduce_sum(share * minimised)
            for penalty in self.losses:
                loss += penalty / self.distribute_strategy.num_replicas_in_sync
            loss *= scale
        return losses, tape.gradient(loss, weights) if weights else []

    def from_whole_batch(
        self, part: replicas.Part, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Return what the loss of an example takes from the other examples of its batch: nothing, usually.

        What is returned is given to `example_loss` and `training_losses` as further arguments. This runs on
        each replica, outside of what XLA compiles there: it may gather the parts of the other replicas.
        """
        return ()

    def training_losses(
        self, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor, *others: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return what a training step minimises the mean of, and the loss that it logs, both [batch].

        A family that minimises more than `example_loss` overrides this.
        """
        with dropping(random.example_keys(x), seed):
            losses = self.example_loss(x, condition, seed, *others)
        return losses, losses

    def example_loss(
        self, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor, *others: tf.Tensor
    ) -> tf.Tensor:
        """Return the loss of each example, [batch]: -log p(x) in nats, unless `loss_in_nats` is False.

        Args:
            x: data, [batch, *event_shape].
            condition: as the layers take it, or None.
            seed: of the noise, int32 [2], or [batch, 2] for a seed an example (`random.seeds_of_rows`).
            *others: what `from_whole_batch` returned.
        """
        return -self.raw_log_prob(x, condition, seed)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Score a batch."""
        x, condition, weight = self._unpack(data)
        part = replicas.Part.of(x, weight)
        seed = self._noise_seed(_TEST_STREAM, 0)
        others = self.from_whole_batch(part, x, condition, seed)
        return self._report(self._pure(self._test_losses, x, condition, seed, *others), part)

    def _test_losses(self, weights: list[tf.Tensor], *arguments: Any) -> tf.Tensor:
        return self.example_loss(*arguments)

    def predict_step(self, data: Any) -> tf.Tensor:
        """Return log_prob of a batch."""
        x, condition, _ = feeding.unpack(self, data)
        return self.raw_log_prob(x, condition, random.as_seed(0))

    def _unpack(self, data: Any) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
        return feeding.unpack(self, data) if self.lesson is None else self.lesson.unpack(self, data)

    def _checked(self, x: Any, y: Any, weight: Any, name: str) -> tuple[Any, Any, Any]:
        """Return x, condition and sample weights as Keras takes them, checked."""
        if self.lesson is None:
            x, y, weight = feeding.training_data(self, x, y, weight, name)
        if weight is not None and y is None and not feeding.is_batched(x):
            y = feeding.no_condition(x)
        return x, y, weight

    def _noise_seed(self, stream: int, step: Any) -> tf.Tensor:
        return random.fold_in(random.fold_in(random.as_seed(self.seed), stream), tf.cast(step, tf.int32))

    def _report(self, losses: tf.Tensor, part: replicas.Part) -> dict[str, tf.Tensor]:
        loss = part.mean(losses)
        part.update(self._loss_tracker, loss)
        if self._bits_tracker is not None:
            part.update(self._bits_tracker, loss / (self.event_size * np.log(2.0)))
        logs = {metric.name: metric.result() for metric in self.metrics}
        return replicas.as_logs(logs, self.distribute_strategy)

    # -- fit and evaluate ---------------------------------------------------------------------------

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, validation_data: Any = None, **kwargs: Any
    ) -> Any:
        """Train by maximum likelihood; arguments as `keras.Model.fit`.

        Under a strategy of `tf.distribute` (the model built and compiled in its scope) a batch is that of all
        replicas, and losses and weights are those of one device; a last batch may be smaller. Several workers
        each call it with the same arrays, or with the same dataset shuffled by a fixed seed, of which each
        takes its part; they start from the first worker's weights.

        Args:
            x: data: an array or tensor, (x, condition) or (x, condition, sample_weight), a tf.data.Dataset of
                batches of these, or a Keras PyDataset. A condition of None stands for none.
            y: conditions, where `x` is an array.
            *args: as `keras.Model.fit`.
            validation_data: as `x`.
            **kwargs: as `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History` with `loss` in nats (and `bits_per_dim` for discrete data).

        Raises:
            ValueError: wrong shapes, NaN or infinity, values out of range, a missing condition, a column of
                an array that float32 rounds by more than a thousandth of its standard deviation.
            TypeError: data of a kind that is not taken.
            FloatingPointError: the loss of the last epoch is not finite, and so the weights may not be.
        """
        x, y, weight = self._checked(x, y, kwargs.pop("sample_weight", None), "x")
        if self.lesson is None:
            feeding.keeps_digits(self, x, y, "x")
        if validation_data is not None:
            parts = self._checked(validation_data, None, None, "validation_data")
            validation_data = parts[0] if feeding.is_batched(parts[0]) else parts
        if not self.adapted and self.lesson is None:
            self._adapt(x, y)
        replicas.agree(self.distribute_strategy, self.weights)
        if weight is not None:
            kwargs["sample_weight"] = weight
        options = feeding.by_name(args, kwargs)
        feeding.check_class_weight(self, options)
        if replicas.several_workers(self.distribute_strategy):
            x, y, options = feeding.one_order(x, y, options, self.seed)
        x, y, validation_data, options = digits.training_batches(self, x, y, validation_data, options)
        if feeding.is_batched(x):
            options.setdefault("shuffle", False)  # a dataset shuffles itself; Keras would warn
        with feeding.clear_errors():
            history = super().fit(x, y, validation_data=validation_data, **options)
        if history.epoch:
            feeding.some_batch("loss" in history.history)
            feeding.check_loss(history.epoch[-1] + 1, history.history["loss"][-1], self.base)
        return history

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: Any = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Return the mean of -log_prob in nats (and bits per dimension); arguments as `fit`.

        The noise of a discrete flow comes from the model's seed, so that two calls agree.
        """
        if not kwargs.get("_use_cached_eval_dataset"):
            x, y, sample_weight = self._checked(x, y, sample_weight, "x")
            if digits.cut(self, x, y):
                x, y, sample_weight = digits.batches(x, y, sample_weight, batch_size, steps), None, None
        with feeding.clear_errors():
            result = super().evaluate(x, y, batch_size, verbose, sample_weight, steps, *args, **kwargs)
        feeding.some_batch(kwargs.get("_use_cached_eval_dataset") or result not in ({}, []))
        return result

    # -- predict, and one batch -----------------------------------------------------------------------

    def predict(
        self,
        x: Any,
        batch_size: Any = None,
        verbose: Any = "auto",
        steps: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Return log_prob as an array; data, errors and noise as those of `log_prob`.

        Args:
            x: data, as `fit`.
            batch_size: as `keras.Model.predict`.
            verbose: as `keras.Model.predict`.
            steps: as `keras.Model.predict`.
            *args: as `keras.Model.predict`.
            **kwargs: as `keras.Model.predict`.

        Raises:
            ValueError, TypeError: as `fit`.
        """
        x, y, _ = feeding.training_data(self, x, None, None, "x")
        if digits.cut(self, x, y):
            x, y = digits.batches(x, y, None, batch_size, steps), None
        try:
            with feeding.clear_errors():
                whole = x if y is None else (x, y)
                return super().predict(whole, batch_size, verbose, steps, *args, **kwargs)
        except UnboundLocalError:  # Keras's, which has nothing to return
            feeding.some_batch(False)

    def predict_on_batch(self, x: Any) -> Any:
        """Return log_prob of a batch, x or (x, condition), as an array; errors as `predict`."""
        feeding.one_batch(x)
        x, y, _ = feeding.training_data(self, x, None, None, "x")
        with feeding.clear_errors():
            return super().predict_on_batch(x if y is None else (x, y))

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Take one step on a batch, the first step after `adapt` on it, and return the loss before it.

        Call `adapt` with more data first where a batch is small: what it sets stays as it is.

        Args:
            x: a batch, as an array for `fit`, or (x, condition).
            y: its conditions.
            sample_weight: one weight an example.
            *args: as `keras.Model.train_on_batch`.
            **kwargs: as `keras.Model.train_on_batch`.

        Raises:
            ValueError, TypeError: as `fit`.
        """
        feeding.one_batch(x)
        x, y, sample_weight = self._checked(x, y, sample_weight, "x")
        if not self.adapted and self.lesson is None:
            self._adapt(x, y)
            replicas.agree(self.distribute_strategy, self.weights)
        with feeding.clear_errors():
            return super().train_on_batch(x, y, sample_weight, *args, **kwargs)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Return the loss of a batch; arguments and errors as `train_on_batch`."""
        feeding.one_batch(x)
        x, y, sample_weight = self._checked(x, y, sample_weight, "x")
        with feeding.clear_errors():
            return super().test_on_batch(x, y, sample_weight, *args, **kwargs)

    # -- weights that come from data ------------------------------------------------------------------

    @property
    def adapted(self) -> bool:
        """Whether every weight that comes from data (Standardize, ActNorm, of conditions too) is set."""
        flags = [w for w in self.non_trainable_weights if w.name == "initialized"]
        return all(bool(np.all(keras.ops.convert_to_numpy(flag))) for flag in flags)

    def adapt(self, x: Any, y: Any = None) -> None:
        """Set the weights that come from data: the first step of `fit`, done once and saved with the model.

        With several workers (MultiWorkerMirroredStrategy) each must call it, with data of its own or the
        same, and all get what the first worker found.

        Args:
            x: data, as `fit`; a spread of at most 65,536 examples of it is read.
            y: conditions, where `x` is an array.

        Raises:
            ValueError: there is no data, or what `fit` refuses.
        """
        x, y, _ = feeding.training_data(self, x, y, None, "x")
        feeding.keeps_digits(self, x, y, "x")
        self._adapt(x, y)
        replicas.agree(self.distribute_strategy, self.weights)

    def _adapt(self, x: Any, y: Any) -> None:
        """Set the weights that come from data, checked, on this worker."""
        scaler = self.condition_scaler
        wanted = self.chain.data_init_examples or (EXAMPLES if scaler is not None else 0)
        if not wanted:
            return
        with feeding.clear_errors():
            x, condition = feeding.first_examples(x, y, wanted)
        if not len(x):
            raise ValueError("adapt takes at least one example. Received: none")
        x, num = checks.data(self, x), len(x)  # type: ignore[arg-type]
        given = checks.condition(self, condition, num)  # type: ignore[arg-type]
        if scaler is not None:
            scaler.data_init(tf.cast(condition, self.compute_dtype))
            given = checks.condition(self, condition, num)  # type: ignore[arg-type]
        self._set_from_data(x, given)

    def _set_from_data(self, x: tf.Tensor, condition: tf.Tensor | None) -> None:
        self.chain.data_init(x, condition)

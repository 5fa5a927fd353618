"""What a training step has to know of `tf.distribute`: replicas that share a batch, and workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

_SUM = tf.distribute.ReduceOp.SUM


# -- one batch in several parts -----------------------------------------------------------------------


def replica_context() -> Any:
    """Return the context of a replica among several, or None where one replica has the whole batch."""
    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


@dataclasses.dataclass(frozen=True)
class Part:
    """The part of a batch that a replica holds.

    `tf.distribute` gives the first replica the first rows of a batch, the second the next, and so on, on
    one worker as on many; of a batch that does not divide evenly the last replicas get fewer rows or none.

    Attributes:
        rows: where the examples stand in the whole batch, int64 [rows].
        share: of each example in the mean over the whole batch, [rows]: its weight over the sum of all
            weights. Over all replicas they sum to 1 (to 0 where every weight is 0).
        total: the sum of the weights of the whole batch, [].
    """

    rows: tf.Tensor
    share: tf.Tensor
    total: tf.Tensor

    @classmethod
    def of(cls, x: tf.Tensor, weight: tf.Tensor | None) -> Part:
        """Find the place of `x` ([rows, ...]) with its weights ([rows], or None for equal ones)."""
        count = tf.shape(x, out_type=tf.int64)[0]
        weight = tf.ones([count], x.dtype) if weight is None else tf.cast(weight, x.dtype)
        total, start = tf.reduce_sum(weight), tf.zeros([], tf.int64)
        context = replica_context()
        if context is not None:
            # float64 holds every count of rows and the sum of float32 weights.
            own = tf.stack([tf.cast(count, tf.float64), tf.cast(total, tf.float64)])
            table = context.all_gather(own[None], axis=0)
            before = tf.range(tf.shape(table)[0]) < tf.cast(context.replica_id_in_sync_group, tf.int32)
            start = tf.cast(tf.reduce_sum(tf.where(before, table[:, 0], 0.0)), tf.int64)
            total = tf.cast(tf.reduce_sum(table[:, 1]), x.dtype)
        return cls(start + tf.range(count), tf.math.divide_no_nan(weight, total), total)

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """Return the weighted mean over the whole batch of one value an example ([rows])."""
        mean, context = tf.reduce_sum(self.share * values), replica_context()
        return mean if context is None else context.all_reduce(_SUM, mean)

    def update(self, metric: keras.metrics.Mean, mean: tf.Tensor) -> None:
        """Count the batch in a metric that sums over replicas: each adds its equal part of the weight."""
        context = replica_context()
        replicas = 1 if context is None else context.num_replicas_in_sync
        metric.update_state(mean, sample_weight=self.total / replicas)

    def gather(self, tensor: tf.Tensor) -> tf.Tensor:
        """Return the rows of all replicas, in the order of the batch."""
        context = replica_context()
        if context is None:
            return tensor
        return tf.ensure_shape(context.all_gather(tensor, axis=0), [None, *tensor.shape[1:]])

    def take(self, whole: tf.Tensor) -> tf.Tensor:
        """Return this replica's rows of what the whole batch has."""
        return whole if replica_context() is None else tf.gather(whole, self.rows)


# -- computing on each replica ------------------------------------------------------------------------


class Pure:
    """A model's function of tensors, run with the values of its variables as one more argument.

    XLA cannot compile a step that holds the variables of several replicas ("Trying to access resource
    located in device ..."), nor the collectives between them. What it can compile is a function of tensors:
    the variables are read outside, and Keras is told within which value stands for which.

    Args:
        model: the model.
        jit_compile: whether XLA compiles the function by itself; otherwise it becomes part of the step.
    """

    def __init__(self, model: Any, jit_compile: bool) -> None:
        self._model, self.jit_compile = model, jit_compile
        self._compiled: dict[str, Callable[..., Any]] = {}

    def __deepcopy__(self, memo: dict) -> Pure:
        return Pure(memo.get(id(self._model), self._model), self.jit_compile)

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return `function(values, *arguments)`, `values` being those of the trainable variables."""
        trained, fixed = self._model.trainable_variables, self._model.non_trainable_variables

        def run(trained_values: list[tf.Tensor], fixed_values: list[tf.Tensor], *arguments: Any) -> Any:
            mapping = zip([*trained, *fixed], [*trained_values, *fixed_values], strict=True)
            with keras.StatelessScope(state_mapping=list(mapping)):
                return function(trained_values, *arguments)

        name = function.__name__
        if self.jit_compile and name not in self._compiled:
            self._compiled[name] = tf.function(run, jit_compile=True, autograph=False, reduce_retracing=True)
        run = self._compiled.get(name, run)
        return run(_values(trained), _values(fixed), *arguments)


def _values(variables: Sequence[Any]) -> list[tf.Tensor]:
    return [tf.convert_to_tensor(variable.value) for variable in variables]


# -- several workers ----------------------------------------------------------------------------------


def several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Say whether the replicas live in several processes (MultiWorkerMirroredStrategy with TF_CONFIG)."""
    # The question that Keras asks before it reduces logs, which decides what form they must have.
    multi = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return multi and strategy.extended._in_multi_worker_mode()


def as_logs(values: dict[str, tf.Tensor], strategy: tf.distribute.Strategy) -> dict[str, tf.Tensor]:
    """Return scalar logs in the form in which Keras reduces them to scalars.

    With several workers Keras takes the mean over axis 0, which scalars lack: stock `fit` fails.
    """
    if not several_workers(strategy):
        return values
    return {name: tf.reshape(value, [1]) for name, value in values.items()}


def agree(strategy: tf.distribute.Strategy, variables: Sequence[Any]) -> None:
    """Give variables the values that they have on the chief; without several workers they have them.

    Every worker must call it. Each of them sets weights from the data that it sees, which may be its own
    shard, and replicas whose weights differ never find together again.
    """
    if not several_workers(strategy) or not variables:
        return

    def of_the_chief() -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        first = tf.equal(context.replica_id_in_sync_group, 0)
        # float64 holds every weight exactly: float32, flags, and the integers of a permutation.
        values = [tf.cast(value, tf.float64) for value in _values(variables)]
        values = [tf.where(first, value, tf.zeros_like(value)) for value in values]
        return context.all_reduce(_SUM, values)

    found = tf.function(lambda: strategy.run(of_the_chief), autograph=False)()
    for variable, value in zip(variables, found, strict=True):
        variable.assign(tf.cast(strategy.experimental_local_results(value)[0], variable.dtype))


# -- what cannot be done ------------------------------------------------------------------------------


def check_strategy(strategy: tf.distribute.Strategy, optimizer: Any) -> None:
    """Refuse what cannot train under a strategy, before it starts.

    Raises:
        ValueError: parameter servers, or what optimizers of Keras cannot do on several replicas.
    """
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise ValueError(
            "ParameterServerStrategy does not work with the fit of Keras 3: build and compile the model "
            "under tf.distribute.MirroredStrategy (the devices of one machine) or "
            "tf.distribute.MultiWorkerMirroredStrategy (several machines)."
        )
    if strategy.num_replicas_in_sync == 1:
        return
    # Keras puts both into a `tf.cond`, in which replicas cannot meet: a RuntimeError in the first step.
    for option in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
        value = getattr(optimizer, option, None)
        if value:
            raise ValueError(
                f"Keras's {option} works on one replica alone. "
                f"Received: {option}={value} on {strategy.num_replicas_in_sync} replicas"
            )

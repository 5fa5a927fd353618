"""The batches of a training, and the part of them that each worker takes."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from flowzoo.config import TrainingConfig
from flowzoo.data import Source, pipeline
from flowzoo.data.outliers import with_outliers
from flowzoo.training.strategies import check_batch_size
from flowzoo.training.workers import Workers


class Feed:
    """What a recipe trains on, under a strategy.

    Args:
        recipe: batch size (of all replicas together), seed, steps of an epoch.
        train: the training split.
        validation: the validation split.
        conditional: whether the sources' conditions are given to the flow.
        limit: use only so many examples of each split.
        strategy: where to train.

    Attributes:
        workers: the processes of the strategy.
        steps: of one epoch.
        batch_size: of all replicas together: the recipe's, or all examples where there are fewer.

    Raises:
        ValueError: a batch does not divide among the replicas, or the length of an epoch is not known.
    """

    def __init__(
        self,
        recipe: TrainingConfig,
        train: Source,
        validation: Source,
        conditional: bool,
        limit: int | None,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self.train, self.validation, self.conditional, self.limit = train, validation, conditional, limit
        self.strategy, self.workers = strategy, Workers.of(strategy)
        self.steps, self.batch_size = steps_of(recipe, train, limit)
        check_batch_size(self.batch_size, strategy)
        self._seed, self._outliers = recipe.seed, recipe.outliers
        self._validation_batch_size = recipe.validation_batch_size or recipe.batch_size

    def whole(self) -> tf.data.Dataset:
        """Return the batches of one pass over the data, whole: every worker sees the same.

        Without end where it is not known how many examples there are.
        """
        dataset, size = self._batches(0, None), _size(self.train, self.limit)
        return dataset if size is None else dataset.take(size // self.batch_size)

    def training(self, skip: int) -> Any:
        """Return the batches after the first `skip`: each replica's part of them.

        The order of an epoch follows from the seed and its number alone. A worker reads its own part only.
        """
        if self.workers.count == 1:
            return self._batches(skip, None)

        def parts(context: tf.distribute.InputContext) -> tf.data.Dataset:
            shard = (context.input_pipeline_id, context.num_input_pipelines)
            dataset = self._batches(skip, shard)
            # One element for each replica of the worker in turn.
            replicas = context.num_replicas_in_sync // context.num_input_pipelines
            size = self.batch_size // context.num_replicas_in_sync
            return dataset if replicas == 1 else dataset.rebatch(size, drop_remainder=True)

        return self.strategy.distribute_datasets_from_function(parts)

    def held_out(self) -> tf.data.Dataset:
        """Return the batches of the validation split: each worker scores its part of each batch."""
        dataset = pipeline(
            self.validation,
            self._validation_batch_size,
            shuffle=False,
            seed=self._seed,
            conditional=self.conditional,
            limit=self.limit,
        )
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return dataset.with_options(options)

    def _batches(self, skip: int, shard: tuple[int, int] | None) -> tf.data.Dataset:
        dataset = pipeline(
            self.train,
            self.batch_size,
            shuffle=True,
            seed=self._seed,
            conditional=self.conditional,
            repeat=True,
            drop_remainder=True,
            limit=self.limit,
            skip=skip,
            shard=shard,
        )
        if not self._outliers:
            return dataset
        return with_outliers(
            dataset,
            self._outliers,
            seed=self._seed,
            batch_size=self.batch_size,
            skip=skip,
            shard=shard or (0, 1),
            num_values=self.train.num_values or 256,
        )


def steps_of(recipe: TrainingConfig, train: Source, limit: int | None) -> tuple[int, int]:
    """Return the steps of one epoch, and the size of a batch.

    Raises:
        ValueError: neither is the size of the source known nor does the recipe name the steps.
    """
    size = _size(train, limit)
    batch_size = recipe.batch_size if size is None else min(recipe.batch_size, size)
    steps = recipe.steps_per_epoch
    if steps is None:
        if size is None:
            raise ValueError(f"The size of {train.name} is unknown: the recipe must name steps_per_epoch.")
        steps = max(1, math.floor(size / batch_size))
    return steps, batch_size


def _size(train: Source, limit: int | None) -> int | None:
    """Return how many examples are trained on; None where it is not known."""
    return train.size if limit is None or train.size is None else min(limit, train.size)

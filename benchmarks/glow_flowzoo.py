"""flowzoo's side of `benchmarks.normflows_glow` (TensorFlow)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import flowzoo
from benchmarks.glow_common import (
    ADAM_EPSILON,
    BLOCKS,
    COOLDOWN,
    SCORE_BATCH,
    Setting,
    parameters,
    processor,
)
from flowzoo.training.optimizers import Trapezoid

VERSION = f"flowzoo {flowzoo.__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}"


def device() -> str:
    """Return what computes."""
    found = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(found[0])["device_name"] if found else processor()


def _row(setting: Setting) -> dict[str, Any]:
    """Return the arguments that say what stands on a level of the family."""
    if setting.family == "realnvp":
        return {"num_couplings": setting.num_steps, "blocks": BLOCKS, "scale": "sigmoid"}
    return {"num_steps": setting.num_steps}


class _Deadline(keras.callbacks.Callback):
    """Stop `fit` at a time, and count its steps."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until, self.steps = until, 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.steps += 1
        self.model.stop_training = time.perf_counter() > self.until


class Ours:
    """flowzoo's Glow or RealNVP, trained by `fit`."""

    def __init__(self, setting: Setting, seed: int) -> None:
        tf.config.experimental.enable_tensor_float_32_execution(setting.tf32)
        keras.utils.set_random_seed(seed)
        self.setting = setting
        self.model = flowzoo.build(
            setting.family,
            (setting.size, setting.size, 3),
            num_levels=setting.levels,
            filters=setting.filters,
            split_prior=setting.split_prior,
            # [0, 1): beside [-0.5, 0.5) the act-norm next to it starts at a shift larger by 0.5, and no
            # gradient is another.
            preprocessing="unit",
            num_values=2**setting.bits,
            **_row(setting),
        )
        self.model.compile(self._optimizer(), jit_compile="auto")
        self.parameters = sum(int(np.prod(weight.shape)) for weight in self.model.trainable_weights)
        if self.parameters != parameters(setting, setting.filters, "flowzoo"):
            raise ValueError(f"benchmarks.glow_common counts other parameters. Received: {self.parameters}")

    def _optimizer(self) -> keras.Optimizer:
        setting = self.setting
        rate = Trapezoid(setting.learning_rate, setting.steps, setting.warmup, COOLDOWN)
        return keras.optimizers.Adam(rate, epsilon=ADAM_EPSILON, global_clipnorm=setting.clip_norm)

    def adapt(self, x: np.ndarray) -> None:
        """Set the act-norms from images."""
        self.model.adapt(x)

    def train(self, batches: Iterator[np.ndarray], number: int, until: float) -> int:
        """Take steps until a number or a time."""

        def some() -> Iterator[np.ndarray]:
            for _ in range(number):
                yield next(batches)

        spec = tf.TensorSpec((self.setting.batch, *self.model.event_shape), tf.uint8)
        data = tf.data.Dataset.from_generator(some, output_signature=spec)
        data = data.apply(tf.data.experimental.assert_cardinality(number)).prefetch(2)
        clock = _Deadline(until)
        self.model.fit(data, verbose=0, callbacks=[clock])
        return clock.steps

    def bits_per_dim(self, x: np.ndarray) -> float:
        """Return the mean bits per dimension."""
        parts = [x[i : i + SCORE_BATCH] for i in range(0, len(x), SCORE_BATCH)]
        return float(np.mean(np.concatenate([self.model.bits_per_dim(part, seed=0) for part in parts])))

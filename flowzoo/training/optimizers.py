"""Optimizers and learning-rate schedules of a recipe."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.config import OptimizerConfig

_CLASSES = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "adamax": keras.optimizers.Adamax,
    "sgd": keras.optimizers.SGD,
}


def make_optimizer(config: OptimizerConfig, total_steps: int, ema: float | None = None) -> keras.Optimizer:
    """Return the Keras optimizer of a recipe.

    Args:
        config: name, learning rate, schedule, weight decay and clipping.
        total_steps: steps that the schedule takes.
        ema: decay of the moving average of the weights that evaluation uses, or None.
    """
    options = {}
    if config.weight_decay:
        options["weight_decay"] = config.weight_decay
    if ema is not None:
        options |= {"use_ema": True, "ema_momentum": ema}
    return _CLASSES[config.name](
        learning_rate=_schedule(config, total_steps), global_clipnorm=config.clip_norm, **options
    )


def _schedule(
    config: OptimizerConfig, total_steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    if config.schedule == "constant" and not config.warmup_steps:
        return config.learning_rate
    if config.schedule == "trapezoid":
        return Trapezoid(
            config.learning_rate, total_steps, config.warmup_steps, config.cooldown, config.final_fraction
        )
    # A constant rate is a cosine that ends where it began.
    final = 1.0 if config.schedule == "constant" else config.final_fraction
    warmup = {"warmup_target": config.learning_rate, "warmup_steps": config.warmup_steps}
    return keras.optimizers.schedules.CosineDecay(
        0.0 if config.warmup_steps else config.learning_rate,
        decay_steps=max(1, total_steps - config.warmup_steps),
        alpha=final,
        **(warmup if config.warmup_steps else {}),
    )


@keras.saving.register_keras_serializable("flowzoo")
class Trapezoid(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises linearly, stays, and falls linearly to its end.

    Before the fall nothing depends on how long the training will be: it can be decided late, and a training
    can go on from the weights of an earlier one that had not begun to fall.

    Args:
        learning_rate: of the middle.
        total_steps: steps until the end.
        warmup_steps: steps of the rise.
        cooldown: fraction of `total_steps` that the fall takes.
        final_fraction: of `learning_rate`, at the end.

    References:
        Hägele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations (2024),
        https://arxiv.org/abs/2405.18392, section 3.
    """

    def __init__(
        self,
        learning_rate: float,
        total_steps: int,
        warmup_steps: int = 0,
        cooldown: float = 0.3,
        final_fraction: float = 0.0,
    ) -> None:
        self.learning_rate, self.total_steps, self.warmup_steps = learning_rate, total_steps, warmup_steps
        self.cooldown, self.final_fraction = cooldown, final_fraction

    def __call__(self, step: Any) -> tf.Tensor:
        """Return the rate of a step."""
        step, total = tf.cast(step, tf.float32), tf.cast(self.total_steps, tf.float32)
        rise = (step + 1) / max(1, self.warmup_steps)
        left = tf.clip_by_value((total - step) / tf.maximum(self.cooldown * total, 1.0), 0.0, 1.0)
        fall = self.final_fraction + (1 - self.final_fraction) * left
        return self.learning_rate * tf.minimum(tf.minimum(rise, 1.0), fall)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {
            "learning_rate": self.learning_rate,
            "total_steps": int(self.total_steps),
            "warmup_steps": self.warmup_steps,
            "cooldown": self.cooldown,
            "final_fraction": self.final_fraction,
        }

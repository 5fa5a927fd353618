"""Optimizers and learning-rate schedules of a recipe."""

from __future__ import annotations

import keras

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
        total_steps: steps that the cosine takes.
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
    # A constant rate is a cosine that ends where it began.
    final = 1.0 if config.schedule == "constant" else config.final_fraction
    warmup = {"warmup_target": config.learning_rate, "warmup_steps": config.warmup_steps}
    return keras.optimizers.schedules.CosineDecay(
        0.0 if config.warmup_steps else config.learning_rate,
        decay_steps=max(1, total_steps - config.warmup_steps),
        alpha=final,
        **(warmup if config.warmup_steps else {}),
    )

"""tf.distribute strategies by name."""

from __future__ import annotations

import logging
import os

import tensorflow as tf

from flowzoo.errors import near_matches
from flowzoo.training.cluster import check_tf_config, waiting_for_workers

_log = logging.getLogger(__name__)

STRATEGIES = ("auto", "one", "mirrored", "multiworker")
_ACCEPTED = f"strategy takes one of {', '.join(STRATEGIES)}, or a tf.distribute.Strategy."
_NO_SERVERS = " ParameterServerStrategy does not work with Keras 3: use 'mirrored' or 'multiworker'."


def check_strategy(strategy: str | tf.distribute.Strategy) -> None:
    """Refuse a strategy that cannot work, before anything waits for it.

    Raises:
        TypeError: neither a name nor a strategy.
        ValueError: an unknown name; "multiworker" without a TF_CONFIG that names the workers; a
            ParameterServerStrategy, under which Keras 3 cannot train.
    """
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise ValueError(
                f"{_ACCEPTED} Received: {strategy!r}.{near_matches(strategy, STRATEGIES)}"
                + (_NO_SERVERS if strategy.lower().startswith(("parameter", "ps")) else "")
            )
        if strategy == "multiworker":
            check_tf_config()
    elif isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise ValueError(f"Received: {type(strategy).__name__}.{_NO_SERVERS}")
    elif not isinstance(strategy, tf.distribute.Strategy):
        raise TypeError(f"{_ACCEPTED} Received: {strategy!r}")


def make_strategy(strategy: str | tf.distribute.Strategy) -> tf.distribute.Strategy:
    """Return the strategy of a name, or the one that is given.

    Args:
        strategy: "auto" (all GPUs of this machine if there are several, else one device), "one",
            "mirrored" (all GPUs of this machine, or all logical CPUs where there is no GPU) or
            "multiworker" (the workers that TF_CONFIG names: waits until all have started); or a strategy.

    Raises:
        TypeError: as `check_strategy`.
        ValueError: as `check_strategy`.
    """
    check_strategy(strategy)
    if not isinstance(strategy, str):
        return strategy
    if strategy == "multiworker":  # before anything touches a device: its collectives start with the program
        with waiting_for_workers():
            return tf.distribute.MultiWorkerMirroredStrategy()
    if os.environ.get("TF_CONFIG"):
        _log.warning("TF_CONFIG is set, and strategy=%r trains without the workers that it names", strategy)
    gpus = tf.config.list_logical_devices("GPU")
    if strategy == "auto":
        strategy = "mirrored" if len(gpus) > 1 else "one"
    if strategy == "mirrored":
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def check_batch_size(batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Raise ValueError if a batch cannot be divided among the replicas."""
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise ValueError(
            f"A batch of {batch_size} examples does not divide among {replicas} replicas: choose a "
            f"batch_size (or a limit, if that is smaller) that is a multiple of {replicas}."
        )

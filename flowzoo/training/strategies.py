"""tf.distribute strategies by name."""

from __future__ import annotations

import tensorflow as tf

STRATEGIES = ("auto", "one", "mirrored", "multiworker")


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Return the strategy of a name.

    Args:
        name: "auto" (all GPUs of this machine if there are several, else one device), "one",
            "mirrored" (all GPUs of this machine, or all logical CPUs where there is no GPU) or
            "multiworker" (the workers that TF_CONFIG names).

    Raises:
        ValueError: an unknown name.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy takes one of {', '.join(STRATEGIES)}. Received: {name!r}")
    if name == "multiworker":  # before anything touches a device: its collectives start with the program
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "one"
    if name == "mirrored":
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()

"""Train flows on one device and on several: `test_replicas.py` runs it in a process.

python -m tests.models.replicas_script REPLICAS STEPS OPTIONS CASE... prints a line a case: what one device
gave and what the replicas gave. The devices are logical CPUs, or with "gpu" among the options the machine's
GPUs. A case may have options of its own, CASE@OPTIONS. (One strategy a process: the collectives of a second
one clash with its own.)
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# What is trained beside every family's `small`: all that draws noise, or looks at the batch.
VARIANTS: dict[str, dict[str, Any]] = {
    "glow": {"dropout": 0.2},
    "nsf": {"dropout": 0.2},
    "realnvp": {"dropout": 0.2},
    "ffjord": {"kinetic": 0.01, "jacobian": 0.01},
    "tarflow": {"condition_dropout": 0.3, "dropout": 0.2},
    "tarflow:noise": {"condition_dropout": 0.3, "noise_std": 0.5, "num_values": None},
    "flow_matching": {"condition_dropout": 0.3},
    "flow_matching:sinkhorn": {"coupling": "sinkhorn"},
    "flow_matching:exact": {"coupling": "exact"},
}
# With "short" among the options flows are less deep: tracing them is what takes the time.
SHORT: dict[str, dict[str, Any]] = {
    "ffjord": {"solver": "euler", "steps": 2},
    "glow": {"num_levels": 1, "num_steps": 1},
    "iaf": {"num_layers": 1},
    "maf": {"num_layers": 1},
    "nice": {"num_couplings": 2, "hidden_units": (8,)},
    "nsf": {"num_layers": 1},
    "realnvp": {"num_couplings": 1, "num_levels": 1},
    "tarflow": {"num_blocks": 1},
}
EXAMPLES, BATCH = 69, 32  # batches of 32, 32 and 5, of which the last of four replicas gets nothing


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images, labels and weights; some images come twice in a batch, some weights are zero."""
    from tests.models.flows import KINDS

    kind = KINDS["labelled_image"]
    x, labels = kind.data(EXAMPLES), kind.condition(EXAMPLES)
    for first, second in ((0, 1), (2, 20), (64, 68)):
        x[second], labels[second] = x[first], labels[first]
    weights = np.random.default_rng(2).choice([0.0, 0.5, 1.0, 3.0], EXAMPLES).astype("float32")
    return x, labels, weights


class EachStep(keras.callbacks.Callback):
    """Keep the logs of each step by itself (Keras logs the mean since the epoch began), and the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, float]] = []
        self.weights: list[list[float]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.weights.append(_flat(self.model.get_weights()))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps.append({name: float(value) for name, value in logs.items()})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.weights.append(_flat(self.model.get_weights()))


def make_optimizer(options: str) -> keras.Optimizer:
    """Return one that clips and averages; with "scaled" one that scales losses, as for float16."""
    common = {"global_clipnorm": 1.0, "use_ema": True, "ema_momentum": 0.9}
    if "adamw" in options:
        return keras.optimizers.AdamW(1e-3, weight_decay=0.1, **common)
    optimizer = keras.optimizers.SGD(1e-3, **common)
    return keras.optimizers.LossScaleOptimizer(optimizer) if "scaled" in options else optimizer


def train(case: str, strategy: tf.distribute.Strategy, steps: int, options: str) -> dict[str, Any]:
    """Train a family through plain fit, with all that may differ between replicas."""
    from flowzoo.models import families
    from tests.models.flows import KINDS

    kind, family = KINDS["labelled_image"], families()[case.split(":")[0]]
    x, labels, weights = data()
    keras.utils.set_random_seed(3)
    arguments = {**family.small, **kind.arguments, **VARIANTS.get(case, {})}
    if "short" in options:
        arguments |= SHORT.get(family.family, {})
    with strategy.scope():
        flow = family(event_shape=kind.event_shape, **arguments)
        optimizer = make_optimizer(options)
        flow.compile(optimizer, jit_compile="jit" in options)
    logs, seconds = EachStep(), -time.perf_counter()
    x = x if flow.discrete else x.astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((x, labels, weights)).batch(BATCH).repeat()
    flow.fit(batches, epochs=1, steps_per_epoch=steps, verbose=0, callbacks=[logs])
    seconds += time.perf_counter()
    after: dict[str, float] = {}
    if "evaluate" in options:  # one more trace for each replica
        after = flow.evaluate(x, labels, BATCH, 0, sample_weight=weights, return_dict=True)
    return {
        "steps": {name: [step[name] for step in logs.steps] for name in logs.steps[0]},
        "evaluate": after,
        "start": logs.weights[0],  # what was set from data
        "end": logs.weights[-1],
        "average": _flat(flow.get_weights()),  # fit ends with the averaged weights
        "copies": _spread(flow.weights, strategy),
        "seconds": seconds,
    }


def _spread(weights: list[Any], strategy: tf.distribute.Strategy) -> float:
    """Return the largest difference between the copies of a weight on the replicas."""
    copies = [strategy.experimental_local_results(weight.value) for weight in weights]
    differences = [
        np.abs(np.asarray(other, float) - np.asarray(first, float))
        for first, *rest in copies
        for other in rest
    ]
    return max((float(np.max(difference)) for difference in differences), default=0.0)


def _flat(weights: list[np.ndarray]) -> list[float]:
    return [value for weight in weights for value in np.ravel(weight).astype(float).tolist()]


def devices(replicas: int, gpu: bool) -> list[str]:
    """Return the names of as many devices: logical CPUs, or GPUs that compute in all digits of float32."""
    if gpu:
        tf.config.experimental.enable_tensor_float_32_execution(False)
        return [f"GPU:{index}" for index in range(replicas)]
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    return [f"CPU:{index}" for index in range(replicas)]


def main() -> None:
    """Train what the command line names."""
    replicas, steps, options, cases = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    strategy = tf.distribute.MirroredStrategy(devices(replicas, "gpu" in options))
    for case in cases:
        name, _, own = case.partition("@")
        try:
            found: Any = [
                train(name, where, steps, own or options)
                for where in (tf.distribute.get_strategy(), strategy)
            ]
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        sys.stdout.write("RESULT" + json.dumps([case, found]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""flowzoo's side."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import flowzoo
from benchmarks.families import CLIP_NORM, EXACT_TRACE_UP_TO, Family
from benchmarks.tables import Table


def build(family: Family, size: int, exact: bool = True) -> Any:
    """Build the flow of a family; `exact` is for the trace of FFJORD."""
    shape, hidden = (size,), list(family.hidden)
    if family.name == "maf":
        return flowzoo.build("maf", shape, num_layers=family.layers, hidden_units=hidden)
    if family.name == "nsf_coupling":
        return flowzoo.build(
            "nsf", shape, num_layers=family.layers, hidden_units=hidden[0], blocks=1, tail_bound=5.0
        )
    if family.name == "nsf_autoregressive":
        return flowzoo.build(
            "maf", shape, num_layers=family.layers, hidden_units=hidden, transform="spline", tail_bound=5.0
        )
    if family.name == "ffjord":
        trace = "exact" if exact else "hutchinson"
        return flowzoo.build("ffjord", shape, hidden_units=hidden, network="mlp", steps=8, trace=trace)
    return flowzoo.build("flow_matching", shape, hidden_units=hidden, network="mlp", trace="exact", steps=32)


def run(family: Family, table: Table, steps: int, seed: int) -> dict[str, float]:
    """Train, and return the held-out nats a row, seconds a step and parameters."""
    keras.utils.set_random_seed(seed)
    size = table.train.shape[1]
    model = build(family, size, exact=size <= EXACT_TRACE_UP_TO)
    schedule = keras.optimizers.schedules.CosineDecay(family.learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=CLIP_NORM))
    model.adapt(table.train)
    scorer = build(family, size)  # held-out figures have the exact trace
    batches = tf.data.Dataset.from_tensor_slices(table.batches(steps, seed))
    each = steps // family.checks
    model.fit(batches.take(1), verbose=0)  # what compiling and tracing take is left out of the seconds
    seconds, best, kept = 0.0, np.inf, model.get_weights()
    for check in range(family.checks):
        start = time.perf_counter()
        model.fit(batches.skip(max(1, check * each)).take(each), verbose=0)
        seconds += time.perf_counter() - start
        nats = score(scorer, model.get_weights(), table.validation)
        if nats < best or family.checks == 1:
            best, kept = nats, model.get_weights()
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    nats = score(scorer, kept, table.test)
    return {"nats": nats, "seconds": seconds / (steps - 1), "parameters": parameters}


def score(scorer: Any, weights: list[np.ndarray], x: np.ndarray) -> float:
    """Return the mean nats a row."""
    scorer.set_weights(weights)
    return -float(np.mean(np.concatenate([scorer.log_prob(x[i : i + 512]) for i in range(0, len(x), 512)])))

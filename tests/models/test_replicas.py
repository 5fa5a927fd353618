"""Two replicas compute what one does, for every family."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowzoo.models import families

FAMILIES = sorted(families())

_REPLICAS = textwrap.dedent(
    """
    import json, sys
    import keras, numpy as np, tensorflow as tf
    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    from flowzoo.models import families
    from tests.models.flows import KINDS
    kind = sys.argv[1]
    what = KINDS[kind]
    x, c = what.data(64), what.condition(64)
    data = tf.data.Dataset.from_tensor_slices(x if c is None else (x, c))
    data = data.batch(32, drop_remainder=True).repeat()

    # One strategy for all families: the collectives of a second one clash with those of the first.
    strategies = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    def train(cls, strategy):
        keras.utils.set_random_seed(3)
        with strategy.scope():
            flow = cls(event_shape=what.event_shape, **{**cls.small, **what.arguments})
            flow.compile(keras.optimizers.SGD(1e-3, global_clipnorm=10.0))
        history = flow.fit(data, steps_per_epoch=5, epochs=3, verbose=0).history
        return {"loss": history["loss"], "log_prob": np.asarray(flow.log_prob(x, c)).tolist()}

    for name in sys.argv[2:]:
        try:
            found = [train(families()[name], strategy) for strategy in strategies]
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        print("RESULT" + json.dumps([name, found]), flush=True)
    """
)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Train every family on one and on two replicas, in one process of its own: imports take seconds."""
    script = tmp_path_factory.mktemp("replicas") / "replicas.py"
    script.write_text(_REPLICAS)
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(script), "labelled_image", *FAMILIES]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.removeprefix("RESULT") for line in done.stdout.splitlines() if line.startswith("RESULT")]
    return dict(json.loads(line) for line in lines)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_replicas_equal_one(family: str, replicas: dict[str, Any]) -> None:
    """The same global batch gives the same losses and weights: gradients, act-norm and noise included."""
    found = replicas[family]
    assert not isinstance(found, str), found
    one, two = found
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-4)
    np.testing.assert_allclose(two["log_prob"], one["log_prob"], rtol=1e-4)

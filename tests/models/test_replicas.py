"""Several replicas compute what one does, for every family: losses, noise, act-norm, clipping, averages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowzoo.models import families
from flowzoo.models.replicas import check_strategy
from tests.models.flows import ALIKE, KINDS, sparing
from tests.models.replicas_script import VARIANTS

FAMILIES = sorted(families())
pytestmark = pytest.mark.timeout(900)  # a process of its own traces every family
CASES = sorted({*FAMILIES, *VARIANTS})
# What the default run compiles with XLA, which takes seconds a family: the one that is compiled fastest.
# With weight decay, which Keras applies from outside of the replicas.
COMPILED = "nice@short,adamw,jit,evaluate"
# Not compiled, and with losses that are scaled, as for float16.
OPTIMIZERS = ["nice@short,adamw", "nice@short,scaled"]
# Those whose noise, act-norm and coupling are other ones: a variant stands for its family, and networks with
# masks replicate as others do.
# "nice" comes under XLA and with another optimizer.
LEFT = {*ALIKE, "flow_matching", "maf", "nice", "tarflow"}
SHORTLY = [*(family for family in FAMILIES if family not in LEFT), "flow_matching:exact"]


def run(replicas: int, steps: int, options: str, cases: list[str], timeout: float) -> dict[str, Any]:
    """Train cases on one and on several replicas, in one process of its own: imports take seconds."""
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if "gpu" not in options:
        env["CUDA_VISIBLE_DEVICES"] = ""
    command = [
        sys.executable,
        "-m",
        "tests.models.replicas_script",
        str(replicas),
        str(steps),
        options,
        *cases,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=timeout, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.removeprefix("RESULT") for line in done.stdout.splitlines() if line.startswith("RESULT")]
    return dict(json.loads(line) for line in lines)


def check(found: Any) -> float:
    """Compare what one device and the replicas gave; return the largest relative difference of a loss."""
    assert not isinstance(found, str), found
    one, several = found
    for logs in ("steps", "evaluate"):
        assert several[logs].keys() == one[logs].keys()
        for name, values in one[logs].items():
            np.testing.assert_allclose(several[logs][name], values, rtol=1e-4, err_msg=f"{logs}: {name}")
    for weights in ("start", "end", "average"):
        np.testing.assert_allclose(several[weights], one[weights], rtol=1e-4, atol=1e-5, err_msg=weights)
    assert several["copies"] == 0  # the replicas' weights are equal bit for bit
    differences = np.abs(np.divide(several["steps"]["loss"], one["steps"]["loss"]) - 1)
    return float(differences.max())


@pytest.fixture(scope="module")
def replicas() -> dict[str, Any]:
    return run(2, 3, "short", [*SHORTLY, COMPILED], 850)


@pytest.mark.parametrize("case", SHORTLY)
def test_two_replicas_equal_one(case: str, replicas: dict[str, Any]) -> None:
    """The same global batch gives the same losses and weights, step by step, the last batch being uneven."""
    check(replicas[case])


def test_two_replicas_equal_one_under_xla(replicas: dict[str, Any]) -> None:
    check(replicas[COMPILED])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [2, 4])
def test_replicas_equal_one_for_fifty_steps(count: int, record_property: Any) -> None:
    found = run(count, 50, "evaluate", CASES, 3500)
    record_property("largest relative difference", {case: check(found[case]) for case in CASES})


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_replicas_equal_one_for_every_family_under_xla() -> None:
    cases = [*(case for case in CASES if case != "flow_matching:exact"), COMPILED, *OPTIMIZERS]
    found = run(2, 6, "jit,evaluate", cases, 3500)
    for case in cases:
        check(found[case])


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", ["gpu,evaluate", "gpu,jit,evaluate"])
def test_two_gpus_equal_one_for_fifty_steps(case: str, options: str, record_property: Any) -> None:
    """Wants a machine with two GPUs, where `-n 8 --dist load` tests as many cases at once."""
    assert len(tf.config.list_physical_devices("GPU")) >= 2
    if "jit" in options and case == "flow_matching:exact":
        pytest.skip("exact couplings leave the graph, and are not compiled")
    found = run(2, 50, options, [case], 850)[case]
    record_property("largest relative difference", check(found))
    record_property("seconds", [one["seconds"] for one in found])


# -- noise ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", sparing(CASES))
def test_equal_examples_of_a_batch_share_no_noise_in_training(case: str) -> None:
    """Twelve copies of an image: twelve losses in a step of training, one in evaluation."""
    kind, family = KINDS["labelled_image"], families()[case.split(":")[0]]
    arguments = {**family.small, **kind.arguments, **VARIANTS.get(case, {})}
    flow = family(event_shape=kind.event_shape, **arguments)
    flow.adapt(kind.data(64), kind.condition(64))
    flow.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    x, labels = np.repeat(kind.data(1), 12, axis=0), np.ones(12, "int64")
    seen: list[np.ndarray] = []
    report = flow._report

    def spied(losses: tf.Tensor, part: Any) -> Any:
        seen.append(np.asarray(losses))
        return report(losses, part)

    flow._report = spied
    flow.fit(x, labels, batch_size=12, epochs=2, verbose=0)
    flow.evaluate(x, labels, batch_size=12, verbose=0)
    first, second, scores = seen
    assert len(np.unique(first)) == 12 and not np.isin(first, second).any()
    if getattr(flow, "coupling", "independent") == "independent":
        np.testing.assert_allclose(scores, scores[0], rtol=1e-5)


# -- what is refused ----------------------------------------------------------------------------------


def test_parameter_servers_are_refused() -> None:
    servers = object.__new__(tf.distribute.ParameterServerStrategy)  # a real one wants a cluster
    with pytest.raises(ValueError, match="MultiWorkerMirroredStrategy"):
        check_strategy(servers, "adam")


def test_what_keras_cannot_do_on_replicas_is_refused() -> None:
    class Two:
        num_replicas_in_sync = 2

    check_strategy(Two(), keras.optimizers.SGD(0.1, use_ema=True))
    for option in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
        optimizer = keras.optimizers.SGD(0.1, use_ema=True, **{option: 2})
        check_strategy(tf.distribute.get_strategy(), optimizer)
        with pytest.raises(ValueError, match=f"{option}=2 on 2 replicas"):
            check_strategy(Two(), optimizer)

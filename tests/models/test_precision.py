"""In what flows compute: dtypes and policies by their names, and what a mixed policy leaves alone."""

from __future__ import annotations

import threading
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowzoo
from flowzoo.models import FlowMatching
from flowzoo.models.dtypes import as_policy, dtype_policy
from flowzoo.networks import TimeMLP
from tests.models.flows import randomise_gently

X = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")


def hidden(flow: Any) -> set[str]:
    return {layer.compute_dtype for layer in flow._flatten_layers() if isinstance(layer, keras.layers.Dense)}


@pytest.mark.parametrize(
    ("asked", "computes", "layers"),
    [
        ("mixed_bfloat16", "float32", {"bfloat16", "float32"}),
        (keras.DTypePolicy("mixed_float16"), "float32", {"float16", "float32"}),
        (tf.float64, "float64", {"float64"}),
        (None, "float32", {"float32"}),
    ],
)
def test_a_flow_is_built_by_a_policy_and_keeps_it(asked: Any, computes: str, layers: set[str]) -> None:
    flow = flowzoo.build("realnvp", (2,), num_couplings=2, hidden_units=(8,), dtype=asked)
    assert flow.compute_dtype == computes and hidden(flow) == layers
    with dtype_policy("mixed_bfloat16"):  # as any Keras layer, it is loaded as it was saved
        again = type(flow).from_config(flow.get_config())
    assert hidden(again) == layers
    again.set_weights(flow.get_weights())
    np.testing.assert_array_equal(again.log_prob(X), flow.log_prob(X))


@pytest.mark.parametrize("wrong", ["mixed_int8", "int8", "nonsense", 3, "int8_from_float32"])
def test_what_is_no_policy_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"dtype takes \"float32\".*Received: '?" + str(wrong)):
        as_policy(wrong)
    with pytest.raises(ValueError, match="dtype takes"):
        flowzoo.load("realnvp_moons", dtype=wrong)


def test_an_entry_loads_by_any_policy() -> None:
    """Its weights are verified in float32: under a mixed global policy they seemed to be corrupt."""
    full = flowzoo.load("test_maf")
    x = np.asarray(full.sample(64, 0, seed=0))
    exact = np.asarray(full.log_prob(x, 0))
    with dtype_policy("mixed_bfloat16"):
        mixed, kept = flowzoo.load("test_maf"), flowzoo.load("test_maf", dtype="float32")
    assert hidden(mixed) == {"bfloat16", "float32"} and hidden(kept) == {"float32"}
    np.testing.assert_array_equal(kept.log_prob(x, 0), exact)
    difference = np.abs(np.asarray(mixed.log_prob(x, 0)) - exact) / (1 + np.abs(exact))
    assert 1e-4 < difference.max() < 0.1 and difference.mean() < 0.02  # the digits of bfloat16
    assert np.abs(mixed.from_latent(mixed.to_latent(x, 0), 0) - x).max() < 1e-4
    double = flowzoo.load("test_maf", dtype="float64")
    assert double.log_prob(x, 0).dtype == tf.float64
    np.testing.assert_allclose(double.log_prob(x, 0), exact, rtol=1e-5, atol=1e-5)  # some are nearly zero


@pytest.fixture(scope="module")
def matching() -> Any:
    flow = flowzoo.build("flow_matching", (2,), dtype="mixed_bfloat16", **FlowMatching.small)
    randomise_gently(flow, 0, 0.5)
    return flow


def test_samples_by_fixed_steps_compute_in_bfloat16_and_what_inverts_does_not(matching: Any) -> None:
    full = flowzoo.build("flow_matching", (2,), **FlowMatching.small)
    full.set_weights(matching.get_weights())
    coarse, fine = (np.asarray(flow.sample(64, seed=1)) for flow in (matching, full))
    assert 1e-5 < np.abs(coarse - fine).max() < 0.1 * np.abs(fine).max()
    steps = {"solver": "euler", "steps": 2}
    assert np.abs(matching.sample(64, seed=1, **steps) - full.sample(64, seed=1, **steps)).max() > 1e-5
    for name in ("from_latent", "to_latent", "log_prob"):
        np.testing.assert_array_equal(getattr(matching, name)(X), getattr(full, name)(X))
    adaptive = {"solver": "dopri5"}
    np.testing.assert_array_equal(matching.sample(4, seed=1, **adaptive), full.sample(4, seed=1, **adaptive))
    with dtype_policy("float32"):
        slower = matching.with_solver("heun", 3)
    assert np.abs(slower.sample(8, seed=1) - full.sample(8, seed=1, solver="heun", steps=3)).max() > 1e-5


def test_a_block_of_bfloat16_is_that_of_its_thread() -> None:
    with dtype_policy("mixed_bfloat16"):
        network = TimeMLP((4,))
        network.build_for((2,), (2,), 1, None, keras.DTypePolicy("float32"))
    seen = {}
    with network.mixed():
        thread = threading.Thread(target=lambda: seen.update(other=network.inner_dtype("float32")))
        thread.start()
        thread.join()
        seen["own"] = network.inner_dtype("float32")
    assert seen == {"other": "float32", "own": "bfloat16"} and network.inner_dtype("float32") == "float32"

"""Training that computes activations again gives the same losses and gradients, in less memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowzoo.layers import AffineCoupling, Chain, Dequantize, Repeat
from flowzoo.models import families
from flowzoo.networks import MLP
from tests.harness import randomise

DEEP = {
    "glow-image": ("glow", (4, 4, 3), {"num_steps": 16, "num_levels": 2, "filters": 8}),
    "glow-vector": ("glow", (5,), {"num_steps": 8, "filters": 16}),
    "realnvp-image": ("realnvp", (4, 4, 3), {"num_couplings": 3, "num_levels": 2, "filters": 8, "blocks": 1}),
    "realnvp-vector": ("realnvp", (5,), {"num_couplings": 6, "hidden_units": (16,)}),
}


def _pair(name: str, **options: Any) -> tuple[Any, Any, np.ndarray]:
    """Return a flow that stores activations, its twin that does not, and data."""
    family, shape, arguments = DEEP[name]
    rng = np.random.default_rng(0)
    x = (
        rng.integers(0, 256, (16, *shape)).astype("uint8")
        if len(shape) == 3
        else rng.normal(size=(64, *shape))
    )
    plain, twin = (families()[family](shape, **arguments, reversible=r, **options) for r in (False, True))
    condition = rng.normal(size=(len(x), *plain.condition_shape)) if plain.condition_shape else None
    plain.adapt(x, condition)
    # Mildly: the harness's noise would make a deep stack overflow.
    for weight in plain.trainable_weights:
        weight.assign_add(0.05 * rng.normal(size=weight.shape))
    assert [w.shape for w in plain.weights] == [w.shape for w in twin.weights]
    twin.set_weights(plain.get_weights())
    return plain, twin, x


def _gradients(flow: Any, x: np.ndarray, condition: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    weights = [weight.value for weight in flow.trainable_weights]
    sources = weights if condition is None else [*weights, condition]
    with tf.GradientTape() as tape:
        if condition is not None:
            tape.watch(condition)
        loss = -tf.reduce_mean(flow.log_prob(x, condition))
    return loss.numpy(), [np.asarray(gradient) for gradient in tape.gradient(loss, sources)]


@pytest.mark.parametrize(
    ("name", "conditional"),
    [
        ("glow-vector", True),
        pytest.param("realnvp-vector", False, marks=pytest.mark.slow),
        *(
            pytest.param(name, conditional, marks=pytest.mark.slow)
            for name in DEEP
            for conditional in (False, True)
        ),
    ],
)
def test_same_gradients(name: str, conditional: bool) -> None:
    """Every weight, and the condition, gets the gradient of the flow that stores its activations."""
    plain, twin, x = _pair(name, condition_shape=(3,) if conditional else None)
    rng = np.random.default_rng(1)
    condition = tf.constant(rng.normal(size=(len(x), 3)), "float32") if conditional else None
    (want_loss, want), (loss, found) = (_gradients(flow, x, condition) for flow in (plain, twin))
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    for one, other in zip(found, want, strict=True):
        assert np.linalg.norm(one - other) <= 1e-4 * np.linalg.norm(other)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "jit_compile"), [("glow-vector", True), ("realnvp-vector", False)])
def test_same_training(name: str, jit_compile: bool) -> None:
    flows = _pair(name)
    losses = []
    for flow in flows[:2]:
        flow.compile(keras.optimizers.SGD(1e-4, global_clipnorm=10.0), jit_compile=jit_compile)
        losses.append(flow.fit(flows[2], batch_size=8, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_samples_are_differentiable_too() -> None:
    """The other direction: gradients of samples, as variational inference takes them."""
    layer = AffineCoupling(MLP((8,), "tanh"), log_scale_bound=0.5)
    again = Repeat(layer, 6, reversible=True)
    stored = Repeat(AffineCoupling(MLP((8,), "tanh"), log_scale_bound=0.5), 6)
    for repeat in (again, stored):
        repeat.build_for((4,))
    randomise(stored)
    again.set_weights(stored.get_weights())
    z = tf.random.stateless_normal([7, 4], [1, 2])
    found = []
    for repeat in (again, stored):
        with tf.GradientTape() as tape:
            tape.watch(z)
            x, log_det = repeat.flow_forward(z)
            value = tf.reduce_sum(tf.sin(x)) + tf.reduce_sum(tf.square(log_det))
        found.append(tape.gradient(value, [z, *(weight.value for weight in repeat.trainable_weights)]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_undone_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be undone"):
        Chain([Dequantize()], reversible=True)
    with pytest.raises(ValueError, match="cannot be undone"):
        Repeat(Dequantize(), 2, reversible=True)


def _peak(family: str, depth: int, reversible: bool) -> float:
    numbers = [str(value) for value in (depth, int(reversible), 32, 32, 32)]
    command = [sys.executable, "-m", "benchmarks.memory", "--one", family, *numbers]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=280, check=True)
    return json.loads(done.stdout.splitlines()[-1])["peak_mib"]


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["glow", "realnvp"])
def test_memory_is_nearly_independent_of_depth(family: str) -> None:
    stored, again = ([_peak(family, depth, r) for depth in (8, 64)] for r in (False, True))
    assert stored[1] > 2 * stored[0], stored
    assert again[1] < 1.5 * again[0], again


@pytest.mark.slow
@pytest.mark.parametrize("family", ["glow", "realnvp"])
def test_memory_of_the_process_grows_less(family: str) -> None:
    """A CPU has no count of tensors alone: the graph, which grows with depth, is in these figures as well."""
    stored, again = ([_peak(family, depth, r) for depth in (8, 64)] for r in (False, True))
    assert stored[1] > 2 * stored[0], stored
    assert again[1] - again[0] < 0.5 * (stored[1] - stored[0]), (again, stored)

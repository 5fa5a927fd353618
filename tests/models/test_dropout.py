"""Dropout in the networks of couplings: noise of the example, of training alone, anew at each place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowzoo import Flow, random
from flowzoo.layers import AffineCoupling, Chain, Reverse
from flowzoo.models import NSF, Glow, RealNVP
from flowzoo.networks import MLP
from flowzoo.networks.dropout import drop, dropping, step_of_a_loop
from tests.harness import randomise

IMAGE, VECTOR = (4, 4, 1), (3,)
# The image of the one and the vector of the other compile the same layers in other families, for seconds.
FLOWS = [
    (NSF, VECTOR),
    pytest.param(NSF, IMAGE, marks=pytest.mark.slow),
    pytest.param(Glow, VECTOR, marks=pytest.mark.slow),
    (Glow, IMAGE),
    (RealNVP, VECTOR),
]


def _flow(family: Any, shape: tuple[int, ...], dropout: float, **arguments: Any) -> tuple[Any, tf.Tensor]:
    given = {"num_values": 4} if len(shape) == 3 else {}
    flow = family(shape, dropout=dropout, **{**family.small, **given, **arguments})
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, (200, *shape)) if len(shape) == 3 else rng.normal(size=(200, *shape))
    flow.adapt(x.astype("uint8" if len(shape) == 3 else "float32"))
    randomise(flow)
    return flow, tf.constant(x, tf.float32)


@pytest.mark.parametrize(("family", "shape"), FLOWS)
def test_dropout_is_of_the_example_and_of_training_alone(family: Any, shape: tuple[int, ...]) -> None:
    flow, x = _flow(family, shape, 0.4)
    seed = random.as_seed(4)
    losses = tf.function(lambda x, seed: flow.training_losses(x, None, seed)[1], autograph=False)
    training = np.asarray(losses(x, seed))
    plain = np.asarray(flow.example_loss(x, None, seed))
    assert np.mean(np.abs(training - plain) > 1e-4) > 0.5, "nothing is dropped"
    # The same examples in another order, and part of them: as two replicas see them.
    again = np.asarray(losses(x[::-1][:80], seed))
    np.testing.assert_allclose(again, training[::-1][:80], rtol=1e-4, atol=1e-4)
    assert not np.allclose(losses(x, random.as_seed(5)), training)
    without, _ = _flow(family, shape, 0.0)
    without.set_weights(flow.get_weights())
    np.testing.assert_allclose(without.training_losses(x, None, seed)[1], plain, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(without.log_prob(x), flow.log_prob(x), rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_flow_with_dropout_trains_and_is_saved(tmp_path: Path, jit_compile: bool) -> None:
    flow, x = _flow(Glow, VECTOR, 0.2)
    flow.compile(keras.optimizers.Adam(1e-2), jit_compile=jit_compile)
    losses = flow.fit(x, epochs=4, batch_size=50, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    flow.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.arguments["dropout"] == 0.2
    np.testing.assert_array_equal(loaded.log_prob(x), flow.log_prob(x))


def _stack(reversible: bool) -> Flow:
    layers = [AffineCoupling(MLP((8,), dropout=0.5)), Reverse(), AffineCoupling(MLP((8,), dropout=0.5))]
    flow = Flow([Chain(layers, reversible=reversible)], event_shape=VECTOR)
    randomise(flow)
    return flow


def test_networks_in_a_stack_of_ones_own_drop_as_well() -> None:
    x, seed = tf.random.stateless_normal([50, *VECTOR], [1, 2]), random.as_seed(0)
    flow = _stack(reversible=False)
    training, plain = flow.training_losses(x, None, seed)[1], flow.example_loss(x, None, seed)
    assert np.mean(np.abs(training - plain) > 1e-4) > 0.5
    with pytest.raises(ValueError, match="dropout and reversible=True exclude each other"):
        _stack(reversible=True).training_losses(x, None, seed)


def test_no_examples_of_an_image_are_no_trouble() -> None:
    """The part of a batch that the last of several replicas gets; its convolutions make one example up."""
    flow, x = _flow(RealNVP, IMAGE, 0.3)
    run = tf.function(lambda x: flow.training_losses(x, None, random.as_seed(0))[1], autograph=False)
    run = run.get_concrete_function(tf.TensorSpec([None, *IMAGE], tf.float32))
    assert run(x[:0]).shape == (0,) and run(x[:3]).shape == (3,)


def test_each_place_and_each_pass_of_a_loop_has_a_mask_of_its_own() -> None:
    keys, x = random.example_keys(tf.random.stateless_normal([300, 2], [1, 2])), tf.ones([300, 4, 5])

    @tf.function(autograph=False)
    def masks(keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        def body(index: tf.Tensor, found: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            with step_of_a_loop(index):
                return index + 1, found.write(index, drop(x[: keys.shape[0]], 0.25))

        with dropping(keys, random.as_seed(1)):
            first = drop(x[: keys.shape[0]], 0.25)
            start = (tf.constant(0), tf.TensorArray(tf.float32, 3, element_shape=[None, 4, 5]))
            _, passes = tf.while_loop(lambda index, _: index < 3, body, start)
            return first, passes.stack(), drop(x[: keys.shape[0]], 0.25)

    first, passes, last = masks(keys)
    found = [np.asarray(one) for one in (first, *tf.unstack(passes), last)]
    for i, one in enumerate(found):
        assert abs(np.mean(one == 0) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / one.size)
        np.testing.assert_allclose(one[one > 0], 1 / 0.75)
        for other in found[:i]:
            assert abs(np.corrcoef((one == 0).ravel(), (other == 0).ravel())[0, 1]) < 0.06
    part = masks(keys[:100])[1]
    np.testing.assert_array_equal(part, passes[:, :100])
    assert drop(x, 0.25) is x, "outside of training nothing is dropped"


def test_what_cannot_be_is_refused() -> None:
    for family in (NSF, Glow, RealNVP):
        for bad in (1.0, -0.1, True, "0.2"):
            with pytest.raises(ValueError, match="dropout takes a number in"):
                family(VECTOR, dropout=bad)
    for family in (Glow, RealNVP):
        with pytest.raises(ValueError, match="dropout and reversible=True exclude each other"):
            family(VECTOR, dropout=0.1, reversible=True)
    with pytest.raises(ValueError, match="dropout is for coupling=True"):
        NSF(VECTOR, dropout=0.1, coupling=False)

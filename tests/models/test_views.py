"""Flows as distributions and bijectors of TFP: parts of them, what TFP builds on them, users' graphs."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from flowzoo import Flow, layers
from flowzoo.models import IAF
from flowzoo.networks import MLP

tfb, tfd = tfp.bijectors, tfp.distributions
CONDITIONS = np.linspace(-1.0, 1.0, 4, dtype="float32")[:, None]


@functools.cache
def conditional() -> Flow:
    coupling = layers.AffineCoupling(MLP((4,)))
    flow = Flow([coupling], event_shape=(2,), condition_shape=(1,))
    rng = np.random.default_rng(0)
    for weight in flow.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    return flow


def points(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(*shape, 2)).astype("float32")


def test_parts_of_a_batch_of_distributions() -> None:
    flow, x = conditional(), points(4)
    whole = flow.distribution(CONDITIONS)
    want = np.asarray(flow.log_prob(x, CONDITIONS))
    part = whole[1:3]
    assert part.batch_shape == (2,)
    np.testing.assert_allclose(part.log_prob(x[1:3]), want[1:3], rtol=1e-6)
    labelled = Flow([layers.ActNorm()], event_shape=(2,), num_classes=3).distribution([0, 1, 2])
    assert labelled[1:].batch_shape == (2,)
    square = tfd.BatchReshape(whole, [2, 2])
    np.testing.assert_allclose(square.log_prob(x.reshape(2, 2, 2)), want.reshape(2, 2), rtol=1e-6)
    mixture = tfd.MixtureSameFamily(tfd.Categorical(logits=np.zeros(4, "float32")), whole)
    each = np.asarray(whole.log_prob(x[:, None]))
    np.testing.assert_allclose(mixture.log_prob(x), np.log(np.exp(each).mean(1)), rtol=1e-5)
    assert mixture.sample(5, seed=0).shape == (5, 2)


def test_a_bijector_has_the_batch_shape_of_its_condition() -> None:
    flow, x = conditional(), points(4)
    bijector = flow.bijector(CONDITIONS)
    assert bijector.experimental_batch_shape() == (4,)
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
    transformed = tfd.TransformedDistribution(base, bijector)
    assert transformed.batch_shape == (4,) and transformed.sample(3, seed=0).shape == (3, 4, 2)
    np.testing.assert_allclose(transformed.log_prob(x), flow.log_prob(x, CONDITIONS), rtol=1e-6)
    assert Flow([layers.ActNorm()], event_shape=(2,)).bijector().experimental_batch_shape() == ()


def test_views_and_what_is_built_of_them_have_the_variables_of_the_flow() -> None:
    flow = conditional()
    distribution, bijector = flow.distribution(CONDITIONS), flow.bijector(CONDITIONS)
    assert len(distribution.variables) == len(flow.variables)
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
    joint = tfd.JointDistributionSequential([distribution, tfd.Normal(0.0, 1.0)])
    for view in (
        distribution,
        joint,
        tfb.Chain([tfb.Exp(), bijector]),
        tfd.TransformedDistribution(base, bijector),
    ):
        values = {value.ref() for value in view.trainable_variables}
        assert values == {weight.value.ref() for weight in flow.trainable_variables}


def test_a_posterior_is_learned_through_its_trainable_variables() -> None:
    keras.utils.set_random_seed(0)
    flow = IAF(event_shape=(2,), num_layers=1, hidden_units=(4,), preprocessing="none")
    posterior = flow.distribution()
    losses = tfp.vi.fit_surrogate_posterior(
        tfd.MultivariateNormalDiag([3.0, -2.0], [0.5, 2.0]).log_prob,
        posterior,
        optimizer=keras.optimizers.Adam(0.1),
        num_steps=30,
        sample_size=16,
        trainable_variables=posterior.trainable_variables,
        seed=1,
    )
    assert losses[-1] < 0.2 * losses[0]


def test_each_run_of_a_graph_of_the_users_draws_anew(caplog: pytest.LogCaptureFixture) -> None:
    flow = Flow([layers.ActNorm()], event_shape=(2,))
    distribution = flow.distribution()
    draws = (
        lambda: flow.sample(2),
        lambda: distribution.sample(2),
        lambda: distribution.experimental_sample_and_log_prob(2)[0],
    )
    tf.get_logger().addHandler(caplog.handler)
    try:
        for draw in draws:
            graph = tf.function(draw)
            assert not np.array_equal(graph(), graph())
    finally:
        tf.get_logger().removeHandler(caplog.handler)
    assert "AutoGraph" not in caplog.text


def test_samplers_stay_where_data_lie() -> None:
    """A sampler walks in R^n, from which the default bijector of a distribution leads to its support."""
    positive = Flow([layers.Positive()], event_shape=(2,)).distribution()
    bijector = positive.experimental_default_event_space_bijector()
    assert np.all(np.asarray(bijector.forward(points(50))) > 0)
    plain = Flow([layers.ActNorm()], event_shape=(2,)).distribution()
    assert isinstance(plain.experimental_default_event_space_bijector(), tfb.Identity)
    whole = Flow([layers.Dequantize(4)], event_shape=(2,)).distribution()
    assert whole.experimental_default_event_space_bijector() is None


def test_a_tensor_of_unknown_rank_is_refused() -> None:
    distribution = conditional().distribution(CONDITIONS[0])
    graph = tf.function(distribution.log_prob, input_signature=[tf.TensorSpec(None)])
    with pytest.raises(ValueError, match="known rank"):
        graph.get_concrete_function()

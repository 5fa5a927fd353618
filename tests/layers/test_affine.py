"""The affine transform is TFP's: the same values, and a bijector like any other."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from flowzoo.bijectors import elementwise
from flowzoo.layers import ActNorm

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3))


@pytest.mark.parametrize("shape", [(3,), (4, 3)], ids=["shared", "of_the_example"])
@pytest.mark.parametrize("way", ["forward", "inverse"])
def test_it_is_what_a_chain_of_tfps_computes(way: str, shape: tuple[int, ...]) -> None:
    shift, log_scale = (tf.constant(RNG.normal(size=shape)) for _ in range(2))
    ours = elementwise.affine(shift, log_scale)
    theirs = tfp.bijectors.Shift(shift)(tfp.bijectors.Scale(log_scale=log_scale))
    apply = getattr(elementwise, way)
    for got, want in zip(apply(ours, X), apply(theirs, tf.constant(X)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-14, atol=1e-14)
        assert got.dtype == tf.float64 and got.shape == want.shape


def test_it_is_a_bijector_of_tfps() -> None:
    affine = elementwise.affine(tf.constant([1.0, 2.0, 3.0]), tf.constant([0.1, -0.2, 0.3]))
    x = tf.constant(X, tf.float32)
    np.testing.assert_allclose(affine.inverse(tf.identity(affine.forward(x))), x, atol=1e-6)
    np.testing.assert_allclose(affine.forward_log_det_jacobian(x, event_ndims=1), 4 * [0.2], rtol=1e-5)
    np.testing.assert_allclose(affine.inverse_log_det_jacobian(x, event_ndims=1), 4 * [-0.2], rtol=1e-5)
    base = tfp.distributions.MultivariateNormalDiag(tf.zeros(3), tf.ones(3))
    assert tfp.distributions.TransformedDistribution(base, affine).log_prob(x).shape == (4,)
    assert affine.copy(shift=tf.zeros(3)).shift[0] == 0


def test_autograph_leaves_layers_and_flows_alone() -> None:
    """Its converting takes several times as long as tracing; the status shows whether it would."""
    seen = []

    class Watching(ActNorm):
        def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
            seen.append(tf.__internal__.autograph.control_status_ctx().status.name)
            return super()._inverse(x, condition)

    layer = Watching()
    layer.build_for((3,), None)
    x = tf.constant(X, tf.float32)

    @tf.function
    def users(x: tf.Tensor) -> tf.Tensor:
        seen.append(tf.__internal__.autograph.control_status_ctx().status.name)
        return layer.flow_inverse(x)[0]

    np.testing.assert_array_equal(users(x), layer.flow_inverse(x)[0])
    assert seen[:2] == ["ENABLED", "DISABLED"]

"""Splines where floats are hard on them, against TFP; angles; the fixed point of autoregressive layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from flowzoo.bijectors import splines
from flowzoo.layers import (
    CircularCoupling,
    MaskedAffineAutoregressive,
    MaskedCircularAutoregressive,
    MaskedSplineAutoregressive,
)
from flowzoo.layers.fixed_point import solve_triangular
from flowzoo.networks import MADE, MLP
from tests.harness import dtype_policy, integral, randomise

K, BOUND = 8, 3.0


def raw(scale: float, rows: int = 64, size: int = 3 * K - 1, dtype: str = "float32") -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).normal(size=(rows, size)) * scale, dtype)


def knots(params: tf.Tensor, inverse: bool, length: float = 2 * BOUND) -> np.ndarray:
    """Every knot of every spline, the ends included, [rows, K + 1]."""
    sizes = splines.bins(params[:, K : 2 * K] if inverse else params[:, :K], length)
    inner = -length / 2 + np.cumsum(sizes, -1, dtype="float32")[:, :-1]
    ends = np.full((len(inner), 1), length / 2, "float32")
    return np.concatenate([-ends, inner, ends], -1)


def hard_values(params: tf.Tensor, inverse: bool) -> np.ndarray:
    """Far away, at the ends, at the knots and one float to both sides of each."""
    at = knots(params, inverse)
    beside = [np.nextafter(at, np.float32(side)) for side in (-np.inf, np.inf)]
    far = np.broadcast_to(np.float32([-1e30, -1e4, -3.5, 3.5, 1e4, 1e30]), (len(at), 6))
    return np.concatenate([at, *beside, far], -1)


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 1000.0])
def test_values_and_gradients_are_finite(scale: float, inverse: bool, circular: bool) -> None:
    """Also where softmax leaves one bin nearly everything (scales 10 and 1000)."""
    size = splines.circular_size(K) if circular else splines.linear_tails_size(K)
    params = raw(scale, size=size)
    values = tf.constant(hard_values(params, inverse))
    spread = tf.repeat(params[:, None], values.shape[1], axis=1)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([values, spread])
        if circular:
            moved, log_slope = splines.circular(tf.clip_by_value(values, -1e4, 1e4), spread, inverse)
        else:
            moved, log_slope = splines.linear_tails(values, spread, BOUND, inverse)
    results = [moved, log_slope]
    results += [tape.gradient(result, [values, spread]) for result in (moved, log_slope)]
    for result in tf.nest.flatten(results):
        assert np.all(np.isfinite(result))
    slope = np.asarray(tape.gradient(moved, values))
    if not circular:
        outside = np.abs(values) > BOUND
        assert np.array_equal(np.asarray(moved)[outside], np.asarray(values)[outside])
        assert np.all(slope[outside] == 1) and np.all(np.asarray(log_slope)[outside] == 0)


def test_zero_parameters_are_the_identity() -> None:
    x = tf.constant(np.linspace(-5, 5, 401), tf.float32)
    for inverse in (False, True):
        for moved, log_slope in (
            splines.linear_tails(x, tf.zeros([401, 3 * K - 1]), BOUND, inverse),
            splines.circular(x, tf.zeros([401, 3 * K]), inverse),
        ):
            np.testing.assert_allclose(moved, x, atol=2e-6)
            np.testing.assert_allclose(log_slope, 0, atol=1e-5)


@pytest.mark.parametrize("inverse", [False, True])
def test_the_spline_is_that_of_tfp(inverse: bool) -> None:
    params = raw(1.0, 500, dtype="float64")
    x = tf.constant(np.random.default_rng(1).uniform(-4, 4, 500))
    sizes = [splines.bins(part, 2 * BOUND) for part in (params[:, :K], params[:, K : 2 * K])]
    theirs = tfp.bijectors.RationalQuadraticSpline(*sizes, splines.slopes(params[:, 2 * K :]), -BOUND)
    moved, log_slope = splines.linear_tails(x, params, BOUND, inverse)
    want = theirs.inverse(x) if inverse else theirs.forward(x)
    log_det = theirs.inverse_log_det_jacobian if inverse else theirs.forward_log_det_jacobian
    np.testing.assert_allclose(moved, want, atol=1e-9)
    np.testing.assert_allclose(log_slope, log_det(x, 0), atol=1e-7)


def test_bins_and_slopes_keep_their_least_size() -> None:
    params = raw(1000.0)
    sizes = np.asarray(splines.bins(params[:, :K], 1.0))
    assert sizes.min() >= 0.999e-3 and np.allclose(sizes.sum(-1), 1)
    assert np.asarray(splines.slopes(params)).min() >= 1e-3


def test_there_and_back_in_float32() -> None:
    """Splines like those that are learned; a bad bin would show as an error of the size of the bin."""
    params = raw(1.0, 2000)
    x = tf.constant(np.random.default_rng(2).uniform(-3.2, 3.2, 2000), tf.float32)
    for transform in (
        lambda x, inverse: splines.linear_tails(x, params, BOUND, inverse),
        lambda x, inverse: splines.circular(x, tf.pad(params, [[0, 0], [0, 1]]), inverse),
    ):
        moved, log_slope = transform(x, False)
        back, log_back = transform(moved, True)
        error = np.abs(back - x)  # of a rounding, over the slope
        assert np.all(error < 1e-5 * (1 + np.exp(-np.asarray(log_slope)))) and np.quantile(error, 0.99) < 1e-5
        assert np.quantile(np.abs(log_slope + log_back), 0.99) < 1e-3


def test_circular_splines_have_no_seam() -> None:
    params = raw(1.0, 50, 3 * K, "float64")
    low, high = (
        splines.circular(tf.fill([50], tf.constant(v, tf.float64)), params)
        for v in (np.float64(-np.pi), np.pi - 1e-12)
    )
    np.testing.assert_allclose(low[0], -np.pi, atol=1e-12)
    np.testing.assert_allclose(high[0], np.pi, atol=1e-9)
    np.testing.assert_allclose(high[1], low[1], atol=1e-9)
    assert np.std(low[1]) > 0.1  # the slope at the seam is learned
    x = tf.constant(np.random.default_rng(3).uniform(-np.pi, np.pi, 50))
    once, turned = splines.circular(x, params), splines.circular(x + 6 * np.pi, params)
    np.testing.assert_allclose(turned[0], once[0] + 6 * np.pi, atol=1e-9)
    np.testing.assert_allclose(turned[1], once[1], atol=1e-9)


@pytest.mark.parametrize("coupling", [True, False])
def test_circular_layers_are_densities_on_the_torus(coupling: bool) -> None:
    """With uniform latents the density integrates to one over the torus, and has no seam."""
    with dtype_policy("float64"):
        if coupling:
            layer: Any = CircularCoupling(MLP((8,), activation="tanh"), num_bins=4)
        else:
            layer = MaskedCircularAutoregressive(MADE((8,), activation="tanh"), num_bins=4)
        layer.build_for((2,))
        randomise(layer, 1)
        uniform = -2 * np.log(2 * np.pi)
        total = integral(lambda p: uniform + layer.flow_inverse(p)[1], [-np.pi] * 2, [np.pi] * 2, 801)
        assert abs(total - 1) < 1e-3
        around = np.random.default_rng(0).uniform(-np.pi, np.pi, (20, 2))
        for axis in (0, 1):
            here, there = around.copy(), around.copy()
            here[:, axis], there[:, axis] = -np.pi, np.pi - 1e-12
            np.testing.assert_allclose(layer.flow_inverse(here)[1], layer.flow_inverse(there)[1], atol=1e-8)
        z, _ = layer.flow_inverse(around)
        assert np.all(z >= -np.pi) and np.all(z < np.pi)


def autoregressive(kind: str, tolerance: float = 0.0) -> MaskedAffineAutoregressive:
    cls = MaskedAffineAutoregressive if kind == "affine" else MaskedSplineAutoregressive
    layer = cls(MADE((16, 16), activation="tanh"), tolerance=tolerance)
    layer.build_for((12,), (2,))
    randomise(layer, 0, 0.2)
    return layer


def sequential(layer: MaskedAffineAutoregressive, z: tf.Tensor, condition: tf.Tensor) -> tuple:
    """The D passes, one entry each, through which automatic differentiation can go."""
    x = tf.zeros_like(z)
    for _ in range(z.shape[1]):
        x, log_det = layer._transform(z, layer.conditioner(x, condition), inverse=False)
    return x, tf.reduce_sum(log_det, axis=1)


def counted(layer: MaskedAffineAutoregressive) -> list:
    """Return a list that grows by one with each pass of the layer's network, in eager mode."""
    passes, transform = [], layer._transform

    def count(*args: object, **kwargs: object) -> tuple:
        passes.append(None)
        return transform(*args, **kwargs)

    layer._transform = count
    return passes


@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_iteration_equals_d_passes(kind: str) -> None:
    """Bit for bit with a tolerance of 0, within it and in fewer passes otherwise; under XLA to rounding."""
    layer, rng = autoregressive(kind), np.random.default_rng(0)
    z, c = (tf.constant(rng.normal(size=(50, size)), tf.float32) for size in (12, 2))
    want = sequential(layer, z, c)
    most = counted(layer)
    for got, value in zip(layer.flow_forward(z, c), want, strict=True):
        assert np.array_equal(got, value)
    for tolerance in (1e-4, 1e-1):
        loose = autoregressive(kind, tolerance)
        loose.set_weights(layer.get_weights())
        passes = counted(loose)
        got = loose.flow_forward(z, c)[0]
        assert np.max(np.abs(got - want[0]) / (1 + np.abs(want[0]))) <= tolerance
        assert 1 < len(passes) < len(most) <= 12
    compiled = tf.function(lambda z: layer.flow_forward(z, c), jit_compile=True)(z)
    np.testing.assert_allclose(compiled[0], want[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "mode"), [("affine", "eager"), ("affine", "XLA"), ("spline", "eager"), ("spline", "graph")]
)
def test_gradients_of_samples_are_exact(kind: str, mode: str) -> None:
    """Of the value and of the log-determinant, by latent, condition and weights, against the D passes."""
    with dtype_policy("float64"):
        layer, rng = autoregressive(kind), np.random.default_rng(1)
        z, c = (tf.constant(rng.normal(size=(4, size))) for size in (12, 2))
        v = tf.constant(rng.normal(size=(4, 12)))
        weights = [weight.value for weight in layer.trainable_weights]

        def gradients(solve: object) -> list:
            with tf.GradientTape() as tape:
                tape.watch([z, c])
                x, log_det = solve(z, c)
                loss = tf.reduce_sum(v * x) + tf.reduce_sum(log_det**2)
            return tape.gradient(loss, [z, c, *weights])

        run = {"eager": lambda f: f, "graph": tf.function, "XLA": lambda f: tf.function(f, jit_compile=True)}
        got = run[mode](lambda: gradients(layer.flow_forward))()
        want = gradients(lambda z, c: sequential(layer, z, c))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7)


def test_gradients_where_the_iteration_starts_at_its_end() -> None:
    """The start solves the equation: the values need no pass, the gradients still need all of them."""
    weight = tf.constant(np.tril(np.ones((5, 5)), -1))

    def solve(z: tf.Tensor) -> tf.Tensor:
        return solve_triangular(lambda x: (z + x @ tf.transpose(weight), z[:, 0]), z, 5, 0.0)[0]

    with tf.GradientTape(persistent=True) as tape:
        z = tf.zeros([1, 5], tf.float64)
        tape.watch(z)
        x = solve(z)
    assert np.array_equal(x, np.zeros((1, 5)))
    np.testing.assert_allclose(
        tape.jacobian(x, z, experimental_use_pfor=False)[0, :, 0], np.linalg.inv(np.eye(5) - weight)
    )


def test_second_derivatives_are_refused() -> None:
    """They would be wrong in silence; first ones are given under two tapes."""
    layer = autoregressive("affine")
    c = tf.zeros([2, 2])

    def gradient(z: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = tf.reduce_sum(layer.flow_forward(z, c)[0] ** 2)
        return tape.gradient(loss, z)

    with tf.GradientTape() as tape:
        z = tf.ones([2, 12])
        tape.watch(z)
        first = tf.reduce_sum(gradient(z) ** 2)
    assert np.all(np.isfinite(first))
    with pytest.raises(LookupError, match="first order"):
        tape.gradient(first, z)


def test_wild_iterates_do_no_harm() -> None:
    """Entries that are not yet right overflow on the way; those that are right stay so."""
    growth = tf.constant(np.diag(np.full(29, 1e6), -1), tf.float32)
    start = tf.concat([tf.ones([1, 1]), tf.zeros([1, 29])], 1)

    def apply(x: tf.Tensor) -> tuple:
        pushed = tf.exp(tf.minimum(tf.abs(x @ tf.transpose(growth)), 80.0)) - 1
        return start + pushed * tf.cast(tf.range(30) > 25, tf.float32), tf.zeros([1])

    x, _ = solve_triangular(apply, start, 30, 0.0)
    assert np.all(np.isfinite(x)) and np.array_equal(x[0, :26], start[0, :26])


def test_bad_arguments_are_refused() -> None:
    for options in (
        {"num_bins": 1},
        {"num_bins": 257},
        {"num_bins": 2.0},
        {"tail_bound": 0.0},
        {"tolerance": -1},
    ):
        with pytest.raises(ValueError, match="Received"):
            MaskedSplineAutoregressive(**options)
    with pytest.raises(ValueError, match="checkerboard"):
        CircularCoupling(mask="checkerboard")

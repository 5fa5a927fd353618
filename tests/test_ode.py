"""Solvers, the adjoint method, divergences and the continuous flow against what is known exactly."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowzoo.layers import ContinuousFlow
from flowzoo.models import families
from flowzoo.networks import ConcatSquash, ConvConcatSquash, TimeMLP
from flowzoo.ode import METHODS, AdaptiveSolver, FixedSolver, make_solver
from flowzoo.ode.divergence import exact_divergence, example_noise, hutchinson_divergence
from flowzoo.ode.scope import solving
from tests.harness import dtype_policy, integral, randomise

RNG = np.random.default_rng(0)


def rotation(time: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor]:
    """Turns by sin(1) from time 0 to 1: dy/dt = cos(t) (-y_2, y_1)."""
    speed = tf.cos(time) if time.shape.rank == 0 else tf.cos(time)[:, None]
    return (speed * tf.stack([-y[:, 1], y[:, 0]], axis=-1),)


def turned(y: np.ndarray, angle: float) -> np.ndarray:
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return y @ matrix.T


START = RNG.normal(size=(5, 2))


# -- solvers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_convergence(method: str) -> None:
    """The slope of log error against log step is the method's order; the round trip's is one more."""
    steps = np.array([8, 16, 32, 64])
    errors, returns = [], []
    for count in steps:
        solver = FixedSolver(method, int(count))
        there = solver.solve(rotation, (tf.constant(START),), 0.0, 1.0)
        errors.append(np.abs(there.state[0] - turned(START, np.sin(1))).max())
        back = solver.solve(rotation, there.state, 1.0, 0.0)
        returns.append(np.abs(back.state[0] - START).max())
        assert int(there.nfe) == count * len(METHODS[method].nodes)
    order = METHODS[method].order
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(order, abs=0.15)
    slope = -np.polyfit(np.log(steps), np.log(returns), 1)[0]
    assert slope > (1 if order == 1 else order + 1) - 0.15


def test_the_adaptive_solver_keeps_its_tolerance() -> None:
    errors, counts = [], []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9, 1e-11):
        solver = AdaptiveSolver(tolerance, tolerance)
        for begin, end in ((0.0, 1.0), (1.0, 0.0)):
            solution = solver.solve(rotation, (tf.constant(START),), begin, end)
            error = np.abs(solution.state[0] - turned(START, np.sin(end) - np.sin(begin))).max()
            assert error < 5 * tolerance and np.all(solution.finished)
        errors.append(error)
        counts.append(int(np.max(solution.nfe)))
    assert np.all(np.diff(errors) < 0) and np.all(np.diff(counts) > 0)
    # Order 5: a hundredth of the tolerance costs 100^(1/5) = 2.5 times the steps.
    assert 1.8 < counts[-1] / counts[-2] < 3.2


def test_steps_belong_to_the_example() -> None:
    """An example takes the steps it needs, whatever its company, and only bad ones fail."""
    solver = AdaptiveSolver(1e-8, 1e-8, max_steps=200)
    decay = lambda time, y, rate: (-rate * y, tf.zeros_like(rate))  # noqa: E731
    y, rate = tf.ones([3, 1], tf.float64), tf.constant([[1.0], [20.0], [1e6]], tf.float64)
    together = solver.solve(decay, (y, rate), 0.0, 1.0)
    alone = solver.solve(decay, (y[:1], rate[:1]), 0.0, 1.0)
    assert np.array_equal(together.state[0][:1], alone.state[0])
    assert int(together.nfe[0]) == int(alone.nfe[0]) < int(together.nfe[1])
    assert list(np.asarray(together.finished)) == [True, True, False]  # a stiff one runs out of steps
    np.testing.assert_allclose(together.state[0][:2, 0], np.exp([-1.0, -20.0]), atol=1e-7)


def test_solvers_refuse_bad_arguments() -> None:
    for arguments, match in (
        ({"name": "rk5"}, "Did you mean 'rk4'"),
        ({"name": "rk4", "steps": 0}, "steps"),
        ({"name": "dopri5", "rtol": 0.0}, "rtol"),
        ({"name": "dopri5", "max_steps": 2.5}, "max_steps"),
    ):
        with pytest.raises(ValueError, match=match):
            make_solver(**arguments)
    for arguments, match in (
        ({"trace": "full"}, "trace"),
        ({"noise": "uniform"}, "noise"),
        ({"solver": "dopri5", "gradient": "backprop"}, "adjoint"),
        ({"end_time": -1.0}, "end_time"),
    ):
        with pytest.raises(ValueError, match=match):
            ContinuousFlow(**arguments)
    with pytest.raises(TypeError, match="velocity"):
        ContinuousFlow(velocity=keras.layers.Dense(2))


# -- divergence ---------------------------------------------------------------------------------------


def field(x: tf.Tensor, time: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
    matrix = tf.constant(np.random.default_rng(3).normal(size=(4, 4)))
    return tf.tanh(x @ matrix + condition) * (1 + time)


def test_exact_divergence_is_the_jacobians() -> None:
    x, c = tf.constant(RNG.normal(size=(6, 4))), tf.constant(RNG.normal(size=(6, 4)))
    time = tf.constant(0.3, tf.float64)
    found = exact_divergence(field, x, time, c)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = field(x, time, c)
    jacobian = np.asarray(tape.batch_jacobian(value, x))
    np.testing.assert_allclose(found.velocity, value, rtol=1e-12)
    np.testing.assert_allclose(found.trace, np.trace(jacobian, axis1=1, axis2=2), rtol=1e-10)
    np.testing.assert_allclose(found.frobenius, np.sum(jacobian**2, axis=(1, 2)), rtol=1e-10)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased(kind: str) -> None:
    """The mean over many seeds lies within four standard errors of the exact trace and norm."""
    x, c = tf.constant(RNG.normal(size=(3, 4))), tf.constant(RNG.normal(size=(3, 4)))
    time = tf.constant(0.3, tf.float64)
    exact = exact_divergence(field, x, time, c)

    @tf.function
    def estimate(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = hutchinson_divergence(field, x, time, c, example_noise(kind, x, seed, (4,), x.dtype))
        return found.trace, found.frobenius

    draws = np.array([estimate(tf.constant([seed, 7])) for seed in range(2000)])
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - np.stack(exact[1:])) < 4 * error)
    assert np.all(error[0] > 0)


def test_noise_belongs_to_the_example() -> None:
    x = tf.constant(RNG.normal(size=(4, 3)), tf.float32)
    for kind in ("rademacher", "gaussian"):
        noise = example_noise(kind, x, 1, (3,), x.dtype)
        assert np.array_equal(noise[2:3], example_noise(kind, x[2:3], 1, (3,), x.dtype))
        assert not np.array_equal(noise, example_noise(kind, x, 2, (3,), x.dtype))
        assert np.all(np.isfinite(noise))
    assert set(np.unique(example_noise("rademacher", x, 1, (3,), x.dtype))) == {-1.0, 1.0}


# -- the layer ----------------------------------------------------------------------------------------


def built(velocity: object, shape: tuple, condition: tuple | None, **options: object) -> ContinuousFlow:
    keras.utils.set_random_seed(2)
    layer = ContinuousFlow(velocity, **options)
    layer.build_for(shape, condition)
    randomise(layer)
    return layer


VELOCITIES = {
    "concat_squash": (lambda: ConcatSquash((6,)), (3,), (2,)),
    "mlp": (lambda: TimeMLP((6,)), (3,), (2,)),
    "image": (lambda: ConvConcatSquash((3,)), (2, 2, 1), (4, 4, 1)),
}


@pytest.mark.parametrize(
    ("name", "trace"),
    [
        ("concat_squash", "exact"),
        pytest.param("mlp", "hutchinson", marks=pytest.mark.slow),
        pytest.param("image", "hutchinson", marks=pytest.mark.slow),
    ],
)
def test_the_adjoint_equals_backpropagation(name: str, trace: str) -> None:
    """Gradients of value and log-determinant to x, condition and every weight, in float64."""
    make, shape, condition_shape = VELOCITIES[name]
    with dtype_policy("float64"):
        x = tf.constant(RNG.normal(size=(4, *shape)))
        c = tf.constant(RNG.normal(size=(4, *condition_shape)))
        results = []
        for options in (
            {"steps": 24, "gradient": "backprop"},
            {"steps": 24, "gradient": "adjoint"},
            {"solver": "dopri5", "rtol": 1e-9, "atol": 1e-9},
        ):
            layer = built(make(), shape, condition_shape, end_time=0.3, trace=trace, **options)
            weights = [weight.value for weight in layer.trainable_weights]

            def gradients(x: tf.Tensor, c: tf.Tensor, layer=layer, weights=weights) -> list:
                with tf.GradientTape() as tape:
                    tape.watch([x, c])
                    z, log_det = layer.flow_inverse(x, c)
                    loss = tf.reduce_sum(z**3) + tf.reduce_sum(tf.sin(3 * log_det))
                return tape.gradient(loss, [x, c, *weights])

            results.append(tf.function(gradients, autograph=False)(x, c))
    for other, tolerance in ((results[1], 1e-6), (results[2], 1e-5)):
        for a, b in zip(results[0], other, strict=True):
            assert np.any(np.asarray(a) != 0)
            assert np.max(np.abs(a - b)) <= tolerance * np.max(np.abs(a))


def test_a_linear_flow_is_known() -> None:
    """With f = A x: x = exp(A T) z, and the log-determinant is T tr A."""
    from scipy.linalg import expm

    with dtype_policy("float64"):
        layer = ContinuousFlow(TimeMLP((), waves=0), steps=40, end_time=0.7)
        layer.build_for((3,))
        matrix = RNG.normal(size=(3, 3))
        kernel, bias = layer.trainable_weights
        kernel.assign(np.concatenate([matrix.T, np.zeros((1, 3))]))
        z = RNG.normal(size=(4, 3))
        x, log_det = layer.flow_forward(z)
    np.testing.assert_allclose(x, z @ expm(0.7 * matrix).T, rtol=1e-6)
    np.testing.assert_allclose(log_det, np.full(4, 0.7 * np.trace(matrix)), rtol=1e-9)


def test_too_many_steps_fail_loudly() -> None:
    """NaN inside a graph, an error in eager calls, for those examples alone that did not arrive."""
    layer = built(ConcatSquash((8,)), (2,), None, solver="dopri5", max_steps=2)
    x = tf.constant([[0.1, 0.2], [3.0, -4.0]])
    with pytest.raises(FloatingPointError, match="max_steps"):
        layer.flow_inverse(x)
    z, log_det = tf.function(layer.flow_inverse)(x)
    assert np.all(np.isnan(z[1])) and np.isnan(log_det[1])
    flow = families()["ffjord"]((2,), hidden_units=(8,), solver="dopri5", max_steps=1, preprocessing="none")
    randomise(flow)
    with pytest.raises(FloatingPointError, match="max_steps"):
        flow.log_prob(np.asarray(x))


# -- the model ----------------------------------------------------------------------------------------


def small(shape: tuple, **options: object) -> keras.Model:
    keras.utils.set_random_seed(3)
    flow = families()["ffjord"](shape, **{**families()["ffjord"].small, **options})
    flow.adapt(RNG.normal(size=(64, *shape)).astype("float32"))
    randomise(flow, scale=0.2)
    return flow


def test_hutchinson_scores_repeat_and_average_to_the_exact_one() -> None:
    x = RNG.normal(size=(3, 3)).astype("float32")
    exact, estimate = small((3,), steps=3), small((3,), steps=3, trace="hutchinson", num_flows=1)
    estimate.set_weights(exact.get_weights())
    scores = np.array([estimate.log_prob(x, seed=seed) for seed in range(600)])
    assert np.array_equal(estimate.log_prob(x, seed=5), scores[5])
    np.testing.assert_allclose(estimate.log_prob(x[1:2], seed=5), scores[5, 1:2], rtol=1e-4)
    assert np.array_equal(estimate.log_prob(x), scores[0])
    assert len(np.unique(scores[:, 0])) > 2
    error = scores.std(axis=0) / np.sqrt(len(scores))
    assert np.all(np.abs(scores.mean(axis=0) - exact.log_prob(x)) < 4 * error + 1e-5)
    samples, density = estimate.sample_and_log_prob(4, seed=1)
    np.testing.assert_allclose(density, estimate.log_prob(samples), rtol=1e-4)


def test_evaluations_are_counted() -> None:
    x = RNG.normal(size=(4, 2)).astype("float32")
    assert list(np.asarray(small((2,), steps=5, num_flows=2).nfe(x))) == [40] * 4
    flow = small((2,), solver="dopri5")
    counts = np.asarray(flow.nfe(x))
    assert counts.shape == (4,) and np.all((counts - 2) % 6 == 0) and np.all(counts >= 8)
    tighter = small((2,), solver="dopri5", rtol=1e-6, atol=1e-6)
    assert np.sum(tighter.nfe(x)) > np.sum(counts)
    with solving(count=True) as orders:
        flow.chain.flow_inverse(x)
    # Eager operations and the compiled graph may round an error to the other side of its tolerance.
    assert np.max(np.abs(orders.nfe[0] - counts)) <= 12


def test_evaluations_of_samples_are_counted() -> None:
    assert list(np.asarray(small((2,), steps=5, num_flows=2).sampling_nfe(3, seed=0))) == [40] * 3
    flow = small((2,), solver="dopri5")
    counts = np.asarray(flow.sampling_nfe(8, seed=1))
    assert counts.shape == (8,) and np.all((counts - 2) % 6 == 0) and np.all(counts >= 8)
    assert np.array_equal(counts, flow.sampling_nfe(8, seed=1))
    tighter = small((2,), solver="dopri5", rtol=1e-6, atol=1e-6)
    assert np.sum(tighter.sampling_nfe(8, seed=1)) > np.sum(counts)
    assert flow.sampling_nfe(0).shape == (0,)
    with pytest.raises(TypeError):
        flow.sampling_nfe(2.5)


@pytest.mark.slow
def test_penalties_straighten_the_paths() -> None:
    """RNODE: with weights on the penalties the same steps end with less kinetic energy."""
    x = np.concatenate([RNG.normal(-2, 0.3, (128, 2)), RNG.normal(2, 0.3, (128, 2))]).astype("float32")
    energy = []
    for weight in (0.0, 1.0):
        keras.utils.set_random_seed(0)
        flow = families()["ffjord"]((2,), hidden_units=(16,), steps=4, kinetic=weight, jacobian=weight)
        flow.compile(keras.optimizers.Adam(1e-2))
        history = flow.fit(x, epochs=10, batch_size=64, verbose=0).history["loss"]
        assert history[-1] < history[0]
        values = flow._scored(tf.constant(x), None, tf.constant([0, 0]), penalties=True)[1]
        energy.append(float(np.mean(values.kinetic[0])))
        assert np.all(values.kinetic[0] > 0) and np.all(values.jacobian[0] > 0)
    assert energy[1] < 0.8 * energy[0]


@pytest.mark.parametrize(
    "options", [pytest.param({}, marks=pytest.mark.slow), {"solver": "dopri5"}], ids=["rk4", "dopri5"]
)
def test_the_density_integrates_to_one_after_training(options: dict) -> None:
    x = np.concatenate([RNG.normal(-2, 0.5, (400, 2)), RNG.normal(2, 0.8, (400, 2))]).astype("float32")
    keras.utils.set_random_seed(0)
    arguments = {**families()["ffjord"].small, "steps": 8, **options}
    flow = families()["ffjord"]((2,), **arguments)
    flow.compile(keras.optimizers.Adam(1e-2))
    history = flow.fit(x, epochs=6, batch_size=200, verbose=0).history["loss"]
    assert history[-1] < history[0] - 0.2
    total = integral(lambda p: flow.log_prob(p.astype("float32")), np.full(2, -9.0), np.full(2, 9.0), 181)
    assert abs(total - 1) < 1e-3

"""Flow matching: paths, couplings, guidance, solvers, rectified flow, averaged weights, the U-Net."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

import flowzoo
from flowzoo import random
from flowzoo.config import TrainingConfig
from flowzoo.data import Source
from flowzoo.models import FlowMatching, families
from flowzoo.models.couplings import allowed_pairs, couple, exact_coupling, sampled, sinkhorn_plan
from flowzoo.models.probability_paths import PATHS, make_path
from flowzoo.models.rectify import distill, make_pairs, reflow, straightness
from flowzoo.networks import Guided, TimeMLP, UNet
from flowzoo.ode.divergence import exact_divergence
from flowzoo.training.recipe import train_recipe
from tests.harness import dtype_policy
from tests.models.flows import KINDS, make, randomise_gently

RNG = np.random.default_rng


# -- paths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
def test_the_velocity_of_a_path_is_its_derivative(name: str) -> None:
    z, x = (tf.constant(RNG(i).normal(size=(50, 2))) for i in range(2))
    time = tf.constant(np.linspace(0, 1 - 1e-6, 50))
    path = make_path(name, 1e-2)
    with tf.autodiff.ForwardAccumulator(time, tf.ones_like(time)) as forward:
        place = path(z, x, time)
        moved = forward.jvp(place.point)
    np.testing.assert_allclose(place.velocity, moved, rtol=1e-7, atol=1e-9)
    left = 0.0 if name == "rectified" else 1e-2
    one = tf.ones([50], tf.float64)
    np.testing.assert_allclose(
        path(z, x, one).point - (1 if left == 0 else np.sqrt(1 - left**2) if name == "vp" else 1) * x,
        left * z,
        atol=1e-12,
    )
    np.testing.assert_allclose(path(z, x, 0 * one).point, z, atol=0.03 if name == "vp" else 1e-12)


def test_the_diffusion_path_is_that_of_the_paper_and_finite_at_its_end() -> None:
    """u_t(x | x1) = a' / (1 - a^2) (a x - x1) with a = a(1 - t), and no infinity in float32."""
    sigma = 0.01
    end = scipy.optimize.brentq(lambda s: 1 - np.exp(-0.1 * s - 9.95 * s * s) - sigma**2, 0, 1, xtol=1e-15)
    z, x = RNG(0).normal(size=(2, 9, 3))
    time = np.linspace(0, 1, 9)
    s = (1 - time * (1 - end))[:, None]
    alpha = np.exp(-(0.1 * s + 9.95 * s * s) / 2)
    slope = alpha * (0.1 + 19.9 * s) / 2 * (1 - end)
    point = alpha * x + np.sqrt(1 - alpha**2) * z
    place = make_path("vp", sigma)(*map(tf.constant, (z, x, time)))
    np.testing.assert_allclose(place.point, point, rtol=1e-8)
    np.testing.assert_allclose(place.velocity, slope / (1 - alpha**2) * (x - alpha * point), rtol=1e-6)
    late = tf.constant(1 - np.array([0, 2.0**-24, 1e-5, 1e-3]), tf.float32)
    z, x = tf.ones([4, 1]), tf.zeros([4, 1])
    assert np.abs(make_path("vp", 1e-3)(z, x, late).velocity).max() < 51
    with pytest.raises(ValueError, match="sigma_min takes"):
        make_path("vp", 0.0)


# -- couplings --------------------------------------------------------------------------------------


def test_the_exact_coupling_is_the_cheapest_of_all() -> None:
    cost = tf.constant(RNG(0).uniform(size=(6, 6)))
    everything = allowed_pairs(None, 6)
    best = min(cost.numpy()[np.arange(6), list(p)].sum() for p in itertools.permutations(range(6)))
    chosen = exact_coupling(cost, everything).numpy()
    assert sorted(chosen) == list(range(6))
    np.testing.assert_allclose(cost.numpy()[np.arange(6), chosen].sum(), best, rtol=1e-12)
    z, x = (tf.constant(RNG(i).normal(size=(64, 3)), tf.float32) for i in (1, 2))
    got = tf.reduce_sum(tf.square(couple("exact", z, x, None, x[:, 0], 0.05) - x))
    table = ((x.numpy()[:, None] - z.numpy()[None]) ** 2).sum(-1)
    want = table[scipy.optimize.linear_sum_assignment(table)].sum()
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_sinkhorn_has_the_marginals_and_tends_to_the_exact_plan() -> None:
    labels = tf.one_hot([0] * 10 + [1] * 22, 2)
    z, x = (RNG(i).normal(size=(32, 2)) for i in (1, 2))
    cost = tf.constant(((x[:, None] - z[None]) ** 2).sum(-1))
    allowed = allowed_pairs(labels, 32)
    plan = sinkhorn_plan(cost, allowed, 0.05).numpy()
    np.testing.assert_allclose(plan.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(plan.sum(0), 1, atol=0.01)
    assert np.all(plan[~allowed.numpy()] == 0)
    chosen = exact_coupling(cost, allowed).numpy()
    exact = cost.numpy()[np.arange(32), chosen].sum()
    sharp, blunt = ((sinkhorn_plan(cost, allowed, e).numpy() * cost.numpy()).sum() for e in (0.01, 1.0))
    np.testing.assert_allclose(sharp, exact, rtol=0.02)
    assert blunt > 1.2 * exact
    compiled = tf.function(sinkhorn_plan, jit_compile=True)(cost, allowed, 0.05)
    np.testing.assert_allclose(compiled, plan, atol=1e-9)
    ends = np.array([0.0, 1 - 2.0**-24])
    for uniform in ends:  # never a pair of weight zero
        picked = sampled(plan, tf.fill([32], uniform)).numpy()
        assert np.all(plan[np.arange(32), picked] > 0)
    uniform = random.uniform([3000, 32], 0, tf.float64)
    rows = [sampled(tf.repeat(plan[i : i + 1], 3000, 0), uniform[:, i]).numpy() for i in (0, 20)]
    for i, drawn in zip((0, 20), rows, strict=True):
        np.testing.assert_allclose(np.bincount(drawn, minlength=32) / 3000, plan[i], atol=0.04)


@pytest.mark.parametrize("kind", ["exact", "sinkhorn"])
def test_a_coupling_does_not_mix_conditions(kind: str) -> None:
    """What noise a class gets has the normal distribution: given the other's, it would be half of it."""
    labels = RNG(0).integers(0, 2, 512)
    x = tf.constant((4.0 * labels - 2)[:, None] + 0.3 * RNG(1).normal(size=(512, 1)), tf.float32)
    z = random.normal([512, 1], 3)
    one_hot, uniform = tf.one_hot(labels, 2), random.uniform([512], 4)
    kept = couple(kind, z, x, one_hot, uniform, 0.05).numpy()
    mixed = couple(kind, z, x, None, uniform, 0.05).numpy()
    for label in (0, 1):
        own = z.numpy()[labels == label]
        assert np.isin(kept[labels == label], own).all()
        if kind == "exact":
            assert np.array_equal(np.sort(kept[labels == label], 0), np.sort(own, 0))
        assert abs(kept[labels == label].mean()) < 0.2 and kept[labels == label].std() > 0.85
        assert abs(mixed[labels == label].mean()) > 0.6  # what the labels prevent
    moved, apart = np.abs(kept - x.numpy()).mean(), np.abs(z.numpy() - x.numpy()).mean()
    assert moved < apart


def test_a_coupling_with_classes_learns_the_conditional_distribution() -> None:
    labels = RNG(0).integers(0, 2, 2048)
    x = ((4.0 * labels - 2)[:, None] + 0.5 * RNG(1).normal(size=(2048, 1))).astype("float32")
    keras.utils.set_random_seed(0)
    flow = FlowMatching((1,), num_classes=2, coupling="exact", hidden_units=(32, 32), steps=8)
    flow.compile(keras.optimizers.Adam(1e-2))
    flow.fit(x, labels, epochs=12, batch_size=256, verbose=0)
    for label in (0, 1):
        samples = np.asarray(flow.sample(2000, label, seed=1))
        assert abs(samples.mean() - (4 * label - 2)) < 0.15
        assert 0.35 < samples.std() < 0.65
    nats = -np.mean(flow.log_prob(x, labels))
    assert nats < 0.5 * np.log(2 * np.pi * np.e * 0.25) + 0.1  # the entropy of each class


def test_a_coupling_that_would_ignore_the_condition_is_refused() -> None:
    for coupling in ("exact", "sinkhorn"):
        with pytest.raises(ValueError, match="different conditions"):
            FlowMatching((2,), condition_shape=(3,), coupling=coupling)
    flow = FlowMatching((2,), coupling="exact", hidden_units=(4,))
    with pytest.raises(ValueError, match="sinkhorn"):
        flow.compile("adam", jit_compile=True)
    assert not flow.prefers_xla["GPU"]


def test_sinkhorn_and_the_diffusion_path_under_xla() -> None:
    flow = FlowMatching((2,), coupling="sinkhorn", hidden_units=(8,), path="vp", preprocessing="none")
    randomise_gently(flow, 0, 0.3)
    x = tf.constant(KINDS["conditional"].data(64))

    def step(x: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            losses, _ = flow.training_losses(x, None, random.as_seed(1))
            loss = tf.reduce_mean(losses)
        return losses, tape.gradient(loss, [weight.value for weight in flow.trainable_weights])

    losses, gradients = step(x)
    compiled, others = tf.function(step, jit_compile=True)(x)
    np.testing.assert_allclose(compiled, losses, rtol=1e-3, atol=1e-4)
    for a, b in zip(gradients, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


# -- guidance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [{"num_classes": 3}, {"condition_shape": (2,)}, {"condition_shape": (2, 3, 1)}], ids=str
)
def test_guidance_is_the_formula(kind: dict) -> None:
    flow = FlowMatching((2,), **kind, condition_dropout=0.5, hidden_units=(8,), steps=4, preprocessing="none")
    randomise_gently(flow, 0, 0.5)
    c = np.array([0, 2, 1]) if "num_classes" in kind else RNG(0).normal(size=(3, *kind["condition_shape"]))
    inner = tf.one_hot(c, 3) if "num_classes" in kind else tf.constant(c, tf.float32)
    z, zero = random.normal([3, 2], random.as_seed(5)), tf.zeros([3])
    plain = flow.velocity.velocity(z, zero, inner)
    none = flow.velocity.dropped(z, zero, inner, zero)
    assert np.abs(plain - none).max() > 0.01
    for weight in (0.0, 2.0):
        got = flow.sample(3, c, seed=5, guidance=weight, solver="euler", steps=1)
        np.testing.assert_allclose(got, z + (1 + weight) * plain - weight * none, rtol=1e-4, atol=1e-5)
    other = (c + 1) % 3 if "num_classes" in kind else 2 * c + 1
    free = flow.sample(3, c, seed=5, guidance=-1.0)
    np.testing.assert_allclose(free, flow.sample(3, other, seed=5, guidance=-1.0), rtol=1e-5, atol=1e-6)
    if "num_classes" not in kind:  # a condition of zeros is a condition
        zeros = tf.zeros_like(inner)
        assert not np.allclose(flow.velocity.velocity(z, zero, zeros), none)


def test_log_prob_is_that_without_guidance() -> None:
    options = {
        "num_classes": 3,
        "condition_dropout": 0.2,
        "hidden_units": (8,),
        "solver": "euler",
        "steps": 4,
    }
    plain, guided = FlowMatching((2,), **options), FlowMatching((2,), **options, guidance=1.5)
    randomise_gently(plain, 0, 0.5)
    guided.set_weights(plain.get_weights())
    c = np.array([0, 1, 2, 0])
    x = np.asarray(guided.sample(4, c, seed=1))
    np.testing.assert_allclose(x, plain.sample(4, c, seed=1, guidance=1.5), rtol=1e-5, atol=1e-6)
    assert not np.allclose(x, plain.sample(4, c, seed=1))
    np.testing.assert_allclose(guided.log_prob(x, c), plain.log_prob(x, c), rtol=1e-6)
    samples, density = guided.sample_and_log_prob(4, c, seed=1)
    np.testing.assert_allclose(samples, x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(density, plain.log_prob(x, c), rtol=1e-5)
    drawn = guided.distribution(c).sample(seed=3)
    np.testing.assert_allclose(drawn, plain.distribution(c).sample(seed=3), rtol=1e-5, atol=1e-6)


def test_a_guided_unet_is_saved_whole(tmp_path: Path) -> None:
    flow = FlowMatching(
        (4, 4, 1),
        condition_shape=(4, 4, 1),
        condition_dropout=0.2,
        guidance=1.0,
        filters=(4, 4),
        num_values=4,
    )
    randomise_gently(flow, 0, 0.5)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    assert all(np.array_equal(a, b) for a, b in zip(flow.get_weights(), loaded.get_weights(), strict=True))
    assert loaded.get_config() == flow.get_config() and loaded.guidance == 1.0


def test_guidance_needs_what_it_needs() -> None:
    with pytest.raises(ValueError, match="condition_dropout above 0"):
        FlowMatching((2,), num_classes=2, guidance=1.0)
    with pytest.raises(ValueError, match="needs a condition"):
        FlowMatching((2,), condition_dropout=0.1)
    with pytest.raises(ValueError, match="condition_dropout takes"):
        FlowMatching((2,), num_classes=2, condition_dropout=1.0)
    with pytest.raises(ValueError, match="condition_dropout above 0"):
        make("flow_matching", "conditional").sample(2, [0.0, 1.0], guidance=1.0)
    with pytest.raises(ValueError, match="Guided"):
        TimeMLP().guided(1.0)
    with pytest.raises(TypeError, match="Velocity"):
        Guided(None)


# -- solvers ----------------------------------------------------------------------------------------


def test_the_solver_may_be_chosen_at_each_call() -> None:
    flow = make("flow_matching", "vector", scale=0.5)
    fine = np.asarray(flow.sample(16, seed=2, steps=64))
    errors = {}
    for solver, steps in (("euler", 4), ("midpoint", 4), ("heun", 4), ("rk4", 4), ("dopri5", None)):
        samples = np.asarray(flow.sample(16, seed=2, solver=solver, steps=steps))
        errors[solver] = np.abs(samples - fine).max()
        if solver == "heun":
            twin = FlowMatching.from_config({**flow.get_config(), "solver": solver, "steps": steps})
            twin.set_weights(flow.get_weights())
            np.testing.assert_allclose(twin.sample(16, seed=2), samples, rtol=1e-5, atol=1e-5)
    assert errors["euler"] > errors["heun"] > errors["rk4"] and errors["dopri5"] < 1e-3
    for wrong in ({"solver": "rk5"}, {"steps": 0}, {"solver": "dopri5", "steps": 4}, {"guidance": -2.0}):
        with pytest.raises(ValueError):
            flow.sample(2, **wrong)


# -- rectified flow and averaged weights --------------------------------------------------------------


def test_reflow_straightens_and_distillation_takes_one_step() -> None:
    """Measured: bend 0.42 to 0.001; error of one step to the teacher's samples 0.75, 0.03 and 0.007."""
    from sklearn.datasets import make_moons

    x = make_moons(4096, noise=0.07, random_state=0)[0].astype("float32")
    keras.utils.set_random_seed(0)
    teacher = FlowMatching((2,), path="rectified", hidden_units=(64, 64), steps=12)
    teacher.compile(keras.optimizers.Adam(3e-3))
    teacher.fit(x, epochs=12, batch_size=256, verbose=0)
    before = teacher.get_weights()
    pairs = make_pairs(teacher, 8192, seed=1)
    np.testing.assert_allclose(
        teacher.chain.chained[1].flow_forward(pairs.goal[:50])[0],
        teacher.from_latent(pairs.z[:50]),
        rtol=1e-4,
        atol=1e-4,
    )
    straight = reflow(teacher, pairs=pairs, epochs=8)
    fast = distill(straight, 8192, epochs=8, seed=2)
    assert all(np.array_equal(a, b) for a, b in zip(before, teacher.get_weights(), strict=True))
    want = np.asarray(teacher.sample(1000, seed=5))

    def one_step(model: FlowMatching) -> float:
        return float(np.sqrt(np.mean((model.sample(1000, seed=5, solver="euler", steps=1) - want) ** 2)))

    assert straightness(straight) < 0.05 * straightness(teacher)
    assert one_step(straight) < 0.25 * one_step(teacher)
    assert one_step(fast) < 0.15 * one_step(teacher)
    assert np.array_equal(fast.sample(9, seed=5), fast.sample(9, seed=5, solver="euler", steps=1))
    assert fast.one_step and not fast.has_density and straight.has_density and not straight.one_step
    assert not reflow(fast, pairs=pairs, epochs=1).one_step


ONE_STEP = {"solver": "euler", "steps": 1, "one_step": True}


def test_one_step_has_no_density() -> None:
    """An Euler step back is not the inverse of one: nothing may come out that looks like a density."""
    flow = FlowMatching((2,), hidden_units=(8,), **ONE_STEP)
    flow.compile("sgd")
    x = flow.sample(3, seed=1)
    asked: list[Any] = [
        lambda: flow.log_prob(x),
        lambda: flow(x),
        lambda: flow.predict(x, verbose=0),
        lambda: flow.evaluate(x, verbose=0),
        lambda: flow.to_latent(x),
        lambda: flow.nfe(x),
        lambda: flow.sample_and_log_prob(3),
        lambda: flow.golden_log_prob(x),
        flow.bijector,
        flow.distribution,
        lambda: straightness(flow),
        tf.function(lambda: flow.log_prob(x), autograph=False),
    ]
    for ask in asked:
        with pytest.raises(ValueError, match="distilled to one Euler step, which has no inverse"):
            ask()
    with pytest.raises(ValueError, match="no loss of data"):
        flow.fit(x, verbose=0)
    with pytest.raises(ValueError, match=r"at other times. Received: solver='euler', steps=4"):
        flow.sample(3, steps=4)
    with pytest.raises(ValueError, match="asks for solver='euler' and steps=1. Received: solver='rk4'"):
        FlowMatching((2,), one_step=True)
    with pytest.raises(TypeError, match="one_step takes True or False"):
        FlowMatching((2,), **{**ONE_STEP, "one_step": "yes"})
    z = np.ones([3, 2], "float32")
    step = z + flow.velocity.velocity(z, tf.zeros(3), None)
    np.testing.assert_allclose(flow.from_latent(z), flow.chain.chained[1].flow_forward(step)[0], rtol=1e-6)
    assert np.asarray(flow.sampling_nfe(3)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("num_classes", [None, 3])
def test_one_step_is_saved_and_served_without_a_density(num_classes: int | None, tmp_path: Path) -> None:
    flow = FlowMatching((2,), num_classes=num_classes, hidden_units=(8,), name="fast", **ONE_STEP)
    randomise_gently(flow, 0, 1.0)
    flow.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    condition = None if num_classes is None else np.arange(3)
    want = flow.sample(3, condition, seed=(0, 7))
    assert loaded.one_step and np.array_equal(want, loaded.sample(3, condition, seed=(0, 7)))
    found = flowzoo.export(flow, tmp_path / "served", warmup_batch_sizes=(1, 3))
    about = json.loads((found / "assets.extra" / "signatures.json").read_text())
    assert about["default"] == "sample" and sorted(about["signatures"]) == ["from_latent", "sample"]
    module = tf.saved_model.load(str(found))  # its variables go with it
    served = module.signatures
    assert sorted(served) == ["from_latent", "sample", "serving_default"]
    given = {} if condition is None else {"condition": tf.constant(condition, tf.int32)}
    asked = {"num_samples": tf.constant(3), "seed": tf.constant([0, 7]), "temperature": tf.constant(1.0)}
    for name in ("sample", "serving_default"):
        np.testing.assert_allclose(served[name](**asked, **given)["x"], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["flow_matching", "ffjord"])
def test_another_solver_has_the_same_weights(family: str) -> None:
    flow = make(family, "vector")
    few = flow.with_solver("midpoint", 3)
    x = flow.sample(5, seed=1)
    assert few.arguments["solver"] == "midpoint" and few.arguments["steps"] == 3 and few is not flow
    np.testing.assert_allclose(few.log_prob(x), flow.log_prob(x), atol=0.5)
    assert not np.array_equal(few.log_prob(x), flow.log_prob(x))
    same = flow.with_solver()
    assert np.array_equal(same.log_prob(x), flow.log_prob(x))
    same.set_weights([0 * weight for weight in same.get_weights()])
    assert not np.array_equal(same.log_prob(x), flow.log_prob(x))  # copies
    with pytest.raises(ValueError, match="solver"):
        flow.with_solver("rk5")
    with pytest.raises(ValueError, match="'dopri5' chooses its own. Received: steps=4"):
        flow.with_solver("dopri5").with_solver(steps=4)  # they had no effect


@pytest.mark.parametrize("learn", [make_pairs, reflow, distill])
def test_a_teacher_is_a_trained_flow_matching(learn: Any) -> None:
    with pytest.raises(ValueError, match=r"takes a trained FlowMatching as the teacher. Received: a MAF"):
        learn(families()["maf"]((2,), **families()["maf"].small), 8)
    with pytest.raises(ValueError, match="is not trained"):
        learn(FlowMatching((2,), hidden_units=(8,)), 8)


def test_samples_of_another_solver_come_with_the_models_log_prob() -> None:
    flow = make("flow_matching", "vector")
    x, density = flow.sample_and_log_prob(4, seed=1, solver="euler", steps=2)
    np.testing.assert_array_equal(x, flow.sample(4, seed=1, solver="euler", steps=2))
    np.testing.assert_allclose(density, flow.log_prob(x), rtol=1e-6)


def test_averaged_weights_are_what_training_leaves() -> None:
    x = KINDS["vector"].data(128)
    seen: list = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            seen.append([np.array(w) for w in self.model.trainable_weights])

    keras.utils.set_random_seed(0)
    flow = FlowMatching((3,), hidden_units=(8,))
    flow.compile(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9))
    flow.fit(x, epochs=3, batch_size=32, verbose=0, callbacks=[Watch()])
    for i, weight in enumerate(flow.trainable_weights):
        average = seen[0][i]  # Keras's average starts at the first step
        for step in seen[1:]:
            average = 0.9 * average + 0.1 * step[i]
        np.testing.assert_allclose(weight, average, rtol=1e-4, atol=1e-5)
        assert not np.allclose(weight, seen[-1][i], atol=1e-4)


def test_a_recipe_with_ema_keeps_the_average() -> None:
    x = KINDS["vector"].data(64)
    recipe = TrainingConfig(epochs=2, batch_size=32, ema=0.9, keep="last")
    trained = train_recipe(
        lambda: FlowMatching((3,), hidden_units=(8,), solver="euler"),
        recipe,
        Source(x=x),
        Source(x=x),
        verbose=0,
    )
    assert {"loss", "val_loss"} <= set(trained.history) and "bits_per_dim" not in trained.history
    averages = trained.model.optimizer._model_variables_moving_average
    for weight, average in zip(trained.model.trainable_weights, averages, strict=True):
        np.testing.assert_array_equal(weight, average)


# -- the U-Net --------------------------------------------------------------------------------------


def test_the_divergence_of_a_unet_is_that_of_its_jacobian() -> None:
    with dtype_policy("float64"):
        network = UNet((4, 4), 1)
        network.build_for((3, 2, 1), (3, 2, 1), 1, (2,), keras.config.dtype_policy())
    randomise_gently(network, 0, 0.5)
    x, c = tf.constant(RNG(0).normal(size=(2, 3, 2, 1))), tf.constant(RNG(1).normal(size=(2, 2)))
    time = tf.constant([0.2, 0.9], tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        value = tf.reshape(network.velocity(x, time, c), [2, 6])
    jacobian = tf.reshape(tape.batch_jacobian(value, x, experimental_use_pfor=False), [2, 6, 6])
    found = exact_divergence(network.velocity, x, time, c)
    np.testing.assert_allclose(found.trace, tf.linalg.trace(jacobian), rtol=1e-10)


@pytest.mark.parametrize(
    ("shape", "condition", "filters"),
    [((28, 28, 1), (10,), (4, 4, 4)), ((7, 5, 3), (3, 4, 2), (4, 4)), ((1, 1, 2), None, (8, 8))],
    ids=str,
)
def test_the_unet_takes_any_image_and_every_input_matters(
    shape: tuple, condition: tuple | None, filters: tuple
) -> None:
    network = UNet(filters, 1)
    network.build_for(shape, shape, 1, condition)
    x = tf.constant(RNG(0).normal(size=(2, *shape)), tf.float32)
    c = None if condition is None else tf.constant(RNG(1).normal(size=(2, *condition)), tf.float32)
    assert not np.any(network.velocity(x, 0.3, c))  # the last layer starts at zero
    rng = np.random.default_rng(3)
    for weight in network.trainable_weights:
        weight.assign(weight + 0.3 * rng.normal(size=weight.shape) / np.sqrt(weight.shape[0]))
    time = tf.constant([0.3, 0.7])
    with tf.GradientTape() as tape:
        tape.watch([x, time] if c is None else [x, time, c])
        value = network.velocity(x, time, c)
        total = tf.reduce_sum(tf.square(value))
    inputs = [x, time] if c is None else [x, time, c]
    for gradient in tape.gradient(total, [*inputs, *[w.value for w in network.trainable_weights]]):
        assert gradient is not None and np.isfinite(gradient).all()
    assert value.shape == x.shape and np.abs(value).min() >= 0 and np.std(value) > 0
    np.testing.assert_allclose(
        network.velocity(x[:1], time[:1], None if c is None else c[:1]), value[:1], rtol=1e-3, atol=1e-4
    )
    if shape[0] == 7:
        run = tf.function(lambda x: network.velocity(x, time, c), jit_compile=True)
        np.testing.assert_allclose(run(x), value, rtol=1e-3, atol=1e-3)
    batch = tf.function(
        lambda x, t: network.velocity(x, t, None if c is None else c[: tf.shape(x)[0]]),
        input_signature=[tf.TensorSpec([None, *shape]), tf.TensorSpec([None])],
    )
    assert batch(x[:0], time[:0]).shape == (0, *shape)


def test_images_train_with_a_unet_and_guidance() -> None:
    what = KINDS["labelled_image"]
    keras.utils.set_random_seed(0)
    flow = FlowMatching(
        what.event_shape, **what.arguments, condition_dropout=0.3, filters=(4,), blocks=1, attention=False
    )
    x, c = what.data(128), what.condition(128)
    z = flow.preprocessed(tf.cast(x, tf.float32), tf.one_hot(c, 3), random.as_seed(0))
    assert np.min(z) >= -1 and np.max(z) <= 1
    flow.compile(keras.optimizers.Adam(1e-2))
    losses = flow.fit(x, c, epochs=3, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    samples = flow.sample(3, 1, seed=0, guidance=2.0, solver="euler", steps=2)
    assert samples.dtype == "uint8" and samples.shape == (3, *what.event_shape)


def test_every_weight_counts_in_the_golden_values_of_images() -> None:
    """Golden values of images with "dopri5" take two steps: far fewer evaluations, and no weight left out."""
    arguments = {"filters": (4,), "blocks": 1, "solver": "dopri5", "attention": False}
    flow = FlowMatching(event_shape=(4, 4, 1), num_values=None, **arguments)
    randomise_gently(flow, 0, 0.3)
    x = RNG(0).normal(size=(3, 4, 4, 1)).astype("float32")
    golden = np.asarray(flow.golden_log_prob(x))
    np.testing.assert_allclose(golden, flow.log_prob(x), rtol=0.1)
    assert not np.array_equal(golden, flow.log_prob(x))
    for weight in flow.trainable_weights:
        kept = weight.numpy()
        weight.assign(kept + 0.05 * RNG(1).normal(size=kept.shape))
        assert not np.array_equal(golden, flow.golden_log_prob(x)), weight.path
        weight.assign(kept)
    fixed = FlowMatching(event_shape=(2,), steps=3)
    assert np.array_equal(fixed.golden_log_prob(x[0, :2, :2, 0]), fixed.log_prob(x[0, :2, :2, 0]))


def test_float64_from_the_policy() -> None:
    with dtype_policy("float64"):
        flow = FlowMatching((2,), num_classes=2, condition_dropout=0.1, hidden_units=(4,), steps=2)
        randomise_gently(flow, 0, 0.3)
        x = RNG(0).normal(size=(4, 2))
        loss = flow.example_loss(
            tf.constant(x), tf.one_hot([0, 1, 0, 1], 2, dtype="float64"), random.as_seed(0)
        )
    assert loss.dtype == tf.float64 and flow.log_prob(x, 0).dtype == tf.float64


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vector", {"network": "mlp"}),
        ("vector", {"network": "concat_squash"}),
        ("labelled_image", {"image_network": "conv"}),
        ("labelled_image", {"image_network": "unet", "condition_dropout": 0.3}),
    ],
)
def test_only_the_regression_computes_in_bfloat16(kind: str, options: dict) -> None:
    """Under a mixed policy hidden layers do so in the loss; solvers see every digit of float32."""
    what, flows = KINDS[kind], []
    for policy in ("float32", "mixed_bfloat16"):
        with dtype_policy(policy):
            arguments = {**FlowMatching.small, **what.arguments, **options}
            flow = FlowMatching(what.event_shape, **arguments)
        randomise_gently(flow, 0, 0.1)
        flows.append(flow)
    full, mixed = flows
    mixed.set_weights(full.get_weights())
    x, condition = what.data(16), what.condition(16)
    found, labels = [], None if condition is None else tf.one_hot(condition, full.num_classes)
    z = tf.constant(RNG(2).normal(size=(16, *full.latent_shape)), tf.float32)
    solved = [flow.velocity.velocity(z, 0.5, labels) for flow in flows]  # as a solver calls it
    np.testing.assert_array_equal(*solved)
    for flow in flows:
        with tf.GradientTape() as tape:
            losses = flow.example_loss(tf.constant(x), labels, tf.constant([3, 4]))
        gradients = tape.gradient(losses, flow.trainable_weights)
        assert {value.dtype for value in (losses, *gradients)} == {tf.float32}
        found.append((np.asarray(losses), np.concatenate([np.ravel(g) for g in gradients])))
    for one, other in zip(*found, strict=True):
        assert 1e-5 < np.linalg.norm(one - other) / np.linalg.norm(one) < 0.05  # the digits of bfloat16

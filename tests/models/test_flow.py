"""The contract of Flow, for every family and every kind of data."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowzoo
from flowzoo import Flow, layers
from flowzoo.models import families
from flowzoo.networks import MLP
from tests.harness import dtype_policy, integral, jacobian_log_det
from tests.models.flows import ALIKE, CASES, KINDS, OF_VECTORS, make, randomise_gently, shared, sparing

VECTORS = [case for case in CASES if case[1] == "conditional"]
IMAGES = [case for case in CASES if case not in VECTORS]
every = pytest.mark.parametrize(("family", "kind"), [*VECTORS, *sparing(IMAGES, OF_VECTORS)])
some = pytest.mark.parametrize(("family", "kind"), [*sparing(VECTORS), *sparing(IMAGES, OF_VECTORS)])


@every
def test_shapes_and_dtypes(family: str, kind: str) -> None:
    flow, data = shared(family, kind), KINDS[kind]
    x, c = data.data(5), data.condition(5)
    log_prob = flow.log_prob(x, c)
    assert log_prob.shape == (5,) and log_prob.dtype == tf.float32
    z = flow.to_latent(x, c)
    assert z.shape == (5, *flow.latent_shape)
    assert int(np.prod(flow.latent_shape)) == int(np.prod(flow.event_shape))
    back = flow.from_latent(z, c)
    assert back.shape == x.shape and back.dtype == flow.data_dtype
    if flow.discrete:
        assert np.array_equal(back, x)
    else:
        np.testing.assert_allclose(back, x, atol=2e-3)
    one = None if c is None else c[0]
    for n in (0, 1, 3):
        samples, density = flow.sample_and_log_prob(n, one, seed=1)
        assert samples.shape == (n, *flow.event_shape) and density.shape == (n,)
        assert samples.dtype == flow.data_dtype
        np.testing.assert_allclose(
            density, flow.log_prob(samples, None if c is None else np.repeat(c[:1], n, 0)), 2e-3
        )


@pytest.mark.parametrize("family", sparing(sorted(families()), OF_VECTORS))
def test_images_of_any_size(family: str) -> None:
    """Heights and widths that cannot be halved, and more channels than one."""
    flow, x = shared(family, "odd_image"), KINDS["odd_image"].data(3)
    assert np.array_equal(flow.from_latent(flow.to_latent(x)), x)
    assert np.isfinite(flow.log_prob(x)).all()


@some
def test_seeds_and_temperature(family: str, kind: str) -> None:
    flow, c = shared(family, kind), KINDS[kind].condition(1)
    draw = lambda **options: np.asarray(flow.sample(64, c, **options))  # noqa: E731
    assert np.array_equal(draw(seed=3), draw(seed=3))
    assert np.array_equal(draw(seed=3), draw(seed=np.array([3, 0])))
    assert not np.array_equal(draw(seed=3), draw(seed=4))
    assert not np.array_equal(draw(), draw())
    cold = np.asarray(
        flow.to_latent(draw(seed=1, temperature=0.1), None if c is None else np.repeat(c, 64, 0))
    )
    if not flow.discrete:
        assert cold.std() < 0.3


@every
def test_an_example_has_one_score(family: str, kind: str) -> None:
    """A score depends on the example, its condition and the seed: not on the batch or the place in it."""
    flow, data = shared(family, kind), KINDS[kind]
    x, c = data.data(6), data.condition(6)
    whole = np.asarray(flow.log_prob(x, c))
    assert np.array_equal(whole, flow.log_prob(x, c))
    backwards = np.asarray(flow.log_prob(x[::-1], None if c is None else c[::-1]))[::-1]
    np.testing.assert_allclose(backwards, whole, rtol=1e-4, atol=1e-3)
    alone = [float(flow.log_prob(x[i : i + 1], None if c is None else c[i : i + 1])[0]) for i in range(6)]
    np.testing.assert_allclose(alone, whole, rtol=1e-4, atol=1e-3)
    if flow.discrete:
        assert not np.array_equal(whole, flow.log_prob(x, c, seed=1))
        np.testing.assert_allclose(flow.bits_per_dim(x, c), -whole / (flow.event_size * np.log(2)), rtol=1e-6)
    else:
        with pytest.raises(ValueError, match="continuous"):
            flow.bits_per_dim(x, c)


@some
def test_the_condition_matters(family: str, kind: str) -> None:
    flow, data = make(family, kind, scale=0.5), KINDS[kind]
    x, c = data.data(4), data.condition(4)
    if c is None:
        with pytest.raises(ValueError, match="takes no condition"):
            flow.log_prob(x, np.zeros(4))
        return
    other = (c + 1) % 3 if flow.num_classes else c + 1
    assert not np.allclose(flow.log_prob(x, c), flow.log_prob(x, other))
    with pytest.raises(ValueError, match="needs condition"):
        flow.log_prob(x)
    with pytest.raises(ValueError, match="needs condition"):
        flow.sample(2)
    with pytest.raises(ValueError, match="condition"):
        flow.log_prob(x, c[:3])


# The gradient of a method is traced anew: log_prob's is examined in every flow by default, those of the other
# methods in a few. Whole numbers have no gradient, so that discrete flows have no case for `sample`.
METHODS = ("log_prob", "sample", "sample_and_log_prob", "to_latent", "from_latent")
DIFFERENTIATED = [(family, "conditional") for family in ("ffjord", "maf", "realnvp")]
DIFFERENTIATED += [("nice", "labelled_image")]


def _gradients() -> list[Any]:
    cases = []
    for family, kind in CASES:
        image = kind == "labelled_image"
        for method in METHODS:
            left = image and family in (*ALIKE, *OF_VECTORS)
            fast = (family, kind) in DIFFERENTIATED or method == "log_prob" and not left
            if method != "sample" or "num_values" not in KINDS[kind].arguments:
                cases.append(pytest.param(family, kind, method, marks=() if fast else pytest.mark.slow))
    return cases


@pytest.mark.parametrize(("family", "kind", "method"), _gradients())
def test_gradients_reach_inputs_and_weights(family: str, kind: str, method: str) -> None:
    """Of a discrete flow `before_rounding` stands for `from_latent`."""
    flow, data = shared(family, kind), KINDS[kind]
    c = data.condition(4) if flow.num_classes else tf.constant(data.condition(4))
    value = tf.cast(data.data(4), tf.float32)
    if method == "from_latent":
        value = tf.random.stateless_normal([4, *flow.latent_shape], [0, 1])
        method = "before_rounding" if flow.discrete else method
    given = [] if flow.num_classes else [c]
    with tf.GradientTape() as tape:
        if method.startswith("sample"):
            tape.watch(given)
            result = getattr(flow, method)(4, c, seed=1)
        else:
            given.append(value)
            tape.watch(given)
            result = getattr(flow, method)(value, c)
        # `sample` shows the gradients of samples: here they would cover for a density without any.
        result = result[1] if method == "sample_and_log_prob" else result
        loss = tf.reduce_sum(result**2)
    gradients = tape.gradient(loss, [*given, *(weight.value for weight in flow.trainable_weights)])
    # What a graph does not depend on has a gradient of zeros there, not None.
    live = [gradient is not None and np.any(gradient) for gradient in gradients]
    dead = [
        weight.path
        for weight, alive in zip(flow.trainable_weights, live[len(given) :], strict=True)
        if not alive
    ]
    if method == "sample_and_log_prob" and not flow.discrete:  # its density depends on the scales alone
        assert any(live[len(given) :])
    else:
        assert all(live[: len(given)]) and not dead
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients if gradient is not None)


@every
def test_saved_and_loaded_bit_for_bit(family: str, kind: str, tmp_path: Path) -> None:
    flow, data = shared(family, kind), KINDS[kind]
    x, c = data.data(5), data.condition(5)
    want = np.asarray(flow.log_prob(x, c))
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    assert type(loaded) is type(flow)
    assert np.array_equal(loaded.log_prob(x, c), want)
    assert loaded.adapted
    flow.save_weights(tmp_path / "flow.weights.h5")
    fresh = type(flow).from_config(flow.get_config())
    assert not np.array_equal(fresh.log_prob(x, c), want)
    fresh.load_weights(tmp_path / "flow.weights.h5")
    assert np.array_equal(fresh.log_prob(x, c), want)


@every
def test_as_a_tfp_distribution(family: str, kind: str) -> None:
    flow, data = shared(family, kind), KINDS[kind]
    x, c = data.data(6), data.condition(6)
    distribution = flow.distribution(c)
    assert isinstance(distribution, tfp.distributions.Distribution)
    assert distribution.event_shape == flow.event_shape
    assert distribution.batch_shape == (() if c is None else (6,))
    np.testing.assert_allclose(distribution.log_prob(x), flow.log_prob(x, c), rtol=1e-5, atol=1e-4)
    batch = [] if c is None else [6]
    samples = distribution.sample([2, 3], seed=7)
    assert samples.shape == (2, 3, *batch, *flow.event_shape)
    assert np.array_equal(samples, distribution.sample([2, 3], seed=7))
    drawn, density = distribution.experimental_sample_and_log_prob(4, seed=5)
    np.testing.assert_allclose(density, distribution.log_prob(drawn), rtol=2e-3, atol=1e-2)


@some
def test_in_a_graph_of_the_users(family: str, kind: str) -> None:
    flow, data = shared(family, kind), KINDS[kind]
    x, c = tf.constant(data.data(3)), data.condition(3)

    @tf.function
    def score(x: tf.Tensor) -> tf.Tensor:
        return flow.log_prob(x, c)

    np.testing.assert_allclose(score(x), flow.log_prob(x, c), rtol=1e-4, atol=1e-3)
    compiled = tf.function(lambda x: flow.log_prob(x, c), jit_compile=True)
    np.testing.assert_allclose(compiled(x), flow.log_prob(x, c), rtol=1e-3, atol=1e-2)


SPLINES = [("maf", {"transform": "spline"}), ("iaf", {"transform": "spline"}), ("nsf", {"coupling": False})]
COUPLED = ("glow", "nice", "nsf", "realnvp")
SLOW_SPLINES = [pytest.param(*case, marks=pytest.mark.slow) for case in SPLINES]


def mass(flow: Flow, num: int, cells: int) -> float:
    """Return the integral of a density far beyond so many samples of it."""
    samples = np.asarray(flow.sample(num, seed=0))
    low, high = samples.min(0), samples.max(0)
    margin = 1.5 * (high - low)
    return integral(lambda p: flow.log_prob(p.astype("float32")), low - margin, high + margin, cells)


def mass_after_training(flow: Flow, cells: int) -> float:
    """Train a flow on two heaps; return the integral of its density."""
    rng, shape = np.random.default_rng(0), (600, *flow.event_shape)
    x = np.concatenate([rng.normal(-2, 0.5, shape), rng.normal(2, 0.8, shape)]).astype("float32")
    flow.compile(keras.optimizers.Adam(5e-3))
    flow.fit(x, epochs=8, batch_size=200, verbose=0)
    return mass(flow, 50000, cells)


@pytest.mark.parametrize(
    ("family", "options"),
    [*sparing(((family, {}) for family in sorted(families())), ("tarflow",)), *SLOW_SPLINES],
)
def test_density_integrates_to_one_after_training(family: str, options: dict) -> None:
    flow = families()[family](event_shape=(2,), **{**families()[family].small, **options})
    assert abs(mass_after_training(flow, 601) - 1) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "options"),
    [*((family, {}) for family in sorted(families()) if family not in COUPLED), *SPLINES],
)
def test_density_of_a_single_column_integrates_to_one_after_training(family: str, options: dict) -> None:
    flow = families()[family](event_shape=(1,), **{**families()[family].small, **options})
    assert abs(mass_after_training(flow, 20001) - 1) < 1e-3


SHARED_METHODS = (
    "log_prob",
    "sample",
    "sample_and_log_prob",
    "to_latent",
    "from_latent",
    "distribution",
    "save",
    "export",
)


@pytest.mark.parametrize("method", SHARED_METHODS)
@pytest.mark.parametrize("family", sorted(families()))
def test_methods_have_the_same_arguments_in_every_family(family: str, method: str) -> None:
    """What a family adds, as guidance, comes behind them, by keyword alone, and may be left out."""
    shared = list(inspect.signature(getattr(Flow, method)).parameters.values())
    own = list(inspect.signature(getattr(families()[family], method)).parameters.values())
    assert [(p.name, p.kind, p.default) for p in own[: len(shared)]] == [
        (p.name, p.kind, p.default) for p in shared
    ]
    for more in own[len(shared) :]:
        assert more.kind is inspect.Parameter.KEYWORD_ONLY and more.default is not inspect.Parameter.empty


@pytest.mark.parametrize(("family", "options"), [*((family, {}) for family in sorted(families())), *SPLINES])
def test_density_of_a_single_column_integrates_to_one(family: str, options: dict) -> None:
    """Nothing to couple: couplings refuse it. Random weights stand for a training, which takes seconds."""
    arguments = {**families()[family].small, **options}
    if family in COUPLED and not options:
        with pytest.raises(ValueError, match="at least 2"):
            families()[family](event_shape=(1,), **arguments)
        return
    flow = families()[family](event_shape=(1,), **arguments)
    flow.adapt(np.random.default_rng(0).normal(size=(64, 1)).astype("float32") * 3 + 5)
    randomise_gently(flow, 0, 1.0)
    assert abs(mass(flow, 20000, 20001) - 1) < 1e-3


@pytest.mark.parametrize(("family", "options"), sparing(SPLINES))
def test_autoregressive_splines(family: str, options: dict) -> None:
    """Log-determinants against the Jacobian in float64, and far from the data in float32."""
    x, c = KINDS["vector"].data(6), np.random.default_rng(1).normal(size=(6, 2)).astype("float32")

    def spline_flow() -> Flow:
        arguments = {**families()[family].small, **options}
        flow = families()[family](event_shape=(3,), condition_shape=(2,), tolerance=0.0, **arguments)
        own = [getattr(layer, "layer", layer) for layer in flow.chain.chained]
        own = [layer for layer in own if isinstance(layer, layers.MaskedAutoregressive)]
        assert len(own) == 2 and all(type(layer) is layers.MaskedSplineAutoregressive for layer in own)
        flow.adapt(KINDS["vector"].data(64), np.zeros((64, 2)))
        randomise_gently(flow, 0, 0.5)
        return flow

    with dtype_policy("float64"):
        flow, c64 = spline_flow(), tf.constant(c, tf.float64)
        want, _ = jacobian_log_det(lambda x: flow.chain.flow_inverse(x, c64), tf.constant(x, tf.float64))
        z = flow.to_latent(x, c)
        np.testing.assert_allclose(flow.log_prob(x, c) - flow.base.log_prob(z), want, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(flow.from_latent(z, c), x, rtol=1e-9, atol=1e-9)
        want, log_det = jacobian_log_det(lambda z: flow.chain.flow_forward(z, c64), z)
        np.testing.assert_allclose(log_det, want, rtol=1e-9, atol=1e-9)

    flow, far = spline_flow(), x.copy()
    far[0, 0], far[1, 1], far[2, 2], far[3, :], far[4, :] = 1e4, -1e4, 1e4, -1e4, (1e4, -1e4, 1e4)
    weights = [weight.value for weight in flow.trainable_weights]
    for way in (flow.chain.flow_inverse, flow.chain.flow_forward):
        value, condition = tf.constant(far), tf.constant(c)
        with tf.GradientTape() as tape:
            tape.watch([value, condition])
            results = way(value, condition)
            loss = tf.reduce_sum(results[0]) + tf.reduce_sum(results[1])
        for tensor in (*results, *tape.gradient(loss, [value, condition, *weights])):
            assert np.all(np.isfinite(tensor))
    assert np.all(np.isfinite(flow.log_prob(far, c)))


@pytest.mark.parametrize(("family", "options"), SPLINES)
def test_tolerance_reaches_the_layers(family: str, options: dict) -> None:
    arguments = {**families()[family].small, **options}
    flow = families()[family](event_shape=(3,), tolerance=1e-3, **arguments)
    for made in (flow, type(flow).from_config(flow.get_config())):
        own = [getattr(layer, "layer", layer) for layer in made.chain.chained]
        assert [layer.tolerance for layer in own if hasattr(layer, "tolerance")] == [1e-3, 1e-3]
    assert families()[family](event_shape=(3,), **arguments).arguments["tolerance"] == 0.0


# TarFlow refuses it: tests/models/test_tarflow.py.
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in ("glow", "maf") else pytest.mark.slow)
        for family in sorted(set(families()) - {"tarflow"})
    ],
)
def test_an_image_as_condition(family: str) -> None:
    rng, arguments = np.random.default_rng(0), {**families()[family].small, "num_values": 16}
    flow = families()[family](event_shape=(4, 4, 1), condition_shape=(4, 4, 2), **arguments)
    x, c = KINDS["image"].data(4), rng.normal(size=(4, 4, 4, 2)).astype("float32")
    flow.adapt(KINDS["image"].data(64), rng.normal(size=(64, 4, 4, 2)).astype("float32"))
    randomise_gently(flow, 0, 0.5)
    other = c.copy()
    other[:, 1, 2, 0] += 2  # one pixel of one channel
    # The noise is the same: without the condition not a bit would differ.
    assert np.all(np.abs(flow.log_prob(x, c) - flow.log_prob(x, other)) > 1e-4)
    z = flow.to_latent(x, c)
    np.testing.assert_allclose(flow.before_rounding(z, c), x + 0.5, atol=1e-2)
    assert not np.allclose(flow.before_rounding(z, other), x + 0.5, atol=1e-2)
    with pytest.raises(ValueError, match="condition"):
        flow.log_prob(x, c[..., :1])


def test_a_stack_of_the_users_own_equals_tfp() -> None:
    """The density of a hand-made flow equals what TFP computes for the same transform."""
    flow = Flow([layers.DiagonalScaling(), layers.Reverse(), layers.ActNorm()], event_shape=(3,))
    values = {"log_scale": [0.1, 0.2, -0.3], "shift": [1.0, -2.0, 0.5]}
    for weight in flow.trainable_weights:
        weight.assign(values[weight.name])
    tfb, tfd = tfp.bijectors, tfp.distributions
    scale = tfb.Scale(log_scale=[0.1, 0.2, -0.3])
    affine = tfb.Shift([1.0, -2.0, 0.5])(tfb.Scale(log_scale=[0.1, 0.2, -0.3]))
    base = tfd.MultivariateNormalDiag(tf.zeros(3), tf.ones(3))
    reference = tfd.TransformedDistribution(base, affine(tfb.Permute([2, 1, 0])(scale)))
    x = np.random.default_rng(0).normal(size=(7, 3)).astype("float32")
    np.testing.assert_allclose(flow.log_prob(x), reference.log_prob(x), rtol=1e-5)


def test_new_weights_are_seen_at_once() -> None:
    """No cache, no copy and no stale trace: TFP's views and compiled methods follow the weights."""
    flow = make("realnvp", "vector")
    x = KINDS["vector"].data(3)
    distribution, bijector = flow.distribution(), flow.bijector()
    z = tf.zeros([3, 3])
    before = (
        np.asarray(flow.log_prob(x)),
        np.asarray(distribution.log_prob(x)),
        np.asarray(bijector.forward(z)),
    )
    for weight in flow.trainable_weights:
        weight.assign(weight + 0.1)
    after = flow.log_prob(x), distribution.log_prob(x), bijector.forward(z)
    assert all(not np.allclose(a, b) for a, b in zip(after, before, strict=True))
    np.testing.assert_allclose(after[0], after[1], rtol=1e-6)


def test_neutra_through_tfp() -> None:
    """TFP's TransformedTransitionKernel samples through a flow."""
    flow = make("maf", "vector")
    tfd, mcmc = tfp.distributions, tfp.mcmc
    target = tfd.MultivariateNormalDiag(tf.constant([5.0, 5.0, 5.0]), tf.ones(3))
    inner = mcmc.HamiltonianMonteCarlo(target.log_prob, step_size=0.05, num_leapfrog_steps=2)
    kernel = mcmc.TransformedTransitionKernel(inner, flow.bijector())
    start = tf.ones([4, 3]) * 5.0
    states = mcmc.sample_chain(3, start, kernel=kernel, trace_fn=None, seed=[1, 2])
    assert states.shape == (3, 4, 3) and np.all(np.isfinite(states)) and not np.allclose(states[-1], start)


def test_copies_are_independent() -> None:
    flow = make("nice", "vector")
    x = KINDS["vector"].data(3)
    before = np.asarray(flow.log_prob(x))
    twin = copy.deepcopy(flow)
    for weight in twin.trainable_weights:
        weight.assign(weight + 1.0)
    assert np.array_equal(flow.log_prob(x), before)
    assert not np.allclose(twin.log_prob(x), before)


def test_checkpoints_of_tensorflow_hold_every_weight(tmp_path: Path) -> None:
    """Of a flow, a model that has it, a layer and a view: Keras tells TensorFlow nothing of its lists."""

    class Holder(keras.Model):
        def __init__(self, flow: Flow) -> None:
            super().__init__()
            self.flow = flow

    def made() -> Flow:
        stack = [layers.AffineCoupling(MLP((4,))), layers.ActNorm(), layers.Standardize()]
        return Flow(stack, event_shape=(2,), condition_shape=(1,), base={"name": "mixture", "components": 2})

    def view(flow: Flow) -> tfp.distributions.Distribution:
        return flow.distribution([0.0])

    for number, part in enumerate((lambda flow: flow, Holder, lambda flow: flow.chain, view)):
        flow, other = made(), made()
        for weight in flow.weights:
            weight.assign(keras.ops.ones_like(weight))
        path = tf.train.Checkpoint(part=part(flow)).save(str(tmp_path / str(number)))
        tf.train.Checkpoint(part=part(other)).restore(path).assert_consumed()
        kept = other.chain if isinstance(part(flow), layers.FlowLayer) else other
        assert all(np.all(np.asarray(weight) == 1) for weight in kept.weights)


def test_a_layer_serves_in_one_place() -> None:
    coupling = layers.AffineCoupling(MLP((4,)))
    Flow([coupling], event_shape=(4,))
    with pytest.raises(ValueError, match="second place"):
        Flow([coupling], event_shape=(5,))


def test_a_layer_is_built_by_its_first_call(tmp_path: Path) -> None:
    """As any of Keras, alone and in a functional model; older files call the shape of data input_shape."""
    x, condition = np.ones((3, 2), "float32"), np.ones((3, 1), "float32")
    coupling = layers.AffineCoupling(MLP((4,)))
    assert [part.shape for part in coupling(x, condition=condition)] == [(3, 2), (3,)]
    older = layers.AffineCoupling(MLP((4,)))
    older.build_from_config({"shapes_dict": {"input_shape": (None, 2), "condition_shape": (None, 1)}})
    assert older.condition_shape == coupling.condition_shape == (1,)
    given = keras.Input((2,))
    model = keras.Model(given, layers.ActNorm()(given))
    model.save(tmp_path / "m.keras")
    assert np.array_equal(keras.models.load_model(tmp_path / "m.keras")(x)[0], model(x)[0])


def test_float64_from_the_policy() -> None:
    """Under a float64 policy every layer and network computes in it."""
    with dtype_policy("float64"):
        flow = families()["realnvp"](event_shape=(2,), **families()["realnvp"].small)
    assert {weight.dtype for weight in flow.trainable_weights} == {"float64"}
    assert flow.log_prob(np.zeros((2, 2))).dtype == tf.float64
    z = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(flow.to_latent(flow.from_latent(z)), z, atol=1e-12)


def test_float64_as_an_argument() -> None:
    small = families()["maf"].small
    flow = flowzoo.build("maf", event_shape=(2,), dtype="float64", **small)
    again = type(flow).from_config(flow.get_config())
    assert keras.config.dtype_policy().name == "float32"
    for each in (flow, again):
        assert {weight.dtype for weight in each.trainable_weights} == {"float64"}
        assert each.log_prob(np.zeros((2, 2))).dtype == tf.float64
    with pytest.raises(ValueError, match=r"computes in float32, and the flow in float64.*set_dtype_policy"):
        families()["maf"](event_shape=(2,), dtype="float64", **small)


def test_a_label_out_of_range_is_refused_in_a_graph_of_the_users() -> None:
    flow = families()["maf"](event_shape=(2,), num_classes=3, **families()["maf"].small)
    score = tf.function(lambda x, label: flow.log_prob(x, condition=label))
    x = np.zeros((2, 2), "float32")
    assert np.isfinite(score(x, tf.constant([0, 2]))).all()
    for label in ([0, 3], [-1, 0]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="class labels from 0 to 2"):
            score(x, tf.constant(label))
    flow.compile("adam")
    with pytest.raises(ValueError, match="class labels from 0 to 2"):
        flow.fit(tf.data.Dataset.from_tensors((x, tf.constant([0, 3]))), verbose=0)


def test_data_outside_of_a_uniform_base_are_told_of() -> None:
    flow = families()["maf"](event_shape=(2,), base="uniform", **families()["maf"].small)
    flow.compile("adam")
    with pytest.raises(FloatingPointError, match="outside the uniform base, from -3.14159 to 3.14159"):
        flow.fit(np.random.default_rng(0).normal(size=(4096, 2)).astype("float32"), verbose=0)


@pytest.mark.parametrize(
    "shape",
    [
        (2, 2, 1),
        *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((1, 1, 2), (4, 4, 1), (1, 3, 1))),
    ],
)
def test_glow_of_images_that_end_in_single_numbers(shape: tuple[int, ...]) -> None:
    flow = families()["glow"](shape, num_levels=4, num_steps=1, filters=4, num_values=None)
    randomise_gently(flow, 0, 0.1)
    z = np.random.default_rng(0).normal(size=(3, *flow.latent_shape)).astype("float32")
    np.testing.assert_allclose(flow.to_latent(flow.from_latent(z)), z, atol=1e-4)
    assert np.isfinite(flow.log_prob(flow.from_latent(z))).all()


def test_a_saved_flow_loads_in_a_new_process(tmp_path: Path) -> None:
    flow = families()["maf"](event_shape=(2,), **families()["maf"].small)
    flow.save(tmp_path / "m.keras")
    x = np.ones((1, 2), "float32")
    load = f"keras.models.load_model({str(tmp_path / 'm.keras')!r})"
    code = f"import keras, numpy, flowzoo.models; print(float({load}.log_prob(numpy.ones((1, 2)))[0]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(float(found.stdout), flow.log_prob(x)[0], rtol=1e-6)
    with pytest.raises(ValueError, match=r"`import flowzoo.models`.*keras.models.load_model\('m.keras'\)"):
        flowzoo.load("m.keras")


def test_mixed_precision_keeps_the_flow_in_float32() -> None:
    """Only hidden layers compute in bfloat16: values, log-determinants and last layers stay float32."""
    with dtype_policy("mixed_bfloat16"):
        flow = families()["realnvp"](event_shape=(4,), **families()["realnvp"].small)
    coupling = next(layer for layer in flow.chain.chained if isinstance(layer, layers.AffineCoupling))
    assert coupling.conditioner.hidden[0].compute_dtype == "bfloat16"
    assert coupling.conditioner.last.compute_dtype == "float32"
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    flow.adapt(x)
    z = flow.to_latent(x)
    assert z.dtype == flow.log_prob(x).dtype == tf.float32
    assert np.max(np.abs(flow.from_latent(z) - x)) < 1e-4


def test_losses_are_scaled_where_hidden_layers_compute_in_float16() -> None:
    with dtype_policy("mixed_float16"):
        flow = families()["realnvp"](event_shape=(2,), num_couplings=1, hidden_units=(4,))
    flow.compile("sgd")
    assert isinstance(flow.optimizer, keras.optimizers.LossScaleOptimizer)
    flow.compile("sgd", auto_scale_loss=False)
    assert isinstance(flow.optimizer, keras.optimizers.SGD)

"""Every base: its density, its samples, its temperature, its weights; and bases within flows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from flowzoo.bijectors import FlowDistribution
from flowzoo.distributions import BaseDistribution, Normal, StudentT, Uniform, bases, make_base
from flowzoo.models import Flow, FlowMatching, families
from tests.harness import dtype_policy, integral, randomise

SPECS: dict[str, Any] = {
    "normal": "normal",
    "logistic": "logistic",
    "full_covariance_normal": "full_covariance_normal",
    "student_t": {"name": "student_t", "degrees": 4.5},
    "learned_student_t": {"name": "student_t", "degrees": 3.0, "learned": True},
    "mixture": {"name": "mixture", "components": 3},
    "uniform": "uniform",
    "narrow_uniform": {"name": "uniform", "low": -1.0, "high": 0.5},
}
LEARNED = ("full_covariance_normal", "learned_student_t", "mixture")


def built(spec: Any, shape: tuple[int, ...] = (2,), seed: int = 0) -> BaseDistribution:
    base = make_base(spec)
    base.build_for(shape)
    randomise(base, seed, 0.5)
    return base


def reference(base: BaseDistribution, z: np.ndarray) -> np.ndarray:
    """The log-density by SciPy, of [batch, 2]."""
    kind = type(base).kind
    if kind == "full_covariance_normal":
        factor = np.asarray(base.cholesky())
        return stats.multivariate_normal(np.asarray(base.mean), factor @ factor.T).logpdf(z)
    if kind == "mixture":
        weights, means, scales = tf.nn.softmax(base.logits), np.asarray(base.means), base.scales()
        parts = zip(np.asarray(weights), means, np.asarray(scales), strict=True)
        return np.log(sum(w * np.exp(stats.norm(m, s).logpdf(z).sum(-1)) for w, m, s in parts))
    one = {
        "normal": lambda: stats.norm(),
        "logistic": lambda: stats.logistic(),
        "student_t": lambda: stats.t(np.asarray(base.degrees_of_freedom())),
        "uniform": lambda: stats.uniform(base.low, base.high - base.low),
    }
    return one[kind]().logpdf(z).sum(-1)


def check_density(base: BaseDistribution) -> None:
    z = np.random.default_rng(1).normal(size=(50, 2))
    got = np.asarray(base.log_prob(tf.constant(z, base.compute_dtype)))
    np.testing.assert_allclose(got, reference(base, z), rtol=1e-9)


def check_integral(base: BaseDistribution, reach: float = 14.0) -> None:
    """Over the box of a uniform base, else over the plane drawn in to a square by a cubic."""
    if isinstance(base, Uniform):
        low, high, stretch = base.low, base.high, lambda u: u
        slope: Callable = np.zeros_like
    else:
        low, high, stretch = -reach, reach, lambda u: u**3 / 10
        slope = lambda u: np.log(np.maximum(0.3 * u**2, 1e-300))  # noqa: E731
    size = len(base.latent_shape)
    size = base.latent_shape[0] if size == 1 else size

    def log_density(u: np.ndarray) -> np.ndarray:
        return np.asarray(base.log_prob(tf.constant(stretch(u), base.compute_dtype))) + slope(u).sum(-1)

    total = integral(log_density, np.full(size, low), np.full(size, high), 20001 if size == 1 else 601)
    assert abs(total - 1) < 1e-3, f"the density integrates to {total:.5f}"


def check_samples(base: BaseDistribution, temperature: float = 1.0, jit_compile: bool = False) -> None:
    """Each entry of samples follows its marginal distribution (KS), and entries correlate as they must."""
    draw = tf.function(lambda seed: base.sample((8000, 2), seed, temperature), jit_compile=jit_compile)
    z = np.asarray(draw(tf.constant([3, 4])))
    grid = np.linspace(-60, 60, 20001) if not isinstance(base, Uniform) else np.linspace(-4, 4, 20001)
    for entry in range(2):
        cumulative = marginal_cdf(base, entry, temperature, grid)
        p = stats.kstest(z[:, entry], lambda v, c=cumulative: np.interp(v, grid, c)).pvalue
        assert p > 1e-3, f"entry {entry}: samples do not follow the density (p = {p:.1e})"
    want = 0.0
    if type(base).kind == "full_covariance_normal":
        covariance = np.asarray(base.cholesky()) @ np.asarray(base.cholesky()).T
        want = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    elif type(base).kind == "mixture":
        want = mixture_correlation(base, temperature)
    assert abs(np.corrcoef(z.T)[0, 1] - want) < 0.05


def mixture_correlation(base: BaseDistribution, temperature: float) -> float:
    weights, means = np.asarray(tf.nn.softmax(base.logits)), np.asarray(base.means)
    centred = means - weights @ means
    spread = np.diag(weights @ (temperature * np.asarray(base.scales())) ** 2)
    covariance = (centred.T * weights) @ centred + spread
    return covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])


def marginal_cdf(base: BaseDistribution, entry: int, temperature: float, grid: np.ndarray) -> np.ndarray:
    kind, v = type(base).kind, grid
    if kind == "full_covariance_normal":
        factor = np.asarray(base.cholesky())
        scale = np.sqrt((factor @ factor.T)[entry, entry])
        return stats.norm(np.asarray(base.mean)[entry], temperature * scale).cdf(v)
    if kind == "mixture":
        weights, means, scales = np.asarray(tf.nn.softmax(base.logits)), base.means, base.scales()
        parts = zip(weights, np.asarray(means)[:, entry], np.asarray(scales)[:, entry], strict=True)
        return sum(w * stats.norm(m, temperature * s).cdf(v) for w, m, s in parts)
    if kind == "student_t":
        degrees = np.broadcast_to(base.degrees_of_freedom(), (2,))[entry]
        return stats.t(degrees, scale=temperature).cdf(v)
    if kind == "uniform":
        return stats.uniform(base.low, base.high - base.low).cdf(v)
    return getattr(stats, {"normal": "norm"}.get(kind, kind))(scale=temperature).cdf(v)


def check_gradients(base: BaseDistribution) -> None:
    z = tf.constant(np.random.default_rng(1).normal(size=(8, 2)) / 4, base.compute_dtype)
    weights = [weight.value for weight in base.trainable_weights]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(base.log_prob(z))
    for weight, gradient in zip(base.trainable_weights, tape.gradient(loss, weights), strict=True):
        assert gradient is not None and np.all(np.isfinite(gradient)), weight.name
        assert np.all(np.asarray(gradient) != 0), f"a part of {weight.name} learns nothing"


def check_modes(base: BaseDistribution) -> None:
    """Graph mode agrees with eager mode, XLA in density and in law; an empty batch and seeds; dtypes."""
    seed, z = tf.constant([1, 2]), tf.constant([[0.3, -0.2], [0.1, 0.4]], base.compute_dtype)

    def both(z: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return base.log_prob(z), base.sample((64, 2), seed)

    want = both(z, seed)
    for got, value in zip(tf.function(both)(z, seed), want, strict=True):
        np.testing.assert_allclose(got, value, rtol=2e-4, atol=2e-5)
    compiled = tf.function(base.log_prob, jit_compile=True)(z)
    np.testing.assert_allclose(compiled, want[0], rtol=2e-4, atol=2e-5)
    check_samples(base, jit_compile=True)  # other noise than without XLA, which TensorFlow does not promise
    assert base.log_prob(z[:0]).shape == (0,)
    assert base.sample((0, 2), seed).shape == (0, 2)
    assert want[0].dtype == want[1].dtype == tf.as_dtype(base.compute_dtype)
    assert not np.array_equal(base.sample((64, 2), tf.constant([1, 3])), want[1])


def check_config(base: BaseDistribution) -> None:
    twin = make_base(keras.saving.serialize_keras_object(base)).build_for(base.latent_shape)
    twin.set_weights(base.get_weights())
    z = tf.constant([[0.3, -0.2]], base.compute_dtype)
    assert np.array_equal(twin.log_prob(z), base.log_prob(z)) and twin.get_config() == base.get_config()


PROPERTIES: dict[str, Callable[[BaseDistribution], None]] = {
    "density": check_density,
    "integral": check_integral,
    "samples": check_samples,
    "gradients": check_gradients,
    "modes": check_modes,
    "config": check_config,
}


@pytest.mark.parametrize("check", PROPERTIES)
@pytest.mark.parametrize("spec", SPECS)
def test_property(spec: str, check: str) -> None:
    with dtype_policy("float64"):
        PROPERTIES[check](built(SPECS[spec]))


@pytest.mark.parametrize("spec", SPECS)
def test_other_shapes_and_float32(spec: str) -> None:
    """One entry, an image, and single precision: the same density."""
    with dtype_policy("float64"):
        check_integral(built(SPECS[spec], (1,)))
        wide = built(SPECS[spec], (2, 1, 2))
    narrow = make_base(SPECS[spec]).build_for((2, 1, 2))
    narrow.set_weights(wide.get_weights())
    z = tf.constant(np.random.default_rng(2).normal(size=(4, 2, 1, 2)) / 5)
    got = narrow.log_prob(tf.cast(z, tf.float32))
    assert got.shape == (4,) and got.dtype == tf.float32
    np.testing.assert_allclose(got, wide.log_prob(z), rtol=1e-5, atol=1e-5)
    assert narrow.sample((3, 2, 1, 2), tf.constant([1, 2])).shape == (3, 2, 1, 2)


@pytest.mark.parametrize("spec", [name for name in SPECS if "uniform" not in name])
def test_temperature_is_the_spread(spec: str) -> None:
    with dtype_policy("float64"):
        check_samples(built(SPECS[spec]), 0.6)


def test_every_base_is_tested() -> None:
    assert {type(make_base(spec)).kind for spec in SPECS.values()} == set(bases())


class _Broken(Normal):
    """A normal twice as dense as it should be, whose samples are too wide."""

    def log_prob(self, z: tf.Tensor, condition: Any = None) -> tf.Tensor:
        return super().log_prob(z) + np.log(2.0)

    def sample(self, shape: Any, seed: Any, temperature: Any = 1.0, condition: Any = None) -> tf.Tensor:
        return 1.1 * super().sample(shape, seed, 1.0)


class _Deaf(StudentT):
    """No gradient reaches its weight."""

    def degrees_of_freedom(self) -> tf.Tensor:
        return tf.stop_gradient(super().degrees_of_freedom())


class _Moody(Normal):
    """Forgets the dtype and computes something else in a graph."""

    def log_prob(self, z: tf.Tensor, condition: Any = None) -> tf.Tensor:
        return super().log_prob(z) + (0.0 if tf.executing_eagerly() else 0.1)


class _Forgetful(StudentT):
    """An argument is missing from its config."""

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


@pytest.mark.parametrize(
    ("cls", "arguments", "check"),
    [
        (_Broken, {}, "density"),
        (_Broken, {}, "integral"),
        (_Broken, {}, "samples"),
        (_Deaf, {"learned": True}, "gradients"),
        (_Moody, {}, "modes"),
        (_Forgetful, {"degrees": 9.0}, "config"),
    ],
)
def test_a_broken_base_is_caught(cls: type, arguments: dict[str, Any], check: str) -> None:
    keras.saving.register_keras_serializable("broken")(cls)
    with dtype_policy("float64"), pytest.raises(AssertionError):
        PROPERTIES[check](built(cls(**arguments)))


def test_a_uniform_base_has_no_temperature() -> None:
    flow = Flow([], (2,), base="uniform")
    assert flow.sample(3, temperature=1.0, seed=0).shape == (3, 2)
    for call in (flow.sample, flow.sample_and_log_prob):
        with pytest.raises(ValueError, match="temperature has no meaning"):
            call(3, temperature=0.5)
    with pytest.raises(ValueError, match="temperature has no meaning"):
        flow.base.sample((3, 2), tf.constant([1, 2]), 0.5)
    assert np.asarray(flow.log_prob([[0.0, 4.0]])) == -np.inf


def test_components_start_apart_and_the_seed_repeats() -> None:
    means = [np.asarray(make_base({"name": "mixture", "seed": s}).build_for((2,)).means) for s in (0, 0, 1)]
    assert np.array_equal(means[0], means[1]) and not np.array_equal(means[0], means[2])
    assert len(np.unique(means[0])) == means[0].size


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("mixtur", "Did you mean 'mixture'"),
        ({"name": "studentt"}, "Did you mean 'student_t'"),
        ({"name": "mixture", "component": 3}, "Did you mean 'components'"),
        ({"name": "mixture", "components": 0}, "at least 1"),
        ({"name": "student_t", "degrees": 2}, "above 2"),
        ({"name": "uniform", "low": 1, "high": 1}, "low below high"),
    ],
)
def test_wrong_bases_are_refused(base: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_base(base)


def test_what_is_no_base_is_refused() -> None:
    for wrong in (3, {"components": 3}, None):
        with pytest.raises(TypeError, match="base takes"):
            make_base(wrong)
    shared = StudentT(learned=True)
    Flow([], (2,), base=shared)
    with pytest.raises(ValueError, match="cannot serve a second"):
        Flow([], (3,), base=shared)


@pytest.mark.parametrize(
    "family", [name for name, cls in families().items() if "base" in inspect.signature(cls).parameters]
)
def test_every_family_takes_every_kind_of_base(family: str) -> None:
    """By name with arguments and as an instance; the config that is kept makes the same flow."""
    cls = families()[family]
    for base in ({"name": "mixture", "components": 2}, StudentT(degrees=3.0, learned=True)):
        flow = cls((2,), **{**cls.small, "base": base})
        twin = cls.from_config(flow.get_config())
        assert type(twin.base) is type(flow.base) and twin.arguments == flow.arguments
        assert [w.shape for w in twin.weights] == [w.shape for w in flow.weights]
        assert flow.base.trainable_weights


def test_flow_matching_starts_from_normal_noise_alone() -> None:
    """Trained from normal noise, with another base it sampled and scored what it had not learned."""
    small = FlowMatching.small
    for base in ("student_t", {"name": "mixture", "components": 2}, StudentT(degrees=3.0)):
        with pytest.raises(ValueError, match="base takes 'normal' alone. Received: "):
            FlowMatching((2,), base=base, **small)
    for base in ("normal", Normal()):
        assert isinstance(FlowMatching((2,), base=base, **small).base, Normal)
    others = {name for name, cls in families().items() if "base" not in inspect.signature(cls).parameters}
    assert others == {"flow_matching"}  # a new family takes any base, or refuses all but one as this one does


@pytest.mark.parametrize("spec", LEARNED)
def test_bases_are_trained_saved_and_exported(spec: str, tmp_path: Path) -> None:
    flow = Flow([], (2,), base=SPECS[spec])
    before = [np.array(weight) for weight in flow.base.trainable_weights]
    x = np.random.default_rng(0).standard_t(3, (256, 2)).astype("float32")
    flow.compile(keras.optimizers.Adam(1e-2))
    flow.fit(x, batch_size=128, epochs=2, verbose=0)
    for weight, old in zip(flow.base.trainable_weights, before, strict=True):
        assert np.all(np.asarray(weight) != old), f"{weight.name} did not learn"
    flow.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    want = np.asarray(flow.log_prob(x[:5]))
    np.testing.assert_array_equal(loaded.log_prob(x[:5]), want)
    np.testing.assert_array_equal(loaded.sample(5, seed=3), flow.sample(5, seed=3))
    flow.export(tmp_path / "1")
    draw = {"num_samples": np.int32(3), "seed": np.array([1, 2], "int32"), "temperature": np.float32(0.5)}
    call = tf.saved_model.load(str(tmp_path / "1")).signatures
    density = call["log_prob"](x=tf.constant(x[:5]))
    drawn = call["sample"](**{name: tf.constant(value) for name, value in draw.items()})
    np.testing.assert_allclose(density["log_prob"], want, rtol=1e-4, atol=1e-5)
    same = flow.sample(3, temperature=0.5, seed=[1, 2])
    np.testing.assert_allclose(drawn["x"], same, rtol=1e-3, atol=1e-4)


def test_a_mixture_is_not_called_reparameterised() -> None:
    kinds = [
        FlowDistribution(Flow([], (2,), base=base)).reparameterization_type.__repr__()
        for base in ("normal", "mixture")
    ]
    assert "FULLY" in kinds[0] and "NOT" in kinds[1]

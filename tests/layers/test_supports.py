"""Bounded data: layers of supports, what is refused at the door, and flows that never stray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from flowzoo.layers import Angle, Box, CircularCoupling, Columns, FlowLayer, Positive, Simplex
from flowzoo.layers.base import LayerCase
from flowzoo.models import Flow, families
from flowzoo.networks import MLP
from tests.harness import PROPERTIES, Subject, close, dtype_policy, integral, randomise

COLUMNS = {"kind": "columns", "columns": ["real", "positive", ["box", 0, 10], "unit_interval"]}


@keras.saving.register_keras_serializable("broken")
class OnTheSurface(Simplex):
    """The density with respect to the area of the simplex, and not of the coordinates."""

    def _forward(self, z: tf.Tensor, condition: Any) -> tuple[tf.Tensor, tf.Tensor]:
        x, log_det = super()._forward(z, condition)
        return x, log_det + 0.5 * np.log(x.shape[-1])

    def _inverse(self, x: tf.Tensor, condition: Any) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_det = super()._inverse(x, condition)
        return z, log_det - 0.5 * np.log(x.shape[-1])


@keras.saving.register_keras_serializable("broken")
class Twice(Angle):
    """Goes round twice: locally one-to-one, with the log-determinant that belongs to that."""

    def _inverse(self, x: tf.Tensor, condition: Any) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_det = super()._inverse(2 * x, condition)
        return z, log_det + x.shape[1] * np.log(2.0)


@keras.saving.register_keras_serializable("broken")
class Unscaled(Box):
    """Forgets the width of the box in the log-determinant."""

    def _inverse(self, x: tf.Tensor, condition: Any) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_det = super()._inverse(x, condition)
        return z, log_det + np.sum(np.log(self.high - self.low))

    @classmethod
    def cases(cls) -> list[LayerCase]:
        return [Box.cases()[1]]


@keras.saving.register_keras_serializable("broken")
class Swapped(Columns):
    """Gives its columns back in the order of their kinds."""

    def _inverse(self, x: tf.Tensor, condition: Any) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_det = super()._inverse(x, condition)
        return tf.reverse(z, [1]), log_det


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (OnTheSurface, "log_det"),
        (OnTheSurface, "density"),
        (Twice, "density"),
        (Unscaled, "log_det"),
        (Unscaled, "density"),
        (Swapped, "inverse"),
    ],
)
def test_broken_layers_are_caught(cls: type[FlowLayer], check: str) -> None:
    with pytest.raises(AssertionError):
        PROPERTIES[check](Subject(cls, 0))


def test_a_circular_coupling_is_one_to_one_on_the_torus() -> None:
    """Its own cases take it on the real line: here angles to angles, and the seam."""
    with dtype_policy("float64"):
        layer = CircularCoupling(MLP((4,), activation="sigmoid"), 3).build_for((2,))
        randomise(layer)
        x = tf.constant(np.random.default_rng(0).uniform(-np.pi, np.pi, (50, 2)))
        z, log_det = layer.flow_inverse(x)
        assert np.abs(z).max() <= np.pi
        turned, same = layer.flow_inverse(x + 2 * np.pi)
        close("a turn", turned, z + 2 * np.pi, 1e-9)
        close("the log-determinant after a turn", same, log_det, 1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "make",
    [
        Positive,
        lambda: Positive("softplus"),
        lambda: Box([-1e6, 0.0, 5.0], [1e6, 1e-6, 6.0]),
        Simplex,
        lambda: Columns(["positive", ["box", 0, 10], "unit_interval"]),
    ],
)
def test_no_sample_leaves_the_support(make: Any, dtype: str) -> None:
    """Even the farthest latents give data that the door lets in, with a finite score and finite gradients."""
    with dtype_policy(dtype):
        flow = Flow([make()], (3,))
        z = np.concatenate([np.diag(np.full(3, far)) for far in (-1e4, -300.0, -20.0, 20.0, 300.0, 1e4)])
        z = tf.constant(z[:, : flow.latent_shape[0]], dtype)
        with tf.GradientTape() as tape:
            tape.watch(z)
            x = flow.from_latent(z)
        assert np.all(flow.domain.contains(x)), np.asarray(x)
        assert np.all(np.isfinite(tape.gradient(x, z)))
        assert np.all(np.isfinite(flow.log_prob(x)))


def test_known_densities() -> None:
    """A standard normal beneath the layers gives the log-normal, the logit-normal and its composition."""
    with dtype_policy("float64"):
        x = np.random.default_rng(0).uniform(0.1, 0.9, (20, 2))
        close("log-normal", Flow([Positive()], (2,)).log_prob(x), stats.lognorm(1).logpdf(x).sum(1), 1e-9)
        logit = stats.norm().logpdf(np.log(x / (1 - x))) - np.log(x * (1 - x))
        close("logit-normal", Flow([Box()], (2,)).log_prob(x), logit.sum(1), 1e-9)
        wide = Flow([Box(0, [2, 5])], (2,)).log_prob(x * [2, 5])
        close("the same in other units", wide, logit.sum(1) - np.log(10), 1e-9)
        both = np.stack([x[:, 0], 1 - x[:, 0]], axis=1)
        close("two shares", Flow([Simplex()], (2,)).log_prob(both), logit[:, 0], 1e-9)


@pytest.mark.parametrize(
    ("layer", "good", "bad", "message"),
    [
        (Positive(), [2.0, 1e-30], [2.0, 0.0], "numbers above 0.*leave zeros out.*Received: 0.0 at index"),
        (Positive(), [2.0, 1e-30], [2.0, 1e-45], "numbers above 0"),
        (Box([0, 0], [1, 10]), [0.5, 9.9], [0.5, 10.0], "between 0 and 10, without"),
        (Box([0, 0], [1, 10]), [0.5, 9.9], [2.0, 1.0], "between 0 and 1, without"),
        (Simplex(), [0.25, 0.75], [0.25, 0.5], "sum to 1.*the sum 0.75"),
        (Simplex(), [0.25, 0.75], [0.0, 1.0], "positive entries"),
        (Angle(), [np.pi, -np.pi], [180.0, 0.0], "radians from -pi to pi.*deg2rad"),
        (Columns(["real", "positive"]), [-1.0, 1.0], [1.0, -1.0], "in column 1 numbers above 0"),
    ],
)
def test_data_outside_are_refused_at_the_door(layer: FlowLayer, good: Any, bad: Any, message: str) -> None:
    flow = Flow([type(layer).from_config(layer.get_config())], (2,))
    flow.compile("sgd")
    good, bad = np.array([good, good]), np.array([good, bad])
    flow.log_prob(good)
    for call in (flow.log_prob, flow.to_latent, flow.fit, flow.evaluate):
        with pytest.raises(ValueError, match=message):
            call(bad)


def test_data_outside_are_refused_in_a_pipeline() -> None:
    flow = Flow([Positive()], (2,))
    flow.compile("sgd")
    data = tf.data.Dataset.from_tensor_slices(np.array([[1.0, 2.0], [0.0, 1.0]], "float32")).batch(1)
    with pytest.raises(ValueError, match="data_range or domain"):
        flow.evaluate(data, verbose=0)


@pytest.mark.parametrize(
    ("family", "shape", "preprocessing", "message"),
    [
        ("maf", (2,), "angle", "circular layers.*'nsf'"),
        ("maf", (2,), "positiv", "Did you mean 'positive'"),
        ("maf", (2,), {"kind": "box", "lower": 0}, "Did you mean 'low'"),
        ("maf", (2,), "box", "takes a dict with low, high"),
        ("maf", (2,), {"kind": "box", "low": 0, "high": [1, 2, 3]}, "one an entry"),
        ("maf", (2,), {"kind": "columns", "columns": ["real"]}, "supports of 1 columns"),
        ("maf", (2,), {"kind": "columns", "columns": ["real", "angle"]}, "A column takes.*Angles take"),
        ("maf", (2, 2), "simplex", "events of rank 1"),
        ("nsf", (2, 2), "angle", "events of rank 1"),
    ],
)
def test_wrong_supports_are_refused(family: str, shape: Any, preprocessing: Any, message: str) -> None:
    cls = families()[family]
    with pytest.raises(ValueError, match=message):
        cls(shape, **{**cls.small, "preprocessing": preprocessing})


def test_supports_are_for_continuous_data() -> None:
    with pytest.raises(ValueError, match="continuous data"):
        families()["maf"]((2,), preprocessing="positive", num_values=4)


@pytest.mark.parametrize("argument", [{"mixing": "lu"}, {"base": "normal"}])
def test_angles_take_the_parts_of_a_torus(argument: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="preprocessing='angle' takes"):
        families()["nsf"]((2,), preprocessing="angle", **argument)


def test_a_table_of_many_supports(tmp_path: Path) -> None:
    """Trained, made again from its config, exported: and every sample is where the data were."""
    rng = np.random.default_rng(0)
    x = np.stack(
        [rng.normal(size=512), rng.lognormal(-9, 1, 512), rng.uniform(0, 10, 512), rng.beta(2, 5, 512)], 1
    ).astype("float32")
    flow = families()["nice"]((4,), num_couplings=2, hidden_units=(8,), preprocessing=COLUMNS)
    flow.compile(keras.optimizers.Adam(1e-2))
    losses = flow.fit(x, batch_size=256, epochs=1, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    twin = type(flow).from_config(flow.get_config())
    assert twin.arguments["preprocessing"] == COLUMNS
    assert twin.chain.get_config()["layers"][-1]["config"]["columns"] == flow.chain.chained[-1].columns
    flow.export(tmp_path / "1")
    draw = tf.saved_model.load(str(tmp_path / "1")).signatures["sample"]
    drawn = draw(num_samples=tf.constant(500), seed=tf.constant([1, 2]), temperature=tf.constant(3.0))["x"]
    assert np.all(flow.domain.contains(drawn))
    assert np.all(np.isfinite(flow.log_prob(drawn)))


def test_a_flow_on_the_torus() -> None:
    """NSF on angles: continuous across the seam, of mass one, and it learns what is across it."""
    rng = np.random.default_rng(0)
    first = rng.vonmises(3.0, 4.0, 2048)
    second = rng.vonmises(first + 1.0, 6.0)
    x = np.stack([first, (second + np.pi) % (2 * np.pi) - np.pi], 1).astype("float32")
    keras.utils.set_random_seed(0)
    flow = families()["nsf"]((2,), num_layers=2, num_bins=8, hidden_units=16, blocks=1, preprocessing="angle")
    assert type(flow.base).kind == "uniform" and flow.arguments["mixing"] == "random"
    np.testing.assert_allclose(flow.log_prob(x[:5]), -2 * np.log(2 * np.pi), rtol=1e-5)  # at the start
    # To the end of a falling rate: under a constant one of 0.01 the mean of samples wanders by 0.05.
    flow.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-2, 8 * 16)))
    flow.fit(x, batch_size=128, epochs=8, verbose=0)
    truth = stats.vonmises(4, 3).logpdf(x[:, 0]) + stats.vonmises(6).logpdf(x[:, 1] - x[:, 0] - 1)
    assert flow.evaluate(x, verbose=0) < -truth.mean() + 0.1
    check_seam(flow)
    total = integral(lambda points: flow.log_prob(points), np.full(2, -np.pi), np.full(2, np.pi), 301)
    assert abs(total - 1) < 1e-3, total
    samples = np.asarray(flow.sample(4096, seed=3))
    assert np.abs(samples).max() <= np.float32(np.pi)
    assert np.abs(np.mean(np.exp(1j * samples[:, 0])) - np.mean(np.exp(1j * first))) < 0.05
    with pytest.raises(ValueError, match="temperature has no meaning"):
        flow.sample(3, temperature=0.5)


@pytest.mark.parametrize("size", [pytest.param(size, marks=pytest.mark.slow) for size in (1, 2)])
def test_angles_one_after_another(size: int) -> None:
    """The autoregressive NSF, also of one angle: no seam, mass one, and the density of the data."""
    rng = np.random.default_rng(0)
    x = rng.vonmises(3.0, 4.0, 4096)[:, None]
    if size == 2:
        x = np.concatenate([x, (rng.vonmises(x + 1.0, 6.0) + np.pi) % (2 * np.pi) - np.pi], 1)
    keras.utils.set_random_seed(0)
    arguments = {"num_layers": 2, "num_bins": 8, "hidden_units": 16, "preprocessing": "angle"}
    flow = families()["nsf"]((size,), coupling=False, **arguments)
    np.testing.assert_allclose(flow.log_prob(x[:5]), -size * np.log(2 * np.pi), rtol=1e-5)
    flow.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-2, 16 * 32)))
    flow.fit(x.astype("float32"), batch_size=128, epochs=16, verbose=0)
    truth = stats.vonmises(4, 3).logpdf(x[:, 0])
    if size == 2:
        truth = truth + stats.vonmises(6).logpdf(x[:, 1] - x[:, 0] - 1)
    assert flow.evaluate(x, verbose=0) < -truth.mean() + 0.1
    total = integral(flow.log_prob, np.full(size, -np.pi), np.full(size, np.pi), 301)
    assert abs(total - 1) < 1e-3, total
    check_seam(flow)
    z = flow.to_latent(x[:200])
    back = np.asarray(flow.from_latent(tf.identity(z)))
    assert np.abs(np.exp(1j * back) - np.exp(1j * x[:200])).max() < 1e-4
    samples = np.asarray(flow.sample(4096, seed=3))
    assert np.abs(np.mean(np.exp(1j * samples[:, 0])) - np.mean(np.exp(1j * x[:, 0]))) < 0.05


def test_one_angle_cannot_be_coupled() -> None:
    with pytest.raises(ValueError, match="two angles or more to couple, and coupling=False for one"):
        families()["nsf"]((1,), preprocessing="angle")


def check_seam(flow: Flow) -> None:
    """Both ends of the circle are one point, approached from both sides, in value and in slope."""
    size = flow.event_size
    near = np.linspace(-3, 3, 13)
    for entry in range(size):

        def density(angle: float, entry: int = entry) -> np.ndarray:
            x = np.insert(np.repeat(near[:, None], size - 1, axis=1), entry, angle, axis=1)
            return np.asarray(flow.log_prob(x.astype("float32")))

        np.testing.assert_allclose(density(np.pi), density(-np.pi), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(density(np.pi - 1e-4), density(-np.pi + 1e-4), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("low", "high"),
    [(1e9, 1e9 + 1), (1e5, 1e5 + 0.01), ([0, 1e9], [1, 1e9 + 64]), (-3e38, 3e38), (0, 1e39), (0, 1e-40)],
)
def test_a_box_that_float32_cannot_hold_is_refused(low, high):
    # Its density was 0 or infinite, and its samples lay on its bounds or beyond, without a word.
    with pytest.raises(ValueError, match="float32 has too few numbers between"):
        Box(low, high).build_for((2,))
    if np.max(high) > 1e-30:
        Box(low, high, dtype="float64").build_for((2,))
    Box(1.6e9, 1.7e9).build_for((2,))  # seconds since 1970, over three years

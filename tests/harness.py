"""The properties that every layer must have, as functions that raise AssertionError.

A property takes a `Subject`: how to make the layer anew, what data it accepts and its condition. The
broken layers in tests/layers/test_harness.py show that each property can fail.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from flowzoo.layers import FlowLayer, LayerCase
from flowzoo.models.dtypes import dtype_policy
from tests import supports

BATCH = 5


@dataclasses.dataclass(frozen=True)
class Subject:
    """A layer class in one of its cases."""

    cls: type[FlowLayer]
    index: int

    @property
    def case(self) -> LayerCase:
        return self.cls.cases()[self.index]

    def unbuilt(self) -> FlowLayer:
        return self.cls(**self.case.kwargs)

    def make(self, seed: int = 0) -> FlowLayer:
        """Build the layer under the current policy, set from data, with random weights that repeat."""
        keras.utils.set_random_seed(seed)
        case = self.case
        layer = self.unbuilt()
        layer.build_for(case.event_shape, case.condition_shape)
        if layer.data_init_examples:
            layer.data_init(self.data(64, seed=9), self.condition(64))
        randomise(layer, seed)
        return layer

    def data(self, batch: int = BATCH, seed: int = 1) -> tf.Tensor:
        case, rng = self.case, np.random.default_rng(seed)
        shape = (batch, *case.event_shape)
        num_values = self.unbuilt().num_values if case.support == "integers" else 0
        values = supports.draw(case.support, rng, shape, num_values)
        return tf.constant(values, keras.config.dtype_policy().compute_dtype)

    def latent(self, layer: FlowLayer, batch: int = BATCH, seed: int = 2) -> tf.Tensor:
        rng = np.random.default_rng(seed)
        values = supports.draw_latent(self.case.support, rng, (batch, *layer.latent_shape))
        return tf.constant(values, layer.compute_dtype)

    def condition(self, batch: int = BATCH, seed: int = 3) -> tf.Tensor | None:
        shape = self.case.condition_shape
        if shape is None:
            return None
        values = np.random.default_rng(seed).normal(size=(batch, *shape))
        return tf.constant(values, keras.config.dtype_policy().compute_dtype)


def randomise(layer: keras.layers.Layer, seed: int = 0, scale: float = 0.3) -> None:
    """Move every trainable weight: a zero-initialised conditioner hides a wrong log-determinant."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        fan = max(1, int(np.prod(weight.shape[:-1]))) if len(weight.shape) > 1 else 1
        step = scale * max(1.0, 2.0 / scale / np.sqrt(fan)) if len(weight.shape) > 1 else scale
        weight.assign(weight + step * rng.normal(size=weight.shape))


def close(name: str, got: tf.Tensor, want: tf.Tensor, tolerance: float) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{name}: shape {got.shape}, expected {want.shape}"
    error = np.max(np.abs(got - want) / (1 + np.abs(want)), initial=0.0)
    assert error <= tolerance, f"{name}: error {error:.2e} above {tolerance:.0e}"  # NaN fails as well


def check_inverse(subject: Subject) -> None:
    """Data to latent to data, and latent to data to latent, in float64."""
    with dtype_policy("float64"):
        layer, x, c = subject.make(), subject.data(), subject.condition()
        z, into = layer.flow_inverse(x, c)
        back, out = layer.flow_forward(tf.identity(z), c)
        close("data to latent to data", back, x, 1e-9)
        close("log-determinants of the two directions", into, -out, 1e-9)
        if layer.bijective:
            z = subject.latent(layer)
            x, out = layer.flow_forward(z, c)
            back, into = layer.flow_inverse(tf.identity(x), c)
            close("latent to data to latent", back, z, 1e-9)
            close("log-determinants of the two directions", into, -out, 1e-9)


def jacobian_log_det(function: Callable, value: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(value)
        result, log_det = function(value)
        flat = tf.reshape(result, [value.shape[0], -1])
    jacobian = tape.batch_jacobian(flat, value, experimental_use_pfor=False)
    size = flat.shape[1]
    return tf.linalg.slogdet(tf.reshape(jacobian, [-1, size, size]))[1], log_det


def check_log_det(subject: Subject) -> None:
    """Log-determinants against the Jacobian by automatic differentiation, in float64.

    Data on a simplex are taken by their coordinates, of which there are as many as latents.
    """
    with dtype_policy("float64"):
        layer, c, support = subject.make(), subject.condition(), subject.case.support

        def into(y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return layer.flow_inverse(supports.to_data(support, y), c)

        def out(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            x, log_det = layer.flow_forward(z, c)
            return supports.coordinates(support, x), log_det

        want, got = jacobian_log_det(into, supports.coordinates(support, subject.data()))
        close("log-determinant of flow_inverse", got, want, 1e-9)
        if layer.bijective:
            want, got = jacobian_log_det(out, subject.latent(layer))
            close("log-determinant of flow_forward", got, want, 1e-9)


def integral(log_density: Callable, low: np.ndarray, high: np.ndarray, points: int = 601) -> float:
    """Integrate a density over a box by the trapezoid rule."""
    return integral_over(log_density, [np.linspace(a, b, points) for a, b in zip(low, high, strict=True)])


def integral_over(log_density: Callable, axes: list[np.ndarray]) -> float:
    """Integrate a density over a grid by the trapezoid rule."""
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    density = np.exp(np.asarray(log_density(grid.reshape(-1, len(axes))))).reshape(grid.shape[:-1])
    for axis in reversed(axes):
        density = np.trapezoid(density, axis, axis=-1)
    return float(density)


def check_density(subject: Subject) -> None:
    """With a standard normal base (uniform for angles) the density integrates to one (1-D and 2-D events)."""
    with dtype_policy("float64"):
        layer = subject.make()
        case, support = subject.case, subject.case.support
        size = int(np.prod(layer.latent_shape))
        if size > 2 or not layer.bijective:
            return
        condition = subject.condition(1)

        def log_density(points: np.ndarray) -> tf.Tensor:
            c = None if condition is None else tf.repeat(condition, len(points), axis=0)
            allowed = supports.inside(support, points)
            points = np.where(allowed[:, None], points, 1 / (size + 1))
            x = np.asarray(supports.to_data(support, tf.constant(points)))
            z, log_det = layer.flow_inverse(x.reshape(-1, *case.event_shape), c)
            density = supports.base_log_density(support, tf.reshape(z, [len(points), -1])) + log_det
            return tf.where(allowed, density, -np.inf)

        z = 1.05 * subject.latent(layer, 4096)
        c = None if condition is None else tf.repeat(condition, 4096, axis=0)
        x = np.asarray(supports.coordinates(support, layer.flow_forward(z, c)[0])).reshape(-1, size)
        total = integral_over(log_density, supports.axes(support, x, 20001 if size == 1 else 801))
        assert abs(total - 1) < 1e-3, f"the density integrates to {total:.5f}"


def check_gradients(subject: Subject) -> None:
    """The log-density and the samples send a gradient to every trainable weight and to the input."""
    with dtype_policy("float64"):
        layer, x, c = subject.make(), subject.data(), subject.condition()
        weights = [weight.value for weight in layer.trainable_weights]
        with tf.GradientTape() as tape:
            tape.watch(x)
            z, log_det = layer.flow_inverse(x, c)
            loss = tf.reduce_sum(-0.5 * tf.reduce_sum(z**2, axis=range(1, z.shape.rank)) + log_det)
        gradients = tape.gradient(loss, [x, *weights])
        names = ["x", *(weight.path for weight in layer.trainable_weights)]
        for name, gradient in zip(names, gradients, strict=True):
            assert gradient is not None, f"no gradient reaches {name}"
            assert np.all(np.isfinite(gradient)), f"the gradient of {name} is not finite"
            if subject.case.trains:
                assert np.any(np.asarray(gradient) != 0), f"the gradient of {name} is zero"
        if layer.bijective and weights:
            z = subject.latent(layer)
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer.flow_forward(z, c)[0] ** 3)
            reached = [gradient is not None for gradient in tape.gradient(loss, weights)]
            assert all(reached), f"samples send no gradient to {names[1:][reached.index(False)]}"


def check_serialisation(subject: Subject) -> None:
    """A layer made from its config and given the weights computes the same bits."""
    layer, x, c = subject.make(), subject.data(), subject.condition()
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    twin.build_for(subject.case.event_shape, subject.case.condition_shape)
    twin.set_weights(layer.get_weights())
    for got, want in zip(twin.flow_inverse(x, c), layer.flow_inverse(x, c), strict=True):
        assert np.array_equal(got, want), "the layer made from the config differs"
    assert twin.get_config() == layer.get_config(), "the config made from the config differs"


def check_graph_and_xla(subject: Subject) -> None:
    """Graph mode and XLA agree with eager mode, in float32."""
    layer, x, c = subject.make(), subject.data(), subject.condition()

    def both(x: tf.Tensor) -> tuple:
        z, log_det = layer.flow_inverse(x, c)
        return z, log_det, *layer.flow_forward(z, c)

    want = both(x)
    for name, compiled in {"graph": False, "XLA": True}.items():
        for got, value in zip(tf.function(both, jit_compile=compiled)(x), want, strict=True):
            close(f"{name} against eager", got, value, 2e-4)


def check_batches(subject: Subject) -> None:
    """A batch of none, a batch of one; an example's result does not depend on its company."""
    layer, x, c = subject.make(), subject.data(), subject.condition()
    z, log_det = layer.flow_inverse(x, c)
    for size in (0, 1):
        part, part_log_det = layer.flow_inverse(x[:size], None if c is None else c[:size])
        close(f"batch of {size}", part, z[:size], 1e-4)
        close(f"log-determinant of a batch of {size}", part_log_det, log_det[:size], 1e-4)
        out, out_log_det = layer.flow_forward(z[:size], None if c is None else c[:size])
        assert out.shape == (size, *layer.event_shape)
        assert out_log_det.shape == (size,)


def check_shapes(subject: Subject) -> None:
    """Shapes and dtypes are as promised, and wrong ones are refused by name."""
    layer, x, c = subject.make(), subject.data(), subject.condition()
    z, log_det = layer.flow_inverse(x, c)
    assert z.shape == (BATCH, *layer.latent_shape), f"latent of shape {z.shape}"
    assert log_det.shape == (BATCH,), f"log-determinant of shape {log_det.shape}"
    assert z.dtype == log_det.dtype == tf.float32, f"{z.dtype}, {log_det.dtype}"
    refused(lambda: layer.flow_inverse(x[..., None], c))
    refused(lambda: layer.flow_forward(tf.concat([z, z], axis=-1), c))
    if c is None:
        refused(lambda: layer.flow_inverse(x, tf.zeros([BATCH, 2])))
    else:
        refused(lambda: layer.flow_inverse(x))
        refused(lambda: layer.flow_inverse(x, tf.concat([c, c], axis=-1)))


def refused(call: Callable) -> None:
    try:
        call()
    except ValueError as error:
        text = str(error)
        assert "Received" in text or "takes no condition" in text or "pass condition" in text, text
        return
    except Exception as error:
        raise AssertionError(f"a wrong shape gave {type(error).__name__} and not ValueError") from error
    raise AssertionError("a wrong shape was taken")


def check_tfp_view(subject: Subject) -> None:
    """TFP's view agrees with the layer, takes leading dimensions and sees new weights at once."""
    layer, x, c = subject.make(), subject.data(6), subject.condition(6)
    bijector = layer.bijector(c)
    for seed in (4, 5):
        randomise(layer, seed, 0.05)
        z, log_det = layer.flow_inverse(x, c)
        close("bijector.inverse", bijector.inverse(x), z, 1e-6)
        ndims = len(layer.event_shape)
        close("bijector's log-determinant", bijector.inverse_log_det_jacobian(x, ndims), log_det, 1e-6)
        close("bijector.forward", bijector.forward(z), layer.flow_forward(z, c)[0], 1e-6)
    if c is None:
        z = tf.reshape(z, [2, 3, *layer.latent_shape])
        out = tf.reshape(bijector.forward(z), [6, *layer.event_shape])
        close("leading dimensions", out, layer.flow_forward(tf.reshape(z, [6, *layer.latent_shape]))[0], 1e-5)


PROPERTIES = {
    "inverse": check_inverse,
    "log_det": check_log_det,
    "density": check_density,
    "gradients": check_gradients,
    "serialisation": check_serialisation,
    "graph_and_xla": check_graph_and_xla,
    "batches": check_batches,
    "shapes": check_shapes,
    "tfp_view": check_tfp_view,
}


def subjects_of(cls: type[FlowLayer]) -> list[Subject]:
    return [Subject(cls, index) for index in range(len(cls.cases()))]

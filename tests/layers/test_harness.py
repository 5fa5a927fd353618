"""Each property can fail: a deliberately broken layer for each, which the others would let pass."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from flowzoo.layers import AffineCoupling, FlowLayer, LayerCase
from flowzoo.layers.base import constant_log_det, sum_event
from flowzoo.networks import MLP
from tests.harness import PROPERTIES, Subject


@keras.saving.register_keras_serializable("broken")
class Sound(FlowLayer):
    """x = z exp(s) + c, of which the layers below each break one thing."""

    @classmethod
    def cases(cls) -> list[LayerCase]:
        return [LayerCase({}, (2,), condition_shape=(2,))]

    def _build(self, event_shape: tuple, condition_shape: tuple | None) -> None:
        self.scale = self.add_weight(shape=event_shape, initializer="zeros", name="scale")

    def log_scale(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.scale)

    def _forward(self, z: tf.Tensor, condition: Any) -> tuple[tf.Tensor, tf.Tensor]:
        log_scale = self.log_scale()
        return z * tf.exp(log_scale) + condition, constant_log_det(tf.reduce_sum(log_scale), z)

    def _inverse(self, x: tf.Tensor, condition: Any) -> tuple[tf.Tensor, tf.Tensor]:
        log_scale = self.log_scale()
        return (x - condition) * tf.exp(-log_scale), constant_log_det(-tf.reduce_sum(log_scale), x)


@keras.saving.register_keras_serializable("broken")
class WrongInverse(Sound):
    """Adds the condition in both directions, with matching log-determinants."""

    def _inverse(self, x: tf.Tensor, condition: Any) -> tuple[tf.Tensor, tf.Tensor]:
        return super()._inverse(x, -condition)


@keras.saving.register_keras_serializable("broken")
class WrongLogDet(Sound):
    """Both log-determinants have the wrong sign: they agree with each other, and are zero at the start."""

    def _forward(self, z: tf.Tensor, condition: Any) -> tuple[tf.Tensor, tf.Tensor]:
        x, log_det = super()._forward(z, condition)
        return x, -log_det

    def _inverse(self, x: tf.Tensor, condition: Any) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_det = super()._inverse(x, condition)
        return z, -log_det


@keras.saving.register_keras_serializable("broken")
class NotOnto(Sound):
    """Reaches only a part of the latent space, so that its density has mass below one."""

    def _inverse(self, x: tf.Tensor, condition: Any) -> tuple[tf.Tensor, tf.Tensor]:
        z = tf.tanh(x)
        return z, sum_event(tf.math.log1p(-tf.minimum(tf.square(z), 1 - 1e-12)))


@keras.saving.register_keras_serializable("broken")
class Deaf(Sound):
    """No gradient reaches the weight."""

    def log_scale(self) -> tf.Tensor:
        return tf.stop_gradient(tf.convert_to_tensor(self.scale))


@keras.saving.register_keras_serializable("broken")
class Forgetful(Sound):
    """An argument is missing from the config."""

    def __init__(self, factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    @classmethod
    def cases(cls) -> list[LayerCase]:
        return [LayerCase({"factor": 2.0}, (2,), condition_shape=(2,))]

    def log_scale(self) -> tf.Tensor:
        return self.factor * super().log_scale()

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


@keras.saving.register_keras_serializable("broken")
class Moody(Sound):
    """Computes something else in a graph."""

    def log_scale(self) -> tf.Tensor:
        return super().log_scale() + (0.0 if tf.executing_eagerly() else 0.1)


@keras.saving.register_keras_serializable("broken")
class Gregarious(Sound):
    """An example's result depends on its company, and an empty batch gives NaN."""

    def _inverse(self, x: tf.Tensor, condition: Any) -> tuple[tf.Tensor, tf.Tensor]:
        return super()._inverse(x - tf.reduce_mean(x, axis=0), condition)


@keras.saving.register_keras_serializable("broken")
class Careless(Sound):
    """Takes any shape."""

    def _checked(self, name: str, value: Any, which: str) -> tf.Tensor:
        return tf.convert_to_tensor(value)

    def _checked_condition(self, condition: Any) -> Any:
        return 0.0 if condition is None else condition


@keras.saving.register_keras_serializable("broken")
class Stale(Sound):
    """Keeps a TFP bijector, which copies the weight when it is made."""

    def _build(self, event_shape: tuple, condition_shape: tuple | None) -> None:
        super()._build(event_shape, condition_shape)
        self.kept = tfp.bijectors.Scale(log_scale=tf.convert_to_tensor(self.scale) + 0.0)

    def bijector(self, condition: Any = None) -> Any:
        return tfp.bijectors.Shift(condition)(self.kept)


BROKEN = {
    WrongInverse: "inverse",
    WrongLogDet: "log_det",
    NotOnto: "density",
    Deaf: "gradients",
    Forgetful: "serialisation",
    Moody: "graph_and_xla",
    Gregarious: "batches",
    Careless: "shapes",
    Stale: "tfp_view",
}


def test_every_property_has_a_broken_layer() -> None:
    assert set(BROKEN.values()) == set(PROPERTIES)


@pytest.mark.parametrize("check", PROPERTIES)
def test_the_sound_layer_passes(check: str) -> None:
    PROPERTIES[check](Subject(Sound, 0))


@pytest.mark.parametrize(
    ("cls", "check"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", value)
)
def test_the_broken_layer_is_caught(cls: type[FlowLayer], check: str) -> None:
    with pytest.raises(AssertionError):
        PROPERTIES[check](Subject(cls, 0))


def test_a_zero_conditioner_would_hide_a_wrong_log_det() -> None:
    """Why weights are randomised first: at the start even WrongLogDet agrees with the Jacobian."""
    layer = WrongLogDet()
    layer.build_for((2,), (2,))
    x = tf.constant([[0.3, -1.0]])
    assert np.allclose(layer.flow_inverse(x, x)[1], 0.0)
    coupling = AffineCoupling(MLP((4,)))
    coupling.build_for((2,))
    assert np.allclose(coupling.flow_inverse(x)[1], 0.0)


def test_tfp_caches_would_hide_a_wrong_inverse() -> None:
    """Why the view has no cache: TFP's own returns the value it saw and not the inverse."""

    class Wrong(tfp.bijectors.Bijector):
        def __init__(self) -> None:
            super().__init__(forward_min_event_ndims=0)

        def _forward(self, x: tf.Tensor) -> tf.Tensor:
            return 2 * x

        def _inverse(self, y: tf.Tensor) -> tf.Tensor:
            return y + 1

    x = tf.constant([1.0])
    wrong = Wrong()
    assert np.allclose(wrong.inverse(wrong.forward(x)), x)  # cached, and therefore "right"
    view = WrongInverse()
    view.build_for((2,), (2,))
    c = tf.ones([1, 2])
    bijector = view.bijector(c)
    assert not np.allclose(bijector.inverse(bijector.forward(c)), c)

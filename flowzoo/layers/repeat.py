"""One layer many times, each time with weights of its own, traced and compiled once."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import tensorflow as tf

from flowzoo.layers.base import FlowLayer, LayerCase, Shape, constant_log_det
from flowzoo.layers.chain import Chain, _as_layer, check_reversible
from flowzoo.layers.reversible import run_loop
from flowzoo.networks.dropout import step_of_a_loop


@keras.saving.register_keras_serializable("flowzoo")
class Repeat(FlowLayer):
    """Compose a layer with itself: x = f_n(... f_2(f_1(z))), each f_i with weights of its own.

    The same as a `Chain` of n such layers, log-determinant and cost included, but a loop instead of n
    copies in the graph: tracing, compiling with XLA and a SavedModel grow with one layer and not with n.
    The weights are the layer's weights with a leading axis of n.

    Args:
        layer: the FlowLayer to repeat; its latent and data shapes must agree.
        times: n.
        reversible: compute activations again from outputs in the reverse pass, so that the memory of
            training does not grow with n; see `Chain`.
        **kwargs: of `FlowLayer`.

    Raises:
        TypeError: `layer` is not a FlowLayer.
        ValueError: `times` is not a positive integer; a reversible layer that is not bijective; (when built)
            the layer changes the shape.
    """

    def __init__(self, layer: FlowLayer, times: int, reversible: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(times, bool) or not isinstance(times, int) or times < 1:
            raise ValueError(f"times takes an integer of at least 1. Received: {times!r}")
        template = _as_layer(layer)
        # Behind a function: its own weights only lend their names and places to the stacked ones.
        self._template_of = lambda: template
        self.times = times
        self.reversible = check_reversible(reversible, [template])

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return a repeated step of a vector flow and of an image flow."""
        from flowzoo.layers.actnorm import ActNorm
        from flowzoo.layers.coupling import AffineCoupling
        from flowzoo.layers.permutation import LULinear, Reverse
        from flowzoo.networks.convnet import ConvResNet
        from flowzoo.networks.mlp import MLP

        step = [AffineCoupling(MLP((8,), "tanh"), log_scale_bound=0.5), Reverse(), ActNorm()]
        conv = [AffineCoupling(ConvResNet(4, blocks=1), mask="channel", log_scale_bound=0.5), Reverse()]
        linear = [LULinear(), ActNorm()]
        return [
            LayerCase({"layer": Chain(step), "times": 3}, (2,)),
            LayerCase({"layer": Chain(conv), "times": 2}, (2, 2, 2), condition_shape=(3,)),
            LayerCase({"layer": Chain(linear), "times": 2}, (3,)),
            LayerCase({"layer": Chain(step), "times": 3, "reversible": True}, (2,)),
            LayerCase(
                {"layer": Chain(conv), "times": 2, "reversible": True}, (2, 2, 2), condition_shape=(3,)
            ),
        ]

    @property
    def data_init_examples(self) -> int:  # type: ignore[override]
        """As many as the repeated layer wants."""
        return self._template_of().data_init_examples

    def reseed(self, offset: int) -> None:
        """Shift the seeds of the repeated layer."""
        self._template_of().reseed(offset)

    def _latent_shape(self, event_shape: Shape) -> Shape:
        latent_shape = self._template_of()._latent_shape(event_shape)
        if latent_shape != event_shape:
            raise ValueError(
                f"Repeat takes a layer that keeps the shape. Received: {event_shape} to {latent_shape}"
            )
        return latent_shape

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        template = self._template_of()
        config = keras.saving.serialize_keras_object(template)
        template.build_for(event_shape, condition_shape)
        starts: list[list[Any]] = [[] for _ in template.weights]
        for i in range(self.times):
            copy = _unbuilt(config)
            copy.reseed(i)
            copy.build_for(event_shape, condition_shape)
            for start, weight in zip(starts, copy.weights, strict=True):
                start.append(keras.ops.convert_to_numpy(weight))
        self.stacked = [
            self._stack(weight, start) for weight, start in zip(template.weights, starts, strict=True)
        ]

    def _stack(self, weight: Any, values: list[Any]) -> Any:
        def start(shape: Any, dtype: Any = None) -> tf.Tensor:
            return tf.stack([tf.convert_to_tensor(value, dtype) for value in values])

        stacked = self.add_weight(
            shape=(self.times, *weight.shape),
            dtype=weight.dtype,
            initializer=start,
            trainable=weight.trainable,
            name=weight.name,
        )
        stacked.element_rank = len(weight.shape)
        stacked.needs_half = getattr(weight, "needs_half", False)
        return stacked

    def _rows(self) -> list[tf.TensorArray]:
        """Return the weights as arrays from which a step reads its own."""
        rows = []
        for weight in self.stacked:
            value = tf.convert_to_tensor(weight)
            shape = value.shape[1:]
            rows.append(tf.TensorArray(value.dtype, self.times, element_shape=shape).unstack(value))
        return rows

    @contextlib.contextmanager
    def _step(self, rows: list[tf.TensorArray], index: tf.Tensor) -> Any:
        """Give the template the weights of one step."""
        mapping = [(w, row.read(index)) for w, row in zip(self._template_of().weights, rows, strict=True)]
        with keras.StatelessScope(state_mapping=mapping), step_of_a_loop(index):
            yield self._template_of()

    def _loop(
        self, value: tf.Tensor, condition: tf.Tensor | None, inverse: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if self.reversible:
            weights = [tf.convert_to_tensor(weight) for weight in self.stacked]
            return run_loop(self._template_of(), weights, self.times, value, condition, inverse)
        rows = self._rows()

        def body(count: tf.Tensor, value: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, ...]:
            index = self.times - 1 - count if inverse else count
            with self._step(rows, index) as layer:
                run = layer.flow_inverse if inverse else layer.flow_forward
                value, log_det = run(value, condition)
            return count + 1, value, total + log_det

        start = (tf.constant(0), value, constant_log_det(0.0, value))
        _, value, total = tf.while_loop(
            lambda count, *_: count < self.times, body, start, maximum_iterations=self.times
        )
        return value, total

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self._loop(z, condition, inverse=False)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self._loop(x, condition, inverse=True)

    def data_init(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Set the weights of each step from what reaches it, from the data inwards."""
        template = self._template_of()
        columns = [tf.unstack(tf.convert_to_tensor(weight)) for weight in self.stacked]
        for index in reversed(range(self.times)):
            for weight, column in zip(template.weights, columns, strict=True):
                weight.assign(column[index])
            x = template.data_init(x, condition)
            for weight, column in zip(template.weights, columns, strict=True):
                column[index] = tf.identity(tf.convert_to_tensor(weight))
        for weight, column in zip(self.stacked, columns, strict=True):
            weight.assign(tf.stack(column))
        return x

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        layer = keras.saving.serialize_keras_object(self._template_of())
        return {
            **super().get_config(),
            "layer": layer,
            "times": self.times,
            "reversible": self.reversible,
        }


def _unbuilt(config: dict[str, Any]) -> FlowLayer:
    """Make a layer from its config without the shapes for which another was built."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if key != "build_config"}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    return keras.saving.deserialize_keras_object(strip(config))

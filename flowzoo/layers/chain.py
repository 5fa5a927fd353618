"""Layers made of layers: one after another, and the other way round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from flowzoo.layers.base import FlowLayer, LayerCase, Shape, constant_log_det
from flowzoo.layers.domain import Domain
from flowzoo.layers.reversible import run_chain


def _as_layer(layer: Any) -> FlowLayer:
    if isinstance(layer, dict):
        layer = keras.saving.deserialize_keras_object(layer)
    if not isinstance(layer, FlowLayer):
        raise TypeError(f"Layers of a flow are FlowLayers. Received: {type(layer).__name__}")
    return layer


def check_reversible(reversible: bool, layers: Sequence[FlowLayer]) -> bool:
    """Return `reversible`, or raise ValueError if a layer cannot be undone."""
    lossy = [layer.name for layer in layers if not layer.bijective]
    if reversible and lossy:
        raise ValueError(
            f"reversible=True computes what a layer was given from what it gave, and {', '.join(lossy)} "
            f"cannot be undone. Put such layers outside."
        )
    return bool(reversible)


@keras.saving.register_keras_serializable("flowzoo")
class Chain(FlowLayer):
    """Compose layers: x = f_n(... f_2(f_1(z))), listed from latent to data.

    The log-determinant is the sum of the layers' log-determinants. Each direction costs one pass of
    every layer.

    Args:
        layers: FlowLayers, the first next to the latent, the last next to the data.
        reversible: keep no activation of the layers for the reverse pass, but compute what each was given
            from what it gave, by its other direction. The memory of training then hardly grows with the
            number of layers; a training step costs about a forward pass more, and gradients differ by the
            layers' round-trip error.
        **kwargs: of `FlowLayer`.

    Raises:
        TypeError: something in `layers` is not a FlowLayer.
        ValueError: a reversible layer that is not bijective.

    References:
        Gomez et al., The Reversible Residual Network: Backpropagation Without Storing Activations (2017),
        https://arxiv.org/abs/1707.04585, algorithm 1.
    """

    def __init__(self, layers: Sequence[FlowLayer], reversible: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chained = [_as_layer(layer) for layer in layers]
        self.reversible = check_reversible(reversible, self.chained)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return a chain that changes the shape and one that takes a condition."""
        from flowzoo.layers.coupling import AffineCoupling
        from flowzoo.layers.multiscale import Squeeze
        from flowzoo.layers.permutation import Reverse
        from flowzoo.networks.mlp import MLP

        def pair() -> list[FlowLayer]:
            return [AffineCoupling(conditioner=MLP((8,))), Reverse(), AffineCoupling(conditioner=MLP((8,)))]

        return [
            LayerCase({"layers": pair()}, (4,)),
            LayerCase({"layers": pair()}, (3,), condition_shape=(2,)),
            LayerCase(
                {"layers": [AffineCoupling(mask="channel", conditioner=MLP((8,))), Squeeze()]}, (2, 2, 1)
            ),
            LayerCase({"layers": []}, (3,)),
            LayerCase({"layers": pair(), "reversible": True}, (3,), condition_shape=(2,)),
        ]

    @property
    def data_init_examples(self) -> int:  # type: ignore[override]
        """The most examples that a layer of the chain wants."""
        return max([layer.data_init_examples for layer in self.chained], default=0)

    @property
    def data_range(self) -> tuple[float, float] | None:  # type: ignore[override]
        """Where data must lie: as the last layer says."""
        return self.chained[-1].data_range if self.chained else None

    @property
    def domain(self) -> Domain | None:  # type: ignore[override]
        """The set in which data must lie: as the last layer says."""
        return self.chained[-1].domain if self.chained else None

    @property
    def bijective(self) -> bool:  # type: ignore[override]
        """Whether every layer is."""
        return all(layer.bijective for layer in self.chained)

    def _latent_shape(self, event_shape: Shape) -> Shape:
        for layer in reversed(self.chained):
            event_shape = layer._latent_shape(event_shape)
        return event_shape

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        for layer in reversed(self.chained):
            layer.build_for(event_shape, condition_shape)
            event_shape = layer.latent_shape

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        if self.reversible:
            return run_chain(self.chained, z, condition, inverse=False)
        total = constant_log_det(0.0, z)
        for layer in self.chained:
            z, log_det = layer.flow_forward(z, condition)
            total += log_det
        return z, total

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        if self.reversible:
            return run_chain(self.chained[::-1], x, condition, inverse=True)
        total = constant_log_det(0.0, x)
        for layer in reversed(self.chained):
            x, log_det = layer.flow_inverse(x, condition)
            total += log_det
        return x, total

    def reseed(self, offset: int) -> None:
        """Shift the seeds of the layers."""
        for layer in self.chained:
            layer.reseed(offset)

    def data_init(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Set the weights of each layer from what reaches it, from the data inwards."""
        for index, layer in reversed(list(enumerate(self.chained))):
            wanted = max([inner.data_init_examples for inner in self.chained[: index + 1]], default=0)
            if wanted and not tf.is_symbolic_tensor(x):
                x = x[:wanted]
                condition = None if condition is None else condition[:wanted]
            x = layer.data_init(x, condition)
        return x

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.chained]
        return {**super().get_config(), "layers": layers, "reversible": self.reversible}


@keras.saving.register_keras_serializable("flowzoo")
class Invert(FlowLayer):
    """Swap the directions of a layer: x = f^-1(z).

    The costs of the directions swap as well: an inverted masked autoregressive layer is the inverse
    autoregressive flow of Kingma et al. (2016), https://arxiv.org/abs/1606.04934.

    Args:
        layer: the FlowLayer to invert; its latent and data shapes must agree.
        **kwargs: of `FlowLayer`.

    Raises:
        TypeError: `layer` is not a FlowLayer.
        ValueError: its latent and data shapes differ.
    """

    def __init__(self, layer: FlowLayer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = _as_layer(layer)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return an inverse autoregressive layer."""
        from flowzoo.layers.autoregressive import MaskedAffineAutoregressive
        from flowzoo.networks.made import MADE

        return [LayerCase({"layer": MaskedAffineAutoregressive(conditioner=MADE((8,)))}, (3,))]

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        self.layer.build_for(event_shape, condition_shape)
        if self.layer.latent_shape != event_shape:
            raise ValueError(
                f"Invert takes a layer that keeps the shape. Received: {self.layer.name}, "
                f"{event_shape} to {self.layer.latent_shape}"
            )

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self.layer.flow_inverse(z, condition)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self.layer.flow_forward(x, condition)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.layer)}

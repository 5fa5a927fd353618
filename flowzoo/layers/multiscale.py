"""Multi-scale structure: trade space for channels, and let part of the event go early."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.bijectors import elementwise
from flowzoo.layers.base import FlowLayer, LayerCase, Shape, constant_log_det, event_size, sum_event
from flowzoo.layers.chain import _as_layer
from flowzoo.networks.base import Conditioner, as_conditioner
from flowzoo.networks.convnet import ConvResNet
from flowzoo.networks.mlp import MLP


@keras.saving.register_keras_serializable("flowzoo")
class Squeeze(FlowLayer):
    """Trade space for channels: data (h, w, c) to latent (h/2, w/2, 4c).

    The log-determinant is 0; both directions cost a copy.

    Args:
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: (when built) height or width is odd.

    References:
        Dinh et al., Density estimation using Real NVP (2017), https://arxiv.org/abs/1605.08803,
        section 3.6.
    """

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return images."""
        return [LayerCase({}, (4, 2, 2)), LayerCase({}, (2, 2, 1), condition_shape=(2,))]

    def _latent_shape(self, event_shape: Shape) -> Shape:
        if len(event_shape) != 3 or event_shape[0] % 2 or event_shape[1] % 2:
            raise ValueError(
                f"Squeeze takes events (height, width, channels) of even height and width. "
                f"Received: {event_shape}"
            )
        height, width, channels = event_shape
        return height // 2, width // 2, 4 * channels

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        height, width, channels = self.event_shape
        x = tf.reshape(z, [-1, height // 2, width // 2, 2, 2, channels])
        x = tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [-1, height, width, channels])
        return x, constant_log_det(0.0, z)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        height, width, channels = self.event_shape
        z = tf.reshape(x, [-1, height // 2, 2, width // 2, 2, channels])
        z = tf.reshape(tf.transpose(z, [0, 1, 3, 2, 4, 5]), [-1, *self.latent_shape])
        return z, constant_log_det(0.0, x)


@keras.saving.register_keras_serializable("flowzoo")
class Reshape(FlowLayer):
    """Give the event another shape: data of any shape to latents of `target_shape`. Log-determinant 0.

    Args:
        target_shape: the latent shape; None flattens.
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: (when built) the sizes do not agree.
    """

    def __init__(self, target_shape: Shape | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_shape = None if target_shape is None else tuple(target_shape)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return a flattening and a target shape."""
        return [LayerCase({}, (2, 2, 1)), LayerCase({"target_shape": (2, 3)}, (6,), condition_shape=(2,))]

    def _latent_shape(self, event_shape: Shape) -> Shape:
        size = event_size(event_shape)
        if self.target_shape is None:
            return (size,)
        if event_size(self.target_shape) != size:
            raise ValueError(f"Reshape cannot turn {event_shape} into {self.target_shape}: sizes differ.")
        return self.target_shape

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.reshape(z, [-1, *self.event_shape]), constant_log_det(0.0, z)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.reshape(x, [-1, *self.latent_shape]), constant_log_det(0.0, x)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "target_shape": self.target_shape}


@keras.saving.register_keras_serializable("flowzoo")
class Split(FlowLayer):
    """Let half the channels go to the latent early; the other half passes through `inner` first.

    With x = (x_1, x_2) divided on the last axis, the latent is the flat vector
    (inner^-1(x_1), (x_2 - m(x_1)) exp(-s(x_1))): the early half is standardised by what the kept half
    says of it, which makes the prior of each split a learned Gaussian without leaving the standard
    normal base (Glow's code; with `prior="none"` m = s = 0, as in RealNVP). The log-determinant is
    that of `inner` plus the sum of s. Each direction costs one pass of `inner` and of the prior's
    network.

    Args:
        inner: FlowLayer for the kept half; its latent has any shape.
        prior: "learned" or "none".
        conditioner: network of the learned prior; a small one when None.
        log_scale_bound: largest absolute s.
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: an unknown `prior`; (when built) fewer than 2 channels.
        TypeError: `inner` is not a FlowLayer.

    References:
        Dinh et al. (2017), https://arxiv.org/abs/1605.08803, equations 14 to 16; Kingma & Dhariwal
        (2018), https://arxiv.org/abs/1807.03039.
    """

    def __init__(
        self,
        inner: FlowLayer,
        prior: str = "learned",
        conditioner: Conditioner | None = None,
        log_scale_bound: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if prior not in ("learned", "none"):
            raise ValueError(f"prior takes 'learned' or 'none'. Received: {prior!r}")
        self.inner = _as_layer(inner)
        self.prior, self.log_scale_bound = prior, float(log_scale_bound)
        self.conditioner = as_conditioner(conditioner)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return splits with and without a learned prior, one inside the other."""
        from flowzoo.layers.actnorm import ActNorm
        from flowzoo.layers.scaling import DiagonalScaling

        nested = Split(ActNorm(), conditioner=ConvResNet(4, blocks=1), log_scale_bound=2.0)
        return [
            LayerCase({"inner": DiagonalScaling()}, (2, 2, 2)),
            LayerCase({"inner": DiagonalScaling(), "conditioner": MLP((8,))}, (4,), condition_shape=(3,)),
            LayerCase({"inner": nested, "prior": "none"}, (2, 2, 5), condition_shape=(3,)),
        ]

    @property
    def data_init_examples(self) -> int:  # type: ignore[override]
        """As many as the inner layer wants."""
        return self.inner.data_init_examples

    def _parts(self, event_shape: Shape) -> tuple[Shape, Shape]:
        if not event_shape or event_shape[-1] < 2:
            raise ValueError(f"Split takes events of at least 2 channels. Received: {event_shape}")
        kept = (event_shape[-1] + 1) // 2
        return (*event_shape[:-1], kept), (*event_shape[:-1], event_shape[-1] - kept)

    def _latent_shape(self, event_shape: Shape) -> Shape:
        self._parts(event_shape)
        return (event_size(event_shape),)

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        kept, early = self._parts(event_shape)
        self.inner.build_for(kept, condition_shape)
        if self.prior == "none":
            return
        if self.conditioner is None:
            self.conditioner = ConvResNet(32, blocks=1) if len(event_shape) == 3 else MLP((32,))
        self.conditioner.build_for(kept, early, 2, condition_shape, self.dtype_policy)

    def _prior(self, kept: tf.Tensor, early: tf.Tensor, condition: tf.Tensor | None) -> Any:
        if self.prior == "none":
            return elementwise.affine(tf.zeros_like(early), tf.zeros_like(early))
        return elementwise.bounded_affine(self.conditioner(kept, condition), self.log_scale_bound)

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        kept_shape, early_shape = self._parts(self.event_shape)
        size = event_size(kept_shape)
        kept, inner_log_det = self.inner.flow_forward(
            tf.reshape(z[:, :size], [-1, *self.inner.latent_shape]), condition
        )
        early = tf.reshape(z[:, size:], [-1, *early_shape])
        early, log_det = elementwise.forward(self._prior(kept, early, condition), early)
        return tf.concat([kept, early], axis=-1), inner_log_det + sum_event(log_det)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        kept_shape, early_shape = self._parts(self.event_shape)
        kept, early = tf.split(x, [kept_shape[-1], early_shape[-1]], axis=-1)
        early, log_det = elementwise.inverse(self._prior(kept, early, condition), early)
        kept, inner_log_det = self.inner.flow_inverse(kept, condition)
        return self._join(kept, early), inner_log_det + sum_event(log_det)

    def _join(self, kept: tf.Tensor, early: tf.Tensor) -> tf.Tensor:
        parts = [tf.reshape(part, [-1, event_size(tuple(part.shape[1:]))]) for part in (kept, early)]
        return tf.concat(parts, axis=-1)

    def data_init(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Set the weights of the inner layer from the kept half."""
        x = self._checked("x", x, "event_shape")
        kept_shape, early_shape = self._parts(self.event_shape)
        kept, early = tf.split(x, [kept_shape[-1], early_shape[-1]], axis=-1)
        prior = self._prior(kept, early, self._checked_condition(condition))
        return self._join(self.inner.data_init(kept, condition), elementwise.inverse(prior, early)[0])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "inner": serialize(self.inner),
            "prior": self.prior,
            "conditioner": serialize(self.conditioner),
            "log_scale_bound": self.log_scale_bound,
        }

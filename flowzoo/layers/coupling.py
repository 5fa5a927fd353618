"""Coupling layers: one part of the event passes, and says how the other is transformed."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.bijectors import elementwise
from flowzoo.layers.base import FlowLayer, LayerCase, Shape, constant_log_det, sum_event
from flowzoo.layers.masks import MASKS, make_mask
from flowzoo.networks.base import Conditioner, as_conditioner
from flowzoo.networks.convnet import ConvResNet
from flowzoo.networks.mlp import MLP, ResidualMLP

_SCALES = {"exp": elementwise.bounded_affine, "sigmoid": elementwise.narrowing_affine}


class Coupling(FlowLayer):
    """Base of coupling layers: x_kept = z_kept and x_changed = f(z_changed; g(z_kept)).

    The Jacobian is triangular, so that the log-determinant is the sum of the elementwise ones; both
    directions cost one pass of the conditioner g. A subclass says how many parameters an entry takes
    (`params_per_entry`) and transforms (`_transform`).

    Args:
        conditioner: the network g, a `flowzoo.networks.Conditioner`; a two-layer MLP for vectors or a
            convolutional residual net for images when None.
        mask: "half", "alternating", "channel" or "checkerboard".
        swap: exchange the kept and the transformed part.
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: an unknown mask, or (when built) an event that it cannot divide.
        TypeError: `conditioner` is not a Conditioner.
    """

    params_per_entry = 1

    def __init__(
        self, conditioner: Conditioner | None = None, mask: str = "half", swap: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if mask not in MASKS:
            raise ValueError(f"mask takes one of {', '.join(MASKS)}. Received: {mask!r}")
        self.conditioner = as_conditioner(conditioner)
        self.mask, self.swap = mask, swap

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return every mask with every conditioner that suits it, with and without a condition."""
        if cls is Coupling:
            return []
        conv = {"filters": 4, "blocks": 1}
        return [
            LayerCase({"conditioner": MLP((8, 8), activation="tanh")}, (2,)),
            LayerCase({"conditioner": ResidualMLP(8, blocks=2), "mask": "alternating", "swap": True}, (5,)),
            LayerCase({"conditioner": MLP((8,))}, (3,), condition_shape=(2,)),
            LayerCase({"conditioner": ConvResNet(**conv), "mask": "checkerboard"}, (3, 4, 1)),
            LayerCase(
                {"conditioner": ConvResNet(**conv), "mask": "channel", "swap": True},
                (2, 2, 3),
                condition_shape=(3,),
            ),
            LayerCase(
                {"conditioner": ConvResNet(**conv), "mask": "checkerboard", "swap": True},
                (3, 3, 1),
                condition_shape=(6, 6, 2),
            ),
        ]

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        self._mask = make_mask(self.mask, self.swap, event_shape)
        kept, changed = self._mask.shapes(event_shape)
        if self.conditioner is None:
            self.conditioner = ConvResNet() if len(event_shape) == 3 else MLP()
        seen = tuple(self._seen(tf.zeros([1, *kept])).shape[1:])
        self.conditioner.build_for(seen, changed, self.params_per_entry, condition_shape, self.dtype_policy)

    def _run(
        self, value: tf.Tensor, condition: tf.Tensor | None, inverse: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        kept, changed = self._mask.split(value)
        changed, log_det = self._transform(changed, self.conditioner(self._seen(kept), condition), inverse)
        return self._mask.merge(kept, changed), sum_event(self._mask.weigh(log_det))

    def _seen(self, kept: tf.Tensor) -> tf.Tensor:
        """Return what the conditioner sees of the kept part: all of it."""
        return kept

    def _transform(self, value: tf.Tensor, params: tf.Tensor, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Transform elementwise; return the value and the elementwise log-determinant.

        Args:
            value: [batch, *changed].
            params: [batch, *changed, params_per_entry].
            inverse: data to latent.
        """
        raise NotImplementedError

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self._run(z, condition, inverse=False)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self._run(x, condition, inverse=True)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        conditioner = keras.saving.serialize_keras_object(self.conditioner)
        return {**super().get_config(), "conditioner": conditioner, "mask": self.mask, "swap": self.swap}


@keras.saving.register_keras_serializable("flowzoo")
class AdditiveCoupling(Coupling):
    """Additive coupling of NICE: x_changed = z_changed + t(z_kept).

    Its log-determinant is 0: volume is preserved, and scaling is left to `DiagonalScaling`. Both
    directions cost one pass of the conditioner. Arguments and errors: `Coupling`.

    References:
        Dinh et al., NICE: Non-linear Independent Components Estimation (2014),
        https://arxiv.org/abs/1410.8516, section 3.2.
    """

    def _run(
        self, value: tf.Tensor, condition: tf.Tensor | None, inverse: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        kept, changed = self._mask.split(value)
        shift = self.conditioner(kept, condition)[..., 0]
        changed = changed - shift if inverse else changed + shift
        return self._mask.merge(kept, changed), constant_log_det(0.0, value)


@keras.saving.register_keras_serializable("flowzoo")
class AffineCoupling(Coupling):
    """Affine coupling of RealNVP: x_changed = z_changed exp(s(z_kept)) + t(z_kept).

    log |det dx/dz| = sum of s over the transformed entries. The log-scale is bounded softly, so that
    neither direction can blow up after training: with `scale="exp"`, s = b tanh(s_raw / b). With
    `scale="sigmoid"`, exp(-s) = e^-b + (1 - e^-b) sigmoid(s_raw + 2): from data to latent nothing is ever
    widened, so that a stack of a hundred couplings cannot blow up in its first steps of training either.
    Both directions cost one pass of the conditioner.

    Args:
        log_scale_bound: b, the largest absolute log-scale.
        scale: "exp" as in the paper, or "sigmoid" as in Glow's code.
        **kwargs: of `Coupling`.

    Raises:
        ValueError: `log_scale_bound` is not positive, or an unknown `scale`; as `Coupling`.

    References:
        Dinh et al., Density estimation using Real NVP (2017), https://arxiv.org/abs/1605.08803,
        equations 7 and 8; Kingma & Dhariwal, Glow (2018), https://arxiv.org/abs/1807.03039 (the sigmoid).
    """

    params_per_entry = 2

    def __init__(
        self,
        conditioner: Conditioner | None = None,
        log_scale_bound: float = 2.0,
        scale: str = "exp",
        **kwargs: Any,
    ) -> None:
        super().__init__(conditioner, **kwargs)
        self.log_scale_bound = positive_bound(log_scale_bound)
        if scale not in _SCALES:
            raise ValueError(f"scale takes one of {', '.join(_SCALES)}. Received: {scale!r}")
        self.scale = scale

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return the masks of every coupling, and the sigmoid."""
        smooth = {"conditioner": MLP((8,), "tanh"), "scale": "sigmoid"}
        return [*super().cases(), LayerCase(smooth, (2,))]

    def _transform(self, value: tf.Tensor, params: tf.Tensor, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        return elementwise.apply(_SCALES[self.scale](params, self.log_scale_bound), value, inverse)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "log_scale_bound": self.log_scale_bound, "scale": self.scale}


def positive_bound(log_scale_bound: float) -> float:
    """Return a bound of log-scales, or raise ValueError if it is not positive."""
    if not log_scale_bound > 0:
        raise ValueError(f"log_scale_bound takes a positive number. Received: {log_scale_bound}")
    return float(log_scale_bound)

"""Splines of angles, in couplings and in autoregressive layers."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.bijectors import splines
from flowzoo.layers.autoregressive import MaskedAutoregressive
from flowzoo.layers.base import LayerCase
from flowzoo.layers.coupling import Coupling
from flowzoo.layers.spline import checked_bins, smooth, smooth_made
from flowzoo.networks.base import Conditioner
from flowzoo.networks.made import MADE


class _Circular:
    """What layers share whose transform is the circular spline."""

    num_bins: int

    @property
    def params_per_entry(self) -> int:
        """Number of parameters an entry takes: 3K."""
        return splines.circular_size(self.num_bins)

    def _transform(self, value: tf.Tensor, params: tf.Tensor, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        return splines.circular(value, params, inverse=not inverse)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "num_bins": self.num_bins}


@keras.saving.register_keras_serializable("flowzoo")
class CircularCoupling(_Circular, Coupling):  # type: ignore[override]
    """Spline coupling of angles: z_changed = s(x_changed; g(cos x_kept, sin x_kept)).

    s is a monotone spline of K bins that takes [-pi, pi) to itself and has one slope at the seam
    (`flowzoo.bijectors.splines.circular`), and the conditioner sees angles through cosine and sine, so
    that a density on the torus stays continuous across the seam. s(x + 2 pi) = s(x) + 2 pi: the layer
    is one-to-one on the real line as well as on the torus, and an angle may be given with any number
    of turns. log |det dz/dx| is the sum of log s' over the transformed entries. Both directions cost
    one pass of the conditioner and one search among the knots.

    Args:
        conditioner: as `Coupling`.
        num_bins: K, at least 2.
        **kwargs: of `Coupling`; of the masks all but "checkerboard".

    Raises:
        ValueError: `num_bins` is out of range, or the mask is "checkerboard"; as `Coupling`.
        TypeError: `conditioner` is not a Conditioner.

    References:
        Rezende et al., Normalizing Flows on Tori and Spheres (2020), https://arxiv.org/abs/2002.02428,
        sections 2.1.3 and 2.2.
    """

    def __init__(self, conditioner: Conditioner | None = None, num_bins: int = 8, **kwargs: Any) -> None:
        super().__init__(conditioner, **kwargs)
        if self.mask == "checkerboard":
            raise ValueError(
                "CircularCoupling takes the masks that divide the last axis. Received: 'checkerboard'"
            )
        self.num_bins = checked_bins(num_bins)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return vectors and an image, with and without a condition."""
        return [
            LayerCase({"conditioner": smooth(), "num_bins": 3}, (2,)),
            LayerCase({"conditioner": smooth(), "mask": "alternating", "swap": True, "num_bins": 2}, (5,)),
            LayerCase({"conditioner": smooth()}, (3,), condition_shape=(2,)),
            LayerCase({"conditioner": smooth(), "mask": "channel"}, (2, 2, 2)),
        ]

    def _seen(self, kept: tf.Tensor) -> tf.Tensor:
        return tf.concat([tf.cos(kept), tf.sin(kept)], axis=-1)


@keras.saving.register_keras_serializable("flowzoo")
class MaskedCircularAutoregressive(_Circular, MaskedAutoregressive):  # type: ignore[override]
    """Masked autoregressive splines of angles: z_i = s(x_i; g_i(cos, sin of x_1 … x_i-1)).

    s is the spline of `CircularCoupling`, and the network sees an angle as its cosine and its sine, so that
    densities on the torus, and on the circle (one angle), have no seam. log |det dz/dx| is the sum of log s'
    over all entries. Costs: `MaskedAutoregressive`.

    Args:
        conditioner: as `MaskedAutoregressive`.
        num_bins: K, at least 2.
        **kwargs: of `MaskedAutoregressive`.

    Raises:
        ValueError: `num_bins` is out of range; as `MaskedAutoregressive`.
        TypeError: `conditioner` is not a MADE.

    References:
        Rezende et al., Normalizing Flows on Tori and Spheres (2020), https://arxiv.org/abs/2002.02428,
        sections 2.1.3 and 2.2 (autoregressive flows on tori).
    """

    def __init__(self, conditioner: MADE | None = None, num_bins: int = 8, **kwargs: Any) -> None:
        super().__init__(conditioner, **kwargs)
        self.num_bins = checked_bins(num_bins)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return vectors, an image, one angle, with and without a condition."""
        return [
            LayerCase({"conditioner": smooth_made(), "num_bins": 3}, (2,)),
            LayerCase({"conditioner": smooth_made(), "num_bins": 2}, (4,)),
            LayerCase({"conditioner": smooth_made(), "num_bins": 2}, (3,), condition_shape=(2,)),
            LayerCase({"conditioner": smooth_made(), "num_bins": 2}, (2, 2, 1)),
            LayerCase({"conditioner": smooth_made()}, (1,), trains=False),
        ]

    def _seen(self, x: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.cos(x), tf.sin(x)], axis=-1)

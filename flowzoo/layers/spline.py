"""Rational-quadratic splines in couplings and in autoregressive layers."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.bijectors import splines
from flowzoo.layers.autoregressive import MaskedAutoregressive
from flowzoo.layers.base import LayerCase
from flowzoo.layers.coupling import Coupling
from flowzoo.networks.base import Conditioner, positive_int
from flowzoo.networks.convnet import ConvResNet
from flowzoo.networks.made import MADE
from flowzoo.networks.mlp import MLP


class _LinearTails:
    """What layers share whose transform is the rational-quadratic spline with linear tails."""

    num_bins: int
    tail_bound: float

    @property
    def params_per_entry(self) -> int:
        """Number of parameters an entry takes: 3K - 1."""
        return splines.linear_tails_size(self.num_bins)

    def _transform(self, value: tf.Tensor, params: tf.Tensor, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        return splines.linear_tails(value, params, self.tail_bound, inverse=not inverse)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "num_bins": self.num_bins, "tail_bound": self.tail_bound}


@keras.saving.register_keras_serializable("flowzoo")
class RationalQuadraticCoupling(_LinearTails, Coupling):  # type: ignore[override]
    """Rational-quadratic spline coupling: z_changed = s(x_changed; g(x_kept)).

    s is a monotone spline of K bins on [-B, B] with the identity outside, and the parameters of each
    entry come from the conditioner: 3K - 1 of them (`flowzoo.bijectors.splines.linear_tails`).
    log |det dz/dx| is the sum of log s' over the transformed entries. Data to latent evaluates the
    spline, latent to data inverts it in closed form; both cost one pass of the conditioner and one
    search among the knots. Entries should have a spread of about 1, so that most lie inside [-B, B].

    Args:
        conditioner: as `Coupling`.
        num_bins: K, at least 2.
        tail_bound: B.
        **kwargs: of `Coupling`.

    Raises:
        ValueError: `num_bins` or `tail_bound` is out of range; as `Coupling`.
        TypeError: `conditioner` is not a Conditioner.

    References:
        Durkan et al., Neural Spline Flows (2019), https://arxiv.org/abs/1906.04032, section 3 and
        equations 4 to 8.
    """

    def __init__(
        self,
        conditioner: Conditioner | None = None,
        num_bins: int = 8,
        tail_bound: float = 3.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(conditioner, **kwargs)
        self.num_bins, self.tail_bound = checked_bins(num_bins), checked_bound(tail_bound)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return every mask, with and without a condition."""
        return [
            LayerCase({"conditioner": smooth(), "num_bins": 4}, (2,)),
            LayerCase({"conditioner": smooth(), "mask": "alternating", "swap": True}, (5,)),
            LayerCase({"conditioner": smooth(), "tail_bound": 1.5}, (3,), condition_shape=(2,)),
            LayerCase(
                {"conditioner": ConvResNet(4, 1, "tanh"), "mask": "checkerboard", "num_bins": 3}, (3, 4, 1)
            ),
            LayerCase(
                {"conditioner": ConvResNet(4, 1, "tanh"), "mask": "channel", "num_bins": 2},
                (2, 2, 3),
                condition_shape=(3,),
            ),
        ]


@keras.saving.register_keras_serializable("flowzoo")
class MaskedSplineAutoregressive(_LinearTails, MaskedAutoregressive):  # type: ignore[override]
    """Masked autoregressive splines: z_i = s(x_i; g_i(x_1 … x_i-1)).

    s is the spline of `RationalQuadraticCoupling`; log |det dz/dx| is the sum of log s' over all
    entries. Costs: `MaskedAutoregressive`.

    Args:
        conditioner: as `MaskedAutoregressive`.
        num_bins: K, at least 2.
        tail_bound: B.
        **kwargs: of `MaskedAutoregressive`.

    Raises:
        ValueError: `num_bins` or `tail_bound` is out of range; as `MaskedAutoregressive`.
        TypeError: `conditioner` is not a MADE.

    References:
        Durkan et al. (2019), https://arxiv.org/abs/1906.04032, section 3.3.
    """

    def __init__(
        self, conditioner: MADE | None = None, num_bins: int = 8, tail_bound: float = 3.0, **kwargs: Any
    ) -> None:
        super().__init__(conditioner, **kwargs)
        self.num_bins, self.tail_bound = checked_bins(num_bins), checked_bound(tail_bound)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return vectors, an image, a single number, with and without a condition."""
        return [
            LayerCase({"conditioner": smooth_made(), "num_bins": 4}, (2,)),
            LayerCase({"conditioner": smooth_made(), "num_bins": 3}, (5,)),
            LayerCase({"conditioner": smooth_made(), "num_bins": 3}, (3,), condition_shape=(2,)),
            LayerCase({"conditioner": smooth_made(), "num_bins": 2}, (2, 2, 1)),
            LayerCase({"conditioner": smooth_made()}, (1,), trains=False),
        ]


def checked_bins(num_bins: Any) -> int:
    """Return a number of bins from 2 to 256, else raise ValueError."""
    if positive_int("num_bins", num_bins, least=2) > 256:
        raise ValueError(f"num_bins takes an integer from 2 to 256. Received: {num_bins!r}")
    return num_bins


def checked_bound(tail_bound: Any) -> float:
    """Return a positive finite bound, else raise ValueError."""
    if not 0 < tail_bound < float("inf"):
        raise ValueError(f"tail_bound takes a positive number. Received: {tail_bound!r}")
    return float(tail_bound)


def smooth() -> MLP:
    """A network whose outputs, with weights at random, stay near 1: splines like those that are learned."""
    return MLP((4,), activation="sigmoid")


def smooth_made() -> MADE:
    """A MADE as `smooth`."""
    return MADE((4,), activation="sigmoid")

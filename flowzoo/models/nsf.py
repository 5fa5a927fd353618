"""NSF: neural spline flows, coupling and autoregressive."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import keras

from flowzoo.distributions import make_base
from flowzoo.distributions.uniform import Uniform
from flowzoo.layers.actnorm import ActNorm
from flowzoo.layers.angle import Angle, Rotation
from flowzoo.layers.base import FlowLayer, Shape, event_size
from flowzoo.layers.circular import CircularCoupling, MaskedCircularAutoregressive
from flowzoo.layers.multiscale import Reshape
from flowzoo.layers.permutation import LULinear, Permute, Reverse
from flowzoo.layers.spline import MaskedSplineAutoregressive, RationalQuadraticCoupling
from flowzoo.models.base import Flow
from flowzoo.models.image_stack import ImageStack
from flowzoo.models.preprocessing import preprocessing_layers
from flowzoo.models.supports import support_kind
from flowzoo.networks.base import Conditioner, positive_int
from flowzoo.networks.convnet import ConvResNet
from flowzoo.networks.dropout import checked_rate
from flowzoo.networks.made import MADE
from flowzoo.networks.mlp import ResidualMLP

MIXING = ("lu", "reverse", "random")


@keras.saving.register_keras_serializable("flowzoo")
class NSF(Flow):
    """Neural spline flow: rational-quadratic splines in couplings (RQ-NSF (C)) or autoregressive (AR).

    Vectors: `num_layers` times a mixing of the entries and a spline layer, z_i = s(x_i), whose parameters
    a residual network (couplings that exchange even and odd entries) or a MADE gives; the data meet the
    last spline layer. Images with couplings: the multi-scale architecture of RealNVP with splines,
    `num_layers` checkerboard and channel couplings a level, each followed by an act-norm. Other shapes,
    and images with `coupling=False`, are flattened.

    Angles (`preprocessing="angle"`, vectors): `num_layers` times a permutation, a learned rotation and a
    circular spline layer, whose networks see cosines and sines, on a uniform base. The density lives on
    the torus: it has no seam at ±pi. One angle alone takes `coupling=False`.

    With couplings both directions cost one pass of each network. The autoregressive flow scores in one
    pass of each network and samples in at most D, D the size of an event.

    Args:
        event_shape: shape of one example; at least 2 entries for couplings.
        condition_shape: shape of one condition, or None.
        num_classes: number of classes, where the condition is a class label.
        coupling: True for couplings, False for autoregressive layers.
        num_layers: spline layers of a vector flow (10), or of each kind on a level of an image flow (3).
        num_bins: bins of each spline; 8 for vectors and 4 for images when None.
        tail_bound: the splines act on [-tail_bound, tail_bound]; beyond it is the identity.
        mixing: "lu" (a learned matrix), "reverse" or "random" (a fixed permutation), for vectors; None is
            "lu", and "random" for angles, which a matrix would tear apart.
        hidden_units: width of the residual networks, or of both hidden layers of each MADE.
        blocks: residual blocks of each network.
        num_levels: levels of an image flow.
        filters: channels of the convolutional networks.
        activation: of the hidden layers.
        split_prior: "none" or "learned", for images.
        base: as `Flow`: "normal", {"name": "mixture", "components": 5} ...; None is "normal", and "uniform"
            for angles, which take no other.
        preprocessing: see `flowzoo.models.preprocessing`.
        num_values: number of values of discrete data; None if continuous; "auto": 256 for images.
        alpha: of the logit.
        dropout: share of hidden features of the couplings' networks that training sets to zero, in [0, 1):
            noise that belongs to the example, as that of dequantisation does.
        tolerance: of sampling with `coupling=False`, see `flowzoo.layers.MaskedAutoregressive`; 0 is exact.
        **kwargs: of `Flow` (name, dtype).

    Raises:
        ValueError: an unknown mixing, fewer than one layer, fewer than 2 entries to couple, dropout without
            couplings, or angles with layers or a base that are not those of a torus.

    References:
        Durkan et al., Neural Spline Flows (2019), https://arxiv.org/abs/1906.04032, sections 3 and 5,
        appendix B.1; Rezende et al., Normalizing Flows on Tori and Spheres (2020),
        https://arxiv.org/abs/2002.02428, section 2 (angles).
    """

    family: ClassVar[str | None] = "nsf"
    small: ClassVar[dict[str, Any]] = {
        "num_layers": 2,
        "num_bins": 4,
        "hidden_units": 16,
        "blocks": 1,
        "num_levels": 1,
        "filters": 8,
    }

    def __init__(
        self,
        event_shape: Shape,
        condition_shape: Shape | None = None,
        num_classes: int | None = None,
        coupling: bool = True,
        num_layers: int | None = None,
        num_bins: int | None = None,
        tail_bound: float = 3.0,
        mixing: str | None = None,
        hidden_units: int = 128,
        blocks: int = 2,
        num_levels: int = 2,
        filters: int = 64,
        activation: str = "relu",
        split_prior: str = "none",
        base: Any = None,
        preprocessing: Any = "auto",
        num_values: int | str | None = "auto",
        alpha: float = 0.05,
        dropout: float = 0.0,
        tolerance: float = 0.0,
        **kwargs: Any,
    ) -> None:
        circular = support_kind(preprocessing) == "angle"
        image = len(event_shape) == 3 and coupling and not circular
        usual = (3, 4) if image else (10, 8)
        num_layers = usual[0] if num_layers is None else positive_int("num_layers", num_layers)
        num_bins = usual[1] if num_bins is None else num_bins
        mixing = mixing or ("random" if circular else "lu")
        if base is None:
            base = "uniform" if circular else "normal"
        share = checked_rate(dropout)
        if share and not coupling:
            raise ValueError(f"dropout is for coupling=True. Received: {dropout!r} with coupling=False")
        if mixing not in MIXING:
            raise ValueError(f"mixing takes one of {', '.join(MIXING)}. Received: {mixing!r}")
        arguments = {
            "coupling": coupling,
            "num_layers": num_layers,
            "num_bins": num_bins,
            "tail_bound": tail_bound,
            "mixing": mixing,
            "hidden_units": hidden_units,
            "blocks": blocks,
            "num_levels": num_levels,
            "filters": filters,
            "activation": activation,
            "split_prior": split_prior,
            "base": base,
            "preprocessing": preprocessing,
            "num_values": num_values,
            "alpha": alpha,
            "dropout": dropout,
            "tolerance": tolerance,
        }

        def couplings(mask: str, make: Callable[[], Conditioner]) -> list[FlowLayer]:
            found: list[FlowLayer] = []
            for i in range(num_layers):
                layer = RationalQuadraticCoupling(make(), num_bins, tail_bound, mask=mask, swap=bool(i % 2))
                found += [layer, ActNorm()]
            return found

        if circular:
            _check_circular(event_shape, coupling, mixing, base)
            layers: list[FlowLayer] = [Angle()]
            for i in range(num_layers):
                if coupling:
                    network = ResidualMLP(hidden_units, blocks, activation, share)
                    spline: FlowLayer = CircularCoupling(
                        network, num_bins, mask="alternating", swap=bool(i % 2)
                    )
                else:
                    made = MADE((hidden_units, hidden_units), activation)
                    spline = MaskedCircularAutoregressive(made, num_bins, tolerance=tolerance)
                # Multiples of the golden angle: the seams of the layers lie apart from the start.
                layers += [_mixing(mixing, i), spline, Rotation(initial=i * math.pi * (3 - math.sqrt(5)))]
        elif image:
            stack = ImageStack(
                couplings, lambda: ConvResNet(filters, blocks, activation, dropout=share), split_prior
            )
            layers = [stack.level(tuple(event_shape), num_levels)]
        else:
            layers = []
            for i in range(num_layers):
                layers.append(_mixing(mixing, i))
                if coupling:
                    network = ResidualMLP(hidden_units, blocks, activation, share)
                    swap = bool(i % 2)
                    layers.append(
                        RationalQuadraticCoupling(
                            network, num_bins, tail_bound, mask="alternating", swap=swap
                        )
                    )
                else:
                    made = MADE((hidden_units, hidden_units), activation)
                    layers.append(MaskedSplineAutoregressive(made, num_bins, tail_bound, tolerance=tolerance))
            if len(event_shape) != 1:
                layers.append(Reshape((event_size(tuple(event_shape)),)))
        layers += preprocessing_layers(preprocessing, event_shape, num_values, alpha, circular)
        super().__init__(
            layers, event_shape, condition_shape, num_classes, base=base, family_arguments=arguments, **kwargs
        )


def _mixing(kind: str, index: int) -> FlowLayer:
    if kind == "lu":
        return LULinear(seed=index)
    return Reverse() if kind == "reverse" else Permute(seed=index)


def _check_circular(event_shape: Shape, coupling: bool, mixing: str, base: Any) -> None:
    if len(event_shape) != 1:
        raise ValueError(f"preprocessing='angle' takes events of rank 1. Received: event_shape={event_shape}")
    if coupling and tuple(event_shape) == (1,):
        raise ValueError(
            "preprocessing='angle' takes two angles or more to couple, and coupling=False for one. "
            "Received: event_shape=(1,), coupling=True"
        )
    if mixing == "lu":
        raise ValueError("preprocessing='angle' takes mixing='random' or 'reverse'. Received: 'lu'")
    made = make_base(base)
    if not isinstance(made, Uniform) or (made.low, made.high) != (-math.pi, math.pi):
        raise ValueError(f"preprocessing='angle' takes base='uniform', from -pi to pi. Received: {base!r}")

"""RealNVP: affine couplings; multi-scale, with checkerboards and channels, for images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras

from flowzoo.layers.actnorm import ActNorm
from flowzoo.layers.base import FlowLayer, Shape
from flowzoo.layers.chain import Chain
from flowzoo.layers.coupling import AffineCoupling
from flowzoo.layers.multiscale import Reshape
from flowzoo.models.base import Flow
from flowzoo.models.image_stack import ImageStack
from flowzoo.models.preprocessing import preprocessing_layers
from flowzoo.networks.base import Conditioner, positive_int
from flowzoo.networks.convnet import ConvResNet
from flowzoo.networks.dropout import checked_rate
from flowzoo.networks.mlp import MLP


@keras.saving.register_keras_serializable("flowzoo")
class RealNVP(Flow):
    """Affine couplings for vectors, and the multi-scale architecture for images.

    Vectors: `num_couplings` couplings that exchange the halves, each followed by an act-norm. Images,
    level by level from the data: `num_couplings` checkerboard couplings, a squeeze, `num_couplings`
    channel couplings, and a split that lets half the channels go; the last level (or one whose height
    or width is odd) has checkerboards alone. Both directions cost one pass of each network.

    Args:
        event_shape: shape of one example; (height, width, channels) for images.
        condition_shape: shape of one condition, or None.
        num_classes: number of classes, where the condition is a class label.
        num_couplings: couplings in a row: of a vector flow, or of each kind on a level of an image flow.
        hidden_units: hidden layers of the networks of a vector flow.
        num_levels: levels of an image flow.
        filters: channels of the convolutional networks.
        blocks: residual blocks of the convolutional networks.
        activation: of the hidden layers.
        log_scale_bound: largest absolute log-scale.
        scale: of a coupling: "exp" as in the paper, or "sigmoid" as in Glow's code.
        split_prior: "none" as in the paper, or "learned" as in Glow.
        reversible: keep no activation of the couplings for the reverse pass (see `Chain`): with 64 of them a
            step then takes a quarter of the memory, at up to twice the time (benchmarks/memory.md).
        dropout: share of hidden features of the networks that training sets to zero, in [0, 1): noise that
            belongs to the example, as that of dequantisation does.
        base: as `Flow`: "normal", {"name": "mixture", "components": 5} ...
        preprocessing: see `flowzoo.models.preprocessing`.
        num_values: number of values of discrete data; None if continuous; "auto": 256 for images.
        alpha: of the logit.
        **kwargs: of `Flow` (name, dtype).

    Raises:
        ValueError: fewer than one coupling or level, or dropout of a reversible flow.

    References:
        Dinh et al., Density estimation using Real NVP (2017), https://arxiv.org/abs/1605.08803,
        sections 3.4 to 3.7.
    """

    family: ClassVar[str | None] = "realnvp"
    small: ClassVar[dict[str, Any]] = {
        "num_couplings": 2,
        "hidden_units": (24, 24),
        "filters": 8,
        "blocks": 1,
    }

    def __init__(
        self,
        event_shape: Shape,
        condition_shape: Shape | None = None,
        num_classes: int | None = None,
        num_couplings: int | None = None,
        hidden_units: Sequence[int] = (128, 128),
        num_levels: int = 2,
        filters: int = 64,
        blocks: int = 4,
        activation: str = "relu",
        log_scale_bound: float = 2.0,
        scale: str = "exp",
        split_prior: str = "none",
        reversible: bool = False,
        dropout: float = 0.0,
        base: Any = "normal",
        preprocessing: Any = "auto",
        num_values: int | str | None = "auto",
        alpha: float = 0.05,
        **kwargs: Any,
    ) -> None:
        image = len(event_shape) == 3
        usual = 3 if image else 6
        num_couplings = usual if num_couplings is None else positive_int("num_couplings", num_couplings)
        positive_int("num_levels", num_levels)
        arguments = {
            "num_couplings": num_couplings,
            "hidden_units": list(hidden_units),
            "num_levels": num_levels,
            "filters": filters,
            "blocks": blocks,
            "activation": activation,
            "log_scale_bound": log_scale_bound,
            "scale": scale,
            "split_prior": split_prior,
            "reversible": reversible,
            "dropout": dropout,
            "base": base,
            "preprocessing": preprocessing,
            "num_values": num_values,
            "alpha": alpha,
        }

        share = checked_rate(dropout, reversible)

        def couplings(mask: str, make: Callable[[], Conditioner]) -> list[FlowLayer]:
            found: list[FlowLayer] = []
            for i in range(num_couplings):
                coupling = AffineCoupling(make(), log_scale_bound, scale, mask=mask, swap=bool(i % 2))
                found += [coupling, ActNorm()]
            return found

        if image:
            make = ImageStack(
                couplings,
                lambda: ConvResNet(filters, blocks, activation, dropout=share),
                split_prior,
                reversible,
            )
            layers: list[FlowLayer] = [make.level(tuple(event_shape), num_levels)]
        else:
            layers = couplings("half", lambda: MLP(hidden_units, activation, share))
            layers = [Chain(layers, reversible=True)] if reversible else layers
            layers += [] if len(event_shape) == 1 else [Reshape()]
        layers += preprocessing_layers(preprocessing, event_shape, num_values, alpha)
        super().__init__(
            layers, event_shape, condition_shape, num_classes, base=base, family_arguments=arguments, **kwargs
        )

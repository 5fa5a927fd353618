"""Glow: act-norm, invertible 1×1 convolutions and affine couplings, multi-scale."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from flowzoo.layers.actnorm import ActNorm
from flowzoo.layers.base import FlowLayer, Shape, event_size
from flowzoo.layers.chain import Chain
from flowzoo.layers.coupling import AffineCoupling
from flowzoo.layers.multiscale import Reshape, Split, Squeeze
from flowzoo.layers.permutation import LULinear
from flowzoo.layers.repeat import Repeat
from flowzoo.models.base import Flow
from flowzoo.models.preprocessing import preprocessing_layers
from flowzoo.networks.base import Conditioner
from flowzoo.networks.convnet import ConvNet
from flowzoo.networks.dropout import checked_rate
from flowzoo.networks.mlp import MLP


@keras.saving.register_keras_serializable("flowzoo")
class Glow(Flow):
    """Generative flow with invertible 1×1 convolutions, for images of any height and width.

    Each of `num_levels` levels, from the data: a squeeze (where height and width are even), `num_steps`
    steps of act-norm, a learned LU matrix over the channels and an affine coupling, and a split whose
    early half is standardised by a learned prior. The steps of a level are one loop (`Repeat`), so that
    tracing and compiling do not grow with `num_steps`. Where an image has one channel that cannot be
    squeezed, a step holds two checkerboard couplings instead; no level is made of a single number. Vectors
    take the steps alone, with perceptrons. Both directions cost one pass of each network.

    A step takes data h to latents by a = (h - m) exp(-r) (act-norm), v = W a for each pixel, and u = (v_1,
    (v_2 - t(v_1)) exp(-s(v_1))), equations of the paper's table 1. With n pixels of c channels
    log |det du/dh| = n (log |det W| - sum of r) - sum of s(v_1).

    Args:
        event_shape: shape of one example; (height, width, channels) for images.
        condition_shape: shape of one condition, or None.
        num_classes: number of classes, where the condition is a class label.
        num_levels: L, levels of an image flow.
        num_steps: K, steps of each level.
        filters: hidden channels of each network (hidden units for vectors).
        activation: of the hidden layers.
        log_scale_bound: largest absolute log-scale of a coupling.
        scale: of a coupling: "sigmoid", or "exp", with which deep flows can blow up in their first steps.
        split_prior: "learned" as in the paper's code, or "none".
        reversible: keep no activation of a step for the reverse pass (see `Repeat`): the memory of training
            is nearly independent of K, at about a third more time. Weights and results are the same.
        dropout: share of hidden features of the networks that training sets to zero, in [0, 1): noise that
            belongs to the example, as that of dequantisation does.
        base: as `Flow`: "normal", {"name": "mixture", "components": 5} ...
        preprocessing: see `flowzoo.models.preprocessing`.
        num_values: number of values of discrete data; None if continuous; "auto": 256 for images.
        alpha: of the logit.
        **kwargs: of `Flow` (name, dtype).

    Raises:
        ValueError: fewer than one level or step, an event of a single number, or dropout of a reversible
            flow.

    References:
        Kingma & Dhariwal, Glow: Generative Flow with Invertible 1×1 Convolutions (2018),
        https://arxiv.org/abs/1807.03039, table 1 and figure 2.
    """

    family: ClassVar[str | None] = "glow"
    small: ClassVar[dict[str, Any]] = {"num_steps": 2, "num_levels": 2, "filters": 8}

    def __init__(
        self,
        event_shape: Shape,
        condition_shape: Shape | None = None,
        num_classes: int | None = None,
        num_levels: int = 3,
        num_steps: int = 16,
        filters: int = 256,
        activation: str = "relu",
        log_scale_bound: float = 2.0,
        scale: str = "sigmoid",
        split_prior: str = "learned",
        reversible: bool = False,
        dropout: float = 0.0,
        base: Any = "normal",
        preprocessing: Any = "auto",
        num_values: int | str | None = "auto",
        alpha: float = 0.05,
        **kwargs: Any,
    ) -> None:
        arguments = {
            "num_levels": num_levels,
            "num_steps": num_steps,
            "filters": filters,
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
        if num_levels < 1 or num_steps < 1:
            raise ValueError(
                f"num_levels and num_steps take integers of at least 1. Received: {num_levels}, {num_steps}"
            )

        def network() -> Conditioner:
            if len(event_shape) != 3:
                return MLP((filters, filters), activation, share)
            return ConvNet(filters, activation, dropout=share)

        def step(mask: str, swap: bool = False) -> list[FlowLayer]:
            coupling = AffineCoupling(network(), log_scale_bound, scale, mask=mask, swap=swap)
            return [coupling, LULinear(), ActNorm()]

        def level(shape: Shape, levels: int) -> Chain:
            height, width, channels = shape
            even = height % 2 == 0 and width % 2 == 0
            if even:
                channels *= 4
            steps = step("channel") if channels > 1 else [*step("checkerboard"), *step("checkerboard", True)]
            layers: list[FlowLayer] = [
                Repeat(Chain(steps), num_steps, reversible),
                *([Squeeze()] if even else []),
            ]
            kept = (height // 2, width // 2) if even else (height, width)
            inner_shape = (*kept, (channels + 1) // 2)
            if levels > 1 and channels > 1 and event_size(inner_shape) > 1:
                inner = level(inner_shape, levels - 1)
                prior = ConvNet(filters, activation) if split_prior == "learned" else None
                layers.insert(0, Split(inner, split_prior, prior, log_scale_bound))
            return Chain(layers)

        layers: list[FlowLayer]
        if len(event_shape) == 3:
            layers = [level(tuple(event_shape), num_levels)]
        else:
            layers = [Repeat(Chain(step("half")), num_steps, reversible)]
            layers += [] if len(event_shape) == 1 else [Reshape()]
        layers += preprocessing_layers(preprocessing, event_shape, num_values, alpha)
        super().__init__(
            layers, event_shape, condition_shape, num_classes, base=base, family_arguments=arguments, **kwargs
        )

"""IAF: inverse autoregressive flow, fast to sample and slow to score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras

from flowzoo.layers.base import Shape
from flowzoo.layers.chain import Invert
from flowzoo.models.base import Flow
from flowzoo.models.maf import AutoregressiveLayers, autoregressive_stack
from flowzoo.models.preprocessing import preprocessing_layers


@keras.saving.register_keras_serializable("flowzoo")
class IAF(Flow):
    """Inverse autoregressive flow, for vectors; images are flattened, row by row.

    `num_layers` inverted autoregressive layers, x_i = (z_i - m_i) exp(-s_i) with s_i and m_i of
    z_1 … z_i-1 (or a spline of z_i), each followed by an act-norm and a change of the order. A sample
    with its density costs one pass of each network, which suits variational inference and density
    distillation; the density of given data at most D passes of each, D the size of an event.

    Args:
        event_shape: shape of one example.
        condition_shape: shape of one condition, or None.
        num_classes: number of classes, where the condition is a class label.
        num_layers: autoregressive layers.
        hidden_units: hidden layers of each MADE.
        activation: of the hidden layers.
        order: "reverse" the entries from one layer to the next or "random".
        transform: "affine" or "spline" (rational-quadratic).
        log_scale_bound: largest absolute log-scale, if affine.
        num_bins: bins of each spline.
        tail_bound: the splines act on [-tail_bound, tail_bound].
        tolerance: of the density, see `flowzoo.layers.MaskedAutoregressive`; 0 is exact.
        base: as `Flow`: "normal", {"name": "mixture", "components": 5} ...
        preprocessing: see `flowzoo.models.preprocessing`.
        num_values: number of values of discrete data; None if continuous; "auto": 256 for images.
        alpha: of the logit.
        **kwargs: of `Flow` (name, dtype).

    Raises:
        ValueError: an unknown order or transform.

    References:
        Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow (2016),
        https://arxiv.org/abs/1606.04934, equations 10 and 11.
    """

    family: ClassVar[str | None] = "iaf"
    small: ClassVar[dict[str, Any]] = {"num_layers": 2, "hidden_units": (24, 24)}

    def __init__(
        self,
        event_shape: Shape,
        condition_shape: Shape | None = None,
        num_classes: int | None = None,
        num_layers: int = 5,
        hidden_units: Sequence[int] = (128, 128),
        activation: str = "relu",
        order: str = "reverse",
        transform: str = "affine",
        log_scale_bound: float = 2.0,
        num_bins: int = 8,
        tail_bound: float = 3.0,
        tolerance: float = 0.0,
        base: Any = "normal",
        preprocessing: Any = "auto",
        num_values: int | str | None = "auto",
        alpha: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        arguments = {
            "num_layers": num_layers,
            "hidden_units": list(hidden_units),
            "activation": activation,
            "order": order,
            "transform": transform,
            "log_scale_bound": log_scale_bound,
            "num_bins": num_bins,
            "tail_bound": tail_bound,
            "tolerance": tolerance,
            "base": base,
            "preprocessing": preprocessing,
            "num_values": num_values,
            "alpha": alpha,
        }
        make = AutoregressiveLayers(
            hidden_units, activation, transform, log_scale_bound, num_bins, tail_bound, tolerance
        )
        layers = autoregressive_stack(lambda: Invert(make()), num_layers, order, event_shape)
        layers += preprocessing_layers(preprocessing, event_shape, num_values, alpha)
        super().__init__(
            layers, event_shape, condition_shape, num_classes, base=base, family_arguments=arguments, **kwargs
        )

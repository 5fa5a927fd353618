"""MAF: masked autoregressive layers in alternating order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras

from flowzoo.layers.actnorm import ActNorm
from flowzoo.layers.autoregressive import MaskedAffineAutoregressive, MaskedAutoregressive
from flowzoo.layers.base import FlowLayer, Shape
from flowzoo.layers.multiscale import Reshape
from flowzoo.layers.permutation import Permute, Reverse
from flowzoo.layers.spline import MaskedSplineAutoregressive
from flowzoo.models.base import Flow
from flowzoo.models.preprocessing import preprocessing_layers
from flowzoo.networks.base import positive_int
from flowzoo.networks.made import MADE


@keras.saving.register_keras_serializable("flowzoo")
class MAF(Flow):
    """Masked autoregressive flow, for vectors; images are flattened, row by row.

    `num_layers` layers x_i = z_i exp(s_i) + m_i (or z_i a spline of x_i), each followed by an act-norm and a
    change of the order.
    A density costs one pass of each network; a sample at most D passes of each, D the size of an event.

    Args:
        event_shape: shape of one example.
        condition_shape: shape of one condition, or None.
        num_classes: number of classes, where the condition is a class label.
        num_layers: autoregressive layers.
        hidden_units: hidden layers of each MADE.
        activation: of the hidden layers.
        order: "reverse" the entries from one layer to the next (as in the paper) or "random".
        log_scale_bound: largest absolute log-scale, if affine.
        base: as `Flow`: "normal", {"name": "mixture", "components": 5} ...
        preprocessing: see `flowzoo.models.preprocessing`.
        num_values: number of values of discrete data; None if continuous; "auto": 256 for images.
        alpha: of the logit.
        transform: "affine", or "spline" (rational-quadratic).
        num_bins: bins of each spline.
        tail_bound: the splines act on [-tail_bound, tail_bound].
        tolerance: of sampling, see `flowzoo.layers.MaskedAutoregressive`; 0 is exact.
        **kwargs: of `Flow` (name, dtype).

    Raises:
        ValueError: an unknown order or transform.

    References:
        Papamakarios et al., Masked Autoregressive Flow for Density Estimation (2017),
        https://arxiv.org/abs/1705.07057.
    """

    family: ClassVar[str | None] = "maf"
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
        log_scale_bound: float = 2.0,
        base: Any = "normal",
        preprocessing: Any = "auto",
        num_values: int | str | None = "auto",
        alpha: float = 1e-6,
        transform: str = "affine",
        num_bins: int = 8,
        tail_bound: float = 3.0,
        tolerance: float = 0.0,
        **kwargs: Any,
    ) -> None:
        arguments = {
            "num_layers": num_layers,
            "hidden_units": list(hidden_units),
            "activation": activation,
            "order": order,
            "log_scale_bound": log_scale_bound,
            "base": base,
            "preprocessing": preprocessing,
            "num_values": num_values,
            "alpha": alpha,
            "transform": transform,
            "num_bins": num_bins,
            "tail_bound": tail_bound,
            "tolerance": tolerance,
        }
        make = AutoregressiveLayers(
            hidden_units, activation, transform, log_scale_bound, num_bins, tail_bound, tolerance
        )
        layers = autoregressive_stack(make, num_layers, order, event_shape)
        layers += preprocessing_layers(preprocessing, event_shape, num_values, alpha)
        super().__init__(
            layers, event_shape, condition_shape, num_classes, base=base, family_arguments=arguments, **kwargs
        )


@dataclasses.dataclass(frozen=True)
class AutoregressiveLayers:
    """Makes autoregressive layers, each with a MADE of its own; the fields are arguments of `MAF`.

    Raises:
        ValueError: (when called) an unknown transform.
    """

    hidden_units: Sequence[int]
    activation: str
    transform: str
    log_scale_bound: float
    num_bins: int
    tail_bound: float
    tolerance: float

    def __call__(self) -> MaskedAutoregressive:
        """Make one layer."""
        made = MADE(self.hidden_units, self.activation)
        if self.transform == "affine":
            return MaskedAffineAutoregressive(made, self.log_scale_bound, tolerance=self.tolerance)
        if self.transform == "spline":
            return MaskedSplineAutoregressive(made, self.num_bins, self.tail_bound, tolerance=self.tolerance)
        raise ValueError(f"transform takes 'affine' or 'spline'. Received: {self.transform!r}")


def autoregressive_stack(
    make: Callable[[], FlowLayer], num_layers: int, order: str, event_shape: Shape
) -> list[FlowLayer]:
    """Return layers, each followed by an act-norm and a change of the order, for events that are flattened.

    Args:
        make: makes one layer.
        num_layers: how many.
        order: "reverse" the entries from one layer to the next or "random".
        event_shape: shape of one example.

    Raises:
        ValueError: an unknown order, or fewer than one layer.
    """
    positive_int("num_layers", num_layers)
    if order not in ("reverse", "random"):
        raise ValueError(f"order takes 'reverse' or 'random'. Received: {order!r}")
    layers: list[FlowLayer] = []
    for i in range(num_layers):
        layers += [make(), ActNorm()]
        if i < num_layers - 1:
            layers.append(Reverse() if order == "reverse" else Permute(seed=i))
    return layers if len(event_shape) == 1 else [*layers, Reshape()]

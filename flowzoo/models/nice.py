"""NICE: additive couplings and one diagonal scaling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras

from flowzoo.layers.base import FlowLayer, Shape
from flowzoo.layers.coupling import AdditiveCoupling
from flowzoo.layers.multiscale import Reshape
from flowzoo.layers.scaling import DiagonalScaling
from flowzoo.models.base import Flow
from flowzoo.models.preprocessing import preprocessing_layers, resolve_num_values
from flowzoo.networks.base import positive_int
from flowzoo.networks.mlp import MLP


@keras.saving.register_keras_serializable("flowzoo")
class NICE(Flow):
    """Non-linear independent components estimation, for vectors; images are flattened.

    `num_couplings` additive couplings, which exchange the even and the odd entries from one to the next,
    and a diagonal scaling next to the latent. The scaling starts at the spread of
    each entry in the data. Both directions cost one pass of each network.

    Args:
        event_shape: shape of one example, at least two entries.
        condition_shape: shape of one condition, or None.
        num_classes: number of classes, where the condition is a class label.
        num_couplings: additive couplings; at least 3 let every entry influence every other.
        hidden_units: hidden layers of each network.
        activation: of the hidden layers.
        base: "logistic" (as in the paper) or what else `Flow` takes.
        preprocessing: see `flowzoo.models.preprocessing`; "auto" is "unit" for discrete data here, as
            in the paper, and "standardize" for continuous data.
        num_values: number of values of discrete data; None if continuous; "auto": 256 for images.
        **kwargs: of `Flow` (name, dtype).

    References:
        Dinh et al., NICE: Non-linear Independent Components Estimation (2014),
        https://arxiv.org/abs/1410.8516.
    """

    family: ClassVar[str | None] = "nice"
    small: ClassVar[dict[str, Any]] = {"hidden_units": (16, 16)}

    def __init__(
        self,
        event_shape: Shape,
        condition_shape: Shape | None = None,
        num_classes: int | None = None,
        num_couplings: int = 4,
        hidden_units: Sequence[int] = (256, 256),
        activation: str = "relu",
        base: Any = "logistic",
        preprocessing: Any = "auto",
        num_values: int | str | None = "auto",
        **kwargs: Any,
    ) -> None:
        arguments = {
            "num_couplings": num_couplings,
            "hidden_units": list(hidden_units),
            "activation": activation,
            "base": base,
            "preprocessing": preprocessing,
            "num_values": num_values,
        }
        if preprocessing == "auto" and resolve_num_values(num_values, event_shape):
            preprocessing = "unit"
        positive_int("num_couplings", num_couplings)
        layers: list[FlowLayer] = [DiagonalScaling(from_data=True)]
        before = preprocessing_layers(preprocessing, event_shape, num_values)
        for i in range(num_couplings):
            network = MLP(hidden_units, activation)
            layers.append(AdditiveCoupling(network, mask="alternating", swap=bool(i % 2)))
        if len(event_shape) != 1:
            layers.append(Reshape())
        layers += before
        super().__init__(
            layers, event_shape, condition_shape, num_classes, base=base, family_arguments=arguments, **kwargs
        )

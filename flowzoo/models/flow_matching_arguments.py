"""The arguments of flow matching, checked, and the networks that they name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flowzoo.distributions import Normal, make_base
from flowzoo.models.couplings import COUPLINGS
from flowzoo.networks.unet import UNet
from flowzoo.networks.velocity import ConcatSquash, ConvConcatSquash, TimeMLP, Velocity

NETWORKS = ("mlp", "concat_squash")
IMAGE_NETWORKS = ("unet", "conv")


def check_base(base: Any) -> None:
    """Raise ValueError unless a base is the standard normal, whose noise training and both methods assume."""
    if not isinstance(make_base(base), Normal):
        raise ValueError(
            f"Flow matching starts from standard normal noise: base takes 'normal' alone. Received: {base!r}"
        )


def make_velocity(
    image: bool,
    network: str,
    image_network: str,
    hidden_units: Sequence[int],
    filters: Sequence[int],
    blocks: int,
    attention: bool,
    activation: str,
) -> Velocity:
    """Return the network of a flow-matching model; arguments as `FlowMatching`.

    Raises:
        ValueError: an unknown name.
    """
    for name, value, known in (
        ("network", network, NETWORKS),
        ("image_network", image_network, IMAGE_NETWORKS),
    ):
        if value not in known:
            raise ValueError(f"{name} takes one of {', '.join(known)}. Received: {value!r}")
    if not image:
        return (TimeMLP if network == "mlp" else ConcatSquash)(hidden_units, activation)
    if image_network == "conv":
        return ConvConcatSquash(filters, activation)
    return UNet(filters, blocks, attention, activation)


def check_coupling(coupling: str, entropy: float, unlabelled: bool) -> None:
    """Raise ValueError for an unknown coupling, and for one that would exchange noise between conditions."""
    if coupling not in COUPLINGS:
        raise ValueError(f"coupling takes one of {', '.join(COUPLINGS)}. Received: {coupling!r}")
    if isinstance(entropy, bool) or not isinstance(entropy, int | float) or not 0 < entropy < np.inf:
        raise ValueError(f"entropy takes a positive number. Received: {entropy!r}")
    if unlabelled and coupling != "independent":
        raise ValueError(
            f"A minibatch coupling exchanges noise between examples, and between different conditions that "
            f"would change the conditional distribution: take coupling='independent', or num_classes= where "
            f"the condition is a class label. Received: coupling={coupling!r} with condition_shape"
        )

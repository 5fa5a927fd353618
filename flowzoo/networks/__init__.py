"""Conditioners: networks, in Keras 3, that parameterise the flow layers."""

from flowzoo.networks.base import Conditioner
from flowzoo.networks.convnet import ConvResNet
from flowzoo.networks.guidance import Guided
from flowzoo.networks.made import MADE, MaskedDense
from flowzoo.networks.mlp import MLP, ResidualMLP
from flowzoo.networks.transformer import CausalTransformer
from flowzoo.networks.unet import UNet
from flowzoo.networks.velocity import ConcatSquash, ConvConcatSquash, TimeMLP, Velocity

__all__ = [
    "MADE",
    "MLP",
    "CausalTransformer",
    "ConcatSquash",
    "Conditioner",
    "ConvConcatSquash",
    "ConvResNet",
    "Guided",
    "MaskedDense",
    "ResidualMLP",
    "TimeMLP",
    "UNet",
    "Velocity",
]

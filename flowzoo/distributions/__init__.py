"""Base distributions: what the latent follows."""

from flowzoo.distributions.base import BaseDistribution, make_base
from flowzoo.distributions.standard import Logistic, Normal

__all__ = ["BaseDistribution", "Logistic", "Normal", "make_base"]

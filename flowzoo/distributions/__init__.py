"""Base distributions: what the latent follows. Every module of this folder is found by itself."""

from flowzoo._discovery import public_subclasses
from flowzoo.distributions.base import BaseDistribution
from flowzoo.distributions.making import bases, make_base

globals().update(public_subclasses(__name__, __path__, BaseDistribution))

__all__ = [
    "BaseDistribution",
    "bases",
    "make_base",
    *sorted(public_subclasses(__name__, __path__, BaseDistribution)),
]

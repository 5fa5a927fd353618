"""TFP at work: elementwise transforms from tensors, and TFP's view of our layers."""

from flowzoo.bijectors.elementwise import affine, forward, inverse, scaled_logit
from flowzoo.bijectors.views import FlowBijector, FlowDistribution

__all__ = ["FlowBijector", "FlowDistribution", "affine", "forward", "inverse", "scaled_logit"]

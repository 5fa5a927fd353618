"""The invertible layers. Every module of this folder is found by itself: a new file is a new layer.

A module's public FlowLayers are importable from here: `from flowzoo.layers import AffineCoupling`.
"""

from flowzoo._discovery import public_subclasses
from flowzoo.layers.base import FlowLayer, LayerCase

globals().update(public_subclasses(__name__, __path__, FlowLayer))

__all__ = ["FlowLayer", "LayerCase", *sorted(public_subclasses(__name__, __path__, FlowLayer))]

"""Conditions of any scale: standardised by what the first training data were, as data are."""

from __future__ import annotations

import tensorflow as tf

from flowzoo.layers.actnorm import Standardize
from flowzoo.layers.base import Shape

# How many examples are read for a scaler where no layer wants any.
EXAMPLES = 2048


def make_condition_scaler(condition_shape: Shape | None, dtype: str) -> Standardize | None:
    """Return the layer whose inverse standardises conditions, not set yet: None where there are none.

    Until it is set it changes nothing, so that what a network of one's own gives to a flow which is not
    trained by `fit` (the features of an encoder, say) passes as it is.

    Args:
        condition_shape: of conditions that are numbers; None without, and for class labels.
        dtype: of the flow.
    """
    if condition_shape is None:
        return None
    scaler = Standardize(dtype=dtype, name="condition_scaler")
    scaler.build_for(condition_shape)
    return scaler


def scaled(scaler: Standardize | None, condition: tf.Tensor) -> tf.Tensor:
    """Return conditions, [batch, *condition_shape], as the layers take them."""
    return condition if scaler is None else scaler.flow_inverse(condition)[0]

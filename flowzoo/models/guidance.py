"""Classifier-free guidance as families are told of it, checked at the door."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowzoo.networks.base import checked_share


def checked_dropout(value: Any, conditional: bool) -> float:
    """Return the probability with which training drops a condition, else raise ValueError.

    Args:
        value: what the user gave.
        conditional: whether the flow has a condition.
    """
    share = checked_share("condition_dropout", value)
    if share and not conditional:
        raise ValueError(
            f"condition_dropout needs a condition: give num_classes or condition_shape. Received: {value!r}"
        )
    return share


def checked_guidance(value: Any, dropout: float) -> float:
    """Return a weight of guidance; raise ValueError where the model was not trained for it.

    Args:
        value: w, at least -1 (without the condition); 0 for none.
        dropout: `condition_dropout` of the model.
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not -1 <= value < np.inf:
        raise ValueError(f"guidance takes a number of at least -1. Received: {value!r}")
    if value and not dropout:
        raise ValueError(
            f"guidance needs a conditional model trained with condition_dropout above 0. Received: "
            f"guidance={value!r}, condition_dropout={dropout!r}"
        )
    return float(value)

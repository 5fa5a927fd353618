"""What a TarFlow is told, checked at the door: patches, noise, guidance."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowzoo.layers.base import FlowLayer, Shape
from flowzoo.layers.noise import GaussianNoise
from flowzoo.models.preprocessing import preprocessing_layers


def default_patch_size(event_shape: Any) -> int:
    """Return the largest of 4, 2 and 1 that divides an image and leaves 16 tokens; 1 for other events."""
    if len(event_shape) != 3:
        return 1
    height, width, _ = event_shape
    for side in (4, 2):
        if height % side == 0 and width % side == 0 and height * width >= 16 * side**2:
            return side
    return 1


def checked_dropout(share: Any, condition_shape: Any, num_classes: Any) -> float:
    """Return `condition_dropout`, or raise ValueError."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ValueError(f"condition_dropout takes a number in [0, 1). Received: {share!r}")
    if share and condition_shape is None and num_classes is None:
        raise ValueError(
            f"condition_dropout needs a condition: give num_classes or condition_shape. Received: {share!r}"
        )
    return float(share)


def checked_guidance(value: Any, dropout: float) -> float:
    """Return a weight of guidance, or raise ValueError.

    Args:
        value: w, at least -1.
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


def checked_denoise(value: Any, noise_std: float) -> bool:
    """Return whether to denoise, or raise ValueError or TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"denoise takes True or False. Received: {value!r}")
    if value and not noise_std:
        raise ValueError("Denoising needs a model trained with noise_std above 0. Received: noise_std=0")
    return value


def data_layers(
    kind: Any, event_shape: Shape, num_values: int | str | None, alpha: float, noise_std: float
) -> list[FlowLayer]:
    """Return the layers next to the data, from latent to data, the noise last.

    Raises:
        ValueError: noise for discrete data, a kind of preprocessing that noise does not suit.
    """
    if noise_std == 0 and not isinstance(noise_std, bool):
        return preprocessing_layers(kind, event_shape, num_values, alpha)
    noise = GaussianNoise(noise_std)
    if num_values not in ("auto", None):
        raise ValueError(
            f"noise_std takes the place of dequantisation: the data are continuous (num_values=None). "
            f"Received: noise_std={noise_std!r}, num_values={num_values!r}"
        )
    if kind not in ("auto", "standardize", "none"):
        raise ValueError(
            f"With noise_std preprocessing takes 'auto', 'standardize' or 'none': noise leaves the unit "
            f"interval. Received: {kind!r}"
        )
    return [*preprocessing_layers(kind, event_shape, None, alpha), noise]

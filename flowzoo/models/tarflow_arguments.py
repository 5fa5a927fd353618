"""What a TarFlow is told, checked at the door: patches, noise, guidance."""

from __future__ import annotations

from typing import Any

from flowzoo.layers.base import FlowLayer, Shape
from flowzoo.layers.noise import GaussianNoise
from flowzoo.layers.preprocessing import Dequantize, Logit
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


def checked_levels(whole_values: Any, near_data: list[FlowLayer]) -> tuple[int, float] | None:
    """Return the number of values and the logit's alpha where a block is to see whole values, else None.

    Raises:
        ValueError: the data are not discrete under a logit.
        TypeError: `whole_values` is not a boolean.
    """
    if not isinstance(whole_values, bool):
        raise TypeError(f"whole_values takes True or False. Received: {whole_values!r}")
    if not whole_values:
        return None
    match near_data:
        case [Logit() as logit, Dequantize() as spread]:
            return spread.num_values, logit.alpha
    raise ValueError(
        "whole_values=True is for discrete data with preprocessing='logit'. Received: "
        f"{[type(layer).__name__ for layer in near_data]} next to the data"
    )

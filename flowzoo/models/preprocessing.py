"""Which layers bring a user's data to the real line."""

from __future__ import annotations

from typing import Any

from flowzoo.errors import near_matches
from flowzoo.layers.actnorm import Standardize
from flowzoo.layers.base import FlowLayer, Shape
from flowzoo.layers.preprocessing import Dequantize, Logit
from flowzoo.layers.rescale import Rescale
from flowzoo.models.supports import SUPPORTS, support_kind, support_layers

KINDS = ("auto", "standardize", "logit", "unit", "symmetric", "none")


def preprocessing_layers(
    kind: Any,
    event_shape: Shape,
    num_values: int | str | None = "auto",
    alpha: float = 0.05,
    circular: bool = False,
) -> list[FlowLayer]:
    """Return the layers next to the data, from latent to data.

    Args:
        kind: "auto" ("logit" for discrete data, else "standardize"), "standardize" (continuous data of
            any scale), "logit" (the unit interval, or discrete data, to the real line), "unit" (discrete
            data to the unit interval alone, as in NICE), "symmetric" (discrete data to [-1, 1], as in
            diffusion models) or "none". Or the support of continuous data, from which their density and
            their samples never stray: "positive", "unit_interval", "simplex" (entries that sum to 1),
            "angle" (radians, in circular flows), {"kind": "box", "low": 0, "high": [1, 10]}, or
            {"kind": "columns", "columns": ["real", "positive", ["box", 0, 10]]}.
        event_shape: shape of one example.
        num_values: of discrete data, 256 for bytes; None for continuous data; "auto": 256 for images of
            1, 3 or 4 channels (events of rank 3), else None.
        alpha: of the logit.
        circular: whether the flow's layers are those of angles.

    Raises:
        ValueError: an unknown kind, or one that does not suit the data.
    """
    if support_kind(kind):
        if num_values not in (None, "auto"):
            raise ValueError(f"preprocessing={kind!r} is for continuous data: give num_values=None.")
        return support_layers(kind, event_shape, circular)
    if kind not in KINDS:
        known = (*KINDS, *SUPPORTS)
        hint = near_matches(kind, known) if isinstance(kind, str) else ""
        raise ValueError(f"preprocessing takes one of {', '.join(known)}. Received: {kind!r}{hint}")
    num_values = resolve_num_values(num_values, event_shape)
    if kind == "auto":
        kind = "logit" if num_values else "standardize"
    if num_values is None:
        if kind in ("unit", "symmetric"):
            raise ValueError(f"preprocessing={kind!r} is for discrete data: give num_values=.")
        return {"standardize": [Standardize()], "logit": [Logit(alpha)], "none": []}[kind]
    kinds: dict[str, list[FlowLayer]] = {
        "standardize": [Standardize()],
        "logit": [Logit(alpha)],
        "symmetric": [Rescale(2.0, -1.0)],
    }
    inner = kinds.get(kind, [])
    return [*inner, Dequantize(num_values)]


def resolve_num_values(num_values: int | str | None, event_shape: Any) -> int | None:
    """Return the number of values of discrete data, None for continuous data."""
    if num_values != "auto":
        return num_values  # type: ignore[return-value]
    image = len(event_shape) == 3 and event_shape[-1] in (1, 3, 4)
    return 256 if image else None

"""Which layers bring bounded data to the real line, by the name of their support."""

from __future__ import annotations

from typing import Any

from flowzoo.errors import near_matches
from flowzoo.layers.actnorm import Standardize
from flowzoo.layers.angle import Angle
from flowzoo.layers.base import FlowLayer, Shape
from flowzoo.layers.columns import Columns
from flowzoo.layers.simplex import Simplex
from flowzoo.layers.support import Box, Positive

SUPPORTS: dict[str, type[FlowLayer]] = {
    "positive": Positive,
    "unit_interval": Box,
    "box": Box,
    "simplex": Simplex,
    "angle": Angle,
    "columns": Columns,
}
# What a name takes besides "kind".
_ARGUMENTS = {"positive": ("transform",), "box": ("low", "high"), "columns": ("columns",)}


def support_kind(preprocessing: Any) -> str | None:
    """Return the support that `preprocessing=` names, or None if it names none."""
    kind = preprocessing.get("kind") if isinstance(preprocessing, dict) else preprocessing
    return kind if isinstance(kind, str) and kind in SUPPORTS else None


def support_layers(preprocessing: Any, event_shape: Shape, circular: bool = False) -> list[FlowLayer]:
    """Return the layers of a support, from latent to data: its own and, beneath it, standardisation.

    Args:
        preprocessing: "positive", {"kind": "box", "low": 0, "high": [1, 10]} and the like.
        event_shape: shape of one example.
        circular: whether the flow's layers are those of angles.

    Raises:
        ValueError: arguments that the support does not take or lacks, an event that it does not suit, or
            angles in a flow whose layers know no seam.
    """
    kind = support_kind(preprocessing)
    given = (
        {key: value for key, value in preprocessing.items() if key != "kind"}
        if isinstance(preprocessing, dict)
        else {}
    )
    accepted = _ARGUMENTS.get(str(kind), ())
    for key in given:
        if key not in accepted:
            raise ValueError(
                f"preprocessing {kind!r} takes the arguments {', '.join(accepted) or 'none'}. "
                f"Received: {key!r}{near_matches(key, accepted)}"
            )
    if kind in ("box", "columns") and not given:
        raise ValueError(
            f"preprocessing {kind!r} takes a dict with {', '.join(accepted)}. Received: {preprocessing!r}"
        )
    if kind == "angle":
        return [_angle(circular)]
    if kind == "simplex" and len(event_shape) != 1:
        raise ValueError(
            f"preprocessing='simplex' takes events of rank 1. Received: event_shape={event_shape}"
        )
    return [Standardize(), SUPPORTS[str(kind)](**given)]


def _angle(circular: bool) -> Angle:
    if not circular:
        raise ValueError(
            "preprocessing='angle' takes a flow of circular layers, whose density has no seam at ±pi: build "
            "'nsf'. Elsewhere {'kind': 'box', 'low': -pi, 'high': pi} takes angles as "
            "numbers between two bounds."
        )
    return Angle()

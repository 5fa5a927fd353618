"""What is measured of a trained flow, and on what."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from flowzoo import latents
from flowzoo.config import EntryConfig
from flowzoo.data import Source
from flowzoo.models.continuous import ContinuousModel

# What a published flow may err by; continuous data in units of their spread.
LARGEST_ROUND_TRIP = 1e-3
LARGEST_MASS_ERROR = 1e-3


def conditional(config: EntryConfig) -> bool:
    """Say whether the entry's model takes the condition of its data."""
    return config.data is not None and config.data.conditional


def score(
    model: Any,
    source: Source,
    config: EntryConfig,
    limit: int | None,
    log_prob: Callable[..., Any] | None = None,
) -> dict[str, float]:
    """Return mean and standard error of the negative log_prob (or of what is given as it), in nats."""
    log_prob = log_prob or model.log_prob
    x, condition = source.head(limit)
    condition = condition if conditional(config) else None
    step = max(1, 2**20 // model.event_size)
    parts = [
        np.asarray(log_prob(x[i : i + step], None if condition is None else condition[i : i + step]))
        for i in range(0, len(x), step)
    ]
    nats = -np.concatenate(parts).astype("float64")
    if not np.isfinite(nats).all():
        raise FloatingPointError(
            f"{config.name}: {np.sum(~np.isfinite(nats))} test examples have no finite log_prob."
        )
    error = float(nats.std(ddof=1) / math.sqrt(len(nats))) if len(nats) > 1 else 0.0
    return {"nats": float(nats.mean()), "standard_error": error, "num_examples": len(nats)}


def round_trip(model: Any, source: Source, with_condition: bool, num: int = 64) -> dict[str, float]:
    """Return the largest error of data to latent to data.

    Of discrete data it is that of the values before they are rounded (below 0.5 the rounding gives them
    back), of other data a part of their spread.

    Args:
        model: the flow.
        source: the first `num` examples of it are taken there and back.
        with_condition: whether the source's conditions are given to the flow.
        num: how many examples.
    """
    x, condition = source.head(num)
    condition = condition if with_condition else None
    spread = 1.0 if model.discrete else float(np.asarray(x, "float64").std()) or 1.0
    error = latents.round_trip_error(model, x, condition)
    return {"largest_error": float(np.max(np.abs(error)) / spread), "num_examples": len(x)}


def evaluations(model: Any, source: Source, with_condition: bool, num: int = 64) -> dict[str, float] | None:
    """Return how often a continuous flow evaluates its velocity (NFE) for a log_prob and for a sample.

    Both are means over the examples: with fixed steps all are alike, with "dopri5" a batch waits for its
    largest.

    Args:
        model: the flow.
        source: log_prob is counted on the first `num` examples of it, and as many samples are drawn.
        with_condition: whether the source's conditions are given to the flow, for the samples as well.
        num: how many examples.

    Returns:
        "log_prob", "sample" and "num_examples"; None for a flow that is not continuous.
    """
    if not isinstance(model, ContinuousModel):
        return None
    x, condition = source.head(num)
    condition = condition if with_condition else None
    return {
        "log_prob": float(np.mean(model.nfe(x, condition))),
        "sample": float(np.mean(model.sampling_nfe(len(x), condition, seed=0))),
        "num_examples": len(x),
    }


def allowed_round_trip(discrete: bool) -> float:
    """Return what `round_trip` must stay below: half a value, or a part of the data's spread."""
    return 0.5 if discrete else LARGEST_ROUND_TRIP


def check_published(name: str, card: dict[str, Any]) -> None:
    """Refuse a flow that is no flow: one that does not invert, or whose density does not integrate to 1.

    Args:
        name: of the entry.
        card: with "round_trip", the unit of "metric" and, for a density in the plane whose truth is known,
            "truth" or "given_conditions".

    Raises:
        FloatingPointError: the round trip errs by half a value of discrete data or by `LARGEST_ROUND_TRIP` of
            the data's spread, or the density's integral differs from 1 by more than `LARGEST_MASS_ERROR`.
    """
    error = card["round_trip"]["largest_error"]
    allowed = allowed_round_trip(card["metric"]["unit"] == "bits_per_dim")
    if not error < allowed:
        raise FloatingPointError(
            f"{name}: data to latent to data errs by {error:.3g}, and {allowed:g} is allowed: the trained "
            f"flow does not invert. Nothing was written; a smaller learning rate or clip_norm may do."
        )
    for mass, given in _masses(card):
        if not abs(mass - 1) <= LARGEST_MASS_ERROR:
            raise FloatingPointError(
                f"{name}: the density{given} integrates to {mass:.6f}, and 1 within {LARGEST_MASS_ERROR:g} "
                f"is asked: the flow is no density, or so sharp that the quadrature misses it. Nothing was "
                f"written."
            )


def _masses(card: dict[str, Any]) -> list[tuple[float, str]]:
    """Return the integrals that a card gives, each with what it is given."""
    plain = [(card["truth"]["mass"], "")] if "truth" in card else []
    given = card.get("given_conditions", {"masses": [], "conditions": []})
    named = [f" given the condition {condition}" for condition in given["conditions"]]
    return [*plain, *zip(given["masses"], named, strict=True)]


def hardware() -> str:
    """Return the devices of this machine in words."""
    gpus = [tf.config.experimental.get_device_details(d) for d in tf.config.list_physical_devices("GPU")]
    if gpus:
        return f"{len(gpus)} x {gpus[0].get('device_name', 'GPU')}"
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"


def versions() -> dict[str, str]:
    """Return the versions that made the weights."""
    import keras
    import tensorflow_probability as tfp

    import flowzoo

    return {
        "flowzoo": flowzoo.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tensorflow_probability": tfp.__version__,
        "numpy": np.__version__,
    }

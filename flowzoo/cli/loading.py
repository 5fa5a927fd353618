"""Loads the model of an entry, telling what it is and where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowzoo import registry, weights
from flowzoo.cli.console import Talk
from flowzoo.cli.quiet import import_tensorflow

if TYPE_CHECKING:
    from flowzoo.models import Flow

_ORIGINS = {
    "path": "as given",
    "home": "flowzoo's home",
    "packaged": "comes with flowzoo",
    "download": "downloaded",
}
_UNITS = {"bits_per_dim": "bits/dim", "nats": "nats"}


def load_model(name: str, source: str | None, talk: Talk) -> Flow:
    """Loads an entry as `flowzoo.load` does, and says what it loads.

    Args:
        name: The name of the entry.
        source: Weights of the user's own, `path:DIR`, or None.
        talk: Where to say it.
    """
    config = registry.get_config(name)
    located = weights.locate(name, expected_digest=config.weights.sha256, source=source)
    talk.say(f"{name}: {config.description}")
    measured = metric_text(weights.read_card(located.folder))
    if measured:
        talk.say(f"  measured: {measured}")
    talk.say(f"  weights:  {located.folder} ({_ORIGINS[located.origin]}, SHA-256 verified)")

    import_tensorflow()
    import flowzoo

    return flowzoo.load(name, source=source)


def metric_text(card: Mapping[str, Any] | None) -> str:
    """Says the measured metric of a card in a few words; empty where the card has none."""
    metric = (card or {}).get("metric")
    if not isinstance(metric, Mapping) or not isinstance(metric.get("value"), int | float):
        return ""
    unit = str(metric.get("unit", ""))
    return f"{metric['value']:.4g} {_UNITS.get(unit, unit)}"

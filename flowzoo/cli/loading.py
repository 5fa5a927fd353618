"""Loads the model of an entry, telling what it is and where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowzoo import cards, registry, weights
from flowzoo.cli.console import Talk
from flowzoo.cli.quiet import import_tensorflow
from flowzoo.config import EntryConfig

if TYPE_CHECKING:
    from flowzoo.models import Flow

_ORIGINS = {
    "path": "as given",
    "home": "flowzoo's home",
    "packaged": "comes with flowzoo",
    "download": "downloaded",
}


def load_model(name: str, source: str | None, talk: Talk) -> Flow:
    """Loads an entry as `flowzoo.load` does, and says what it loads.

    Args:
        name: The name of the entry, or `path:DIR` for what was trained on other data.
        source: Weights of the user's own, `path:DIR`, or None.
        talk: Where to say it.
    """
    config = config_of(name)
    if name.startswith("path:"):
        source, name = name, config.name
    located = weights.locate(
        name, expected_digest=config.weights.sha256, source=source, has_data=config.data is not None
    )
    talk.say(f"{name}: {config.description}")
    metric = _metric(weights.read_card(located.folder))
    if metric:
        talk.say(f"  measured: {cards.metric_text(metric)}")
    talk.say(f"  weights:  {located.folder} ({_ORIGINS[located.origin]}, SHA-256 verified)")

    import_tensorflow()
    from flowzoo import zoo

    return zoo.restore(located.folder)  # `locate` has verified every file


def config_of(name: str) -> EntryConfig:
    """Returns the config of an entry, or of the folder that `path:DIR` names.

    Raises:
        UnknownNameError: No entry has the name.
        NoWeightsError: There is no such folder.
        CorruptWeightsError: There are no weights in it.
    """
    if not name.startswith("path:"):
        return registry.get_config(name)
    return weights.config_in(weights.folder_of(name))


def metric_text(card: Mapping[str, Any] | None) -> str:
    """Says the measured metric of a card in two words; empty where the card has none."""
    metric = _metric(card)
    return f"{metric['value']:.4g} {cards.UNITS[metric['unit']]}" if metric else ""


def _metric(card: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    metric = (card or {}).get("metric")
    if not isinstance(metric, Mapping) or metric.get("unit") not in cards.UNITS:
        return None
    return metric if isinstance(metric.get("value"), int | float) else None

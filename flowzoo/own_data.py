"""The architecture of an entry on data of the user's own: what of the entry's config stays, and what not."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from flowzoo.config import EntryConfig, TrainingConfig, parse_config
from flowzoo.data import Source, source_info

_log = logging.getLogger(__name__)

# The rate rises in this share of all steps at most, and the weights are averaged over this share at most.
_WARMUP, _AVERAGED = 0.1, 0.1
# A citation that has more of the words by which a source names its origin is that of the data set.
_SAME_WORDS = 0.6
OWN = "the user's own"
# Options of sources that name the condition, which is asked for by giving one.
_LABELS = ("labels", "label", "condition")


def renamed(
    config: EntryConfig, data: Any, event_shape: Sequence[int] | None, rename: str | None
) -> EntryConfig:
    """Return the config of an entry's architecture on other data, or as it is without any.

    Raises:
        ValueError: `data` without `rename` or the other way round; an entry that learns from a teacher.
    """
    if data is None and rename is None and event_shape is None:
        return config
    if data is None or rename is None:
        raise ValueError(
            f"Other data make another model: give data= and rename= together. "
            f"Received: data={data!r}, rename={rename!r}"
        )
    if config.training.reflow is not None:
        teacher = config.training.reflow.teacher
        raise ValueError(
            f"{config.name} learns from pairs of {teacher!r} and from no data: train {teacher!r} on your "
            f"own, and straighten its paths with flowzoo.models.rectify."
        )
    content = config.model_dump(mode="json")
    content |= {"name": rename, "data": data if isinstance(data, dict) else data.model_dump()}
    content["weights"] = {"dtype": config.weights.dtype}
    content["model"]["event_shape"] = None if event_shape is None else list(event_shape)
    content["card"] |= {
        "published": [],
        "notes": [],
        "temperature": 1.0,
        "licence": OWN,
        "data_licence": OWN,
        "limits": ["It knows what it was trained on, and nothing is known of that here."],
    }
    if config.data is None or content["data"].get("source") != config.data.source:
        content["card"]["citation"] = _of_architecture(config)
    content["description"] = f"{config.name}, trained on other data."
    return parse_config(content, f"the configuration of {rename}")


def _of_architecture(config: EntryConfig) -> list[str]:
    """Return the citations of an entry without that of its data set, which the source's origin names."""
    origin = _words(source_info(config.data.source).origin) if config.data is not None else set()
    cited = config.card.citation
    return [text for text in cited if len(origin & _words(text)) <= _SAME_WORDS * len(origin)] or cited


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def command_for(entry: str, config: EntryConfig) -> str:
    """Return the command that a card names: what trains an entry, or its architecture on other data."""
    if config.name == entry or config.data is None:
        return f"flowzoo train {config.name}"
    data = config.data.model_dump(mode="json")
    return f"flowzoo.train({entry!r}, data={data!r}, rename={config.name!r})"


def suited(config: EntryConfig, source: Source) -> EntryConfig:
    """Return a config whose flow expects what the source has.

    That is as many values of a pixel, 32 of five bits, and the source's own classes, or numbers of its own,
    as the condition, whatever the entry's flow is conditioned on: where an option names them (`labels`,
    `label`, `condition`), the data are said to be conditional, or the architecture takes a condition.

    Raises:
        ValueError: a condition is asked for, and the data have none.
    """
    content = config.model_dump(mode="json")
    if source.num_values is not None:
        content["model"]["args"]["num_values"] = source.num_values
    if _conditional(config):
        if source.condition_shape is None:
            raise ValueError(_without_condition(config, source))
        # Of classes the shape is (), which num_classes says.
        shape = None if source.num_classes is not None else list(source.condition_shape)
        content["data"]["conditional"] = True
        content["model"] |= {"num_classes": source.num_classes, "condition_shape": shape}
    return parse_config(content, f"the configuration of {config.name}")


def _conditional(config: EntryConfig) -> bool:
    if config.model.num_classes is not None or config.model.condition_shape is not None:
        return True
    data = config.data
    return data is not None and (data.conditional or any(data.options.get(key) for key in _LABELS))


def _without_condition(config: EntryConfig, source: Source) -> str:
    takes = "class labels" if config.model.num_classes is not None else "a condition"
    return (
        f"The architecture of {config.name} takes {takes}, and the data give none: of pictures labels=true "
        f"(-o labels=true) makes the folder that each lies in its class, of a table label=COLUMN names a "
        f"column, of an NPZ file condition=ARRAY an array. Received: {source.name!r} without any"
    )


def fitted(recipe: TrainingConfig, steps: int) -> TrainingConfig:
    """Return a recipe whose warm-up and average fit into so many steps.

    Recipes are those of large data. In a hundred steps a warm-up of a thousand would never end, and an
    average of the weights over a thousand steps would nearly be what they started from.
    """
    content, told = recipe.model_dump(), []
    warmup = int(_WARMUP * steps)
    if recipe.optimizer.warmup_steps > warmup:
        told.append(f"the rate rises in {warmup} steps in place of {recipe.optimizer.warmup_steps}")
        content["optimizer"]["warmup_steps"] = warmup
    most = 1 - 1 / max(2.0, _AVERAGED * steps)
    if recipe.ema is not None and recipe.ema > most:
        told.append(f"the average of the weights decays by {most:.3g} in place of {recipe.ema:g}")
        content["ema"] = most
    if told:
        _log.warning("The training has %d steps: %s.", steps, ", and ".join(told))
    return TrainingConfig.model_validate(content)

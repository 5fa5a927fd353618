"""Store the weights of a trained entry anew, in another type, without training."""

from __future__ import annotations

import datetime
import logging
import os
from pathlib import Path
from typing import Any

from flowzoo import measure, registry, weights, zoo
from flowzoo.config import EntryConfig, parse_config
from flowzoo.data import Source, open_source
from flowzoo.errors import DataError
from flowzoo.files import staged_folder
from flowzoo.full_float32 import full_float32
from flowzoo.models.saved_model import WEIGHTS_DTYPES
from flowzoo.publish import describe, metric_of, soundness, store

_log = logging.getLogger(__name__)


def republish(
    name: str,
    *,
    weights_dtype: str,
    out: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a trained entry with its weights stored in another type, measured as they are stored.

    The entry is verified as at each load. The card keeps what it says of the training; its metric, round
    trip, golden values and samples are those of the weights as stored now, on the same split with the same
    noise, and `stored_anew` says from what, when and by which versions. Its texts are those of the entry's
    file today.

    Args:
        name: of the entry.
        weights_dtype: "float32", "float16", "bfloat16" or "int8"; it can only keep or coarsen the weights.
        out: folder in which the folder `name` is written.
        source: `"path:DIR"` or a PathLike with the weights; else they are looked for as in `flowzoo.load`.
        data_dir: where the data lie, for sources that read files.
        overwrite: replace an earlier result, once the new one is whole.

    Returns:
        The folder that was written.

    Raises:
        UnknownNameError: no entry has the name.
        WeightsError: there are no weights, or they are not the published ones.
        DataError: the data are not here, or are not as many as those that the card's metric was measured on.
        ValueError: an unknown `weights_dtype`.
        FileExistsError: there is an earlier result and `overwrite` is False.
        OSError: the result cannot be written.
        FloatingPointError: what was stored is not fit to be published (`flowzoo.measure.check_published`).
    """
    if weights_dtype not in WEIGHTS_DTYPES:
        raise ValueError(
            f"weights_dtype takes one of {', '.join(WEIGHTS_DTYPES)}. Received: {weights_dtype!r}"
        )
    entry = registry.get_config(name)
    located = weights.locate(name, expected_digest=entry.weights.sha256, source=source)
    card: Any = weights.read_card(located.folder)
    config = _config_of(card, entry, weights_dtype)
    with full_float32(), staged_folder(Path(out) / name, overwrite=overwrite) as folder:
        measured = _same_split(config, card, data_dir)
        model = zoo.restore(located.folder)
        store(model, folder, weights_dtype)
        score = measure.score(model, measured, config, None)
        before = {"weights_dtype": card["weights_dtype"], "value": card["metric"]["value"]}
        new = {
            **card,
            "metric": {**card["metric"], **metric_of(model, measured, config, score)},
            **soundness(model, measured, config),
            "weights_dtype": weights_dtype,
            "stored_anew": {
                "from": {**before, "sha256": located.manifest.digest},
                "hardware": measure.hardware(),
                "versions": measure.versions(),
                "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
            },
            "config": _snapshot(config, card),
        }
        digest = describe(model, folder, new)
    _log.info("wrote %s (SHA-256 of SHA256SUMS: %s)", Path(out) / name, digest)
    return Path(out) / name


def _config_of(card: dict[str, Any], entry: EntryConfig, weights_dtype: str) -> EntryConfig:
    """Return the config of a card with the texts of today: architecture, data and recipe do not change."""
    texts = {"description": entry.description, "card": entry.card.model_dump(mode="json")}
    content = {**card["config"], **texts, "weights": {"dtype": weights_dtype}}
    return parse_config(content, f"the card of {entry.name}")


def _snapshot(config: EntryConfig, card: dict[str, Any]) -> dict[str, Any]:
    content = config.model_dump(mode="json")
    content["weights"].pop("sha256")
    return {**content, **{key: card["config"][key] for key in ("model", "data", "training")}}


def _same_split(config: EntryConfig, card: dict[str, Any], data_dir: Any) -> Source:
    """Return the split that the card's metric was measured on."""
    if config.data is None:
        raise DataError(f"{config.name} names no data set: there is nothing to measure its weights on.")
    options = dict(config.data.options) | ({"data_dir": data_dir} if data_dir is not None else {})
    source = open_source(config.data.source, config.data.measured_on, **options)
    wanted = card["metric"]["num_examples"]
    if source.size != wanted:
        raise DataError(
            f"{config.name} was measured on {wanted} examples, and {source.name} has {source.size} here: "
            f"two figures would be compared that were measured on different data."
        )
    return source

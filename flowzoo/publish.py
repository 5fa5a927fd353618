"""Write what is published of a trained flow: weights, card, golden values and samples, together."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo import measure, plots, quadrature, weights, zoo
from flowzoo.config import EntryConfig, TrainingConfig
from flowzoo.data import Source
from flowzoo.files import staged_folder
from flowzoo.full_float32 import full_float32
from flowzoo.models.continuous import ContinuousModel
from flowzoo.models.dtypes import dtype_policy
from flowzoo.training.previews import preview_conditions, preview_samples
from flowzoo.training.recipe import Trained

_log = logging.getLogger(__name__)

GOLDEN_EXAMPLES = 4
SAMPLE_SEED = 0


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What `train` made.

    Attributes:
        name: of the entry.
        path: the folder with SavedModel, card, golden values and samples; load it with `"path:" + path`.
        loss: mean negative log_prob of the test split, in nats.
        bits_per_dim: the same in bits per dimension, for discrete data.
        seconds: of the training.
        sha256: of the folder's SHA256SUMS: what the entry's config names once the weights are published.
        history: logs by epoch.
        published_before: nothing was trained: an earlier call of the same training has published this.
    """

    name: str
    path: str
    loss: float
    bits_per_dim: float | None
    seconds: float
    sha256: str
    history: dict[str, list[float]]
    published_before: bool = dataclasses.field(default=False, compare=False)


def publish(
    config: EntryConfig,
    recipe: TrainingConfig,
    trained: Trained,
    sources: dict[str, Source],
    target: Path,
    *,
    limit: int | None = None,
    overwrite: bool = True,
    command: str,
) -> TrainResult:
    """Measure a trained flow and write its folder, whole or not at all.

    What is measured, exported and compared later are the weights as stored: in half precision or
    int8 if the config says so. The card gives the metric of the float32 weights beside it.

    Raises:
        FloatingPointError: data to latent to data is off, or a density in the plane does not integrate to 1.
    """
    dtype = config.weights.dtype
    measured = _measured(config, sources)
    with full_float32(), staged_folder(target, overwrite=overwrite) as folder:
        model = _plain_copy(config, trained.model)
        _say_what_takes_long(model, measured, limit)
        full = measure.score(model, measured, config, limit)
        store(model, folder, dtype)
        stored = full if dtype == "float32" else measure.score(model, measured, config, limit)
        card = _card(config, recipe, trained, model, sources, full, stored, limit, command)
        digest = describe(model, folder, card)
    _log.info("wrote %s (SHA-256 of SHA256SUMS: %s)", target, digest)
    bits = stored["nats"] / (model.event_size * math.log(2)) if model.discrete else None
    return TrainResult(
        config.name, str(target), stored["nats"], bits, trained.seconds, digest, trained.history
    )


def _say_what_takes_long(model: Any, measured: Source, limit: int | None) -> None:
    """Say that a continuous flow of images is measured: nothing else is seen of it for minutes or hours."""
    if not (isinstance(model, ContinuousModel) and len(model.event_shape) == 3):
        return
    size = measured.size if limit is None or measured.size is None else min(limit, measured.size)
    _log.warning(
        "The epochs are done. The %s split (%s) is measured now by the flow's own solver, which on a CPU can "
        "take longer than they did. Where this is stopped, --resume (resume=True) goes on here.",
        measured.split,
        "all examples" if size is None else f"{size} examples",
    )


def store(model: Any, folder: Path, dtype: str) -> None:
    """Export a model into an entry's folder, and give it the weights as they are stored there."""
    model.export(folder / "1", weights_dtype=dtype)
    arrays = weights.read_variables(folder / "1")
    model.set_weights([a.astype(w.dtype) for a, w in zip(arrays, model.weights, strict=True)])


def describe(model: Any, folder: Path, card: dict[str, Any]) -> str:
    """Write what stands beside the weights: card, golden values, samples and SHA256SUMS.

    Args:
        model: with the weights as stored.
        folder: of the entry; `store` has written to it.
        card: what was measured.

    Returns:
        The SHA-256 of SHA256SUMS.

    Raises:
        FloatingPointError: what was measured is not fit to be published (`flowzoo.measure.check_published`).
    """
    measure.check_published(card["name"], card)
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    _write_golden(model, folder / "golden.npz")
    draw_sheet(model, folder, card["config"]["card"]["temperature"])
    return weights.write_manifest(folder)


def metric_of(model: Any, measured: Source, config: EntryConfig, score: dict[str, float]) -> dict[str, Any]:
    """Return a score in nats as the metric of a card: value, unit, and on what it was measured."""
    scale = 1 / (model.event_size * math.log(2)) if config.card.metric == "bits_per_dim" else 1.0
    return {
        "value": score["nats"] * scale,
        "unit": config.card.metric,
        "standard_error": score["standard_error"] * scale,
        "split": measured.split,
        "num_examples": score["num_examples"],
        "seed": 0,
    }


def soundness(model: Any, measured: Source, config: EntryConfig) -> dict[str, Any]:
    """Return what a card says of the flow besides its metric.

    That is the round trip, where the truth is known the divergence from it or the integrals given conditions,
    and of a continuous flow the evaluations of its velocity.
    """
    found: dict[str, Any] = {"round_trip": measure.round_trip(model, measured, measure.conditional(config))}
    if quadrature.applies(model, measured):
        found["truth"] = quadrature.divergence(model, measured)
    if quadrature.applies_given_conditions(model, measured):
        found["given_conditions"] = quadrature.masses(model, measured)
    if nfe := measure.evaluations(model, measured, measure.conditional(config)):
        found["nfe"] = nfe
    return found


def _measured(config: EntryConfig, sources: dict[str, Source]) -> Source:
    """Return the split that the card's figures are measured on."""
    return sources[config.data.measured_on if config.data else "test"]


def _plain_copy(config: EntryConfig, model: Any) -> Any:
    """Return the model outside any strategy, computing in float32 whatever it was trained in."""
    with dtype_policy("float32"):
        copy = zoo.build_config(config.model, config.name, model.event_shape)
    copy.set_weights(model.get_weights())
    return copy


def _card(
    config: EntryConfig,
    recipe: TrainingConfig,
    trained: Trained,
    model: Any,
    sources: dict[str, Source],
    full: dict[str, float],
    stored: dict[str, float],
    limit: int | None,
    command: str,
) -> dict[str, Any]:
    train_source, measured = sources["train"], _measured(config, sources)
    snapshot = config.model_dump(mode="json")
    snapshot["weights"].pop("sha256")  # a hash of what holds it cannot be in it
    snapshot["model"]["event_shape"] = list(model.event_shape)
    snapshot["model"]["args"] = model.arguments  # defaults may change; these weights do not
    return {
        "name": config.name,
        "parameters": int(sum(np.prod(w.shape) for w in model.trainable_weights)),
        "metric": {
            **metric_of(model, measured, config, stored),
            "value_in_float32": metric_of(model, measured, config, full)["value"],
        },
        **soundness(model, measured, config),
        "weights_dtype": config.weights.dtype,
        "data": {
            "source": train_source.name,
            "origin": train_source.origin,
            "licence": train_source.licence,
            "sizes": {split: source.size for split, source in sources.items()},
            "limit": limit,
        },
        "training": {
            "command": command,
            "epochs": len(trained.epoch_seconds),
            "kept_epoch": trained.kept_epoch,
            "batch_size": recipe.batch_size,
            "seed": recipe.seed,
            "seconds": trained.seconds,
            "first_epoch_seconds": trained.epoch_seconds[0],
            "hardware": measure.hardware(),
            "history": {key: [round(float(v), 5) for v in values] for key, values in trained.history.items()},
        },
        "versions": measure.versions(),
        "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "config": snapshot,
    }


def _write_golden(model: Any, path: Path) -> None:
    """Write a few samples and their log_prob: samples, because the data's licence may not let them travel."""
    condition = preview_conditions(model, GOLDEN_EXAMPLES)
    arrays = {"x": np.asarray(model.sample(GOLDEN_EXAMPLES, condition, seed=1))}
    if condition is not None:
        arrays["condition"] = np.broadcast_to(condition, (GOLDEN_EXAMPLES, *model.condition_shape))
    arrays["log_prob"] = np.asarray(model.golden_log_prob(arrays["x"], arrays.get("condition")))
    np.savez(path, allow_pickle=False, **arrays)


def draw_sheet(model: Any, folder: Path, temperature: float) -> None:
    """Draw the samples that the card shows, samples.png."""
    samples = preview_samples(model, SAMPLE_SEED, temperature)
    plots.preview(samples, folder / "samples.png", maximum=plots.white(model.num_values))

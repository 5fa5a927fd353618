"""Train an entry, or its architecture on other data, and publish the result."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from flowzoo import measure, own_data, registry, zoo
from flowzoo.config import DataConfig, EntryConfig, TrainingConfig
from flowzoo.data import Source, open_source, source_info
from flowzoo.data.faults import data_faults_named
from flowzoo.errors import DataError, UnknownNameError
from flowzoo.publish import TrainResult
from flowzoo.training.feed import steps_of
from flowzoo.training.previews import Previews, clear_previews
from flowzoo.training.recipe import train_recipe
from flowzoo.training.resuming import Saving
from flowzoo.training.states import StateFolder
from flowzoo.training.strategies import check_strategy, make_strategy
from flowzoo.training.workers import Workers, lost_workers_named
from flowzoo.training_job import TrainingJob, fingerprint


def train(
    name: str,
    *,
    out: str | os.PathLike[str] = "runs",
    epochs: int | None = None,
    strategy: str | tf.distribute.Strategy = "auto",
    seed: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    overwrite: bool = True,
    data: DataConfig | dict[str, Any] | None = None,
    event_shape: Sequence[int] | None = None,
    rename: str | None = None,
    resume: bool = False,
    state_seconds: float = 60.0,
    state_steps: int | None = None,
    previews: int | None = None,
    callbacks: list[Any] | None = None,
    verbose: int = 1,
) -> TrainResult:
    """Repeat the training of an entry from its file in zoo_configs/, or train its architecture on other data.

    While it trains, its state is written to `out/NAME.training/states`, the last two being kept, each with
    its SHA-256. From there `resume=True` goes on after a stop at any moment, also in the middle of an epoch,
    as if there had been none: with the same batches, averages, kept weights and logs.

    Under "multiworker" each worker calls this with the same arguments. Each takes its part of every batch;
    the chief alone (worker 0, or the task "chief") writes, and tells the others the state to go on from and
    the result. Where one worker is killed, the others end with ConnectionError within seconds (some twenty
    where it only falls silent): start all again with `resume=True`.

    Args:
        name: of the entry.
        out: folder in which the folder `name` is written.
        epochs: instead of the recipe's.
        strategy: "auto" (all GPUs of this machine if there are several, else one device), "one", "mirrored",
            "multiworker" (the workers that TF_CONFIG names) or a tf.distribute strategy.
        seed: instead of the recipe's.
        data_dir: where the data lie, for sources that read files.
        limit: use only so many examples of each split.
        overwrite: replace an earlier result, once the new one is whole.
        data: other data than the entry's: `{"source": "image_folder", "options": {"path": "faces"}}`, say.
            Their condition is the flow's where an option names it (`labels`, `label`, `condition`),
            `"conditional"` is True, or the entry's flow takes one.
        event_shape: of one example, where it is not the entry's; by default that of `data`.
        rename: the name of what is trained on other data, `glow_family` say. Its flow expects as many
            values of a pixel as the data have, and a warm-up or an average of weights that is too long for
            the steps of the training is shortened, which the logger says.
        resume: go on with a training that was stopped; without one, begin. Where the data have changed since
            then, the logger warns. One that was published already, from the same data, gives its result
            (`published_before`).
        state_seconds: the state is written when so many seconds have passed since the last time,
        state_steps: or when so many steps were taken; None for the seconds alone.
        previews: draw samples every so many epochs, to `out/NAME.training/previews/` and TensorBoard, where
            those of an earlier training are deleted unless this one goes on from it.
        callbacks: Keras callbacks of your own, on every worker.
        verbose: as `keras.Model.fit`.

    Returns:
        Where the result lies and what was measured on the test split.

    Raises:
        UnknownNameError: no entry has the name.
        MissingDataError: the data are not here; the message says where to get them and where to put them.
        DataError: `resume` is asked for, and the state is that of another training; or an example, a picture
            say, cannot be read.
        ValueError: `data` without `rename`, or the other way round; a `rename` that is an entry's name;
            `data` for an entry that learns from a teacher's pairs, or without the condition that the flow is
            to take; a strategy that cannot work, a TF_CONFIG that names no workers, a batch that does not
            divide among the replicas; a teacher of another architecture, several workers for pairs, or a
            recipe of one step, which cannot be published.
        NoWeightsError: the teacher has no weights here.
        FileExistsError: there is an earlier result and `overwrite` is False.
        BlockingIOError: another process trains the same into `out`.
        ConnectionError: another worker was lost.
        OSError: the state or the result cannot be written; earlier ones are whole.
        FloatingPointError: the loss became NaN, or the trained flow is not fit to be published (see
            `flowzoo.measure.check_published`).
    """
    check_strategy(strategy)
    if rename is not None:
        _check_new(rename)
    config = own_data.renamed(registry.get_config(name), data, event_shape, rename)
    recipe = _recipe(config.training, epochs, seed)
    _check_publishable(config.name, recipe)
    chosen = make_strategy(strategy)  # before anything computes: several workers have to meet first
    sources = _sources(config, data_dir)
    if rename is not None:
        config = own_data.suited(config, sources["train"])
        recipe = own_data.fitted(recipe, recipe.epochs * steps_of(recipe, sources["train"], limit)[0])
    saving = Saving(
        StateFolder(Path(out) / f"{config.name}.training" / "states"),
        state_seconds,
        state_steps,
        resume,
        about=json.dumps(
            [config.model_dump(mode="json", exclude={"training", "card", "weights"}), str(event_shape)]
        ),
        data=[fingerprint(source, limit) for source in sources.values()],
    )
    command = own_data.command_for(name, config)
    job = TrainingJob(
        config,
        recipe,
        Path(out) / config.name,
        saving,
        Workers.of(chosen),
        limit,
        overwrite,
        command,
    )
    with lost_workers_named(job.workers), job.alone(), data_faults_named():
        earlier = job.result_of_before()
        if earlier is not None:
            return earlier
        if job.workers.is_chief and not (resume and saving.states.some):
            clear_previews(job.beside)
        given = list(callbacks or [])
        if previews is not None and job.workers.is_chief:
            given.insert(0, Previews(job.beside, previews, temperature=config.card.temperature))
        shape = config.model.event_shape or sources["train"].event_shape
        trained = train_recipe(
            lambda: _made(config, tuple(shape)),
            recipe,
            sources["train"],
            sources["validation"],
            conditional=measure.conditional(config),
            teacher=None if recipe.reflow is None else zoo.load(recipe.reflow.teacher),
            strategy=chosen,
            limit=limit,
            callbacks=given,
            saving=saving,
            verbose=verbose,
        )
        return job.publish(trained, sources)


def _check_new(rename: str) -> None:
    """Refuse the name of an entry, for whose weights what is trained on other data would be taken."""
    try:
        registry.get_config(rename)
    except UnknownNameError:
        return
    raise ValueError(
        f"There is an entry of that name: what is trained on other data needs one of its own "
        f"(rename=, --as). Received: {rename!r}"
    )


def _made(config: EntryConfig, event_shape: tuple[int, ...]) -> Any:
    """Build the flow; now, not after hours of training, find that it cannot be drawn as the card advises."""
    flow = zoo.build_config(config.model, config.name, event_shape)
    flow.base.check_temperature(config.card.temperature)
    return flow


def _recipe(recipe: TrainingConfig, epochs: int | None, seed: int | None) -> TrainingConfig:
    changes = {"epochs": epochs, "seed": seed}
    content = {**recipe.model_dump(), **{key: value for key, value in changes.items() if value is not None}}
    return TrainingConfig.model_validate(content)


def _check_publishable(name: str, recipe: TrainingConfig) -> None:
    if recipe.reflow is not None and recipe.reflow.one_step:
        raise ValueError(
            f"{name}: one Euler step has no inverse, and what does not invert is not published. Train it by "
            f"flowzoo.training.recipe.train_recipe(..., teacher=...) or flowzoo.models.rectify.distill, and "
            f"save what they return."
        )


def _sources(config: EntryConfig, data_dir: Any) -> dict[str, Source]:
    data: DataConfig | None = config.data
    if data is None:
        raise DataError(
            f"{config.name} names no data set: it is an architecture for your own: "
            f"`flowzoo train {config.name} --data FILE --as NEW_NAME`. In Python: "
            f"flowzoo.build({config.name!r}, event_shape=...), then compile and fit; or copy its file in "
            f"zoo_configs/ and name a source under data: (flowzoo.data.list_sources())."
        )
    options = dict(data.options)
    if data_dir is not None:
        if "data_dir" not in source_info(data.source).options:
            raise DataError(f"The source {data.source!r} reads no files: data_dir does not apply.")
        options["data_dir"] = data_dir
    splits = dict.fromkeys(("train", "validation", data.measured_on))
    return {split: open_source(data.source, split, **options) for split in splits}

"""`flowzoo pipeline`: what the data pipeline of an entry costs, and how long its training waits for data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowzoo import data, own_data, registry
from flowzoo.cli.console import Talk
from flowzoo.cli.options import (
    DataDir,
    Json,
    Limit,
    NameOrConfig,
    SourceOption,
    own_source,
    placed,
    source_options,
)
from flowzoo.cli.quiet import import_tensorflow
from flowzoo.errors import DataError

if TYPE_CHECKING:
    from flowzoo.config import EntryConfig
    from flowzoo.training.waiting import PipelineReport


def pipeline(
    name: NameOrConfig,
    source: Annotated[
        str | None,
        typer.Option("--data", metavar="FILE|SOURCE", help="A file or source other than the entry's own."),
    ] = None,
    option: SourceOption = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Of all workers. Else the recipe's.")] = None,
    worker: Annotated[int, typer.Option(min=0, help="Measure the part that this worker reads.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="How many workers there are.")] = 1,
    batches: Annotated[int, typer.Option(min=2, help="How many batches are measured, at most.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each measurement takes, about.")] = 10.0,
    train: Annotated[bool, typer.Option("--train/--no-train", help="Also train for as many steps.")] = True,
    as_json: Json = False,
) -> None:
    """Report what an entry's data pipeline costs by stage, and what share of a training step waits for it."""
    talk = Talk(as_json)
    config, _ = registry.find_config(name)
    name = config.name
    if config.data is None and source is None:
        raise DataError(f"{name} names no data set: give one with --data.")
    chosen = config.data.source if config.data else ""
    given = source_options(option)
    if source is not None:  # the same architecture on other data, as `flowzoo train --data` makes it
        chosen, given = own_source(source, given)
        config = own_data.renamed(config, {"source": chosen, "options": given}, None, name)
    own = config.data.options if config.data else {}
    options = {**own, **given, **placed(chosen, data_dir)}
    import_tensorflow()
    from flowzoo.training.waiting import report_pipeline

    opened = data.open_source(chosen, "train", **options)
    if source is not None:
        config = own_data.suited(config, opened)
    size = batch_size or config.training.batch_size
    report = report_pipeline(
        opened,
        size if opened.size is None else min(size, limit or opened.size),
        model=_model(config, name, opened) if train else None,
        conditional=bool(config.data and config.data.conditional),
        seed=config.training.seed,
        limit=limit,
        shard=(worker, workers),
        batches=batches,
        seconds=seconds,
    )
    _say(talk, name, chosen, report)
    talk.result({"name": name, "data": chosen, **dataclasses.asdict(report)})


def _model(config: EntryConfig, name: str, source: data.Source) -> Any:
    from flowzoo import zoo
    from flowzoo.training.optimizers import make_optimizer

    shape = tuple(config.model.event_shape or source.event_shape)
    model = zoo.build_config(config.model, name, shape)
    # The schedule changes what is learnt, not how long a step takes.
    optimizer = make_optimizer(config.training.optimizer, 1_000_000, config.training.ema)
    model.compile(optimizer, jit_compile=config.training.jit_compile)
    return model


def _say(talk: Talk, name: str, source: str, report: PipelineReport) -> None:
    rows = [[stage.name, f"{stage.ms_per_batch:.2f}", f"{stage.own_ms:.2f}"] for stage in report.stages]
    talk.table(["stage of the pipeline", "ms a batch up to here", "of which its own"], rows)
    talk.say(
        f"{source}: {report.examples_per_second:,.0f} examples/s in batches of {report.batch_size}, "
        f"{report.ms_per_batch:.2f} ms a batch; the slowest stage is {report.slowest!r}."
    )
    if report.wait_share is None:
        return
    verdict = "training waits for data" if report.waits else "training does not wait for data"
    talk.say(
        f"A step of {name} takes {report.step_ms:.2f} ms, of which {report.wait_ms:.2f} ms "
        f"({100 * report.wait_share:.0f} %) are waiting: {verdict}."
    )

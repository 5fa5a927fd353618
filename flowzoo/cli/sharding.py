"""`flowzoo shards`: a data source as TFRecord files, for more data than memory holds and for many workers."""

from __future__ import annotations

import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowzoo import data
from flowzoo.cli.console import Talk
from flowzoo.cli.options import DataDir, Json, SourceOption, placed, source_options
from flowzoo.cli.quiet import import_tensorflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def shards(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A data source; options with --option.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to make.")],
    num_shards: Annotated[
        int,
        typer.Option(min=1, max=99999, help="Files of the largest split; best a multiple of the workers."),
    ] = 16,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="SPLIT", help="One split only; may be repeated. Else all three."),
    ] = None,
    option: SourceOption = None,
    data_dir: DataDir = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a data source as TFRecord shards with an index; the source `tfrecords` reads them."""
    talk = Talk(as_json)
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists: name another folder, or pass --overwrite.")
    options = {**source_options(option), **placed(source, data_dir)}
    import_tensorflow()
    opened = {name: data.open_source(source, name, **options) for name in split or data.SPLITS}
    with _bars(opened) as progress:
        index = data.write_shards(opened, out, num_shards=num_shards, overwrite=overwrite, progress=progress)
    content: dict[str, Any] = {"source": source, "path": out, "splits": {}}
    for name, files in index.splits.items():
        examples = sum(file.num_examples for file in files)
        content["splits"][name] = {"num_examples": examples, "num_shards": len(files)}
        talk.say(f"{name}: {examples} examples in {len(files)} file{'s' if len(files) > 1 else ''}")
    given = shlex.quote(f"path={out}")
    talk.say(f"Wrote {out}. Train on it: flowzoo train NAME --data tfrecords -o {given} --as NEW_NAME")
    talk.result(content)


@contextmanager
def _bars(sources: Mapping[str, data.Source]) -> Iterator[Callable[[str, int], None] | None]:
    """Shows on a terminal how far the writing of each split is."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {split: bars.add_task(split, total=source.size) for split, source in sources.items()}
        yield lambda split, done: bars.update(tasks[split], completed=done)

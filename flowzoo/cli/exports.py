"""`flowzoo export`: SavedModels for TensorFlow Serving, one or a folder of many."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from flowzoo import registry, weights
from flowzoo.cli.console import Talk
from flowzoo.cli.loading import config_of, load_model
from flowzoo.cli.options import Json, WeightsSource
from flowzoo.cli.quiet import import_tensorflow


def export(
    what: Annotated[
        list[str],
        typer.Argument(metavar="[NAME] DIR", help="The model is written to DIR/NAME/VERSION."),
    ],
    everything: Annotated[
        bool, typer.Option("--all", help="All entries whose weights are on this machine.")
    ] = False,
    pattern: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Of --all, those whose names match, '*_moons' say.")
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Else the one after the highest that is there, 1 at first.")
    ] = None,
    weights_dtype: Annotated[
        str | None,
        typer.Option(help="How weights are stored: float32 (the default), float16, bfloat16 or int8."),
    ] = None,
    warmup: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="Batch sizes that a server warms up with; '' for no warm-up. Else 1,32, or 0 where they "
            "would take minutes.",
        ),
    ] = None,
    batching: Annotated[
        bool, typer.Option("--batching", help="Let a server merge requests; sampling is then not served.")
    ] = False,
    base_path: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="DIR as the server sees it: /models in its container."),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Of --all, how many versions are served; else 2.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Of --all: serve what is newest, without labels.")
    ] = False,
    files_only: Annotated[
        bool, typer.Option("--files-only", help="Of --all: export nothing, write the server's files alone.")
    ] = False,
    source: WeightsSource = None,
    as_json: Json = False,
) -> None:
    """Export an entry as a SavedModel for TensorFlow Serving, or all entries with the server's files."""
    talk = Talk(as_json)
    folder = Path(what[-1])
    if len(what) != (1 if everything else 2):
        raise typer.BadParameter("give NAME and DIR, or --all and DIR")
    of_all = pattern is not None or base_path is not None or keep is not None or follow or files_only
    if not everything and of_all:
        raise typer.BadParameter("--pattern, --base-path, --keep, --follow and --files-only belong to --all")
    if everything and source is not None:
        raise typer.BadParameter("--source belongs to one NAME")
    options = {
        "version": version,
        "weights_dtype": weights_dtype or "float32",
        "warmup_batch_sizes": _sizes(warmup),
        "batching": batching,
    }
    if files_only and (batching or {pattern, version, weights_dtype, warmup} != {None}):
        raise typer.BadParameter(
            "--files-only exports nothing: it takes no --pattern, --version, --weights-dtype, --warmup or "
            "--batching"
        )
    if not everything:
        target = _export_one(what[0], folder, source, talk, options)
        talk.say(f"Wrote {target}. Serve it with TensorFlow Serving:")
        flags = (f"--model_name={target.parent.name}", f"--model_base_path={target.parent.resolve()}")
        talk.say("  " + shlex.join(("tensorflow_model_server", *flags)))
        talk.result({"name": target.parent.name, "path": target, "version": int(target.name)})
        return
    written = [] if files_only else _export_all(pattern, folder, talk, options)
    from flowzoo.serving import repository

    served = repository.write_repository(folder, base_path, keep=keep or 2, follow=follow)
    talk.say(f"Wrote {len(written)} versions to {folder}, which has {len(served)} models. Serve them:")
    talk.say("  " + shlex.join(repository.server_command(folder, follow, base_path)))
    talk.result({"written": [str(path) for path in written], "models": served})


def _export_all(pattern: str | None, folder: Path, talk: Talk, options: dict[str, Any]) -> list[Path]:
    names = [name for name in registry.list_models(pattern or "*") if weights.find_local(name)]
    if not names:
        raise ValueError(f"No entry matches {pattern!r} and has weights on this machine: `flowzoo list`.")
    return [_export_one(name, folder, None, talk, options) for name in talk.progress(names, "Exporting")]


def _sizes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"--warmup takes whole numbers such as 1,32. Received: {text!r}") from None


def _export_one(name: str, folder: Path, source: str | None, talk: Talk, options: dict[str, Any]) -> Path:
    """Export an entry; what can be refused before its model is loaded is refused first."""
    given, name = name, config_of(name).name
    import_tensorflow()
    from flowzoo import exporting

    target = exporting.version_folder(folder / name, options["version"])
    exporting.check_target(target, options["weights_dtype"], options["warmup_batch_sizes"])
    model = load_model(given, source, talk)
    return exporting.export(model, folder, name=name, **{**options, "version": int(target.name)})

"""`flowzoo train`: makes weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flowzoo import registry, weights
from flowzoo.cli.console import Talk
from flowzoo.cli.options import DataDir, Json, Limit, NameOrConfig, SourceOption, own_source, source_options
from flowzoo.cli.quiet import import_tensorflow
from flowzoo.config import DataConfig


def train(
    name: NameOrConfig,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The result is written to DIR/NAME.")
    ] = Path("runs"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Else as the entry's file says.")] = None,
    strategy: Annotated[
        str,
        typer.Option(help="auto (all GPUs of this machine), one, mirrored, or multiworker (see TF_CONFIG)."),
    ] = "auto",
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Else as the entry's file says.")
    ] = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Train on a folder or archive of pictures of your own; needs --as."),
    ] = None,
    size: Annotated[int, typer.Option(min=8, max=1024, help="Side of --pictures, in pixels.")] = 64,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|SOURCE",
            help="Train on a .csv, .parquet or .npz file of your own, or another data source; needs --as.",
        ),
    ] = None,
    option: SourceOption = None,
    rename: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="The name of what is trained on other data.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a training was stopped.")] = False,
    state_seconds: Annotated[
        float, typer.Option(min=0, metavar="S", help="Write what --resume goes on from every S seconds.")
    ] = 60.0,
    state_steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Write it every N steps as well.")
    ] = None,
    previews: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Draw samples every N epochs, as PNG and for TensorBoard."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: Json = False,
) -> None:
    """Train an entry as its file in zoo_configs/ says, or on data of your own; write weights and card."""
    talk = Talk(as_json)
    config, of_a_file = registry.find_config(name)
    name = config.name
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out: {out} is a file; name a folder.")
    own = _own_data(pictures, size, data, option, config.data)
    if own is not None and rename is None:
        raise ValueError("--pictures and --data make another model: name it with --as NAME.")
    talk.say(f"{name}: {config.description}")

    import_tensorflow()
    import flowzoo

    with talk.output_for_people():
        result = flowzoo.train(
            name,
            out=out,
            epochs=epochs,
            strategy=strategy,
            seed=seed,
            data_dir=data_dir,
            limit=limit,
            data=own,
            rename=rename,
            resume=resume,
            state_seconds=state_seconds,
            state_steps=state_steps,
            previews=previews,
            verbose=0 if quiet else 1 if talk.on_terminal else 2,
        )
    _say_result(talk, result)
    use = f"path:{result.path}" if own or of_a_file else f"{name} --source path:{result.path}"
    use += " --label 0" if weights.config_in(result.path).model.num_classes else ""
    talk.say(f"Use it: flowzoo sample {use} --out samples.png")
    talk.result(_line(result))


def _say_result(talk: Talk, result: Any) -> None:
    bits = f", {result.bits_per_dim:.4f} bits/dim" if result.bits_per_dim is not None else ""
    figures = f"loss {result.loss:.4f} nats{bits}, {result.seconds:.0f} s"
    if result.published_before:
        talk.say(f"{result.path} was trained and published before; nothing was done ({figures}).")
    else:
        talk.say(f"Wrote {result.path}: {figures}.")


def _own_data(
    pictures: Path | None, size: int, data: str | None, option: list[str] | None, entry: DataConfig | None
) -> dict[str, Any] | None:
    """Return the data that the user brings, as an entry's file would name them."""
    if pictures is not None and data is not None:
        raise ValueError("Give --pictures or --data, not both.")
    options = source_options(option)
    if pictures is not None:
        content = {"path": str(pictures.absolute()), "size": size, "crop": "center", "test": 0, **options}
        return {"source": "image_folder", "options": content, "measured_on": "validation"}
    if data is None:
        if options:
            raise ValueError("--option belongs to --data or --pictures.")
        return None
    source, options = own_source(data, options)
    content = {"source": source, "options": options}
    if entry is not None and entry.source == source:  # which split it has to be measured on
        content["measured_on"] = entry.measured_on
    return content


def _line(result: Any) -> dict[str, Any]:
    return {
        "name": result.name,
        "loss": result.loss,
        "unit": "nats",
        "bits_per_dim": result.bits_per_dim,
        "path": result.path,
        "seconds": result.seconds,
        "published_before": result.published_before,
    }

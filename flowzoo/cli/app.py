"""Joins the commands, and turns errors into messages and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from flowzoo import __version__
from flowzoo.cli import catalogue, exports, making, picturing, piping, sampling, scoring, serving, sharding
from flowzoo.cli.codes import MEANINGS, Code, code_of
from flowzoo.cli.quiet import debugging

_SETTINGS = {"help_option_names": ["-h", "--help"]}
_VARIABLES = {
    "FLOWZOO_HOME": "flowzoo's own folder: downloaded weights, and data",
    "FLOWZOO_DATA": "folders of data sets",
    "FLOWZOO_BASE_URL": "where weights are downloaded from",
    "FLOWZOO_DEBUG": "1 shows the traceback of an error, and TensorFlow's own log",
}


def _paragraph(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines)])


def _epilog() -> str:
    first = [
        "flowzoo list",
        "flowzoo sample glow_celeba --num 64 --temperature 0.7 --out faces.png",
        "flowzoo COMMAND --help",
    ]
    codes = [f"{code.value:>3}  {meaning}" for code, meaning in MEANINGS.items()]
    variables = [f"{name:<16}  {meaning}" for name, meaning in _VARIABLES.items()]
    parts = (("Begin with", first), ("Exit codes", codes), ("Environment", variables))
    return "\n\n".join(_paragraph(title, lines) for title, lines in parts)


app = typer.Typer(
    help="Normalizing flows for Keras and TensorFlow: named, trained, verified, ready to serve.",
    epilog=_epilog(),
    no_args_is_help=True,
    add_completion=False,
    context_settings=_SETTINGS,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"flowzoo {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Holds the options of the command itself."""


_COMMANDS: tuple[tuple[str, Callable[..., Any], Sequence[str]], ...] = (
    (
        "list",
        catalogue.list_entries,
        ["flowzoo list", "flowzoo list '*_mnist' --pretrained", "flowzoo list --json"],
    ),
    ("info", catalogue.info, ["flowzoo info realnvp_mnist", "flowzoo info realnvp_mnist --json"]),
    (
        "sample",
        sampling.sample,
        [
            "flowzoo sample glow_celeba --num 64 --temperature 0.7 --out faces.png",
            "flowzoo sample maf_moons --num 10000 --seed 1 --out moons.csv",
            "flowzoo sample realnvp_mnist --source path:runs/realnvp_mnist --out mine.png",
        ],
    ),
    (
        "interpolate",
        picturing.interpolate,
        ["flowzoo interpolate glow_celeba a.jpg b.jpg --steps 9 --out strip.png"],
    ),
    (
        "reconstruct",
        picturing.reconstruct,
        ["flowzoo reconstruct tarflow_celeba a.jpg b.jpg --out back.png"],
    ),
    (
        "attribute",
        picturing.attribute,
        ["flowzoo attribute tarflow_celeba a.jpg --from neutral/ --to smiling/ --out smiles.png"],
    ),
    (
        "temperatures",
        picturing.temperatures,
        ["flowzoo temperatures tarflow_celeba --num 8 --values 0.5,0.7,0.9,1 --seed 1 --out rows.png"],
    ),
    ("levels", picturing.levels, ["flowzoo levels realnvp_mnist a.png b.png --out levels.png"]),
    (
        "score",
        scoring.score,
        [
            "flowzoo score maf_moons --data points.csv --out scores.csv",
            "flowzoo score realnvp_mnist --data fashion_mnist --limit 1000 --out scores.csv",
            "flowzoo score path:runs/nsf_table --data new.csv -o separator=';' --out scores.csv",
            "flowzoo score realnvp_moons --data moons -o noise=0.2 --json",
        ],
    ),
    (
        "train",
        making.train,
        [
            "flowzoo train realnvp_moons --out runs",
            "flowzoo train realnvp_mnist --epochs 1 --limit 1000 --out runs --json",
            "flowzoo train glow_celeba --pictures holidays/ --size 32 --as glow_holidays --previews 5",
            "flowzoo train glow_celeba --pictures holidays/ --size 32 --as glow_holidays --resume",
            "flowzoo train nsf_tabular --data table.csv --as nsf_table -o separator=';'",
            "flowzoo train glow_celeba --strategy multiworker --state-seconds 300 --resume",
        ],
    ),
    (
        "shards",
        sharding.shards,
        [
            "flowzoo shards moons --out moons_shards -o num_examples=1000000 --num-shards 64",
            "flowzoo shards csv --out table_shards -o path=table.csv -o label=kind --num-shards 16 --json",
        ],
    ),
    (
        "pipeline",
        piping.pipeline,
        [
            "flowzoo pipeline maf_moons",
            "flowzoo pipeline maf_moons --data tfrecords -o path=moons_shards --workers 4 --json",
        ],
    ),
    (
        "evaluate",
        scoring.evaluate,
        [
            "flowzoo evaluate realnvp_mnist",
            "flowzoo evaluate realnvp_mnist --split validation --limit 1000 --json",
        ],
    ),
    (
        "export",
        exports.export,
        [
            "flowzoo export realnvp_mnist served",
            "flowzoo export realnvp_mnist served --version 7 --weights-dtype bfloat16",
            "flowzoo export --all served",
            "flowzoo export --all served --pattern '*_moons' --base-path /models",
        ],
    ),
    (
        "serve",
        serving.serve,
        [
            "flowzoo serve realnvp_mnist",
            "flowzoo serve served/ --port 8500 --rest-port 8501",
            "flowzoo serve realnvp_mnist --dry-run",
        ],
    ),
    ("verify", catalogue.verify, ["flowzoo verify realnvp_mnist", "flowzoo verify --all"]),
    ("doctor", catalogue.doctor, ["flowzoo doctor", "flowzoo doctor --json"]),
)

for _name, _function, _examples in _COMMANDS:
    app.command(_name, epilog=_paragraph("Examples", _examples), context_settings=_SETTINGS)(_function)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: What follows `flowzoo`; by default what the process was given.

    Returns:
        The exit code; `flowzoo --help` lists their meanings.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="flowzoo")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else Code.OK if stop.code is None else Code.FAILURE
    except (Exception, KeyboardInterrupt) as error:
        if debugging():
            raise
        return _report(error)
    return Code.OK


def _report(error: BaseException) -> Code:
    code = code_of(error)
    message = str(error) or type(error).__name__
    if code == Code.FAILURE:
        message = f"{type(error).__name__}: {message}"
    sys.stderr.write(f"flowzoo: {'interrupted' if code == Code.INTERRUPTED else message}\n")
    if code == Code.FAILURE or isinstance(error, TypeError):
        sys.stderr.write("FLOWZOO_DEBUG=1 shows where it happened.\n")
    return code

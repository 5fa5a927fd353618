"""`flowzoo serve`: starts TensorFlow Serving on an entry or on a folder of models."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flowzoo import paths, registry
from flowzoo.cli.codes import Code
from flowzoo.cli.console import Talk
from flowzoo.cli.loading import config_of
from flowzoo.cli.options import Json, WeightsSource
from flowzoo.errors import NoServerError
from flowzoo.serving import process, repository, server
from flowzoo.serving.transport import VersionStatus


def serve(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_DIR", help="An entry, path:DIR, or a folder that `flowzoo export` wrote."
        ),
    ],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of gRPC.")] = 8500,
    rest_port: Annotated[int, typer.Option(min=1, max=65535, help="Of REST.")] = 8501,
    batching: Annotated[
        bool,
        typer.Option("--batching", help="Merge requests; samples then cannot be asked for."),
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where an entry is exported to, if it is not there yet."),
    ] = None,
    program: Annotated[
        str | None, typer.Option("--server", metavar="PATH", help=f"Else {server.PROGRAM} on the PATH.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help=f"Run a container of it, such as {server.IMAGE}.")
    ] = None,
    flag: Annotated[
        list[str] | None, typer.Option(metavar="FLAG", help="A flag for the server; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command; start nothing.")] = False,
    source: WeightsSource = None,
    as_json: Json = False,
) -> None:
    """Serve an entry, or a folder of models, with TensorFlow Serving, until it is stopped."""
    talk = Talk(as_json)
    options = server.Options(port, rest_port, batching, tuple(flag or ()))
    if dry_run:
        models = _models(what, folder, source, talk, batching, export=False)
        line = server.command(_found(program, image, talk), models, options)
        talk.say(shlex.join(line))
        talk.result({"command": line})
        return
    found = server.find_server(program, image)
    process.check_ports(port, rest_port)
    models = _models(what, folder, source, talk, batching, export=True)
    line = server.command(found, models, options)
    talk.say(f"Starting {shlex.join(line)}")
    ended = process.serve(line, models.names, rest_port, lambda states: _say_ready(states, options, talk))
    talk.say("The server has ended.")
    if ended == signal.SIGINT:
        raise typer.Exit(Code.INTERRUPTED)


def _found(program: str | None, image: str | None, talk: Talk) -> server.Server:
    """Return the server, or the one that another machine may have."""
    try:
        return server.find_server(program, image)
    except NoServerError as error:
        Talk(for_program=True).say(f"Not on this machine: {error}")
        return server.Server(program or server.PROGRAM) if image is None else server.Server("docker", image)


def _models(
    what: str, folder: Path | None, source: str | None, talk: Talk, batching: bool, *, export: bool
) -> server.Models:
    """Return what is served, exporting an entry that has not been."""
    if _is_folder(what):
        if folder is not None or source is not None:
            raise ValueError("--folder and --source belong to an entry, not to a folder of models.")
        models = server.models_in(what)
    else:
        name = config_of(what).name
        base = (folder or paths.home() / "served").expanduser().resolve()
        models = server.Models(base, (name,))
        versions = repository.exported_models(base).get(name) if base.is_dir() else None
        if not versions:
            if export:
                _export(what, base, source, batching)
            return models
        if source is not None:
            raise ValueError(f"--source: {base / name} is there already; choose another --folder.")
        talk.say(
            f"Serving version {versions[-1]} in {base / name}, exported before; "
            f"`flowzoo export {what} {base}` adds one."
        )
    if batching and not server.merging(models):
        raise ValueError(
            f"--batching: no version of {', '.join(models.names)} was exported for merged requests; "
            "`flowzoo export --batching` writes one."
        )
    return models


def _is_folder(what: str) -> bool:
    if what.startswith("path:"):
        return False
    if os.sep in what:
        return True
    return Path(what).is_dir() and what not in registry.config_paths()


def _export(name: str, base: Path, source: str | None, batching: bool) -> None:
    """Export in a process of its own: this one lives as long as the server, and needs no TensorFlow."""
    command = [sys.executable, "-m", "flowzoo.cli", "export", name, str(base)]
    command += ["--source", source] if source else []
    command += ["--batching"] if batching else []
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)  # it has said why


def _say_ready(states: dict[str, VersionStatus], options: server.Options, talk: Talk) -> None:
    for name, status in states.items():
        if status.state == "AVAILABLE":
            talk.say(f"{name} is ready: version {status.version}.")
        else:
            talk.say(f"{name} cannot be served: {status.message}")
    rest = f"http://127.0.0.1:{options.rest_port}"
    talk.say(f"  gRPC  grpc://127.0.0.1:{options.port}")
    talk.say(f"  REST  {rest}")
    talk.say(f'  flowzoo.serving.Client("{rest}", "{next(iter(states))}").log_prob(x)')
    talk.result(_line(states, options))


def _line(states: dict[str, VersionStatus], options: server.Options) -> dict[str, Any]:
    return {
        "grpc": f"grpc://127.0.0.1:{options.port}",
        "rest": f"http://127.0.0.1:{options.rest_port}",
        "models": {
            name: {"version": s.version, "state": s.state, "message": s.message} for name, s in states.items()
        },
    }

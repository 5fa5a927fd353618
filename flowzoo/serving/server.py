"""TensorFlow Serving on this machine: where it is, and the command that serves a folder of models.

The command is the server's own program, or a container of it. The container sees the folder under its own
path and under /models, so that a models.config written for either holds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowzoo.errors import NoServerError
from flowzoo.serving import repository

PROGRAM, IMAGE = repository.PROGRAM, repository.IMAGE
ENGINES = ("docker", "podman")

_HOW = (
    f"Install {PROGRAM} (Debian package tensorflow-model-server: "
    "https://www.tensorflow.org/tfx/serving/setup) or an engine for containers "
    f"(https://docs.docker.com/engine/install, https://podman.io), which fetches {IMAGE}; "
    f"or name the program with --server. --dry-run shows the command for another machine."
)


@dataclass(frozen=True)
class Models:
    """What is served: a folder, and the names of the models in it.

    Attributes:
        folder: the folder of models, absolute.
        names: under which the server knows them.
        config: a models.config, or None for the one model FOLDER/NAME.
    """

    folder: Path
    names: tuple[str, ...]
    config: Path | None = None


@dataclass(frozen=True)
class Options:
    """How it is served.

    Attributes:
        port: of gRPC.
        rest_port: of REST, status and metrics.
        batching: whether requests are merged also where no version was exported for that yet.
        extra: flags for the server as they are.
    """

    port: int = 8500
    rest_port: int = 8501
    batching: bool = False
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Server:
    """A way to run TensorFlow Serving: its program, or an engine with an image of it."""

    program: str
    image: str | None = None


def find_server(program: str | None = None, image: str | None = None) -> Server:
    """Return how TensorFlow Serving can be run here.

    Args:
        program: the path of the program, or its name on the PATH; None looks for it, then for a container
            engine.
        image: run this image instead of a program.

    Raises:
        NoServerError: it cannot; the message says why, and how to get it.
    """
    if program is not None:
        found = shutil.which(program)
        if found is None:
            raise NoServerError(f"--server: {program} is no program that can be run. {_HOW}")
        return Server(found)
    found = shutil.which(PROGRAM) if image is None else None
    if found is not None:
        return Server(found)
    engines = [path for path in map(shutil.which, ENGINES) if path]
    for engine in engines:
        if _engine_runs(engine):
            return Server(engine, image or IMAGE)
    lacks = "" if image else f"There is no {PROGRAM} on the PATH, and "
    which = (
        f"{', '.join(engines)} cannot reach an engine" if engines else f"no {' or '.join(ENGINES)} is here"
    )
    raise NoServerError(f"{lacks}{which}. {_HOW}")


def _engine_runs(engine: str) -> bool:
    """Say whether the engine behind a client of containers answers."""
    try:
        done = subprocess.run([engine, "info"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def models_in(folder: str | os.PathLike[str]) -> Models:
    """Return what a folder serves.

    Args:
        folder: with a models.config; or the folder of one model, whose parts are versions.

    Raises:
        NotADirectoryError: it is no folder.
        ValueError: neither, or a models.config without a model.
    """
    path = Path(folder).resolve()
    if not path.is_dir():
        raise NotADirectoryError(f"{folder} is no folder.")
    config = path / repository.MODELS
    if config.is_file():
        names = tuple(model.name for model in repository.configured(config))
        if not names:
            raise ValueError(f"{config} names no model.")
        return Models(path, names, config)
    if path.name in repository.exported_models(path.parent):
        return Models(path.parent, (path.name,))
    raise ValueError(
        f"{folder} holds neither a {repository.MODELS} nor the versions of a model "
        f"(FOLDER/1/saved_model.pb). `flowzoo export --all {folder} --files-only` writes a "
        f"{repository.MODELS} over the models in it; one alone is served as {folder}/NAME."
    )


def command(server: Server, models: Models, options: Options) -> list[str]:
    """Return the command that serves the models.

    Raises:
        ValueError: a models.config that names folders which are not here.
    """
    if server.image is None:
        _check_paths(models)
        return [server.program, *_flags(models, options)]
    places, ports = (str(models.folder), "/models"), (options.port, options.rest_port)
    run = repository.in_container(server.program, server.image, models.folder, places, ports)
    return [*run, *_flags(models, options)]


def _flags(models: Models, options: Options) -> list[str]:
    flags = [f"--port={options.port}", f"--rest_api_port={options.rest_port}"]
    if models.config is None:
        (name,) = models.names
        flags += [f"--model_name={name}", f"--model_base_path={models.folder / name}"]
    else:
        flags += [f"--model_config_file={models.config}", "--model_config_file_poll_wait_seconds=60"]
        flags += [f"--{repository.LABELS_FLAG}=true"]
    flags += _file_flag("monitoring_config_file", models.folder / repository.MONITORING)
    if options.batching or merging(models):
        # Only versions that have parameters of their own: a server that merges requests to all models
        # refuses their samples, and would not even load those whose warm-up draws some.
        flags += ["--enable_batching=true", "--enable_per_model_batching_parameters=true"]
        flags += _file_flag("batching_parameters_file", models.folder / repository.BATCHING)
    return [*flags, *options.extra]


def merging(models: Models) -> list[str]:
    """Return the models that have a version which was exported for merged requests."""
    pattern = f"*/{repository.MODEL_BATCHING}"
    return [name for name in models.names if any((models.folder / name).glob(pattern))]


def _file_flag(name: str, path: Path) -> Sequence[str]:
    return [f"--{name}={path}"] if path.is_file() else []


def _check_paths(models: Models) -> None:
    """A server waits for ever for models in folders that are not there."""
    for model in repository.configured(models.config) if models.config else ():
        if not Path(model.base_path).is_dir():
            raise ValueError(
                f"{models.config} has {model.name} in {model.base_path}, which is not on this machine; "
                "it may have been written for a container (`--image` serves it in one)."
            )

"""A folder of models as a TensorFlow Serving of many models takes it: its configuration files.

    DIR/NAME/VERSION/            what `flowzoo.export` writes
    DIR/models.config            which models and versions are served, and the labels of versions
    DIR/batching_parameters.txt  how requests are merged
    DIR/monitoring.config        metrics for Prometheus

The files are messages of TensorFlow Serving in protobuf's text format: ModelServerConfig, BatchingParameters
and MonitoringConfig.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from flowzoo.files import write_atomic

MODELS, BATCHING, MONITORING = "models.config", "batching_parameters.txt", "monitoring.config"
# The parameters of one model, in the folder of its version.
MODEL_BATCHING = "batching_params.pbtxt"
PROGRAM, IMAGE = "tensorflow_model_server", "tensorflow/serving:latest"
METRICS_PATH = "/monitoring/prometheus/metrics"
# A server assigns the labels before it loads the versions: without this it would refuse every file in which a
# label moves to a new version, and so never load that.
LABELS_FLAG = "force_allow_any_version_labels_for_unavailable_models"


def exported_models(folder: str | os.PathLike[str]) -> dict[str, list[int]]:
    """Return the models in a folder and the versions of each, ascending.

    Raises:
        OSError: the folder cannot be read.
    """
    found = {}
    for path in sorted(Path(folder).iterdir()):
        versions = sorted(
            int(part.parent.name) for part in path.glob("*/saved_model.pb") if _is_version(part)
        )
        if versions:
            found[path.name] = versions
    return found


def _is_version(saved_model: Path) -> bool:
    name = saved_model.parent.name
    return name.isascii() and name.isdecimal() and not name.startswith("0")


def models_config(
    models: Mapping[str, Sequence[int]],
    base_path: str,
    *,
    keep: int = 2,
    follow: bool = False,
    earlier: Mapping[str, Mapping[str, int]] | None = None,
) -> str:
    """Return a ModelServerConfig as text.

    By default the newest versions of each model are served by number and labelled: "stable" the one before
    the newest, "canary" the newest; a model of one version has "stable" alone. A client that asks for a label
    moves only when this file does.

    Args:
        models: versions by name.
        base_path: where the models lie for the server; "/models" in its container.
        keep: how many versions of each model are served.
        follow: serve the newest versions instead, whatever they are, without labels: the server takes a new
            version as soon as it is exported.
        earlier: versions by label, by name of the model, as `labels_in` gives them. What is there of them
            keeps its label, "canary" apart, and is served beside the newest ones: "stable" in place of one of
            them, if more than one is kept.

    Raises:
        ValueError: `keep` is not a whole number from 1.
    """
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise ValueError(f"keep takes a whole number of versions from 1. Received: {keep!r}")
    earlier = earlier or {}
    parts = [
        _model(name, sorted(models[name]), base_path, keep, follow, earlier.get(name, {}))
        for name in sorted(models)
    ]
    return "model_config_list {\n" + "".join(parts) + "}\n"


def _model(
    name: str,
    versions: Sequence[int],
    base_path: str,
    keep: int,
    follow: bool,
    earlier: Mapping[str, int],
) -> str:
    kept = {label: n for label, n in earlier.items() if n in versions and label != "canary"}
    served, stable = versions[-keep:], kept.get("stable")
    if stable is not None and stable not in served:
        served = [stable, *versions[-max(keep - 1, 1) :]]
    labelled = labels(served, stable) | kept
    served = sorted({*served, *kept.values()})
    lines = [
        f"name: {_text(name)}",
        f"base_path: {_text(f'{base_path}/{name}')}",
        'model_platform: "tensorflow"',
    ]
    if follow:
        lines.append(f"model_version_policy {{ latest {{ num_versions: {keep} }} }}")
    else:
        chosen = " ".join(f"versions: {version}" for version in served)
        lines.append(f"model_version_policy {{ specific {{ {chosen} }} }}")
        lines += [f"version_labels {{ key: {_text(label)} value: {n} }}" for label, n in labelled.items()]
    return "  config {\n" + "".join(f"    {line}\n" for line in lines) + "  }\n"


def labels(served: Sequence[int], stable: int | None = None) -> dict[str, int]:
    """Return which served version is called stable (the one that was, if it is served), and which canary."""
    if len(served) == 1:
        return {"stable": served[0]}
    if stable is None or stable not in served:
        stable = served[-2]
    return {"stable": stable, "canary": served[-1]}


def labels_in(config: Path) -> dict[str, dict[str, int]]:
    """Return the versions that a models.config labels, by label, by name of the model.

    Raises:
        ValueError: the file is no ModelServerConfig in the text format.
        OSError: it cannot be read.
    """
    return {
        model.name: {label.key: label.value for label in model.version_labels} for model in configured(config)
    }


def configured(config: Path) -> list[Any]:
    """Return the models of a models.config, messages with `name`, `base_path` and `version_labels`.

    Raises:
        ValueError: the file is no ModelServerConfig in the text format.
        OSError: it cannot be read.
    """
    from flowzoo.serving import server_config

    try:
        return server_config.parse(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config} is no models.config that can be read: {error}.") from error


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def batching_parameters() -> str:
    """Return BatchingParameters as text.

    No batch sizes are prescribed: the graphs take any. A request of more than 128 examples is divided.
    """
    return (
        "max_batch_size { value: 4096 }\n"
        "enable_large_batch_splitting { value: true }\n"
        "max_execution_batch_size { value: 128 }\n"
        "batch_timeout_micros { value: 1000 }\n"
        "max_enqueued_batches { value: 100 }\n"
        'thread_pool_name { value: "flowzoo_batches" }\n'
    )


def monitoring_config() -> str:
    """Return a MonitoringConfig as text: metrics for Prometheus at the port of REST."""
    return f'prometheus_config {{ enable: true path: "{METRICS_PATH}" }}\n'


def write_repository(
    folder: str | os.PathLike[str], base_path: str | None = None, *, keep: int = 2, follow: bool = False
) -> dict[str, list[int]]:
    """Write the three configuration files over the models in a folder; earlier files are replaced.

    What an earlier models.config labels "stable", or otherwise by hand, keeps its label: to move it is a
    decision.

    Args:
        folder: the folder.
        base_path: where it lies for the server; None: here.
        keep: as in `models_config`.
        follow: as in `models_config`.

    Returns:
        The versions in the folder, by name of the model.

    Raises:
        ValueError: no model is in the folder, or an earlier models.config cannot be read.
        OSError: a file cannot be read or written.
    """
    folder = Path(folder)
    models = exported_models(folder)
    if not models:
        raise ValueError(f"No exported model is in {folder}; `flowzoo export NAME {folder}` writes one.")
    base = str(folder.resolve()) if base_path is None else base_path.rstrip("/")
    earlier = labels_in(folder / MODELS) if (folder / MODELS).is_file() else None
    write_atomic(folder / MODELS, models_config(models, base, keep=keep, follow=follow, earlier=earlier))
    write_atomic(folder / BATCHING, batching_parameters())
    write_atomic(folder / MONITORING, monitoring_config())
    return models


def server_command(
    folder: str | os.PathLike[str], follow: bool = False, base_path: str | None = None
) -> list[str]:
    """Return the command that serves a folder that `write_repository` has written to.

    With these flags requests are merged where the version has a batching_params.pbtxt, and not otherwise.

    Args:
        folder: the folder.
        follow: as in `models_config`.
        base_path: where it lies for the server, which then runs inside a container; None: here.
    """
    folder = Path(folder).resolve()
    own = folder if base_path is None else PurePosixPath(base_path)
    flags = {
        "port": "8500",
        "rest_api_port": "8501",
        "model_config_file": str(own / MODELS),
        "model_config_file_poll_wait_seconds": "60",
        "monitoring_config_file": str(own / MONITORING),
        "enable_batching": "true",
        "enable_per_model_batching_parameters": "true",
        "batching_parameters_file": str(own / BATCHING),
    }
    if not follow:
        flags[LABELS_FLAG] = "true"
    command = [PROGRAM, *(f"--{name}={value}" for name, value in flags.items())]
    if base_path is None:
        return command
    ports = (flags["port"], flags["rest_api_port"])
    return [*in_container("docker", IMAGE, folder, [str(own)], ports), *command[1:]]


def in_container(
    engine: str, image: str, folder: Path, places: Iterable[str], ports: Iterable[int | str]
) -> list[str]:
    """Return the start of a command that runs the server in a container, up to the server's own flags.

    Args:
        engine: the program that runs containers.
        image: with the server.
        folder: which the server may read.
        places: where it sees the folder.
        ports: which this machine alone can reach.
    """
    mounts: list[str] = []
    for place in dict.fromkeys(places):
        mounts += ["--mount", f"type=bind,source={folder},target={place},readonly"]
    published: list[str] = []
    for port in ports:
        published += ["--publish", f"127.0.0.1:{port}:{port}"]
    return [engine, "run", "--rm", "--init", *published, *mounts, "--entrypoint", PROGRAM, image]

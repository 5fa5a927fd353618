"""TF_CONFIG, examined before TensorFlow waits for the workers that it names."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

_log = logging.getLogger(__name__)

_EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
)
_ROLES = ("chief", "worker")
_ADDRESS = re.compile(r"(?:[^\s:/\[\]]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})")


def check_tf_config(text: str | None = None) -> None:
    """Raise ValueError if TF_CONFIG does not describe workers, and which of them this process is.

    A wrong one makes TensorFlow wait for ever, or train alone in silence.

    Args:
        text: instead of the variable of the environment.

    Raises:
        ValueError: it is missing or not JSON, it names no workers, an address twice or none at all, or the
            task is none of those in the cluster.
    """
    text = os.environ.get("TF_CONFIG") if text is None else text
    if not (text or "").strip():
        raise _error("it is not set")
    try:
        content = json.loads(text or "")
    except json.JSONDecodeError as error:
        raise _error(f"it is not JSON ({error})", text) from error
    if not isinstance(content, dict):
        raise _error("it is not a mapping", text)
    cluster = _cluster(content, text)
    _check_task(content.get("task"), cluster, text)


@contextlib.contextmanager
def waiting_for_workers(every: float = 30.0) -> Iterator[None]:
    """Name the workers that do not answer, again and again, while TensorFlow waits for all in silence.

    Args:
        every: seconds between two warnings.
    """
    content = json.loads(os.environ["TF_CONFIG"])
    addresses = [address for role in _ROLES for address in content["cluster"].get(role, [])]
    met = threading.Event()

    def watch() -> None:
        while not met.wait(every):
            missing = [address for address in addresses if not _answers(address)]
            if missing and not met.is_set():
                _log.warning("waiting for the workers at %s: they do not answer", ", ".join(missing))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        met.set()
        watcher.join()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _cluster(content: dict[str, Any], text: Any) -> dict[str, list[str]]:
    cluster = content.get("cluster")
    if not isinstance(cluster, dict):
        raise _error("it has no cluster", text)
    if "ps" in cluster:
        raise ValueError(
            "TF_CONFIG: the cluster has parameter servers (ps). Keras 3 cannot train with "
            "ParameterServerStrategy, and flowzoo does not either: let all tasks be workers. "
            f"Received: {text}"
        )
    unknown = set(cluster) - {*_ROLES, "evaluator"}
    if unknown:
        raise _error(f"the cluster has {', '.join(sorted(map(repr, unknown)))}", text)
    for role, addresses in cluster.items():
        if not isinstance(addresses, list) or not addresses:
            raise _error(f"{role} is not a list of addresses", text)
        for address in addresses:
            found = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
            if found is None or not 0 < int(found[1]) < 2**16:
                raise _error(f"{address!r} is not an address host:port", text)
    everyone = [address for addresses in cluster.values() for address in addresses]
    twice = sorted({address for address in everyone if everyone.count(address) > 1})
    if twice:
        raise _error(f"{', '.join(twice)} is there more than once", text)
    if len(cluster.get("chief", [])) > 1:
        raise _error("there is more than one chief", text)
    if not any(role in cluster for role in _ROLES):
        raise _error("the cluster has no worker", text)
    return cluster


def _check_task(task: Any, cluster: dict[str, list[str]], text: Any) -> None:
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise _error("it has no task with type and index", text)
    role, index = task["type"], task["index"]
    if role == "evaluator":
        raise _error("the task is an evaluator, which flowzoo has no use for", text)
    if role not in _ROLES or role not in cluster:
        known = ", ".join(role for role in _ROLES if role in cluster)
        raise _error(f"the task's type is {role!r} and the cluster has {known}", text)
    # Launchers write the index as a string, and TensorFlow takes it so.
    number = int(index) if isinstance(index, str) and index.isdecimal() else index
    count = len(cluster[role])
    if type(number) is not int or not 0 <= number < count:
        raise _error(
            f"the task's index is {index!r} and the indices of {role} go from 0 to {count - 1}", text
        )


def _error(problem: str, text: Any = None) -> ValueError:
    received = "" if text is None else f" Received: {text}"
    return ValueError(
        f"strategy='multiworker' needs TF_CONFIG to name all workers, and which of them this process is: "
        f"{problem}. Accepted: {_EXAMPLE}.{received}"
    )

"""The compose file: it starts what `flowzoo export --all` says, and its health check tells health."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api: the extra serving")

import yaml

from flowzoo.serving import repository
from tests.serving.served import Served

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
SERVICE = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["serving"]


def test_the_flags_are_those_of_the_repository(tmp_path: Path) -> None:
    wanted = [flag.replace(str(tmp_path), "/models") for flag in repository.server_command(tmp_path)]
    assert [*SERVICE["entrypoint"], *sorted(SERVICE["command"])] == [wanted[0], *sorted(wanted[1:])]


def test_prometheus_asks_where_the_server_answers() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    assert job["metrics_path"] == repository.METRICS_PATH
    assert job["static_configs"] == [{"targets": ["serving:8501"]}]


def healthy(port: int) -> bool:
    """Run the health check as the container would, at another port."""
    kind, *command = SERVICE["healthcheck"]["test"]
    assert kind == "CMD" and "/8501" in command[-1]
    command[-1] = command[-1].replace("/8501", f"/{port}")
    return subprocess.run(command, capture_output=True, timeout=20).returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_health_check_tells_health(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert healthy(served.ports["http"])
    monkeypatch.setattr("tests.serving.double.METRICS", "/elsewhere")  # it answers, but not with 200
    assert not healthy(served.ports["http"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert not healthy(free.getsockname()[1])


def composed(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Docker Compose, which needs no engine to read a file."""
    docker, alone = shutil.which("docker"), shutil.which("docker-compose")
    for command in ([docker, "compose"] if docker else None, [alone] if alone else None):
        if command and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            environment = {key: value for key, value in os.environ.items() if key != "MODELS"}
            return subprocess.run(
                [*command, "-f", str(COMPOSE), *arguments],
                capture_output=True,
                text=True,
                env={**environment, **variables},
            )
    pytest.skip("Docker Compose is not installed")


def test_compose_accepts_the_file(tmp_path: Path) -> None:
    done = composed(
        "--profile", "monitoring", "config", "--format", "json", MODELS=str(tmp_path), REST_PORT="9001"
    )
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    assert set(services) == {"serving", "prometheus"}
    (mount,) = services["serving"]["volumes"]
    assert (mount["source"], mount["target"], mount["read_only"]) == (str(tmp_path), "/models", True)
    assert {port["published"] for port in services["serving"]["ports"]} == {"8500", "9001"}
    assert services["serving"]["healthcheck"]["test"] == SERVICE["healthcheck"]["test"]


def test_compose_asks_for_the_folder() -> None:
    done = composed("config")
    assert done.returncode != 0 and "the folder that flowzoo export wrote" in done.stderr

"""docs/serving.md tells the truth: its Python and its curl run against the double, in their order."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api: the extra serving")


from flowzoo.models import families
from tests.models.flows import randomise_gently
from tests.serving.backend import Backend
from tests.serving.double import start_grpc, start_http
from tests.test_docs import ROOT, Block, blocks

DOCUMENT = ROOT / "docs" / "serving.md"
NAME = "realnvp_moons"


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """A small flow in the plane under the name that the document uses, at free ports."""
    folder = tmp_path_factory.mktemp("documented")
    flow = families()["nice"](event_shape=(2,), **families()["nice"].small)
    flow.adapt(np.random.default_rng(0).normal(size=(64, 2)).astype("float32"))
    randomise_gently(flow, 0, 0.1)
    flow.export(folder / "1")
    backend = Backend({NAME: folder})  # without labels, as `flowzoo serve NAME`
    grpc_server, grpc_port = start_grpc(backend)
    http_server, http_port = start_http(backend)
    yield {"8500": grpc_port, "8501": http_port}
    grpc_server.stop(0)
    http_server.shutdown()
    http_server.server_close()


def at(ports: dict[str, int], text: str) -> str:
    """The text with the ports of the double, at the address where it listens."""
    for documented, port in ports.items():
        text = re.sub(rf"localhost:{documented}\b", f"127.0.0.1:{port}", text)
    return text


def found(language: str) -> list[Block]:
    return [block for block in blocks(DOCUMENT) if block.language == language]


def test_the_python_runs_from_top_to_bottom(ports: dict[str, int]) -> None:
    names: dict[str, Any] = {"__name__": "serving"}
    for block in found("python"):
        text = "\n" * (block.line - 1) + at(ports, block.text)
        exec(compile(text, str(DOCUMENT), "exec"), names)  # noqa: S102
    names["client"].close()
    assert names["scores"].shape == (1000,) and names["drawn"]["x"].shape == (5, 2)
    np.testing.assert_allclose(names["back"], names["x"], atol=1e-3)
    assert names["strange"].shape == names["by_hand"].shape == (1,)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_runs(ports: dict[str, int], tmp_path: Path) -> None:
    (block,) = found("bash")
    script = "set -eo pipefail\n" + at(ports, block.text).replace("curl -s", "curl -sS --fail-with-body")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("AVAILABLE", "signature_def", "predictions", "outputs"):
        assert part in done.stdout

"""The flows that the double serves for all tests of the client, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flowzoo.models import Flow
from flowzoo.serving import Client, Retry
from tests.models.flows import KINDS, Kind, make
from tests.serving.backend import Backend
from tests.serving.double import start_grpc, start_http

# Floats with a condition; uint8 images with labels; floats alone.
SERVED = (("maf", "conditional"), ("nice", "labelled_image"), ("realnvp", "vector"))
QUICK = Retry(attempts=4, first=0.01, longest=0.05)


@dataclass
class Served:
    """The double, the flows that it serves, and clients of it."""

    backend: Backend
    ports: dict[str, int]
    flows: dict[str, Flow]
    kinds: dict[str, Kind]
    folder: Path

    def address(self, scheme: str) -> str:
        return f"{scheme}://127.0.0.1:{self.ports[scheme]}"

    def client(self, scheme: str, model: str = "realnvp_vector", **options) -> Client:
        return Client(self.address(scheme), model, **{"retry": QUICK, "timeout": 20.0, **options})


@contextmanager
def doubled(folder: Path) -> Iterator[Served]:
    """The whole double: both interfaces, three models, two versions of one."""
    flows, kinds = {}, {}
    for family, kind in SERVED:
        flow = make(family, kind)
        flow.export(folder / flow.name / "1")
        flows[flow.name], kinds[flow.name] = flow, KINDS[kind]
    newer = make("realnvp", "vector", seed=1)
    newer.export(folder / newer.name / "2")
    flows["newer"] = newer
    backend = Backend(
        {name: folder / name for name in kinds},
        labels={("realnvp_vector", "stable"): 1, ("realnvp_vector", "canary"): 2},
    )
    grpc_server, grpc_port = start_grpc(backend)
    http_server, http_port = start_http(backend)
    yield Served(backend, {"grpc": grpc_port, "http": http_port}, flows, kinds, folder)
    grpc_server.stop(0)
    http_server.shutdown()
    http_server.server_close()

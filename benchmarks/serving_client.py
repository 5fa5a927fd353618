"""What the client of a model server costs beside a bare gRPC stub, and REST beside gRPC.

    python -m benchmarks.serving_client [--entry realnvp_mnist] [--batch 64] [--rounds 40]

The double of tests/serving runs in a process of its own with the SavedModel of the entry; the calls take
turns, so that whatever else the machine does falls on all alike. "no graph" is a server that answers with
zeros at once: what is left is the client, the wire and the protos. The double reads and writes
JSON in Python, far slower than the server: of REST only the client's own CPU time means something.
"""

from __future__ import annotations

import argparse
import gc
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from flowzoo import registry, weights
from flowzoo.serving import Client


def import_seconds(code: str, rounds: int = 3) -> float:
    """The least CPU time of some code in a fresh interpreter that has NumPy."""

    def run(text: str) -> float:
        program = (
            f"import numpy, time\nstart = time.process_time()\n{text}\nprint(time.process_time() - start)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])

    return min(run(code) for _ in range(rounds))


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """The median seconds of each call, by the clock and of this process's CPU; they take turns."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    # With TensorFlow's objects around, a collection takes 100 ms, and falls on the same call each time.
    gc.collect()
    gc.disable()
    for turn in range(rounds + 3):
        for name, call in calls.items():
            start, cpu = time.perf_counter(), time.process_time()
            call()
            if turn >= 3:
                seconds[name].append((time.perf_counter() - start, time.process_time() - cpu))
    return {
        name: (statistics.median(clock for clock, _ in pairs), statistics.median(cpu for _, cpu in pairs))
        for name, pairs in seconds.items()
    }


def bare_grpc(port: int, model: str, x: np.ndarray) -> Callable[[], object]:
    """What one would write with the stub alone."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_send_message_length", 2**26)])
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def call() -> np.ndarray:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = model, "log_prob"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
        return tf.make_ndarray(stub.Predict(request, timeout=60).outputs["log_prob"])

    return call


def bare_rest(port: int, model: str, x: np.ndarray) -> Callable[[], object]:
    """What one would write with http.client alone, on one open connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def call() -> np.ndarray:
        body = json.dumps({"signature_name": "log_prob", "inputs": {"x": x.tolist()}})
        connection.request("POST", f"/v1/models/{model}:predict", body)
        return np.array(json.loads(connection.getresponse().read())["outputs"], np.float32)

    return call


@contextmanager
def served(entry: str, graph: bool) -> Iterator[tuple[int, int]]:
    """The double in a process of its own, with the SavedModel of the entry's published weights."""
    ports = _free_ports()
    command = [sys.executable, "-m", "benchmarks.serving_client", "--be-server", str(_located(entry)), entry]
    command += [*map(str, ports), *([] if graph else ["--no-graph"])]
    process = subprocess.Popen(command)
    try:
        with Client(f"http://127.0.0.1:{ports[1]}", entry) as client:
            client.wait_until_ready(300)
        yield ports
    finally:
        process.kill()
        process.wait()


def _located(entry: str) -> Path:
    return weights.locate(entry, expected_digest=registry.get_config(entry).weights.sha256).folder


def _free_ports() -> tuple[int, int]:
    import socket

    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def be_server(folder: str, name: str, grpc_port: str, rest_port: str, *options: str) -> None:
    from tests.serving import backend as backend_module
    from tests.serving.double import start_grpc, start_http

    if "--no-graph" in options:
        backend_module.tf.saved_model.load = lambda folder: None
    backend = backend_module.Backend({name: Path(folder)})
    if "--no-graph" in options:
        backend.run = lambda version, signature, tensors: {  # type: ignore[method-assign]
            "log_prob": np.zeros(len(tensors["x"]), np.float32)
        }
    gc.disable()
    kept = start_grpc(backend, int(grpc_port)), start_http(backend, int(rest_port))
    threading.Event().wait()
    del kept


def measure(entry: str, batch: int, rounds: int, imports: bool) -> None:
    write = sys.stdout.write
    for code in (
        "from flowzoo.serving import Client",
        "from flowzoo.serving import Client; Client('http://127.0.0.1:1', 'm')",
        "from flowzoo.serving import Client; Client('grpc://127.0.0.1:1', 'm')",
        "import tensorflow",
    )[: None if imports else 0]:
        write(f"{import_seconds(code):7.3f} s of CPU  {code}\n")
        sys.stdout.flush()
    golden = np.load(_located(entry) / "golden.npz")["x"]
    x = np.resize(golden, (batch, *golden.shape[1:]))
    for graph in (False, True):
        with served(entry, graph) as (grpc_port, rest_port):
            with (
                Client(f"grpc://127.0.0.1:{grpc_port}", entry) as by_grpc,
                Client(f"http://127.0.0.1:{rest_port}", entry) as by_rest,
            ):
                calls: dict[str, Callable[[], object]] = {
                    "bare stub": bare_grpc(grpc_port, entry, x),
                    "client, gRPC": lambda client=by_grpc: client.log_prob(x),
                    "bare http.client": bare_rest(rest_port, entry, x),
                    "client, REST": lambda client=by_rest: client.log_prob(x),
                }
                found = medians(calls, rounds)
        write(f"\n{entry}, batch {batch}, {'its graph' if graph else 'no graph'}\n")
        clock0, cpu0 = found["bare stub"]
        for name, (clock, cpu) in found.items():
            write(
                f"  {name:16}  clock {1000 * clock:8.2f} ms {clock / clock0:7.2f} x"
                f"   own CPU {1000 * cpu:7.2f} ms {cpu / cpu0:6.2f} x\n"
            )
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--be-server"]:
        be_server(*sys.argv[2:])
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--entry", default="realnvp_mnist")
        parser.add_argument("--batch", type=int, default=64)
        parser.add_argument("--no-imports", action="store_true")
        parser.add_argument("--rounds", type=int, default=40)
        options = parser.parse_args()
        measure(options.entry, options.batch, options.rounds, not options.no_imports)

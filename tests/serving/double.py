"""A double of TensorFlow Serving: its gRPC services and its REST interface before real graphs.

`python -m tests.serving.double --port=P --rest_api_port=Q --model_name=N --model_base_path=DIR` takes the
server's own flags.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import socket
import ssl
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format, text_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving.backend import Backend, Refused, as_proto

HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
METRICS = "/monitoring/prometheus/metrics"
CHOICE = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
PREDICT = re.compile(rf"/v1/models/(?P<name>[^/:]+){CHOICE}:predict", re.IGNORECASE)
STATUS = re.compile(rf"/v1/models/(?P<name>[^/:]+){CHOICE}(?P<metadata>/metadata)?", re.IGNORECASE)


# -- gRPC ---------------------------------------------------------------------------------------------


class Services(
    prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer
):
    """Both services of the server."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def _answer(self, method: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(request)
        except Refused as error:
            context.abort(grpc.StatusCode[error.code], error.message)

    def Predict(self, request, context):  # noqa: N802
        return self._answer(self.backend.predict, request, context)

    def GetModelMetadata(self, request, context):  # noqa: N802
        return self._answer(self.backend.metadata, request, context)

    def GetModelStatus(self, request, context):  # noqa: N802
        return self._answer(self.backend.status, request, context)


def start_grpc(backend: Backend, port: int = 0, credentials: Any = None) -> tuple[Any, int]:
    server = grpc.server(
        futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 2**31 - 1)]
    )
    services = Services(backend)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(services, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(services, server)
    where = f"127.0.0.1:{port}"
    bound = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    server.start()
    return server, bound


# -- JSON -----------------------------------------------------------------------------------------------


def shape_of(value: Any) -> list[int]:
    """The server reads a shape from the first elements."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def tensor_of(value: Any, dtype: int) -> Any:
    """A JSON value as a tensor of a signature's type."""
    name, leaves = tf.as_dtype(dtype).name, []

    def walk(part: Any, shape: list[int]) -> None:
        if shape:
            if not isinstance(part, list) or len(part) != shape[0]:
                raise Refused("INVALID_ARGUMENT", "Encountered list at unexpected size")
            for item in part:
                walk(item, shape[1:])
            return
        number = isinstance(part, int | float) and not isinstance(part, bool)
        if not number or (name.startswith(("int", "uint")) and not isinstance(part, int)):
            raise Refused("INVALID_ARGUMENT", f"JSON Value: {part} is not of expected type: {name}")
        leaves.append(part)

    shape = shape_of(value)
    walk(value, shape)
    return as_proto(np.array(leaves, name).reshape(shape))


def request_of(backend: Backend, spec: Any, body: bytes) -> tuple[predict_pb2.PredictRequest, str]:
    """The request in a body, and the key of its answer."""
    try:
        content = json.loads(body)
    except ValueError as error:
        raise Refused("INVALID_ARGUMENT", f"JSON Parse error: {error}") from error
    request = predict_pb2.PredictRequest(model_spec=spec)
    request.model_spec.signature_name = content.get("signature_name", "")
    _, version = backend.find(spec)
    name = request.model_spec.signature_name or "serving_default"
    if name not in version.signatures:
        raise Refused("INVALID_ARGUMENT", f'Serving signature name: "{name}" not found in signature def')
    infos = version.signatures[name].inputs
    if ("inputs" in content) == ("instances" in content):
        raise Refused("INVALID_ARGUMENT", "expecting one of 'inputs' or 'instances' keys")
    columns = content["inputs"] if "inputs" in content else columns_of(content["instances"], infos)
    if not isinstance(columns, dict):
        if len(infos) > 1:
            raise Refused("INVALID_ARGUMENT", "inputs is a plain value/list, but expecting an object")
        columns = {next(iter(infos)): columns}
    for key, info in infos.items():
        if key not in columns:
            raise Refused("INVALID_ARGUMENT", f"Missing named input: {key} in 'inputs' object.")
        request.inputs[key].CopyFrom(tensor_of(columns[key], info.dtype))
    return request, "outputs" if "inputs" in content else "predictions"


def columns_of(rows: list, infos: Any) -> dict[str, list]:
    if not isinstance(rows[0], dict):
        if len(infos) > 1:
            raise Refused("INVALID_ARGUMENT", "instances is a plain list, but expecting list of objects")
        return {next(iter(infos)): rows}
    return {key: [row[key] for row in rows] for key in infos}


def decimal(value: float) -> str:
    """A float32 in the fewest digits that give it back; not JSON where it is not finite."""
    if math.isfinite(value):
        return repr(float(np.format_float_positional(np.float32(value), unique=True)))
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def written(value: np.ndarray) -> str:
    if value.ndim:
        return f"[{', '.join(written(item) for item in value)}]"
    return decimal(value) if value.dtype.kind == "f" else str(value)


def answer_of(response: predict_pb2.PredictResponse, key: str) -> str:
    """The body of an answer; the name of an only output is left out."""
    outputs = {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}
    if len(outputs) == 1:
        return f'{{\n    "{key}": {written(next(iter(outputs.values())))}\n}}'
    if key == "outputs":
        parts = [f'"{name}": {written(value)}' for name, value in outputs.items()]
        return f'{{"outputs": {{{", ".join(parts)}}}}}'
    rows = [
        ", ".join(f'"{name}": {written(value[i])}' for name, value in outputs.items())
        for i in range(len(next(iter(outputs.values()))))
    ]
    return f'{{"predictions": [{", ".join(f"{{{row}}}" for row in rows)}]}}'


def as_json(message: Any) -> str:
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=1
    )


def metadata_json(response: get_model_metadata_pb2.GetModelMetadataResponse) -> str:
    """The server writes the map of signatures without the @type that Any has in protobuf's JSON."""
    found = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(found)
    spec = as_json(response.model_spec)
    return f'{{\n"model_spec":{spec}\n,\n"metadata": {{"signature_def": {as_json(found)}\n}}\n}}\n'


# -- HTTP -----------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """The REST interface, and the ways in which a connection can go wrong."""

    protocol_version = "HTTP/1.1"
    backend: Backend

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802
        self._reply(self._get)

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._reply(lambda: self._post(body))

    def _spec(self, match: re.Match[str]) -> Any:
        spec = predict_pb2.PredictRequest().model_spec
        spec.name = match["name"]
        if match["version"]:
            spec.version.value = int(match["version"])
        elif match["label"]:
            spec.version_label = match["label"]
        return spec

    def _get(self) -> str:
        match = STATUS.fullmatch(self.path)
        if self.path == METRICS:
            return "# TYPE :tensorflow:serving:request_count counter\n"
        if not match:
            raise Refused("INVALID_ARGUMENT", f"Malformed request: GET {self.path}")
        if match["metadata"]:
            request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
            request.model_spec.CopyFrom(self._spec(match))
            return metadata_json(self.backend.metadata(request))
        status = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec(match))
        return as_json(self.backend.status(status))

    def _post(self, body: bytes) -> str:
        match = PREDICT.fullmatch(self.path)
        if not match:
            raise Refused("INVALID_ARGUMENT", f"Malformed request: POST {self.path}")
        request, key = request_of(self.backend, self._spec(match), body)
        return answer_of(self.backend.predict(request), key)

    def _reply(self, answer: Any) -> None:
        try:
            status, text = 200, answer()
        except Refused as error:
            status, text = HTTP.get(error.code, 500), json.dumps({"error": error.message})
        broken = self.backend.faults.next_broken() if self.command == "POST" else None
        self._write(status, text.encode(), broken)

    def _write(self, status: int, body: bytes, broken: str | None) -> None:
        if broken == "drop":
            self._hang_up()
            return
        if broken == "short_json":
            body = body[: len(body) // 2]
        elif broken == "not_json":
            body = b"<html>welcome</html>"
        elif broken == "unnamed":
            body = b'{"results": [1.0]}'
        elif broken == "bad_gateway":
            status, body = 502, b"<html>bad gateway</html>"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if broken == "truncated":
            self.wfile.write(body[: len(body) // 2])
            self._hang_up()
        elif broken == "trickle":
            for byte in body[:40]:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)
            self._hang_up()
        else:
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def start_http(
    backend: Backend, port: int = 0, context: ssl.SSLContext | None = None
) -> tuple[ThreadingHTTPServer, int]:
    handler = type("Bound", (Handler,), {"backend": backend})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server, server.server_address[1]


# -- as a program ------------------------------------------------------------------------------------------


def folders_of(options: argparse.Namespace) -> dict[str, Path]:
    if not options.model_config_file:
        return {options.model_name: Path(options.model_base_path)}
    from tensorflow_serving.config import model_server_config_pb2

    text = Path(options.model_config_file).read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    return {entry.name: Path(entry.base_path) for entry in config.model_config_list.config}


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("port", "rest_api_port"):
        parser.add_argument(f"--{name}", type=int, default=0)
    for name in ("model_name", "model_base_path", "model_config_file"):
        parser.add_argument(f"--{name}")
    options, _ = parser.parse_known_args()
    backend = Backend(folders_of(options))
    # Kept: a gRPC server that nobody holds stops.
    servers = [start_grpc(backend, options.port)] if options.port else []
    if options.rest_api_port:
        servers.append(start_http(backend, options.rest_api_port))
    threading.Event().wait()
    return len(servers)


if __name__ == "__main__":
    sys.exit(main())

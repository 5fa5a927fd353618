"""TensorFlow Serving's gRPC interface, through the protos of tensorflow-serving-api.

Those protos hold TensorFlow's own, which come with TensorFlow alone: the first gRPC client of a process
imports TensorFlow. Nothing here is imported before that.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.errors import ServingError
from flowzoo.serving.deadline import Deadline
from flowzoo.serving.signatures import Signature, signatures_of
from flowzoo.serving.transport import Address, ModelSelector, Tls, VersionStatus, error_of

_APIS = "tensorflow_serving.apis"


class GrpcTransport:
    """Sends requests as protos over HTTP/2."""

    def __init__(
        self, address: Address, model: ModelSelector, *, tls: Tls, connect_timeout: float, max_bytes: int
    ) -> None:
        """Make the channel; it connects with the first request. See `flowzoo.serving.Client`.

        Raises:
            ImportError: tensorflow-serving-api is not installed.
        """
        self._grpc, self._max_bytes = _needed("grpc"), max_bytes
        self._predict_pb2 = _needed(f"{_APIS}.predict_pb2")
        self._metadata_pb2 = _needed(f"{_APIS}.get_model_metadata_pb2")
        self._status_pb2 = _needed(f"{_APIS}.get_model_status_pb2")
        self._model, self._address = model, address
        options = _options(connect_timeout, max_bytes)
        target = f"{address.host}:{address.port}"
        if address.encrypted:
            self._channel = self._grpc.secure_channel(target, self._credentials(tls), options)
        else:
            self._channel = self._grpc.insecure_channel(target, options)
        prediction = _needed(f"{_APIS}.prediction_service_pb2_grpc")
        models = _needed(f"{_APIS}.model_service_pb2_grpc")
        self._prediction = prediction.PredictionServiceStub(self._channel)
        self._models = models.ModelServiceStub(self._channel)

    def predict(
        self, signature: Signature, inputs: Mapping[str, np.ndarray], deadline: Deadline
    ) -> dict[str, np.ndarray]:
        """Return the outputs of a signature."""
        import tensorflow as tf

        request = self._predict_pb2.PredictRequest()
        self._select(request.model_spec)
        request.model_spec.signature_name = signature.name
        for name, array in inputs.items():
            dtype = tf.string if signature.inputs[name].dtype == "bytes" else array.dtype
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array, dtype, array.shape))
        response = self._send(self._prediction.Predict, request, deadline)
        try:
            return {name: tf.make_ndarray(response.outputs[name]) for name in sorted(response.outputs)}
        except (TypeError, ValueError) as error:
            raise ServingError(f"The server's answer cannot be read: {error}", "INTERNAL") from error

    def signatures(self, deadline: Deadline) -> dict[str, Signature]:
        """Return the model's signatures by name."""
        from google.protobuf import json_format

        response = self._metadata(deadline)
        found = self._metadata_pb2.SignatureDefMap()
        if not response.metadata["signature_def"].Unpack(found):
            raise ServingError("The server's metadata hold no signatures.", "INTERNAL")
        return signatures_of(json_format.MessageToDict(found, preserving_proto_field_name=True))

    def version(self, deadline: Deadline) -> int:
        """Return the version that is meant, which is loaded."""
        return self._metadata(deadline).model_spec.version.value

    def _metadata(self, deadline: Deadline) -> Any:
        request = self._metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._select(request.model_spec)
        return self._send(self._prediction.GetModelMetadata, request, deadline)

    def status(self, deadline: Deadline) -> list[VersionStatus]:
        """Return the state of the model's versions."""
        request = self._status_pb2.GetModelStatusRequest()
        self._select(request.model_spec)
        response = self._send(self._models.GetModelStatus, request, deadline)
        return [self._version(entry) for entry in response.model_version_status]

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _select(self, spec: Any) -> None:
        """Say in a request which model is meant."""
        spec.name = self._model.name
        if self._model.version is not None:
            spec.version.value = self._model.version
        elif self._model.label is not None:
            spec.version_label = self._model.label

    def _send(self, method: Callable, request: Any, deadline: Deadline) -> Any:
        try:
            return method(request, timeout=deadline.left())
        except self._grpc.RpcError as error:
            code, details = error.code().name, error.details() or "no reason given"
            if code == "DEADLINE_EXCEEDED" and deadline.remaining <= 0:
                raise deadline.passed() from error
            if code == "RESOURCE_EXHAUSTED" and "larger than max" in details:  # passes no later time
                details += f" (max_message_bytes={self._max_bytes}, or the server's own limit)"
                code = "INVALID_ARGUMENT"
            raise error_of(code, f"{self._address}: {details}") from error

    def _version(self, entry: Any) -> VersionStatus:
        state = self._status_pb2.ModelVersionStatus.State.Name(entry.state)
        names = {code.value[0]: code.name for code in self._grpc.StatusCode}
        code = names.get(entry.status.error_code, "UNKNOWN")
        return VersionStatus(entry.version, state, code, entry.status.error_message)

    def _credentials(self, tls: Tls) -> Any:
        files = (tls.ca_file, tls.key_file, tls.cert_file)
        return self._grpc.ssl_channel_credentials(*(file and Path(file).read_bytes() for file in files))


def _options(connect_timeout: float, max_bytes: int) -> list[tuple[str, int]]:
    """Return the options of a channel.

    gRPC waits a second, then up to two minutes, before it connects anew, and fails all calls meanwhile:
    the waits between attempts are `Retry`'s alone. Its least wait is what limits one attempt to connect.
    """
    return [
        ("grpc.max_send_message_length", max_bytes),
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.min_reconnect_backoff_ms", max(1, int(1000 * connect_timeout))),
        ("grpc.enable_retries", 0),
        # Channels with equal options share connections otherwise, also those that another client broke.
        ("grpc.use_local_subchannel_pool", 1),
    ]


def _needed(module: str) -> Any:
    """Import a module of the extra `serving`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"gRPC needs tensorflow-serving-api ({error}): pip install 'flowzoo[serving]', or use the "
            "server's REST interface, Client('http://HOST:8501', ...), which needs nothing more."
        ) from error

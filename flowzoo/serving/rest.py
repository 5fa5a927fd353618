"""TensorFlow Serving's REST interface, version 1. Needs neither TensorFlow nor gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import numpy as np

from flowzoo.errors import ServingError
from flowzoo.serving import json_tensors
from flowzoo.serving.deadline import Deadline
from flowzoo.serving.http_connections import Connections
from flowzoo.serving.signatures import Signature, signatures_of
from flowzoo.serving.transport import Address, ModelSelector, Tls, VersionStatus, error_of

# The server turns a canonical status into an HTTP status; several share one. 502 is a proxy's.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class RestTransport:
    """Sends requests as JSON over HTTP."""

    def __init__(
        self, address: Address, model: ModelSelector, *, tls: Tls, connect_timeout: float, max_bytes: int
    ) -> None:
        """Set where requests go; see `flowzoo.serving.Client`."""
        self._connections = Connections(address, tls, connect_timeout, max_bytes)
        self._max_bytes = max_bytes
        self._path = f"/v1/models/{quote(model.name, safe='')}"
        if model.version is not None:
            self._path += f"/versions/{model.version}"
        elif model.label is not None:
            self._path += f"/labels/{quote(model.label, safe='')}"

    def predict(
        self, signature: Signature, inputs: Mapping[str, np.ndarray], deadline: Deadline
    ) -> dict[str, np.ndarray]:
        """Return the outputs of a signature."""
        body = json_tensors.encode_request(signature, inputs)
        if len(body) > self._max_bytes:
            raise error_of(
                "INVALID_ARGUMENT",
                f"The request has {len(body)} bytes, more than max_message_bytes={self._max_bytes}; "
                "send less at once (max_batch).",
            )
        answer = self._exchange("POST", f"{self._path}:predict", body, deadline)
        return json_tensors.decode_answer(answer, signature)

    def signatures(self, deadline: Deadline) -> dict[str, Signature]:
        """Return the model's signatures by name."""
        content = self._metadata(deadline)
        try:
            return signatures_of(content["metadata"]["signature_def"])
        except (KeyError, TypeError) as error:
            raise ServingError(f"The server's metadata lack {error}.", "INTERNAL") from error

    def version(self, deadline: Deadline) -> int:
        """Return the version that is meant, which is loaded."""
        content = self._metadata(deadline)
        try:
            return int(content["model_spec"]["version"])
        except (KeyError, TypeError, ValueError) as error:
            raise ServingError(f"The server's metadata name no version: {error}.", "INTERNAL") from error

    def status(self, deadline: Deadline) -> list[VersionStatus]:
        """Return the state of the model's versions."""
        content = json_tensors.decode_object(self._exchange("GET", self._path, None, deadline))
        try:
            return [_status(entry) for entry in content["model_version_status"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ServingError(f"The server's status cannot be read: {error!r}", "INTERNAL") from error

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _metadata(self, deadline: Deadline) -> dict[str, Any]:
        return json_tensors.decode_object(self._exchange("GET", f"{self._path}/metadata", None, deadline))

    def _exchange(self, method: str, path: str, body: bytes | None, deadline: Deadline) -> bytes:
        status, content = self._connections.exchange(method, path, body, deadline)
        if status == 200:
            return content
        raise error_of(_CODES.get(status, "UNKNOWN"), f"{_reason(content)} (HTTP {status})")


def _status(entry: Mapping) -> VersionStatus:
    status = entry.get("status", {})
    return VersionStatus(
        int(entry["version"]),
        str(entry["state"]),
        str(status.get("error_code", "OK")),
        str(status.get("error_message", "")),
    )


def _reason(content: bytes) -> str:
    """Return what an error's body says: {"error": "..."} from the server, anything from a proxy."""
    try:
        return str(json_tensors.decode_object(content)["error"])
    except (ServingError, KeyError):
        return content[:200].decode(errors="replace").strip() or "no reason given"

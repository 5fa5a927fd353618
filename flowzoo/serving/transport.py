"""What the client asks of a way to reach the server, and where the server is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from flowzoo.errors import (
    InvalidRequestError,
    NotServedError,
    ServerUnavailableError,
    ServingError,
    ServingTimeoutError,
)
from flowzoo.serving.deadline import Deadline
from flowzoo.serving.signatures import Signature

_SCHEMES = {"http": 8501, "https": 8501, "grpc": 8500, "grpcs": 8500}
_ADDRESS = re.compile(r"(?P<scheme>\w+)://(?P<host>\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+)(?::(?P<port>\d{1,5}))?/?")

_ERRORS: dict[str, type[ServingError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "FAILED_PRECONDITION": InvalidRequestError,
    "OUT_OF_RANGE": InvalidRequestError,
    "UNIMPLEMENTED": InvalidRequestError,
    "NOT_FOUND": NotServedError,
    "DEADLINE_EXCEEDED": ServingTimeoutError,
    "UNAVAILABLE": ServerUnavailableError,
    "RESOURCE_EXHAUSTED": ServerUnavailableError,
}


def error_of(code: str, message: str) -> ServingError:
    """Return the error of a canonical status."""
    return _ERRORS.get(code, ServingError)(message, code)


@dataclass(frozen=True)
class Address:
    """Where a server listens, and in which language."""

    scheme: str
    host: str
    port: int

    @property
    def encrypted(self) -> bool:
        """Whether the connection is TLS."""
        return self.scheme in ("https", "grpcs")

    @property
    def is_grpc(self) -> bool:
        """Whether the server's gRPC port is meant."""
        return self.scheme.startswith("grpc")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read an address such as "grpc://localhost:8500".

    Raises:
        TypeError: not a string.
        ValueError: not a scheme, a host and perhaps a port.
    """
    if not isinstance(text, str):
        raise TypeError(f"address takes a string such as 'grpc://localhost:8500'. Received: {text!r}")
    match = _ADDRESS.fullmatch(text)
    if match is None or match["scheme"] not in _SCHEMES:
        raise ValueError(
            "address takes grpc://HOST:PORT or grpcs://HOST:PORT (the server's --port, 8500), or "
            f"http://HOST:PORT or https://HOST:PORT (its --rest_api_port, 8501). Received: {text!r}"
        )
    port = int(match["port"] or _SCHEMES[match["scheme"]])
    if not 0 < port < 65536:
        raise ValueError(f"address takes a port from 1 to 65535. Received: {text!r}")
    return Address(match["scheme"], match["host"], port)


@dataclass(frozen=True)
class Tls:
    """How the connection is encrypted; for https:// and grpcs:// addresses.

    Attributes:
        ca_file: certificates (PEM) of those whom to trust; None for the system's.
        cert_file: the client's own certificate, where the server asks for one.
        key_file: its key.
    """

    ca_file: str | os.PathLike[str] | None = None
    cert_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Refuse half a pair."""
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; only one of them is given.")


@dataclass(frozen=True)
class ModelSelector:
    """A model of a server; the latest version unless a version or a label is given."""

    name: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be a model."""
        if not isinstance(self.name, str):
            raise TypeError(f"model takes a name. Received: {self.name!r}")
        if not self.name or re.search(r"[/:\s]", self.name):
            raise ValueError(f"model takes a name without blanks, / and :. Received: {self.name!r}")
        whole = isinstance(self.version, int) and not isinstance(self.version, bool)
        if self.version is not None and not (whole and self.version >= 0):
            raise ValueError(f"version takes a whole number from 0. Received: {self.version!r}")
        if self.label is not None and not (isinstance(self.label, str) and self.label.strip()):
            raise ValueError(f"label takes the text of a version label. Received: {self.label!r}")
        if self.version is not None and self.label is not None:
            raise ValueError("Give version or label, not both.")

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name} (version {self.version})"
        return f"{self.name} (label {self.label!r})" if self.label else self.name


@dataclass(frozen=True)
class VersionStatus:
    """What a server says of one version of a model.

    Attributes:
        version: its number.
        state: START, LOADING, AVAILABLE, UNLOADING or END.
        code: "OK", or the canonical status of the error that it ended with.
        message: of that error.
    """

    version: int
    state: str
    code: str = "OK"
    message: str = ""


class Transport(Protocol):
    """A way to reach a server. Each method sends one request, once, and is safe in many threads."""

    def predict(
        self, signature: Signature, inputs: Mapping[str, np.ndarray], deadline: Deadline
    ) -> dict[str, np.ndarray]:
        """Return the outputs of a signature."""
        ...

    def signatures(self, deadline: Deadline) -> dict[str, Signature]:
        """Return the model's signatures by name."""
        ...

    def version(self, deadline: Deadline) -> int:
        """Return the version that is meant, which is loaded: that of a label, say."""
        ...

    def status(self, deadline: Deadline) -> list[VersionStatus]:
        """Return the state of the model's versions; a server does not look at labels here."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...

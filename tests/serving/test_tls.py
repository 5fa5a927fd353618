"""Encrypted connections: whom the client trusts, and who it is itself."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api: the extra serving")

import grpc

from flowzoo import errors
from flowzoo.serving import Client, Retry, Tls
from tests.serving.double import start_grpc, start_http
from tests.serving.served import Served

X = np.zeros((2, 3), np.float32)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-days", "2", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_who_is_trusted(served: Served, scheme: str, certificate: tuple[Path, Path]) -> None:
    """The server also asks for the client's certificate."""
    cert, key = certificate
    if scheme == "grpc":
        pair = [(key.read_bytes(), cert.read_bytes())]
        credentials = grpc.ssl_server_credentials(pair, cert.read_bytes(), require_client_auth=True)
        server, port = start_grpc(served.backend, credentials=credentials)
    else:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(cert))
        context.load_cert_chain(cert, key)
        context.verify_mode = ssl.CERT_REQUIRED
        server, port = start_http(served.backend, context=context)
    address, once = f"{scheme}s://127.0.0.1:{port}", Retry(attempts=1)
    try:
        tls = Tls(ca_file=cert, cert_file=cert, key_file=key)
        with Client(address, "realnvp_vector", tls=tls, retry=once) as client:
            assert client.log_prob(X).shape == (2,)
        for stranger in (Tls(), Tls(ca_file=cert)):
            with Client(address, "realnvp_vector", tls=stranger, retry=once, timeout=5) as client:
                with pytest.raises(errors.ServerUnavailableError):
                    client.log_prob(X)
    finally:
        if scheme == "grpc":
            server.stop(0)
        else:
            server.shutdown()
            server.server_close()

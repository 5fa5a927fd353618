"""Connections that are given up when they bring next to nothing.

A time-out alone bounds the wait for each piece: a server that sends a byte a minute never runs into it, and
holds the download for years.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
import urllib.request
from typing import Any

MIN_BYTES_A_SECOND = 1000


class PacedHTTPHandler(urllib.request.HTTPHandler):
    """Opens http URLs whose answers, headers included, must come at a pace."""

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Opens one."""
        return self.do_open(_Connection, req)


class PacedHTTPSHandler(urllib.request.HTTPSHandler):
    """Opens https URLs likewise; certificates are verified as Python does by default."""

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Opens one."""
        return self.do_open(_SecureConnection, req)


class _PacedStream(io.RawIOBase):
    """What a socket brings; TimeoutError when it was less than `MIN_BYTES_A_SECOND` over its time-out."""

    def __init__(self, raw: io.RawIOBase, seconds: float) -> None:
        super().__init__()
        self._raw, self._seconds = raw, seconds
        self._since, self._received = time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        self._received += count or 0
        passed = time.monotonic() - self._since
        if passed > self._seconds:
            if count and self._received < MIN_BYTES_A_SECOND * passed:
                raise TimeoutError(f"timed out: less than {MIN_BYTES_A_SECOND} bytes a second came")
            self._since, self._received = time.monotonic(), 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        timeout = sock.gettimeout()
        if timeout is not None:
            self.fp: io.BufferedReader = io.BufferedReader(_PacedStream(self.fp.detach(), timeout))


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _Response

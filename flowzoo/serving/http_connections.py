"""HTTP connections that are kept open, and answers that must be whole by a deadline.

The time-outs of http.client and of libraries above it are those of a single read: a server that sends a
byte a second never runs into one. Here every read of the socket is given what is left of the deadline.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from flowzoo.errors import InvalidRequestError, ServerUnavailableError, ServingTimeoutError
from flowzoo.serving.deadline import Deadline
from flowzoo.serving.transport import Address, Tls


class _TimedReader(io.RawIOBase):
    """Reads a socket, each time with what is left of a deadline; what HTTPResponse takes for a socket."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self._sock, self._deadline = sock, deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return itself with a buffer."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._deadline.left())
        return self._sock.recv_into(buffer)


class Connections:
    """Open connections to one server, each used by one thread at a time."""

    def __init__(self, address: Address, tls: Tls, connect_timeout: float, max_bytes: int) -> None:
        """Set where they lead; nothing is opened yet.

        Args:
            address: of the server.
            tls: certificates, for https.
            connect_timeout: seconds for the connection and its handshake.
            max_bytes: of an answer.
        """
        self._address, self._connect_timeout, self._max_bytes = address, connect_timeout, max_bytes
        self._context = _context(tls) if address.encrypted else None
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def exchange(self, method: str, path: str, body: bytes | None, deadline: Deadline) -> tuple[int, bytes]:
        """Send a request once and return the status and the body of the answer.

        Raises:
            ServerUnavailableError: no connection, or it broke before the answer was whole.
            ServingTimeoutError: the deadline passed.
            InvalidRequestError: the answer is too large.
        """
        connection = self._take() or self._open(deadline)
        try:
            status, content, reusable = self._converse(connection, method, path, body, deadline)
        except TimeoutError as error:
            connection.close()
            raise error if isinstance(error, ServingTimeoutError) else deadline.passed() from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if _is_foreign(error):
                raise self._unavailable(
                    f"what answers is no HTTP/1.1 server; of gRPC the address is grpc://HOST:PORT ({error!r})"
                ) from error
            raise self._unavailable(f"the connection broke: {error or type(error).__name__}") from error
        except BaseException:
            connection.close()
            raise
        if reusable:
            with self._lock:
                self._idle.append(connection)
        else:
            connection.close()
        return status, content

    def close(self) -> None:
        """Close those that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> http.client.HTTPConnection | None:
        """Return an idle connection that the server has not closed."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None or not _is_readable(connection.sock):
                return connection
            connection.close()

    def _open(self, deadline: Deadline) -> http.client.HTTPConnection:
        host, seconds = self._address.host.strip("[]"), min(self._connect_timeout, deadline.left())
        connection: http.client.HTTPConnection
        if self._context is None:
            connection = http.client.HTTPConnection(host, self._address.port, timeout=seconds)
        else:
            connection = http.client.HTTPSConnection(
                host, self._address.port, timeout=seconds, context=self._context
            )
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            why = f"no connection within {seconds:g} s" if isinstance(error, TimeoutError) else str(error)
            raise self._unavailable(why) from error
        return connection

    def _converse(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        deadline: Deadline,
    ) -> tuple[int, bytes, bool]:
        connection.sock.settimeout(deadline.left())
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        reader: Any = _TimedReader(connection.sock, deadline)
        with _without_closing(connection):
            connection.response_class = partial(_response, reader)  # type: ignore[assignment]
            response = connection.getresponse()
            content = self._whole(response)
        return response.status, content, not response.will_close

    def _whole(self, response: http.client.HTTPResponse) -> bytes:
        """Return the body, all of it or an error."""
        length = response.length
        if length is None:  # in chunks, or up to the end of the connection
            content = response.read(self._max_bytes + 1)
        elif length <= self._max_bytes:
            content = response.read()  # raises IncompleteRead, as a read of some bytes does not
        if (len(content) if length is None else length) > self._max_bytes:
            raise InvalidRequestError(
                f"The answer is larger than max_message_bytes={self._max_bytes}.", "RESOURCE_EXHAUSTED"
            )
        return content

    def _unavailable(self, why: str) -> ServerUnavailableError:
        return ServerUnavailableError(f"{self._address}: {why}.", "UNAVAILABLE")


def _response(reader: Any, _: socket.socket, *rest: Any, **named: Any) -> http.client.HTTPResponse:
    return http.client.HTTPResponse(reader, *rest, **named)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca_file)
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


def _is_foreign(error: Exception) -> bool:
    """Say whether an answer began with something else than HTTP: with frames of HTTP/2, at a port of gRPC."""
    closed = isinstance(error, http.client.RemoteDisconnected)
    return isinstance(error, http.client.BadStatusLine | http.client.UnknownProtocol) and not closed


def _is_readable(sock: socket.socket) -> bool:
    """Say whether an idle connection has something to read, which can only be its end."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def _without_closing(connection: http.client.HTTPConnection) -> Iterator[None]:
    """Keep the socket open: http.client closes it before the body of a last answer has been read."""
    connection.close = lambda: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del connection.close

"""A server that is slow, busy, broken or gone: what is sent again, what is not, and when a call ends."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api: the extra serving")


from flowzoo import errors
from flowzoo.serving import Client, Retry, retrying
from flowzoo.serving.deadline import Deadline
from flowzoo.serving.readiness import poll_until_ready
from tests.serving.backend import Backend
from tests.serving.double import start_grpc, start_http
from tests.serving.served import QUICK, Served

X = np.zeros((2, 3), np.float32)
SAFE: dict[str, Callable[[Client], object]] = {
    "log_prob": lambda client: client.log_prob(X),
    "to_latent": lambda client: client.to_latent(X),
    "from_latent": lambda client: client.from_latent(X),
    "sample with a seed": lambda client: client.sample(2, seed=1),
    "predict, said to be safe": lambda client: client.predict("log_prob", {"x": X}, safe=True),
}
UNSAFE: dict[str, Callable[[Client], object]] = {
    "sample without a seed": lambda client: client.sample(2),
    "predict": lambda client: client.predict("log_prob", {"x": X}),
}


def asked(served: Served) -> int:
    return len(served.backend.requests)


# -- sending again ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
@pytest.mark.parametrize("call", SAFE.values(), ids=SAFE)
def test_safe_calls_are_sent_again(served: Served, client: Client, call: Callable, code: str) -> None:
    served.backend.faults.refuse = (code, "too busy", 3)
    call(client)
    assert asked(served) == 4


@pytest.mark.parametrize("call", UNSAFE.values(), ids=UNSAFE)
def test_unsafe_calls_are_sent_once(served: Served, client: Client, call: Callable) -> None:
    served.backend.faults.refuse = ("UNAVAILABLE", "too busy", 1)
    with pytest.raises(errors.ServerUnavailableError, match="too busy"):
        call(client)
    assert asked(served) == 1


def test_attempts_end(served: Served, client: Client) -> None:
    served.backend.faults.refuse = ("UNAVAILABLE", "too busy", 100)
    with pytest.raises(errors.ServerUnavailableError, match="too busy") as caught:
        client.log_prob(X)
    assert asked(served) == QUICK.attempts and caught.value.code == "UNAVAILABLE"
    assert isinstance(caught.value, ConnectionError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", errors.InvalidRequestError),
        ("FAILED_PRECONDITION", errors.InvalidRequestError),
        ("NOT_FOUND", errors.NotServedError),
        ("INTERNAL", errors.ServingError),
        ("DEADLINE_EXCEEDED", errors.ServingTimeoutError),
    ],
)
def test_other_errors_are_not_sent_again(
    served: Served, client: Client, scheme: str, code: str, kind: type
) -> None:
    served.backend.faults.refuse = (code, "because of x", 1)
    with pytest.raises(kind, match="because of x") as caught:
        client.log_prob(X)
    assert asked(served) == 1
    # HTTP has one status for two of them.
    assert caught.value.code in (code, "INVALID_ARGUMENT" if scheme == "http" else code)


def test_no_wait_reaches_beyond_the_deadline(served: Served, scheme: str) -> None:
    served.backend.faults.refuse = ("UNAVAILABLE", "too busy", 100)
    slow = Retry(attempts=10, first=0.3, factor=2.0)
    with served.client(scheme, retry=slow) as client:
        client.signatures()
        start = time.monotonic()
        with pytest.raises(errors.ServerUnavailableError, match="too busy"):
            client.log_prob(X, timeout=1.0)
        assert time.monotonic() - start < 1.0
    assert 2 <= asked(served) < 5


def test_waits_grow_and_are_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    retry = Retry(attempts=6, first=1.0, factor=3.0, longest=10.0)
    for attempt, whole in ((1, 1), (2, 3), (3, 9), (4, 10), (9, 10)):
        waits = [retry.wait(attempt) for _ in range(200)]
        assert whole / 2 <= min(waits) < 0.6 * whole and 0.9 * whole < max(waits) <= whole
    slept: list[float] = []
    monkeypatch.setattr(retrying.time, "sleep", slept.append)

    def fails() -> None:
        raise errors.ServerUnavailableError("no", "UNAVAILABLE")

    with pytest.raises(errors.ServerUnavailableError):
        retry.run(fails, Deadline(1000), safe=True)
    assert len(slept) == 5
    for wrong in ({"attempts": 0}, {"attempts": 1.5}, {"factor": 0.5}, {"first": -1}, {"longest": "1"}):
        with pytest.raises(ValueError, match="takes a"):
            Retry(**wrong)


# -- broken connections over HTTP ------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["drop", "truncated", "bad_gateway"])
def test_a_broken_connection_is_tried_again(served: Served, broken: str) -> None:
    with served.client("http") as client:
        client.signatures()
        served.backend.faults.broken, served.backend.faults.times = broken, 2
        client.log_prob(X)
        assert asked(served) == 3
        served.backend.faults.times = 1
        with pytest.raises(errors.ServerUnavailableError):
            client.sample(1)
        assert asked(served) == 4


@pytest.mark.parametrize("broken", ["short_json", "not_json", "unnamed"])
def test_an_answer_that_is_none_is_an_error(served: Served, broken: str) -> None:
    served.backend.faults.broken = broken
    with served.client("http") as client:
        with pytest.raises(errors.ServingError, match="answer cannot be read") as caught:
            client.log_prob(X)
    assert caught.value.code == "INTERNAL" and asked(served) == 1


def test_an_answer_of_a_wrong_shape_is_an_error(served: Served, client: Client) -> None:
    served.backend.faults.rows = 1
    with pytest.raises(errors.ServingError, match="gave 3 rows for 2"):
        client.log_prob(X)
    assert asked(served) == 1


# -- time --------------------------------------------------------------------------------------------------


def timed(call: Callable[[], object], kind: type[BaseException], match: str) -> float:
    start = time.monotonic()
    with pytest.raises(kind, match=match):
        call()
    return time.monotonic() - start


def test_a_slow_answer_ends_at_the_deadline(served: Served, client: Client) -> None:
    client.signatures()
    served.backend.faults.delay = 1.5
    assert timed(lambda: client.log_prob(X, timeout=0.3), TimeoutError, "No answer within 0.3 s") < 1.2
    assert asked(served) == 1


def test_a_trickle_ends_at_the_deadline(served: Served) -> None:
    """Each byte comes in time; all of them do not."""
    with served.client("http") as client:
        client.signatures()
        served.backend.faults.broken = "trickle"
        assert timed(lambda: client.log_prob(X, timeout=0.4), errors.ServingTimeoutError, "0.4 s") < 1.5


def test_many_parts_have_one_deadline(served: Served, scheme: str) -> None:
    served.backend.faults.delay = 0.2
    with served.client(scheme, max_batch=1, concurrency=2) as client:
        client.signatures()
        x = np.zeros((40, 3), np.float32)
        assert timed(lambda: client.log_prob(x, timeout=0.7), errors.ServingTimeoutError, "0.7 s") < 1.5
        assert asked(served) < 12


def test_the_first_error_of_a_part_ends_the_call(served: Served, scheme: str) -> None:
    served.backend.faults.refuse = ("INVALID_ARGUMENT", "bad row", 1)
    served.backend.faults.delay = 0.05
    with served.client(scheme, max_batch=1, concurrency=2) as client:
        with pytest.raises(errors.InvalidRequestError, match="bad row"):
            client.log_prob(np.zeros((100, 3), np.float32))
        time.sleep(0.5)  # parts that were under way end; no other is begun
        assert asked(served) < 8


@contextmanager
def silent() -> Iterator[int]:
    """A port whose connections are taken and never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]


def test_a_silent_server_is_not_waited_for(scheme: str) -> None:
    """gRPC says hello when it connects, and has no longer than that; HTTP connects, and awaits an answer."""
    with silent() as port:
        address, once = f"{scheme}://127.0.0.1:{port}", Retry(attempts=1)
        with Client(address, "m", connect_timeout=0.3, retry=once, timeout=2.0) as client:
            if scheme == "grpc":
                assert timed(client.status, errors.ServerUnavailableError, "127.0.0.1") < 1.5
            assert timed(lambda: client.status(timeout=0.2), errors.ServingError, ".") < 1.5


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_no_server_is_said_at_once(scheme: str) -> None:
    with Client(f"{scheme}://127.0.0.1:{free_port()}", "m", retry=QUICK, timeout=10) as client:
        assert timed(lambda: client.log_prob(X), ConnectionError, "(?i)refused|connect") < 5
        assert timed(lambda: client.wait_until_ready(0.4), TimeoutError, "not ready after 0.4 s") < 2


def test_the_port_of_grpc_is_no_http_server(served: Served) -> None:
    address = f"http://127.0.0.1:{served.ports['grpc']}"
    with Client(address, "realnvp_vector", retry=QUICK, timeout=10) as client:
        with pytest.raises(errors.ServerUnavailableError, match="no HTTP/1.1 server; of gRPC the address is"):
            client.log_prob(X)


def test_a_wait_lasts_to_its_end() -> None:
    """The look before the last may come long before the deadline: another is made just before it."""
    asked: list[float] = []

    def status(deadline: Deadline) -> list:
        asked.append(deadline.remaining)
        raise errors.ServerUnavailableError("not yet", "UNAVAILABLE")

    deadline = Deadline(1.0)
    with pytest.raises(errors.ServingTimeoutError, match="not ready after 1 s: not yet"):
        poll_until_ready(status, deadline, "m")
    assert len(asked) > 4 and asked[-1] < 0.1 and 0 < deadline.remaining < 0.1


def test_a_server_that_comes_late_is_found(served: Served, scheme: str) -> None:
    port, backend = free_port(), served.backend
    started: list = []

    def start() -> None:
        started.append((start_grpc if scheme == "grpc" else start_http)(backend, port)[0])

    timer = threading.Timer(0.5, start)
    timer.start()
    patient = Retry(attempts=100, first=0.05, factor=1.0)
    try:
        with Client(f"{scheme}://127.0.0.1:{port}", "realnvp_vector", retry=patient) as client:
            assert client.log_prob(X, timeout=20).shape == (2,)
    finally:
        timer.join()
        started[0].stop(0) if scheme == "grpc" else stop(started[0])


def stop(server) -> None:
    server.shutdown()
    server.server_close()


def test_a_connection_that_the_server_closed_is_not_used_again(served: Served) -> None:
    """Also for what may not be sent twice."""
    backend = Backend({})
    backend.models, port = served.backend.models, free_port()
    server, _ = start_http(backend, port)
    with Client(f"http://127.0.0.1:{port}", "realnvp_vector") as client:
        client.sample(1)
        (connection,) = client._session._transport._connections._idle
        stop(server)
        server, _ = start_http(backend, port)
        connection.sock.shutdown(socket.SHUT_RD)  # as the server's end arrives
        client.sample(1)
    stop(server)


# -- sizes and life ---------------------------------------------------------------------------------------


def test_messages_have_a_limit(served: Served, scheme: str) -> None:
    with served.client(scheme, max_message_bytes=20_000, max_batch=100_000) as client:
        client.log_prob(X)
        with pytest.raises(errors.InvalidRequestError, match="max_message_bytes=20000"):
            client.log_prob(np.full((5000, 3), 0.1, np.float32))
        seen = asked(served)
        with pytest.raises(errors.InvalidRequestError, match="max_message_bytes=20000"):
            client.sample(5000, seed=1)
        assert asked(served) == seen + 1  # too large an answer comes again as large


def test_a_closed_client_says_so(served: Served, scheme: str) -> None:
    client = served.client(scheme)
    with client:
        client.log_prob(np.zeros((600, 3), np.float32))
    client.close()
    for call in (lambda: client.log_prob(X), client.status, client.signatures):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_nothing_is_printed(served: Served, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    served.backend.faults.refuse = ("UNAVAILABLE", "too busy", 1)
    with caplog.at_level(logging.INFO, "flowzoo"):
        client.log_prob(X)
    assert "attempt 1 failed" in caplog.text

"""A model server as a process of ours: started, watched until it is ready, stopped by our own signals."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from flowzoo.errors import ServingError, ServingTimeoutError
from flowzoo.serving.client import Client
from flowzoo.serving.transport import VersionStatus

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# How long a server may take to end after a signal, in seconds, before it is killed.
_GRACE = 30.0


def check_ports(*ports: int) -> None:
    """Refuse ports that are taken: another server there would be mistaken for the new one.

    Raises:
        ValueError: a port is in use, or two are the same.
    """
    if len(set(ports)) < len(ports):
        raise ValueError(f"gRPC and REST need a port each. Received: {', '.join(map(str, ports))}")
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError as error:
                raise ValueError(f"port {port} cannot be listened on: {error.strerror}.") from error


def serve(
    command: Sequence[str],
    names: Sequence[str],
    rest_port: int,
    ready: Callable[[dict[str, VersionStatus]], None],
) -> signal.Signals | None:
    """Run a server until it ends, passing our signals on.

    Args:
        command: starts it.
        names: of the models that it serves.
        rest_port: where it says how they are.
        ready: called once, with the status of each model, when all can be used.

    Returns:
        The signal that ended it, or None if it ended by itself without an error.

    Raises:
        OSError: it cannot be started.
        RuntimeError: it ended by itself with an error.
    """
    with _started(command) as (process, received):
        threading.Thread(
            target=_watch, args=(process, names, rest_port, ready), name="flowzoo-readiness", daemon=True
        ).start()
        code = process.wait()
    if received:
        return received[0]
    if code:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise RuntimeError(f"The server ended by itself ({how}); its own messages say why.")
    return None


@contextmanager
def _started(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen, list[signal.Signals]]]:
    """Start a process, pass signals on to it and collect them; kill it at the end if it lives."""
    received: list[signal.Signals] = []
    processes: list[subprocess.Popen] = []

    def pass_on(number: int, _: FrameType | None = None) -> None:
        received.append(signal.Signals(number))
        for process in processes:
            _end(process, number)

    # Before the process is there: a signal at that moment must not leave it behind.
    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        # A session of its own: a Ctrl-C of the terminal reaches it once, through us.
        process = subprocess.Popen(command, start_new_session=True)
        processes.append(process)
        for number in received[:1]:
            _end(process, number)
        yield process, received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _end(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a process, and kill it if it does not end."""
    process.send_signal(number)
    killer = threading.Timer(_GRACE, process.kill)
    killer.daemon = True
    killer.start()


def _watch(
    process: subprocess.Popen,
    names: Sequence[str],
    rest_port: int,
    ready: Callable[[dict[str, VersionStatus]], None],
) -> None:
    """Wait until every model can be used, as long as the server lives."""
    found: dict[str, VersionStatus] = {}
    for name in names:
        with Client(f"http://127.0.0.1:{rest_port}", name) as client:
            while name not in found:
                if process.poll() is not None:
                    return
                try:
                    found[name] = client.wait_until_ready(1.0)
                except ServingTimeoutError:
                    continue
                except ServingError as error:  # given up: the server's own log says more
                    found[name] = VersionStatus(0, "END", error.code, str(error))
    ready(found)

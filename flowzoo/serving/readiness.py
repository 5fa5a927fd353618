"""Waiting for a server that starts, and for a model that it loads."""

from __future__ import annotations

import time
from collections.abc import Callable

from flowzoo.errors import (
    InvalidRequestError,
    NotServedError,
    ServerUnavailableError,
    ServingError,
    ServingTimeoutError,
)
from flowzoo.serving.deadline import Deadline
from flowzoo.serving.transport import VersionStatus, error_of

_LEAST, _MOST = 0.05, 1.0
# With less than this left nothing can be asked any more.
_LAST = 0.02
# It does not listen yet; it has not looked for models yet; it has not given out labels yet.
_NOT_YET = (ServerUnavailableError, NotServedError, InvalidRequestError)


def poll_until_ready(
    status: Callable[[Deadline], list[VersionStatus]], deadline: Deadline, model: str
) -> VersionStatus:
    """Ask for the status of a model until a version is AVAILABLE, and return that, the latest of several.

    Args:
        status: asks once.
        deadline: of the wait.
        model: its name, for errors.

    Raises:
        ServingTimeoutError: none is, by the deadline.
        ServingError: all versions have ended with an error.
    """
    wait, last = _LEAST, "it has not answered"
    while True:
        try:
            versions = status(deadline)
        except ServingTimeoutError:
            versions = []
        except _NOT_YET as error:
            versions, last = [], str(error)
        ready = [version for version in versions if version.state == "AVAILABLE"]
        if ready:
            return max(ready, key=lambda version: version.version)
        if versions:
            last = ", ".join(f"version {v.version} is {v.state} {v.message}".strip() for v in versions)
            _refuse_ended(versions, model)
        left = deadline.remaining
        if left <= _LAST:
            raise ServingTimeoutError(
                f"{model} is not ready after {deadline.seconds:g} s: {last}.", "DEADLINE_EXCEEDED"
            )
        time.sleep(min(wait, max(left - _LEAST, left / 2)))  # the last look comes just before the deadline
        wait = min(_MOST, 1.5 * wait)


def _refuse_ended(versions: list[VersionStatus], model: str) -> None:
    """Raise if the server will not load any version by itself any more."""
    failed = [version for version in versions if version.state == "END" and version.code != "OK"]
    if failed and len(failed) == len(versions):
        worst: ServingError = error_of(failed[0].code, failed[0].message)
        raise ServingError(f"The server gave {model} up: {worst} ({worst.code})", worst.code)

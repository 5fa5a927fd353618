"""The errors that flowzoo raises by name.

Each is a `ValueError`, so that code which knows nothing of flowzoo catches it too. A message says what was
received, what is accepted, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """An entry's configuration cannot be used: a missing or corrupt file, an unknown key, a wrong value."""


class UnknownNameError(ValueError):
    """A name that is not registered."""


class WeightsError(ValueError):
    """The weights of an entry cannot be used."""


class NoWeightsError(WeightsError):
    """No weights are published for the entry, and none lie on this machine."""


class CorruptWeightsError(WeightsError):
    """The weights are there, but they are not the ones that the entry names."""


class DownloadError(WeightsError):
    """Weights could not be fetched, or what was fetched is not what was asked for."""


class DataError(ValueError):
    """A data set cannot be used: a corrupt file, a wrong type, values out of range."""


class MissingDataError(DataError):
    """A data set does not lie on this machine; the message says where to get it and where to put it."""


class ServingError(ValueError):
    """A model server did not do what it was asked.

    Attributes:
        code: the canonical status, such as "INVALID_ARGUMENT" or "UNAVAILABLE", the same over gRPC and REST.
    """

    def __init__(self, message: str, code: str = "UNKNOWN") -> None:
        super().__init__(message)
        self.code = code


class InvalidRequestError(ServingError):
    """The server received the request and refuses it; asking again changes nothing."""


class NotServedError(ServingError):
    """The server has no such model, version or signature."""


class ServerUnavailableError(ServingError, ConnectionError):
    """The server could not be reached, went away, or has too much to do; asking again may help."""


class ServingTimeoutError(ServingError, TimeoutError):
    """The answer did not come in the time that was given."""


class NoServerError(ValueError):
    """TensorFlow Serving is not installed on this machine; the message says how to get it."""


def near_matches(name: str, known: Iterable[str]) -> str:
    """Says which known names resemble `name`, as a sentence to put into an error.

    Args:
        name: What was received.
        known: The names that are accepted.

    Returns:
        ``" Did you mean 'a' or 'b'?"`` with a leading blank, or an empty string when nothing is near.
    """
    matches = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""

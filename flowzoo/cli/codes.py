"""What the exit codes mean, and which error has which."""

from __future__ import annotations

import errno
from enum import IntEnum

from flowzoo.errors import MissingDataError, NoServerError, ServingError, UnknownNameError, WeightsError


class Code(IntEnum):
    """The exit codes of every command."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    UNKNOWN_NAME = 3
    WEIGHTS = 4
    MISSING_DATA = 5
    INTERRUPTED = 130


MEANINGS = {
    Code.OK: "done",
    Code.FAILURE: "the work itself failed (a full disk, too little memory, something missing in doctor)",
    Code.USAGE: "a wrong option, file or configuration",
    Code.UNKNOWN_NAME: "no entry or data source of that name",
    Code.WEIGHTS: "weights missing, changed or not to be downloaded",
    Code.MISSING_DATA: "a data set that is not on this machine",
    Code.INTERRUPTED: "interrupted (Ctrl-C)",
}

# The first class that fits counts. OSError is last: those before it are about the path that a user gave.
_CODES: tuple[tuple[type[BaseException], Code], ...] = (
    (UnknownNameError, Code.UNKNOWN_NAME),
    (WeightsError, Code.WEIGHTS),
    (MissingDataError, Code.MISSING_DATA),
    (NoServerError, Code.FAILURE),
    (ServingError, Code.FAILURE),
    (ValueError, Code.USAGE),
    (TypeError, Code.USAGE),
    (FileNotFoundError, Code.USAGE),
    (FileExistsError, Code.USAGE),
    (IsADirectoryError, Code.USAGE),
    (NotADirectoryError, Code.USAGE),
    (PermissionError, Code.USAGE),
    (KeyboardInterrupt, Code.INTERRUPTED),
)


# What the system says of a path that can be none, where Python has no class for it.
_PATH_ERRORS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


def code_of(error: BaseException) -> Code:
    """Returns the exit code with which a command ends after `error`."""
    if isinstance(error, OSError) and error.errno in _PATH_ERRORS:
        return Code.USAGE
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.FAILURE)

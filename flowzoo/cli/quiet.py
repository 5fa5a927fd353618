"""Imports TensorFlow without the lines that it logs about itself."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext


def debugging() -> bool:
    """Says whether FLOWZOO_DEBUG asks for tracebacks and TensorFlow's log."""
    return os.environ.get("FLOWZOO_DEBUG", "") not in ("", "0")


def import_tensorflow() -> None:
    """Imports TensorFlow; what it writes to standard error meanwhile is shown only if that fails.

    TF_CPP_MIN_LOG_LEVEL alone does not silence it: the C++ libraries log before they read the level.
    """
    if not debugging():
        # Errors reach the user as exceptions; without a GPU, a failed call to the driver is none.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with nullcontext() if debugging() else _held_back():
        import tensorflow as tf
    if not debugging():
        tf.get_logger().setLevel("ERROR")


@contextmanager
def _held_back() -> Iterator[None]:
    """Holds back what any library, C++ included, writes to standard error; replays it after an error."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            file.seek(0)
            os.write(kept, file.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)

"""What a pipeline's Python code raised, out of the error that TensorFlow makes of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from flowzoo.errors import DataError


@contextlib.contextmanager
def data_faults_named() -> Iterator[None]:
    """Raise the DataError of a file that was read in a pipeline, in place of TensorFlow's error."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"DataError: (.+)", error.message)
        if found is None:
            raise
        raise DataError(found[1]) from error

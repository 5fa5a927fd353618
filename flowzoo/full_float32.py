"""Float32 in full: what is measured, compared or published computes so on a GPU as well."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Compute without TensorFloat-32 meanwhile.

    TensorFlow switches it on for matrix products and convolutions on recent GPUs. Of the 23 bits of a
    mantissa it keeps 10: a log_prob differs in the fourth digit, and a Glow that errs by thousandths of a
    grey level from data to latent to data errs by grey levels.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)

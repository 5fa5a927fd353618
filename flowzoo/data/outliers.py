"""Pictures that no data set holds, in place of a few examples of each batch.

A deep flow of images is trained where the images are. Far from there nothing holds it: pure noise can be sent
to latents of any size, from which float32 cannot come back. Trained on a few pictures of noise and of one
colour among the others, it stays well conditioned on them, and pays for their share s at most
-log(1 - s) nats an image: it is the density of a mixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowzoo.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf

_WHICH, _COLOUR, _NOISE, _CONTRAST = 0x0D1, 0x0D2, 0x0D3, 0x0D4
# Of the outliers: pictures of one colour.
_FLAT = 0.25


def with_outliers(
    dataset: tf.data.Dataset,
    share: float,
    *,
    seed: int,
    batch_size: int,
    skip: int,
    shard: tuple[int, int],
    num_values: int = 256,
) -> tf.data.Dataset:
    """Replaces a share of the images by noise and, one in four, by a single colour.

    Half of the noise has every value uniform, half less contrast, by a factor uniform on [0, 1]. Which they
    are hangs on the seed, the number of the batch and the row in the batch of all workers alone.

    Args:
        dataset: Batches of x, or of (x, condition), as `pipeline` gives them with `repeat`.
        share: The part of all examples that is replaced, on average.
        seed: What the choice and the noise hang on.
        batch_size: That of all workers together.
        skip: The number of the first batch.
        shard: `(index, count)` of the worker.
        num_values: How many values a pixel can take.

    Raises:
        DataError: The data are not images of bytes.
    """
    import tensorflow as tf

    spec = dataset.element_spec
    spec = spec[0] if isinstance(spec, tuple) else spec
    if spec.dtype != tf.uint8 or spec.shape.rank != 4:
        raise DataError(
            f"outliers takes images of bytes, uint8 [height, width, channels]. Received: {spec.dtype.name} "
            f"of shape {spec.shape[1:]}"
        )
    event = spec.shape[1:].as_list()
    index, count = shard
    part = slice(index * batch_size // count, (index + 1) * batch_size // count)

    def replaced(number: tf.Tensor, batch: Any) -> Any:  # noqa: ANN401
        key = tf.stack([tf.constant(seed, tf.int64), number])

        def drawn(stream: int, shape: list[int]) -> tf.Tensor:
            own = tf.random.experimental.stateless_fold_in(key, stream)
            return tf.random.stateless_uniform([batch_size, *shape], own)[part]

        which = tf.reshape(drawn(_WHICH, []), [-1, 1, 1, 1])
        flat = tf.broadcast_to(drawn(_COLOUR, [1, 1, event[-1]]), [part.stop - part.start, *event])
        noise = 0.5 + tf.minimum(2 * drawn(_CONTRAST, [1, 1, 1]), 1.0) * (drawn(_NOISE, event) - 0.5)
        other = tf.where(which < share * _FLAT, flat, noise)
        other = tf.cast(tf.floor(other * float(num_values)), tf.uint8)
        x = batch[0] if isinstance(batch, tuple) else batch
        x = tf.where(which < share, other, x)
        return (x, *batch[1:]) if isinstance(batch, tuple) else x

    numbers = tf.data.Dataset.counter(skip)
    zipped = tf.data.Dataset.zip(numbers, dataset)
    return zipped.map(replaced, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2)

"""Noise and single colours among the images of a training."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from flowzoo.config import TrainingConfig
from flowzoo.data import Source, pipeline
from flowzoo.data.outliers import with_outliers
from flowzoo.errors import DataError
from flowzoo.training.feed import Feed

SIZE = 16


def images() -> np.ndarray:
    """Images of one colour, their number."""
    return np.broadcast_to(np.arange(64, dtype="uint8")[:, None, None, None], (64, 6, 5, 3)).copy()


def batches(n: int, share: float, skip: int = 0, shard: tuple[int, int] = (0, 1)) -> np.ndarray:
    data = pipeline(
        images(), SIZE, shuffle=True, seed=3, repeat=True, drop_remainder=True, skip=skip, shard=shard
    )
    data = with_outliers(data, share, seed=3, batch_size=SIZE, skip=skip, shard=shard)
    return np.stack([np.asarray(batch) for batch in data.take(n)])


def kinds(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which images are noise, and which a colour that none of `images` is."""
    spread = x.reshape(-1, 30, 3).std(axis=1)
    grey = x.reshape(-1, 90).std(axis=1) == 0
    return (spread > 0).any(1), (spread == 0).all(1) & ~grey


def test_the_share_is_replaced_by_noise_and_colours() -> None:
    noise, colour = kinds(batches(200, 0.1))
    assert abs(noise.mean() - 0.075) < 0.02 and abs(colour.mean() - 0.025) < 0.012
    assert not any(mask.any() for mask in kinds(batches(20, 0.0)))
    x = batches(200, 0.5).reshape(-1, 6, 5, 3)
    x = x[kinds(x)[0]].reshape(-1, 90)
    contrast = np.ptp(x, axis=1)
    full = contrast > 235  # of 90 uniform values on 0 to 255
    assert 0.4 < full.mean() < 0.65 and np.quantile(contrast, 0.1) < 80
    assert abs(np.median(x[full]) - 127.5) < 4 and 55 < np.quantile(x[full], 0.25) < 72


def test_a_training_that_goes_on_and_workers_see_the_same() -> None:
    whole = batches(8, 0.3)
    np.testing.assert_array_equal(batches(3, 0.3, skip=5), whole[5:])
    parts = [batches(8, 0.3, shard=(i, 2)) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_a_recipe_asks_for_them_in_training_alone() -> None:
    source = Source(x=images(), condition=np.arange(64))
    recipe = TrainingConfig(epochs=1, batch_size=SIZE, seed=3, outliers=0.3)
    feed = Feed(recipe, source, source, True, None, tf.distribute.get_strategy())
    x, labels = next(iter(feed.training(5)))
    np.testing.assert_array_equal(x, batches(6, 0.3)[5])
    kept = ~np.any(kinds(np.asarray(x)), axis=0)
    assert kept.any() and (x.numpy()[kept][:, 0, 0, 0] == labels.numpy()[kept]).all()
    held_out = np.concatenate([x for x, _ in feed.held_out()])
    np.testing.assert_array_equal(held_out, images())


def test_only_images_of_bytes_are_taken() -> None:
    data = pipeline(np.zeros([8, 2], "float32"), 4, shuffle=False, seed=0, repeat=True)
    with pytest.raises(DataError, match="images of bytes.*Received: float32"):
        with_outliers(data, 0.1, seed=0, batch_size=4, skip=0, shard=(0, 1))
    with pytest.raises(ValueError, match="outliers"):
        TrainingConfig(epochs=1, batch_size=4, outliers=0.7)

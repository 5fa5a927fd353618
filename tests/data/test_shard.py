"""The parts of batches that workers take: together they are the batch, whatever the examples are."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import tensorflow as tf

from flowzoo.data import Source, pipeline
from flowzoo.errors import DataError

# The function of this name hides its module in the package.
pipeline_module = importlib.import_module("flowzoo.data.pipeline")

SIZE = 100
X = np.arange(2 * SIZE, dtype=np.float32).reshape(SIZE, 2)
LABELS = np.arange(SIZE, dtype=np.int32)


def unknown_size():
    return tf.data.Dataset.from_tensor_slices((X, LABELS)).filter(lambda x, label: True)


KINDS = {
    "rows": lambda: Source(x=X, condition=LABELS, num_classes=SIZE),
    "stream": lambda: Source(x=tf.data.Dataset.from_tensor_slices((X, LABELS))),
    "stream_of_unknown_size": unknown_size,
}
# 12 divides by every count, and leaves 4 of 100 examples: a last batch that 2 and 4 workers can share.
WAYS = {
    "endless": ((1, 2, 3, 4), {"shuffle": True, "repeat": True, "drop_remainder": True}),
    "resumed": ((3,), {"shuffle": True, "repeat": True, "drop_remainder": True, "skip": 11}),
    "ordered": ((2,), {"shuffle": False, "drop_remainder": True}),
    "limited": ((4,), {"shuffle": True, "drop_remainder": True, "limit": 60}),
    "uneven": ((2, 4), {"shuffle": True, "repeat": True, "skip": 3}),
}


@pytest.fixture(params=KINDS)
def kind(request, monkeypatch):
    monkeypatch.setattr(pipeline_module, "SHUFFLE_WINDOW", 30)
    return request.param


def batches(data, take=13, **arguments):
    dataset = pipeline(data, 12, seed=4, conditional=True, **arguments)
    return [(x.numpy(), label.numpy()) for x, label in dataset.take(take)]


@pytest.mark.parametrize("way", WAYS)
def test_the_parts_in_the_order_of_the_workers_are_the_batch(kind, way):
    counts, arguments = WAYS[way]
    if kind == "stream_of_unknown_size" and way != "resumed":
        pytest.skip("as a stream of known size")
    make = KINDS[kind]
    whole = batches(make(), **arguments)
    for count in counts:
        parts = [batches(make(), **arguments, shard=(index, count)) for index in range(count)]
        assert len(whole) == len(parts[0]) > 4
        for number, (x, label) in enumerate(whole):
            np.testing.assert_array_equal(np.concatenate([part[number][0] for part in parts]), x)
            np.testing.assert_array_equal(np.concatenate([part[number][1] for part in parts]), label)
            assert {len(part[number][0]) for part in parts} == {len(x) // count}


@pytest.mark.parametrize("count", [2, 3])
def test_an_epoch_gives_every_example_to_one_worker(kind, count):
    seen = [
        label
        for index in range(count)
        for _, labels in batches(KINDS[kind](), shuffle=True, drop_remainder=True, shard=(index, count))
        for label in labels
    ]
    assert len(seen) == len(set(seen)) == 96


def test_the_shape_of_a_part_is_static(kind):
    dataset = pipeline(KINDS[kind](), 12, shuffle=True, seed=0, drop_remainder=True, shard=(1, 3))
    assert dataset.element_spec.shape == (4, 2)


def test_a_part_is_not_divided_again_by_a_strategy(kind):
    dataset = pipeline(KINDS[kind](), 12, shuffle=True, seed=0, drop_remainder=True, shard=(1, 3))
    off = tf.data.experimental.AutoShardPolicy.OFF
    assert dataset.options().experimental_distribute.auto_shard_policy == off


@pytest.mark.parametrize(
    ("kind_", "arguments", "message"),
    [
        ("rows", {"shard": (0, 5)}, "batch_size.*must divide by their number, 5. Received: 12"),
        ("rows", {"shard": (2, 2)}, r"0 <= index < count. Received: \(2, 2\)"),
        ("rows", {"shard": (-1, 2)}, r"0 <= index < count. Received: \(-1, 2\)"),
        ("rows", {"shard": (0, 3)}, "The last batch, 4 of 100 examples, .* among 3 workers.*drop_remainder"),
        ("stream", {"shard": (0, 3)}, "The last batch, 4 of 100 examples"),
        ("stream_of_unknown_size", {"shard": (0, 2)}, "unknown size.*needs drop_remainder=True"),
        ("rows", {"skip": 1}, "needs repeat=True.*Received: 1"),
        ("rows", {"skip": -1, "repeat": True}, "from 0 on.*Received: -1"),
    ],
)
def test_refuses(kind_, arguments, message):
    with pytest.raises(DataError, match=message):
        pipeline(KINDS[kind_](), 12, shuffle=True, seed=0, **arguments)

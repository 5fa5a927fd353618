"""Order, batches and types of the pipeline, over arrays, decoded images and streams."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import tensorflow as tf

from flowzoo.data import Source, open_source, pipeline
from flowzoo.errors import DataError

# The function of this name hides its module in the package.
pipeline_module = importlib.import_module("flowzoo.data.pipeline")

SIZE = 103
X = np.arange(2 * SIZE, dtype=np.float32).reshape(SIZE, 2)
LABELS = np.arange(SIZE, dtype=np.int32)


class OnDemand:
    """Examples that are no array: the least that the pipeline asks for."""

    shape, dtype = X.shape, X.dtype

    def __len__(self):
        return len(X)

    def __getitem__(self, rows):
        return X[rows]


KINDS = {
    "source": lambda: Source(x=X, condition=LABELS, num_classes=SIZE),
    "arrays": lambda: (X, LABELS),
    "on_demand": lambda: Source(x=OnDemand(), condition=LABELS),
    "stream": lambda: tf.data.Dataset.from_tensor_slices((X, LABELS)),
    "streamed_source": lambda: Source(x=tf.data.Dataset.from_tensor_slices((X, LABELS))),
}


@pytest.fixture(params=KINDS)
def data(request):
    return KINDS[request.param]()


def batches(dataset):
    return [np.asarray(batch) for batch in dataset]


def rows(dataset):
    """The example numbers that one pass gives, in its order."""
    return (np.concatenate(batches(dataset))[:, 0] / 2).astype(int)


def test_unshuffled_keeps_the_order_and_the_uneven_last_batch(data):
    dataset = pipeline(data, 10, shuffle=False, seed=0)
    assert [len(batch) for batch in batches(dataset)] == [10] * 10 + [3]
    np.testing.assert_array_equal(rows(dataset), np.arange(SIZE))
    assert dataset.cardinality() == 11


def test_drop_remainder_makes_the_shape_static(data):
    dataset = pipeline(data, 10, shuffle=True, seed=0, drop_remainder=True)
    assert dataset.element_spec.shape == (10, 2)
    assert [len(batch) for batch in batches(dataset)] == [10] * 10
    assert len(set(rows(dataset))) == 100
    assert dataset.cardinality() == 10


def test_shuffling_loses_and_doubles_nothing(data):
    dataset = pipeline(data, 10, shuffle=True, seed=1)
    for _ in range(2):
        order = rows(dataset)
        assert (order != np.arange(SIZE)).any()
        np.testing.assert_array_equal(np.sort(order), np.arange(SIZE))


def test_epochs_differ_and_repeat_with_the_seed(data):
    one, two, other = (pipeline(data, 10, shuffle=True, seed=seed) for seed in (5, 5, 6))
    first, second = rows(one), rows(one)
    assert (first != second).any()
    np.testing.assert_array_equal(rows(two), first)
    np.testing.assert_array_equal(rows(two), second)
    assert (rows(other) != first).any()


def test_order_does_not_hang_on_the_global_seed(data):
    orders = []
    for global_seed in (1, 2):
        tf.random.set_seed(global_seed)
        orders.append(rows(pipeline(data, 10, shuffle=True, seed=5)))
    np.testing.assert_array_equal(*orders)


def test_repeat_goes_through_the_same_epochs_without_end(data):
    finite = pipeline(data, 10, shuffle=True, seed=7)
    endless = pipeline(data, 10, shuffle=True, seed=7, repeat=True)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    expected = np.concatenate([rows(finite), rows(finite), rows(finite)])
    np.testing.assert_array_equal(rows(endless.take(33)), expected)
    np.testing.assert_array_equal(rows(endless.take(33)), expected)


def test_repeat_keeps_epochs_apart(data):
    endless = pipeline(data, 10, shuffle=True, seed=7, repeat=True)
    assert [len(batch) for batch in batches(endless.take(22))] == ([10] * 10 + [3]) * 2


def test_conditions_stay_with_their_examples(data):
    for x, label in pipeline(data, 10, shuffle=True, seed=2, conditional=True):
        np.testing.assert_array_equal(x[:, 0] / 2, label)
        assert label.dtype == tf.int32


def test_condition_is_left_out_unless_wanted(data):
    assert isinstance(pipeline(data, 10, shuffle=False, seed=0).element_spec, tf.TensorSpec)


def test_limit_takes_the_first(data):
    dataset = pipeline(data, 10, shuffle=True, seed=3, limit=25)
    np.testing.assert_array_equal(np.sort(rows(dataset)), np.arange(25))
    assert dataset.cardinality() == 3
    assert len(rows(pipeline(data, 10, shuffle=False, seed=0, limit=1000))) == SIZE


@pytest.mark.parametrize("batch_size", [1, 103, 500])
def test_batches_as_small_and_as_large_as_can_be(data, batch_size):
    np.testing.assert_array_equal(
        np.sort(rows(pipeline(data, batch_size, shuffle=True, seed=0))), np.arange(SIZE)
    )


def test_a_stream_longer_than_the_window(monkeypatch):
    monkeypatch.setattr(pipeline_module, "SHUFFLE_WINDOW", 20)
    dataset = pipeline(tf.data.Dataset.from_tensor_slices(X), 10, shuffle=True, seed=0)
    first, second = rows(dataset), rows(dataset)
    assert (first != second).any()
    for order in (first, second):
        np.testing.assert_array_equal(np.sort(order), np.arange(SIZE))
        np.testing.assert_array_equal(np.sort(order[:20]), np.arange(20))
    # Each window has an order of its own.
    assert (first[:20] != first[20:40] - 20).any()


def test_a_stream_of_unknown_length():
    stream = tf.data.Dataset.from_tensor_slices(X).filter(lambda x: x[0] % 4 == 0)
    dataset = pipeline(stream, 10, shuffle=True, seed=0)
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    np.testing.assert_array_equal(np.sort(rows(dataset)), np.arange(0, SIZE, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_types_are_kept(dtype):
    assert pipeline(np.ones((4, 3), dtype), 2, shuffle=True, seed=0).element_spec.dtype == dtype


def test_whole_numbers_become_floats():
    assert pipeline(np.ones((4, 3), np.int64), 2, shuffle=False, seed=0).element_spec.dtype == tf.float32


def test_large_and_mapped_arrays_are_not_copied(monkeypatch, tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = rows(pipeline(X, 10, shuffle=True, seed=0))
    monkeypatch.setattr(pipeline_module, "MAX_TENSOR_BYTES", 0)
    # A copy would not see the change.
    changing = X.copy()
    dataset = pipeline(changing, 10, shuffle=True, seed=0)
    changing[:, 1] = -1
    result = np.concatenate(batches(dataset))
    assert (result[:, 1] == -1).all()
    np.testing.assert_array_equal(result[:, 0] / 2, expected)
    source = Source(x=mapped)
    np.testing.assert_array_equal(rows(pipeline(source, 10, shuffle=True, seed=0)), expected)


def test_a_real_source_end_to_end():
    digits = open_source("digits")
    total = np.zeros(10, int)
    for x, label in pipeline(digits, 128, shuffle=True, seed=0, conditional=True):
        assert x.dtype == tf.uint8 and x.shape[1:] == (8, 8, 1)
        total += np.bincount(label, minlength=10)
    np.testing.assert_array_equal(total, np.bincount(digits.condition))


def test_keras_fits_on_it():
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    target = X[:, :1].copy()
    dataset = pipeline((X / SIZE, target / SIZE), 10, shuffle=True, seed=0, conditional=True)
    losses = model.fit(dataset, epochs=3, verbose=0, shuffle=False).history["loss"]
    assert losses[-1] < losses[0]


def bad_values():
    broken = X.copy()
    broken[17, 1] = np.nan
    return broken


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (X, {"batch_size": 0}, "batch_size must be at least 1"),
        (X, {"seed": -1}, "seed must lie"),
        (X, {"limit": 0}, "limit must be at least 1"),
        (X, {"conditional": True}, "has no condition"),
        (X, {"batch_size": 200, "drop_remainder": True}, "leave nothing of 103"),
        (tf.data.Dataset.from_tensor_slices(X), {"batch_size": 200, "drop_remainder": True}, "leave nothing"),
        (tf.data.Dataset.from_tensor_slices(X), {"conditional": True}, "has no condition"),
        (tf.data.Dataset.from_tensor_slices({"x": X}), {}, "must give x or"),
        (bad_values(), {}, "1 of 206 values are NaN or infinite, the first in example 17"),
        (X[:, 0], {}, "must be .N, .event_shape. with N > 0"),
        (X[:0], {}, "with N > 0"),
        (np.array([["a"]]), {}, "floating or uint8"),
        ((X, LABELS[:5]), {}, "103 examples, but 5 conditions"),
    ],
)
def test_refuses(data, arguments, message):
    with pytest.raises(DataError, match=message):
        pipeline(data, **{"batch_size": 10, "shuffle": True, "seed": 0, **arguments})

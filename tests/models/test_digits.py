"""A float64 flow sees every digit of arrays, in the batches and the order of Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowzoo import Flow, layers
from flowzoo.models import digits

# Seconds of an hour of 2023: float32 holds every 128th.
X = np.random.default_rng(0).uniform(1.7e9, 1.7e9 + 3600, (90, 1))
LABELS = np.arange(90) % 3
W = np.random.default_rng(1).uniform(0, 2, 90)


def made(dtype: str = "float64", **arguments: Any) -> Flow:
    stack = [layers.ActNorm(dtype=dtype), layers.Standardize(dtype=dtype)]
    flow = Flow(stack, event_shape=(1,), base="normal", **arguments)
    flow.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    return flow


@pytest.fixture
def float64() -> Any:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("labelled", [False, True])
def test_every_door_keeps_the_digits(labelled: bool) -> None:
    flow = made(**({"num_classes": 3} if labelled else {}))
    y, parts = (LABELS, (X, LABELS)) if labelled else (None, (X,))
    flow.adapt(*parts)
    scores = flow.log_prob(*parts)
    np.testing.assert_allclose(flow.predict(parts if labelled else X, 40, verbose=0), scores, rtol=1e-9)
    want, weighted = -np.mean(scores), -np.average(scores, weights=W)
    options: dict[str, Any] = {"batch_size": 40, "verbose": 0}
    history = flow.fit(X, y, validation_data=(X, y), **options).history
    split = flow.fit(X, y, validation_split=0.2, **options).history
    found = [
        (flow.evaluate(X, y, **options), want),
        (flow.evaluate(X, y, sample_weight=W, **options), weighted),
        (history["loss"][0], want),
        (history["val_loss"][0], want),
        (flow.fit(X, y, sample_weight=W, **options).history["loss"][0], weighted),
        (split["loss"][0], -np.mean(scores[:72])),
        (split["val_loss"][0], -np.mean(scores[72:])),
        (flow.test_on_batch(X, y), want),
        (flow.train_on_batch(X, y), want),
    ]
    if labelled:
        by_class = {0: 3.0, 2: 0.5}
        weights = np.array([by_class.get(int(label), 1.0) for label in LABELS])
        loss = flow.fit(X, y, class_weight=by_class, **options).history["loss"][0]
        found.append((loss, -np.average(scores, weights=weights)))
    # The metrics of Keras are float32.
    np.testing.assert_allclose(*zip(*found, strict=True), rtol=2e-6)


def test_only_what_would_be_cut_is_taken_from_keras() -> None:
    narrow, wide = made_dtype("float32"), made_dtype("float64")
    assert digits.cut(wide, X) and digits.cut(wide, X.astype("float32"), X)
    assert not digits.cut(narrow, X) and not digits.cut(wide, X.astype("float32"), LABELS, None)
    assert not digits.cut(wide, tf.data.Dataset.from_tensor_slices(X))


def made_dtype(dtype: str) -> Any:
    class OfDtype:
        compute_dtype = dtype

    return OfDtype()


@pytest.mark.parametrize("shuffle", [False, True, "batch"])
def test_batches_are_those_of_keras(shuffle: bool | str) -> None:
    dataset = digits.batches(X, LABELS, W, 40, shuffle=shuffle)
    assert dataset.cardinality() == 3
    epochs = [[[part.numpy() for part in batch] for batch in dataset] for _ in range(2)]
    for epoch in epochs:
        assert [len(x) for x, _, _ in epoch] == [40, 40, 10]
        x, labels, weight = (np.concatenate(parts) for parts in zip(*epoch, strict=True))
        assert x.dtype == np.float64
        order = np.argsort(X[:, 0])[np.argsort(np.argsort(x[:, 0]))]  # of rows in X
        assert np.array_equal(x, X[order]) and np.array_equal(labels, LABELS[order])
        assert np.array_equal(weight, W[order])
        assert np.array_equal(order, np.arange(90)) == (shuffle is False)
        assert np.array_equal(np.sort(order[:40]), np.arange(40)) == (shuffle is not True)
    assert digits.batches(X, steps=4).cardinality() == 4


@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_epochs_end_where_those_of_keras_do() -> None:
    flow, steps = made(), []
    flow.adapt(X)

    class Steps(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            steps[-1].append(0)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            steps[-1][-1] += 1

    for x in (X, X.astype("float32")):  # the latter Keras takes as they are
        steps.append([])
        flow.fit(x, batch_size=40, epochs=3, steps_per_epoch=2, callbacks=[Steps()], verbose=0)
    assert steps[0] == steps[1] and steps[0][0] == 2


def test_arguments_of_fit_are_given_once() -> None:
    flow, x = made("float32"), X - 1.7e9
    with pytest.raises(TypeError, match="batch_size twice"):
        flow.fit(x, None, 32, batch_size=32)
    with pytest.raises(TypeError, match="6 by position"):
        flow.fit(x, None, 32, 1, 0, None, 0.0, x)

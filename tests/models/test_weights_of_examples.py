"""Sample weights at every door: whatever takes data weighs as Keras does."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowzoo import Flow, layers

X = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
C = np.random.default_rng(1).normal(size=(40, 1)).astype("float32")
W = np.random.default_rng(2).uniform(0, 3, 40)


class Batches(keras.utils.PyDataset):
    """Two batches of (x, condition or None, weights)."""

    def __init__(self, *parts: Any) -> None:
        super().__init__()
        self.parts = parts

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(None if part is None else part[20 * index : 20 * (index + 1)] for part in self.parts)


def trained_by_nothing(**arguments: Any) -> Any:
    flow = Flow([layers.ActNorm()], event_shape=(2,), **arguments)
    flow.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    return flow


def batches(condition: Any) -> tf.data.Dataset:
    if condition is not None:
        return tf.data.Dataset.from_tensor_slices((X, condition, W)).batch(20)
    return tf.data.Dataset.from_tensor_slices((X, W)).batch(20).map(lambda x, weight: (x, None, weight))


@pytest.mark.parametrize("conditional", [False, True])
def test_every_door_weighs(conditional: bool) -> None:
    flow = trained_by_nothing(**({"condition_shape": (1,)} if conditional else {}))
    condition = C if conditional else None
    flow.adapt(X, condition)
    want = -np.average(flow.log_prob(X, condition), weights=W)
    assert abs(want + np.mean(flow.log_prob(X, condition))) > 0.01
    found = {
        "by name": flow.evaluate(X, condition, sample_weight=W, verbose=0),
        "by position": flow.evaluate(X, condition, 20, 0, W),
        "column": flow.evaluate(X, condition, sample_weight=W[:, None], verbose=0),
        "tuple": flow.evaluate((X, condition, W), verbose=0),
        "dataset": flow.evaluate(batches(condition), verbose=0),
        "batches": flow.evaluate(Batches(X, condition, W), verbose=0),
        "a batch": flow.test_on_batch(X, condition, sample_weight=W),
        "training on a batch": flow.train_on_batch(X, condition, sample_weight=W),
    }
    options: dict[str, Any] = {"batch_size": 40, "verbose": 0}
    for name, data in {"arrays": (X, condition, W), "batches": batches(condition)}.items():
        history = flow.fit((X, condition, W), validation_data=data, **options).history
        found |= {f"{name}, {key}": value[0] for key, value in history.items()}
    history = flow.fit(X, condition, sample_weight=W, validation_split=0.5, **options).history
    np.testing.assert_allclose(list(found.values()), want, rtol=1e-5, err_msg=str(found))
    half = None if condition is None else condition[20:]
    np.testing.assert_allclose(
        history["val_loss"], -np.average(flow.log_prob(X[20:], half), weights=W[20:]), rtol=1e-5
    )


def test_weights_that_are_none_are_refused() -> None:
    flow = trained_by_nothing()
    for weight, error, message in (
        (W[:5], ValueError, r"for each of the 40 examples of x. Received: shape \(5,\)"),
        (np.ones([40, 2]), ValueError, "one number for each"),
        (np.full(40, np.nan), ValueError, "sample_weight takes finite numbers"),
        (["a"] * 40, TypeError, "sample_weight takes numbers"),
    ):
        for door in (flow.fit, flow.evaluate):
            with pytest.raises(error, match=message):
                door(X, sample_weight=weight, verbose=0)
    with pytest.raises(ValueError, match="sample weights of its own"):
        flow.evaluate((X, None, W), sample_weight=W, verbose=0)

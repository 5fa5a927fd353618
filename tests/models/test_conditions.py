"""Conditions at every door: labels of narrow types, NaN in batches, views that follow the weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowzoo
from flowzoo.models import FlowMatching
from flowzoo.models.rectify import distill, reflow

X = np.random.default_rng(0).normal(size=(200, 2)).astype("float32")
C = np.random.default_rng(1).normal([2000.0, 1e6], [20.0, 1e5], size=(200, 2)).astype("float32")


def maf(**arguments: Any) -> Any:
    flow = flowzoo.build("maf", event_shape=(2,), num_layers=1, hidden_units=(8,), **arguments)
    flow.compile(keras.optimizers.SGD(1e-3))
    return flow


class Batches(keras.utils.PyDataset):
    """Two batches of (x, condition)."""

    def __init__(self, x: np.ndarray, condition: np.ndarray) -> None:
        super().__init__()
        self.x, self.condition, self.ended = x, condition, 0

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(100 * index, 100 * (index + 1))
        return self.x[rows], self.condition[rows]

    def on_epoch_end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize(("classes", "dtype"), [(256, "uint8"), (300, "uint8"), (200, "int8")])
def test_more_classes_than_a_type_of_labels_counts(classes: int, dtype: str) -> None:
    flow, labels = maf(num_classes=classes), (np.arange(200) % 100).astype(dtype)
    assert np.isfinite(flow.fit(X, labels, verbose=0).history["loss"]).all()
    np.testing.assert_allclose(flow.predict((X, labels), verbose=0), flow.log_prob(X, labels), rtol=1e-4)


def test_labels_between_whole_numbers_are_refused_in_graphs() -> None:
    labels = (np.arange(200) % 2 + 0.5).astype("float32")
    with pytest.raises(ValueError, match=r"class labels from 0 to 2. Received: \["):
        maf(num_classes=3).fit(tf.data.Dataset.from_tensor_slices((X, labels)).batch(50), verbose=0)


@pytest.mark.parametrize("kind", ["dataset", "batches", "nested"])
@pytest.mark.parametrize("spoilt", ["x", "condition"])
def test_not_a_number_in_batches_leaves_the_weights_whole(kind: str, spoilt: str) -> None:
    flow = maf(condition_shape=(2,))
    flow.adapt(X, C)
    before = flow.get_weights()
    x, condition = X.copy(), C.copy()
    (x if spoilt == "x" else condition)[150, 0] = np.nan
    data: Any = Batches(x, condition)
    if kind != "batches":
        parts = (x, condition) if kind == "dataset" else ((x, condition),)
        data = tf.data.Dataset.from_tensor_slices(parts).batch(200)
    with pytest.raises(ValueError, match="(?i)nan"):
        flow.fit(data, verbose=0)
    if kind != "batches":  # of two batches the first is whole
        assert all(np.array_equal(a, b) for a, b in zip(before, flow.get_weights(), strict=True))
    assert all(np.isfinite(weight).all() for weight in flow.get_weights())
    with pytest.raises(ValueError, match="(?i)nan"):
        flow.evaluate(data, verbose=0)


def test_whole_batches_train_as_arrays_do() -> None:
    flow, other, data = maf(condition_shape=(2,)), maf(condition_shape=(2,)), Batches(X, C)
    other.set_weights(flow.get_weights())
    history = flow.fit(data, epochs=2, verbose=0).history
    assert data.ended >= 2
    same = other.fit(X, C, batch_size=100, epochs=2, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["loss"], same["loss"], rtol=1e-5)


def test_a_bijector_follows_the_weights() -> None:
    flow = maf(condition_shape=(2,))
    bijector = flow.bijector(C[:5])
    flow.fit(X, C, verbose=0)
    np.testing.assert_allclose(bijector.inverse(X[:5]), flow.to_latent(X[:5], C[:5]), rtol=1e-4, atol=1e-5)


def test_labels_of_a_bijector_have_any_batch_shape() -> None:
    flow, labels = maf(num_classes=3), np.array([[0, 1, 2], [2, 1, 0]])
    z = flow.bijector(labels).inverse(X[:6].reshape(2, 3, 2))
    want = flow.to_latent(X[:6], labels.ravel())
    np.testing.assert_allclose(np.reshape(z, [6, 2]), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("view", ["bijector", "distribution"])
def test_views_refuse_what_methods_refuse(view: str) -> None:
    for arguments, condition, message in (
        ({}, [[1.0]], "takes no condition"),
        ({"condition_shape": (1,)}, None, "needs condition="),
        ({"condition_shape": (1,)}, [[np.nan]], "finite numbers"),
        ({"condition_shape": (2,)}, [[1.0]], r"shape \[..., 2\]"),
        ({"num_classes": 3}, 5, "class labels from 0 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            getattr(maf(**arguments), view)(condition)
    with pytest.raises(TypeError, match="takes numbers"):
        getattr(maf(condition_shape=(1,)), view)([["a"]])


def test_variables_are_data() -> None:
    flow = maf(condition_shape=(2,))
    want = flow.log_prob(X[:3], C[:3])
    given = keras.Variable(X[:3]), keras.Variable(C[:3])
    np.testing.assert_allclose(flow.log_prob(*given), want, rtol=1e-6)


def test_a_flow_may_be_given_a_name() -> None:
    assert flowzoo.build("maf", event_shape=(2,), name="mine").name == "mine"


def test_another_solver_keeps_what_is_not_of_it() -> None:
    flow = FlowMatching((2,), hidden_units=(8,), gradient="backprop")
    flow.seed, flow.trainable = 7, False
    made = flow.with_solver("dopri5")
    assert made.seed == 7 and not made.trainable_variables and made.arguments["gradient"] == "auto"


def test_what_learns_from_one_step_has_a_density() -> None:
    keras.utils.set_random_seed(0)
    teacher = FlowMatching((2,), path="rectified", hidden_units=(8,), steps=4)
    teacher.compile("adam")
    teacher.fit(X, verbose=0)
    fast = distill(teacher, 64, epochs=1)
    straight = reflow(fast, 64, epochs=1)
    assert (
        straight.has_density and straight.arguments["solver"] == "rk4" and straight.arguments["steps"] == 32
    )
    assert np.isfinite(straight.log_prob(X[:3])).all()

"""What a flow does not take is refused at every door, and each says so in the same words."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowzoo
from flowzoo import Flow, layers

PIXELS = np.random.default_rng(0).integers(0, 17, (24, 2)).astype("uint8")
LABELS = np.arange(24) % 2
NAN = np.where(np.arange(48).reshape(24, 2) == 31, np.nan, 1.0)
DOORS = (
    "fit", "evaluate", "predict", "log_prob", "train_on_batch", "test_on_batch", "predict_on_batch"
)  # fmt: skip


class Batches(keras.utils.PyDataset):
    """Batches of one example each."""

    def __init__(self, *parts: np.ndarray) -> None:
        super().__init__()
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        return tuple(part[index : index + 1] for part in self.parts)


def made(num_values: int | None = None, **arguments: Any) -> Flow:
    last = [layers.Dequantize(num_values)] if num_values else [layers.Standardize()]
    flow = Flow([layers.ActNorm(), *last], event_shape=(2,), **arguments)
    flow.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    return flow


def ask(flow: Flow, door: str, x: Any, condition: Any = None) -> Any:
    if door.startswith("predict") and condition is not None:
        return getattr(flow, door)((x, condition))
    quiet = {"verbose": 0} if door in ("fit", "evaluate") else {}
    return getattr(flow, door)(*((x,) if condition is None else (x, condition)), **quiet)


@pytest.mark.parametrize("door", DOORS)
def test_bad_values_are_refused(door: str) -> None:
    flow, discrete, labelled = made(), made(num_values=17), made(num_classes=2)
    for model, condition in ((flow, None), (discrete, None), (labelled, LABELS)):
        model.adapt(PIXELS, condition)
    before = flow.get_weights()
    labels = np.where(LABELS, 7, 0)
    for model, x, condition, error, message in (
        (flow, NAN, None, ValueError, r"x takes finite numbers. Received: nan at index \(15, 1\)"),
        (flow, PIXELS[:, :1], None, ValueError, r"x takes the shape \[batch, 2\]"),
        (flow, PIXELS.astype(str), None, TypeError, "x takes numbers"),
        (discrete, PIXELS + 100, None, ValueError, "x takes whole numbers from 0 to 16"),
        (discrete, PIXELS[:1] / 3 + 0.5, None, ValueError, "x takes whole numbers from 0 to 16"),
        (labelled, PIXELS, labels, ValueError, "condition takes class labels from 0 to 1"),
        (labelled, PIXELS, None, ValueError, "needs condition="),
    ):
        with pytest.raises(error, match=message):
            ask(model, door, x, condition)
    assert all(np.array_equal(a, b) for a, b in zip(before, flow.get_weights(), strict=True))


def test_predict_looks_into_batches() -> None:
    flow, discrete, labelled = made(), made(num_values=17), made(num_classes=2)
    labels = np.where(np.arange(24) == 20, 7, LABELS)
    for model, parts, message in (
        (flow, (NAN,), "(?i)nan"),
        (discrete, (PIXELS + 100,), "outside what the flow takes|whole numbers from 0 to 16"),
        (labelled, (PIXELS, labels), "class labels from 0 to 1"),
    ):
        model.compile()  # in a graph
        for data in (Batches(*parts), tf.data.Dataset.from_tensor_slices(parts).batch(12)):
            with pytest.raises(ValueError, match=message):
                model.predict(data, verbose=0)


def test_predict_gives_log_prob_of_whatever_holds_data() -> None:
    flow = made(num_classes=2)
    flow.adapt(PIXELS, LABELS)
    want = flow.log_prob(PIXELS, LABELS)
    for data in (
        (PIXELS, LABELS),
        Batches(PIXELS, LABELS),
        tf.data.Dataset.from_tensor_slices((PIXELS, LABELS)).batch(7),
    ):
        np.testing.assert_allclose(flow.predict(data, verbose=0), want, rtol=1e-5)
    np.testing.assert_allclose(flow.predict_on_batch((PIXELS, LABELS)), want, rtol=1e-5)


def test_the_first_step_on_a_batch_adapts() -> None:
    x = np.random.default_rng(0).normal(1e4, 1e3, (24, 2))
    flow, other = made(), made()
    loss = flow.train_on_batch(x)
    assert flow.adapted
    assert loss == pytest.approx(other.fit(x, verbose=0).history["loss"][0], rel=1e-5)
    for a, b in zip(flow.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("door", [door for door in DOORS if door.endswith("on_batch")])
def test_one_batch_is_no_dataset(door: str) -> None:
    with pytest.raises(TypeError, match="one batch: an array or a pair"):
        getattr(made(), door)(Batches(PIXELS))


@pytest.mark.parametrize("door", ["fit", "evaluate", "predict"])
def test_no_batch_is_an_error(door: str) -> None:
    flow = made()
    flow.adapt(np.ones((4, 2)))
    empty = tf.data.Dataset.from_tensor_slices(np.ones((4, 2), "float32")).batch(2).filter(lambda x: False)
    with pytest.raises(ValueError, match="at least one batch"):
        ask(flow, door, empty)


def test_weights_of_classes_need_classes() -> None:
    x = np.ones((4, 2), "float32")
    for flow, condition in ((made(), None), (made(condition_shape=(2,)), x)):
        with pytest.raises(ValueError, match="class_weight .* num_classes"):
            flow.fit(x, condition, class_weight={0: 1.0, 1: 2.0}, verbose=0)
    labelled, labels = made(num_classes=2), np.array([0, 0, 0, 1])
    x = np.arange(8.0, dtype="float32").reshape(4, 2)
    labelled.adapt(x, labels)
    want = np.average(-labelled.log_prob(x, labels), weights=[1, 1, 1, 3])
    history = labelled.fit(x, labels, class_weight={0: 1.0, 1: 3.0}, verbose=0).history
    assert history["loss"][0] == pytest.approx(want, rel=1e-5)


def test_a_flow_without_trainable_weights_is_set_from_data_alone() -> None:
    x = np.random.default_rng(0).normal(7.0, 3.0, (50, 2)).astype("float32")
    flow = Flow([layers.Standardize()], event_shape=(2,))
    flow.compile("adam", run_eagerly=True)
    with pytest.warns(UserWarning, match="trainable weights"):
        flow.fit(x, verbose=0)
    np.testing.assert_allclose(np.mean(flow.to_latent(x), 0), 0, atol=1e-5)


@pytest.mark.parametrize("shape", [[None, None], None])
def test_batches_of_a_generator_have_the_shape_that_the_flow_takes(shape: list[None] | None) -> None:
    """Datasets of Python's generators know no shapes: they are the flow's, or an error."""
    spec = tf.TensorSpec(shape)
    good, bad = np.arange(8.0, dtype="float32").reshape(4, 2), np.ones((4, 3), "float32")

    def batches(*arrays: np.ndarray) -> tf.data.Dataset:
        def pairs() -> Any:
            return ((array, array[:, :1]) for array in arrays)

        return tf.data.Dataset.from_generator(pairs, output_signature=(spec, spec))

    flow = made(condition_shape=(1,))
    flow.fit(batches(good, good), verbose=0)
    want = flow.evaluate(good, good[:, :1], verbose=0)
    assert flow.evaluate(batches(good), verbose=0) == pytest.approx(want, rel=1e-6)
    with pytest.raises(ValueError, match="takes no condition"):
        made().fit(batches(good), verbose=0)
    alone = made()
    alone.fit(batches(good).map(lambda x, condition: x), verbose=0)
    with pytest.raises(ValueError, match=r"batch of the shape \[4,3\], and the flow takes \[\?,2\]"):
        flow.evaluate(batches(good, bad), verbose=0)


@pytest.mark.parametrize(
    ("family", "shape", "name"),
    [
        ("realnvp", (2,), "num_couplings"),
        ("realnvp", (8, 8, 3), "num_levels"),
        ("nice", (2,), "num_couplings"),
        *((family, (2,), "num_layers") for family in ("nsf", "maf", "iaf")),
    ],
)
@pytest.mark.parametrize("number", [0, -1, 1.5])
def test_no_layers_are_refused(family: str, shape: tuple[int, ...], name: str, number: Any) -> None:
    """Of RealNVP and NSF 0 was the default number without a word, and -1 a flow that learns nothing."""
    with pytest.raises(ValueError, match=f"{name} takes an integer of at least 1. Received: {number}"):
        flowzoo.build(family, event_shape=shape, **{name: number})

"""Conditions of any scale: the layers see them standardised, wherever they come from."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowzoo
from flowzoo.layers import AffineCoupling
from flowzoo.models import Flow, FlowMatching
from flowzoo.models.rectify import make_pairs
from flowzoo.networks import MLP

RNG = np.random.default_rng
YEARS = RNG(0).uniform(1950, 2020, (400, 1)).astype("float32")
X = np.concatenate([np.sin(YEARS / 9), RNG(1).normal(size=(400, 1))], axis=1).astype("float32")


def trained(condition: np.ndarray, epochs: int = 3) -> Flow:
    keras.utils.set_random_seed(0)
    flow = flowzoo.build("maf", event_shape=(2,), condition_shape=(1,), num_layers=2, hidden_units=(16,))
    flow.compile(keras.optimizers.Adam(1e-2))
    flow.fit(X, condition, epochs=epochs, verbose=0)
    return flow


def test_the_unit_of_a_condition_is_nothing_to_the_flow(tmp_path: Path) -> None:
    mean, deviation = YEARS.mean(), YEARS.std()
    flow, other = trained(YEARS), trained((YEARS - mean) / deviation)
    np.testing.assert_allclose(flow.condition_scaler.shift, [mean], rtol=1e-6)
    np.testing.assert_allclose(flow.condition_scaler.log_scale, [np.log(deviation)], rtol=1e-4)
    want = other.log_prob(X[:9], ((YEARS - mean) / deviation)[:9])
    np.testing.assert_allclose(flow.log_prob(X[:9], YEARS[:9]), want, rtol=1e-3, atol=1e-3)
    flow.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.log_prob(X[:9], YEARS[:9]), flow.log_prob(X[:9], YEARS[:9]), rtol=1e-6)


def test_all_that_takes_a_condition_standardises_it_once(tmp_path: Path) -> None:
    flow = trained(YEARS, epochs=1)
    x, years = tf.constant(X[:3]), tf.constant(YEARS[:3])
    want = np.asarray(flow.log_prob(x, years))
    raw = flow.raw_log_prob(x, (years - YEARS.mean()) / YEARS.std(), tf.constant([0, 0]))
    np.testing.assert_allclose(want, raw, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(flow.distribution(years).log_prob(x), want, rtol=1e-5)
    np.testing.assert_allclose(flow.predict((X[:3], YEARS[:3]), verbose=0), want, rtol=1e-5)
    bijector = flow.bijector(tf.reshape(years, [3, 1, 1]))
    z = bijector.inverse(x[:, None])
    np.testing.assert_allclose(z[:, 0], flow.to_latent(x, years), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bijector.forward(tf.identity(z))[:, 0], x, rtol=1e-4, atol=1e-4)
    folder = flowzoo.export(flow, tmp_path, name="years")
    module = tf.saved_model.load(str(folder))
    served = module.signatures
    np.testing.assert_allclose(
        served["log_prob"](x=x, condition=years)["log_prob"], want, rtol=1e-4, atol=1e-4
    )
    asked = {"num_samples": tf.constant(3), "seed": tf.constant([0, 4]), "temperature": tf.constant(1.0)}
    drawn = flow.sample(3, years, seed=(0, 4))
    np.testing.assert_allclose(served["sample"](**asked, condition=years)["x"], drawn, rtol=1e-4, atol=1e-4)
    saved = [name for name, _ in tf.train.list_variables(str(folder / "variables" / "variables"))]
    kept = [name for name in saved if not name.startswith("_")]
    assert all(name.startswith("weights/") for name in kept) and len(kept) == len(flow.weights)


def test_only_the_first_data_set_it() -> None:
    flow = trained(YEARS, epochs=1)
    before = np.asarray(flow.condition_scaler.shift)
    flow.fit(X, YEARS + 1000, epochs=1, verbose=0)
    assert flow.adapted and np.array_equal(flow.condition_scaler.shift, before)


def test_layers_that_want_no_data_have_one_too() -> None:
    layers = [AffineCoupling(conditioner=MLP((8,)))]
    flow = Flow(layers, (2,), condition_shape=(3,))
    condition = np.stack([YEARS[:, 0], 0 * YEARS[:, 0] + 7, -YEARS[:, 0]], axis=1)
    assert not flow.adapted and np.array_equal(flow.condition_scaler.flow_inverse(condition)[0], condition)
    flow.compile("sgd")
    flow.fit(tf.data.Dataset.from_tensor_slices((X, condition)).batch(100), verbose=0)
    scaled = np.asarray(flow.condition_scaler.flow_inverse(condition)[0])
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(scaled.std(0), [1, 0, 1], atol=1e-3)  # a column that does not vary


def test_labels_have_none_and_a_flow_of_them_is_as_it_was() -> None:
    flow = flowzoo.build("maf", event_shape=(2,), num_classes=3, num_layers=1, hidden_units=(8,))
    assert flow.condition_scaler is None
    assert flowzoo.build("maf", event_shape=(2,), num_layers=1, hidden_units=(8,)).condition_scaler is None


def test_pairs_of_a_teacher_hold_what_the_layers_take() -> None:
    keras.utils.set_random_seed(0)
    teacher = FlowMatching((2,), condition_shape=(1,), hidden_units=(8,), solver="euler", steps=2)
    teacher.compile("adam")
    teacher.fit(X, YEARS, verbose=0)
    pairs = make_pairs(teacher, 64, YEARS)
    assert np.abs(pairs.condition).max() < 3
    with pytest.raises(ValueError, match="finite"):
        teacher.log_prob(X[:1], [[np.nan]])

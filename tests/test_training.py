"""What a recipe adds to Keras's fit."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import flowzoo
from flowzoo import measure, registry, trainer
from flowzoo.config import OptimizerConfig, TrainingConfig, parse_config
from flowzoo.data import Source, open_source
from flowzoo.errors import ConfigError
from flowzoo.layers import DiagonalScaling
from flowzoo.models import Flow, RealNVP
from flowzoo.publish import _say_what_takes_long, draw_sheet
from flowzoo.training.callbacks import RoundTrip, StopOnNaN
from flowzoo.training.feed import Feed
from flowzoo.training.optimizers import Trapezoid, make_optimizer
from flowzoo.training.previews import preview_samples
from flowzoo.training.recipe import train_recipe
from flowzoo.zoo import ModelInfo
from tests.models.flows import shared


@pytest.mark.parametrize(
    ("family", "kind", "said"),
    [("flow_matching", "image", True), ("flow_matching", "vector", False), ("nice", "image", False)],
)
def test_what_is_measured_for_long_is_said(
    family: str, kind: str, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """After the last epoch nothing else is seen of it, on a CPU for minutes or hours."""
    with caplog.at_level(logging.WARNING, logger="flowzoo.publish"):
        _say_what_takes_long(shared(family, kind), normal(), limit=8)
    assert ("train split (8 examples) is measured now" in caplog.text) == said


class Lossy(DiagonalScaling):
    """A layer whose two directions are not inverse to each other."""

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        x, log_det = super()._forward(z, condition)
        return tf.round(x * 8) / 8, log_det


def normal(num: int = 64) -> Source:
    return Source(x=np.random.default_rng(0).normal(size=(num, 3)).astype("float32"))


@pytest.mark.parametrize(("layer", "inverts"), [(DiagonalScaling, True), (Lossy, False)])
def test_the_round_trip_is_logged_and_a_lossy_flow_is_warned_of(
    layer: Any, inverts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    trip = RoundTrip(normal(), conditional=False)
    trip.set_model(Flow([layer()], event_shape=(3,)))
    logs: dict[str, Any] = {}
    with caplog.at_level(logging.WARNING, logger="flowzoo.training.callbacks"):
        trip.on_epoch_end(0, logs)
    assert (logs["val_round_trip"] < 1e-5) == inverts
    assert ("errs by" in caplog.text) != inverts


def test_statistics_are_set_from_one_pass_over_the_data() -> None:
    """A small set is not read again and again, until there are as many examples as a large one gives."""
    recipe = TrainingConfig(epochs=1, batch_size=32, optimizer=OptimizerConfig(learning_rate=1e-3))
    x = np.arange(210, dtype="float32").reshape(70, 3)
    for limit, batches in ((None, 2), (40, 1)):
        feed = Feed(recipe, Source(x=x), Source(x=x), False, limit, tf.distribute.get_strategy())
        read = [batch.numpy() for batch in feed.whole()]
        assert [batch.shape for batch in read] == [(32, 3)] * batches
        assert len(np.unique(np.concatenate(read)[:, 0])) == 32 * batches


def test_a_recipe_logs_the_round_trip_of_each_epoch(tmp_path: Any) -> None:
    result = flowzoo.train("test_nice", out=tmp_path, epochs=2, limit=256, verbose=0)
    errors = result.history["val_round_trip"]  # of values before they are rounded
    assert len(errors) == 2 and 0 <= min(errors) and 0 < max(errors) < 1e-3
    trained = flowzoo.info("test_nice").to_dict()["measured"]["training"]
    assert trained["epochs"] > 2


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_the_card_counts_the_evaluations_of_a_continuous_flow(
    solver: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    content = registry.get_config("test_ffjord").model_dump(mode="json")
    content |= {"name": "test_counted", "weights": {}}
    content["model"]["args"] |= {"solver": solver, "steps": 6, "rtol": 1e-4, "atol": 1e-4}
    registry.register_config(parse_config(content))
    result = flowzoo.train("test_counted", out=tmp_path, epochs=1, limit=300, verbose=0)
    card = json.loads((Path(result.path) / "card.json").read_text())
    nfe = card["nfe"]
    flow = flowzoo.load(f"path:{result.path}")
    x, condition = open_source("moons", "test").head(64)
    assert nfe["num_examples"] == 64
    assert nfe["log_prob"] == np.mean(flow.nfe(x, condition))
    assert nfe["sample"] == np.mean(flow.sampling_nfe(64, condition, seed=0))
    assert (nfe["log_prob"] == nfe["sample"] == 24) == (solver == "rk4")
    text = str(ModelInfo("test_counted", registry.get_config("test_counted"), card, None, None))
    said = f"{nfe['log_prob']:.4g} of the velocity a log_prob, {nfe['sample']:.4g} a sample"
    assert f"Evaluations:   {said} (means over 64 examples)" in text


def test_other_flows_have_no_evaluations_to_count() -> None:
    assert measure.evaluations(RealNVP((3,)), normal(), with_condition=False) is None


def test_the_round_trip_is_logged_as_often_as_the_recipe_says() -> None:
    trip = RoundTrip(normal(), conditional=False, every=2)
    trip.set_model(Flow([DiagonalScaling()], event_shape=(3,)))
    logged: list[dict[str, Any]] = [{} for _ in range(4)]
    for epoch, logs in enumerate(logged):
        trip.on_epoch_end(epoch, logs)
    assert ["val_round_trip" in logs for logs in logged] == [False, True, False, True]


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_hidden_layers_train_in_the_precision_of_the_recipe(precision: str) -> None:
    recipe = TrainingConfig(epochs=1, batch_size=32, precision=precision)  # type: ignore[arg-type]
    small = {"num_couplings": 2, "hidden_units": (8,)}
    trained = train_recipe(lambda: RealNVP((3,), **small), recipe, normal(), normal(), verbose=0)
    hidden = {layer.compute_dtype for layer in trained.model._flatten_layers() if "hidden" in layer.name}
    assert hidden == ({"bfloat16"} if precision == "mixed_bfloat16" else {"float32"})
    assert {weight.dtype for weight in trained.model.trainable_weights} == {"float32"}
    assert trained.model.log_prob(np.zeros((1, 3), "float32")).dtype == tf.float32
    assert keras.config.dtype_policy().name == "float32"  # as before
    assert ("val_round_trip" in trained.history) == (precision == "float32")


def test_training_ends_at_a_loss_that_is_no_number() -> None:
    with pytest.raises(FloatingPointError, match="epoch 3 is nan"):
        StopOnNaN().on_epoch_end(2, {"loss": float("nan")})


def test_a_trapezoid_rises_stays_and_falls() -> None:
    schedule = Trapezoid(2.0, total_steps=100, warmup_steps=10, cooldown=0.2, final_fraction=0.1)
    rates = np.array([schedule(step) for step in range(101)])
    np.testing.assert_allclose(rates[:10], 0.2 * np.arange(1, 11), rtol=1e-6)
    np.testing.assert_allclose(rates[10:81], 2.0)
    np.testing.assert_allclose(rates[90], 1.1, rtol=1e-6)
    np.testing.assert_allclose(rates[100], 0.2, rtol=1e-6)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    np.testing.assert_array_equal([again(step) for step in (3, 50, 95)], rates[[3, 50, 95]])


def test_before_its_fall_a_trapezoid_does_not_know_its_end() -> None:
    short, long = (Trapezoid(1e-3, total_steps=n, warmup_steps=5, cooldown=0.25) for n in (40, 4000))
    np.testing.assert_array_equal([short(i) for i in range(31)], [long(i) for i in range(31)])
    assert short(31) < long(31)


def test_a_recipe_takes_a_trapezoid() -> None:
    config = OptimizerConfig(learning_rate=0.1, schedule="trapezoid", cooldown=0.5)
    optimizer = make_optimizer(config, total_steps=10)
    np.testing.assert_allclose(float(optimizer.learning_rate), 0.1)
    optimizer.iterations.assign(9)
    np.testing.assert_allclose(float(optimizer.learning_rate), 0.02, rtol=1e-6)


def test_a_set_without_a_test_split_is_measured_on_its_validation_split(tmp_path: Any) -> None:
    random = np.random.RandomState(0)
    for number in range(40):
        pixels = random.randint(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:03d}.png")
    content = registry.get_config("test_nice").model_dump(mode="json")
    content |= {"name": "test_folder", "weights": {}}
    content["data"] = {
        "source": "image_folder",
        "options": {"path": str(tmp_path), "validation": 16, "test": 0},
        "measured_on": "validation",
    }
    content["model"] |= {"event_shape": [8, 8, 3], "args": {"num_couplings": 2, "hidden_units": [8]}}
    registry.register_config(parse_config(content))
    result = flowzoo.train("test_folder", out=tmp_path / "out", epochs=1, verbose=0)
    card = json.loads((tmp_path / "out" / "test_folder" / "card.json").read_text())
    assert card["metric"]["split"] == "validation" and card["metric"]["num_examples"] == 16
    with np.load(tmp_path / "out" / "test_folder" / "golden.npz") as golden:
        real = {row.tobytes() for row in open_source("image_folder", path=tmp_path).x[:]}
        assert not real & {row.tobytes() for row in golden["x"]}  # the data's own licence
    assert np.isfinite(result.bits_per_dim)


# -- the temperature that a card advises ----------------------------------------------------------------


def advising(temperature: float, **arguments: Any) -> Any:
    content = registry.get_config("test_nice").model_dump(mode="json")
    content["model"]["args"] |= arguments
    content["card"]["temperature"] = temperature
    return parse_config(content)


def test_the_sheet_of_samples_is_drawn_as_the_card_advises(tmp_path: Path) -> None:
    """On the card, in previews and on the sheet; of points the sheet is a plot, whose spread is seen."""
    assert "temperature 0.5" in str(ModelInfo("test_nice", advising(0.5), None, None, None))
    assert "temperature" not in str(ModelInfo("test_nice", advising(1.0), None, None, None))
    flow = Flow([], (2,))
    wide, narrow = (preview_samples(flow, 0, temperature) for temperature in (1.0, 0.5))
    np.testing.assert_allclose(narrow, 0.5 * wide, rtol=1e-5)
    for folder, temperature in (("wide", 1.0), ("again", 1.0), ("narrow", 0.5)):
        (tmp_path / folder).mkdir()
        draw_sheet(flow, tmp_path / folder, temperature)
    sheets = [(tmp_path / name / "samples.png").read_bytes() for name in ("wide", "again", "narrow")]
    assert sheets[0] == sheets[1] != sheets[2]


def test_a_temperature_that_has_no_meaning_is_refused_before_the_training(tmp_path: Path) -> None:
    assert trainer._made(advising(0.5), (2,)).event_shape == (2,)
    with pytest.raises(ValueError, match="temperature has no meaning"):
        trainer._made(advising(0.5, base="uniform"), (2,))
    with pytest.raises(ConfigError, match="temperature"):
        advising(0.0)

"""The pipeline report sees a slow source, says which stage is slow, and is quiet about a fast one."""

from __future__ import annotations

import json
import logging
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from flowzoo.cli import main
from flowzoo.config import TrainingConfig
from flowzoo.data import Source, pipeline, write_shards
from flowzoo.errors import DataError
from flowzoo.models import MAF
from flowzoo.training.feed import Feed
from flowzoo.training.recipe import train_recipe
from flowzoo.training.resuming import Saving
from flowzoo.training.states import StateFolder
from flowzoo.training.waiting import WaitForData, report_pipeline

# Seconds a batch. Sleeping is the same on every machine, and long beside a step of these models on any.
SLEEP = 0.3
X = np.random.RandomState(0).normal(size=(320, 2)).astype(np.float32)


class SlowDisk:
    """Examples that take their time, a batch at once."""

    shape, dtype = X.shape, X.dtype

    def __len__(self):
        return len(X)

    def __getitem__(self, rows):
        time.sleep(SLEEP)
        return X[rows]


def sleepy(x):
    time.sleep(SLEEP / 64)
    return x


def slow_batch(x):
    with tf.control_dependencies([tf.numpy_function(lambda: time.sleep(SLEEP / 2), [], [])]):
        return tf.identity(x)


def slow_stream():
    stream = tf.data.Dataset.from_tensor_slices(X)
    return stream.map(lambda x: tf.ensure_shape(tf.numpy_function(sleepy, [x], tf.float32), [2]))


class SlowStep(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        time.sleep(SLEEP)


def model(**arguments):
    keras.utils.set_random_seed(0)
    flow = MAF(event_shape=(2,), **{"num_layers": 1, "hidden_units": (4,), **arguments})
    flow.compile("sgd")
    return flow


def waited(data, *callbacks):
    flow, wait = model(), WaitForData()
    batches = pipeline(data, 64, shuffle=False, seed=0)
    fitted = flow.fit(wait.watch(flow, batches), epochs=2, callbacks=[wait, *callbacks], verbose=0)
    return {key: values[-1] for key, values in fitted.history.items()}


def test_training_that_waits_is_seen():
    logs = waited(slow_stream())
    assert logs["data_wait_ms"] > 300 * SLEEP and logs["data_wait_share"] > 0.3


def test_training_that_does_not_wait_is_not():
    logs = waited(X, SlowStep())
    assert logs["data_wait_share"] < 0.2


def test_watching_changes_nothing():
    batches = pipeline(X, 50, shuffle=True, seed=0)
    wait, flow = WaitForData(), model()
    watched = wait.watch(flow, batches)
    assert watched.cardinality() == batches.cardinality() == 7
    again = pipeline(X, 50, shuffle=True, seed=0)
    for one, other in zip(watched, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(wait.waits) == 7
    arguments = {"epochs": 2, "verbose": 0, "validation_data": X[:64]}
    plain = model().fit(pipeline(X, 50, shuffle=True, seed=1), **arguments).history
    seen = model()
    logged = seen.fit(wait.watch(seen, pipeline(X, 50, shuffle=True, seed=1)), callbacks=[wait], **arguments)
    assert {key: logged.history[key] for key in plain} == plain
    assert len(logged.history["data_wait_ms"]) == 2


def test_watched_data_are_checked_as_ever():
    flow, wait = model(), WaitForData()
    with pytest.raises(ValueError, match="event_shape"):
        wait.watch(flow, tf.data.Dataset.from_tensor_slices(X[:, :1]).batch(4))
    bad = tf.data.Dataset.from_tensor_slices(np.full_like(X, np.nan)).batch(4)
    with pytest.raises(ValueError, match="NaN"):
        flow.fit(wait.watch(flow, bad), verbose=0)


class Epochs(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.logs = []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))


@pytest.mark.parametrize(
    ("slow", "saved"), [(True, False), pytest.param(False, True, marks=pytest.mark.slow)]
)
def test_a_recipe_says_how_long_it_waits(slow, saved, tmp_path, caplog, monkeypatch):
    if slow:  # after all that the pipeline fetches ahead
        plain = Feed.training
        monkeypatch.setattr(Feed, "training", lambda feed, skip: plain(feed, skip).map(slow_batch))
    # More steps than batches that are checked ahead while the round trip is measured.
    steps = 12 if slow else 3
    recipe = TrainingConfig(epochs=2, steps_per_epoch=steps, batch_size=64, jit_compile=False)
    saving = Saving(StateFolder(tmp_path), 1e9) if saved else None
    seen = Epochs()
    with caplog.at_level(logging.INFO, logger="flowzoo.training.recipe"):
        done = train_recipe(
            model,
            recipe,
            Source(x=X),
            Source(x=X),
            callbacks=[seen, *([] if slow else [SlowStep()])],
            saving=saving,
            verbose=0,
        )
    last = seen.logs[-1]
    assert (last["data_wait_share"] > 0.3) == (last["data_wait_ms"] > 150 * SLEEP) == slow
    assert set(done.history) == {"loss", "val_loss", "val_round_trip"}  # no times: these do not repeat
    (said,) = [
        record for record in caplog.records if "of the training was waiting for data" in record.message
    ]
    assert (said.levelno == logging.WARNING) == ("flowzoo pipeline" in said.message) == slow


@pytest.mark.parametrize(
    ("source", "stage"),
    [(Source(x=SlowDisk()), "fetch"), pytest.param(Source(x=slow_stream()), "read", marks=pytest.mark.slow)],
)
def test_the_report_names_the_slow_stage(source, stage):
    report = report_pipeline(source, 64, model=model(), batches=6, seconds=2)
    assert report.slowest == stage and report.waits
    assert report.wait_ms <= report.step_ms
    assert report.examples_per_second == pytest.approx(64_000 / report.ms_per_batch)
    assert report.stages[-1].ms_per_batch == report.ms_per_batch


@pytest.mark.slow
def test_the_report_of_a_fast_source_does_not_complain():
    slow = model(num_layers=4, hidden_units=(512, 512))
    report = report_pipeline(Source(x=X), 256, model=slow, batches=15)
    assert not report.waits and report.step_ms > 10 * report.wait_ms


def test_shards_and_workers_are_reported(tmp_path, capsys):
    write_shards(
        Source(x=X, condition=np.zeros(len(X), np.int32), num_classes=2), tmp_path / "s", num_shards=2
    )
    arguments = [
        "pipeline",
        "test_maf",
        "--data",
        "tfrecords",
        "-o",
        f"path={tmp_path / 's'}",
        "--batches",
        "3",
    ]
    assert main([*arguments, "--batch-size", "64", "--workers", "2", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["batch_size"] == 32 and line["stages"][0]["name"] == "read"
    assert 0 <= line["wait_share"] <= 1 and line["examples_per_second"] > 0
    assert main([*arguments, "--no-train"]) == 0
    said = capsys.readouterr().out
    assert "examples/s" in said and "A step" not in said
    assert main([*arguments, "--worker", "2", "--workers", "2"]) == 2


def test_the_model_is_suited_to_the_data_that_are_named(tmp_path, monkeypatch):
    """Three columns for a flow of two, words for a flow of two classes, five bits for one of 17 values."""
    asked = {}

    def report(source, batch_size, *, model, conditional, **others):
        asked.update(model=model, conditional=conditional)
        raise DataError("enough")

    monkeypatch.setattr("flowzoo.training.waiting.report_pipeline", report)
    words = np.array(["low", "middle", "high"])[np.arange(40) % 3]
    table = "\n".join(["a,b,c,kind", *(f"{i},{i % 7},{i % 5}.5,{word}" for i, word in enumerate(words))])
    (tmp_path / "t.csv").write_text(table)
    given = ["--data", "csv", "-o", f"path={tmp_path / 't.csv'}"]
    for name, option in (("maf_moons", "columns=[a, b, c]"), ("test_maf", "label=kind")):
        assert main(["pipeline", name, *given, "-o", option]) == 2
        flow, labelled = asked["model"], option.startswith("label")
        assert flow.event_shape == (3,) and flow.num_classes == (3 if labelled else None)
        assert asked["conditional"] == labelled
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "0.png")
    given = ["--data", "image_folder", "-o", f"path={tmp_path}", "-o", "size=8", "-o", "bits=5"]
    assert main(["pipeline", "test_glow", *given, "-o", "validation=0", "-o", "test=0"]) == 2
    assert asked["model"].event_shape == (8, 8, 3) and asked["model"].num_values == 32
    assert not asked["conditional"]

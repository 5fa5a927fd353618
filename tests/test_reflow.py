"""Reflow as a recipe: pairs of a teacher, a student that starts from it, stops, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowzoo
from flowzoo import registry
from flowzoo.config import EntryConfig, ReflowConfig, TrainingConfig, parse_config
from flowzoo.data import Source, open_source
from flowzoo.errors import ConfigError, DataError, NoWeightsError
from flowzoo.models import FlowMatching
from flowzoo.models.pair_matching import PairMatching, pair_noise, transport
from flowzoo.training import reflow
from flowzoo.training.recipe import train_recipe
from flowzoo.training.resuming import Saving
from flowzoo.training.states import StateFolder
from flowzoo.training.workers import Workers

TEACHER = "test_flow_matching"
REFLOW: dict[str, Any] = {
    "teacher": TEACHER,
    "num_pairs": 96,
    "held_out": 32,
    "solver": "midpoint",
    "steps": 4,
}
RECIPE: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 32,
    "ema": 0.9,
    "keep": "last",
    "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2, "schedule": "trapezoid"},
    "reflow": REFLOW,
}


class Stop(keras.callbacks.Callback):
    """Die after a step, like a machine that is taken away."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if int(self.model.optimizer.iterations) == self._step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def teacher() -> Any:
    return flowzoo.load(TEACHER)


@pytest.fixture(scope="module")
def moons() -> list[Source]:
    return opened()


def opened() -> list[Source]:
    return [open_source("moons", split, num_examples=300) for split in ("train", "validation")]


def student(**changes: Any) -> FlowMatching:
    arguments = {**registry.get_config(TEACHER).model.args, "path": "rectified", "coupling": "independent"}
    return FlowMatching((2,), num_classes=2, name="student", **{**arguments, **changes})


def trained(teacher: Any, moons: list[Source], folder: Path | None = None, **options: Any) -> Any:
    recipe = TrainingConfig.model_validate({**RECIPE, **options.pop("recipe", {})})
    saving = None if folder is None else Saving(StateFolder(folder), 0.0, None, options.pop("resume", False))
    options = {"conditional": True, "saving": saving, "verbose": 0, **options}
    return train_recipe(options.pop("make", student), recipe, *moons, teacher=teacher, **options)


def equal(one: Any, other: Any) -> bool:
    return all(map(np.array_equal, one.get_weights(), other.get_weights()))


def entry(**changes: Any) -> dict[str, Any]:
    content = registry.get_config(TEACHER).model_dump(mode="json")
    content |= {"name": "test_rectified", "description": "Reflow.", "weights": {}, "training": {**RECIPE}}
    content["model"]["args"] |= {"path": "rectified", "coupling": "independent"}
    content["model"]["args"] |= changes
    return content


# -- pairs ----------------------------------------------------------------------------------------


def test_the_noises_of_pairs_are_normal_and_their_own_and_the_same_with_xla() -> None:
    number = tf.range(4096, dtype=tf.int64)
    z = pair_noise(number, 3, (2, 3), "float32")
    assert z.shape == (4096, 2, 3)
    np.testing.assert_allclose(np.mean(z, 0), 0.0, atol=0.08)
    np.testing.assert_allclose(np.cov(np.reshape(z, [4096, 6]).T), np.eye(6), atol=0.12)
    np.testing.assert_array_equal(pair_noise(number[7:9], 3, (2, 3), "float32"), z[7:9])
    compiled = tf.function(pair_noise, jit_compile=True)(number, 3, (2, 3), "float32")
    np.testing.assert_allclose(compiled, z, rtol=1e-5, atol=1e-6)
    assert not np.allclose(pair_noise(number, 4, (2, 3), "float32"), z)


def test_pairs_end_where_the_teacher_takes_their_noises(
    teacher: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(reflow, "_PIECE", 24)
    config = ReflowConfig.model_validate(REFLOW)
    maker = reflow.StoredPairs(teacher, config, tf.eye(2))
    goals, marks = maker.first_goals(40), maker.marks(40)
    assert goals.dtype == np.float32 and list(marks[:, 0]) == list(range(40))
    assert np.all(np.sum(marks[:, 1:], 1) == 1) and 8 < marks[:, 1].sum() < 32
    z = pair_noise(tf.range(40, dtype=tf.int64), 0, (2,), "float32")
    ends = transport(teacher, solver="midpoint", steps=4)(z, tf.constant(marks[:, 1:]))
    np.testing.assert_allclose(goals, ends, rtol=1e-5, atol=1e-6)
    # Written once, a piece a file, and read again; what is broken or of another teacher is not.
    np.testing.assert_array_equal(maker.first_goals(40, tmp_path), goals)
    first, second = sorted(tmp_path.iterdir())
    np.save(first, goals[:24] + 1)
    second.write_bytes(second.read_bytes()[:-9])
    again = maker.first_goals(40, tmp_path)
    np.testing.assert_array_equal(again, np.concatenate([goals[:24] + 1, goals[24:]]))
    other = reflow.StoredPairs(teacher, config.model_copy(update={"seed": 1}), tf.eye(2))
    assert other.fingerprint != maker.fingerprint and not np.allclose(other.first_goals(40, tmp_path), goals)


def test_ends_of_images_are_kept_within_a_tenth_of_a_value() -> None:
    flow = FlowMatching((4, 4, 1), image_network="conv", filters=(4,), steps=2)
    maker = reflow.StoredPairs(flow, ReflowConfig(teacher="none", num_pairs=8), None)
    goals = maker.first_goals(8)
    z = pair_noise(tf.range(8, dtype=tf.int64), 0, flow.latent_shape, "float32")
    assert goals.dtype == np.float16 and goals.shape == (8, *flow.latent_shape)
    inside = np.abs(goals) <= 1
    assert np.max(np.abs(goals - transport(flow)(z, None))[inside]) * 128 < 0.1
    with pytest.raises(FloatingPointError, match="no finite path"):
        flow.set_weights([np.full_like(w, np.nan) for w in flow.get_weights()])
        maker.first_goals(8)


def images() -> FlowMatching:
    """An untrained model of 4x4 colour images with weights that are not those of a start."""
    flow = FlowMatching((4, 4, 3), image_network="conv", filters=(8,), steps=4, solver="rk4")
    for seed, weight in enumerate(flow.trainable_weights):
        weight.assign(tf.random.stateless_normal(weight.shape, [seed, 0], stddev=0.3))
    flow.adapt(np.zeros([8, 4, 4, 3], "uint8"))
    return flow


def test_still_pairs_are_images_of_a_single_colour() -> None:
    flow = images()
    maker = reflow.StoredPairs(flow, ReflowConfig(teacher="none", num_pairs=8), None)
    goals, marks = maker.with_still(maker.first_goals(8), maker.marks(8), 64)
    assert goals.shape == (72, 4, 4, 3) and goals.dtype == np.float16
    assert list(marks[:8, 0]) == list(range(8)) and np.all(marks[8:, 0] == -1)
    colours = np.floor((goals[8:].astype("float64") + 1) * 128 + 0.05)  # float16 errs by 0.06 at most
    assert np.all(np.ptp(colours, axis=(1, 2)) <= 1) and np.ptp(colours) > 200
    spread = np.ptp(np.mean(colours, axis=(1, 2)), axis=-1)
    assert np.all(spread[::2] < 1) and np.median(spread[1::2]) > 50
    again = reflow.StoredPairs(flow, ReflowConfig(teacher="none", num_pairs=8), None)
    np.testing.assert_array_equal(again.single_colours(64, "float16"), goals[8:])


def test_a_still_pair_begins_where_it_ends() -> None:
    flow, lesson = images(), PairMatching(noises=0)
    goal = np.random.default_rng(0).normal(size=(4, 4, 4, 3)).astype("float32")
    number = np.array([[0.0], [-1.0], [2.0], [-1.0]], "float32")
    pairs, condition, _ = lesson.unpack(flow, (tf.constant(goal), tf.constant(number)))
    assert condition is None
    np.testing.assert_array_equal(pairs[:, 1], goal)
    np.testing.assert_array_equal(pairs[1::2, 0], goal[1::2])
    np.testing.assert_array_equal(
        pairs[::2, 0], pair_noise(tf.constant([0, 2], tf.int64), 0, (4, 4, 3), "float32")
    )


@pytest.mark.slow
def test_a_flow_learns_to_leave_single_colours_where_they_are() -> None:
    teacher = images()
    data = [Source(x=np.zeros([8, 4, 4, 3], "uint8"), name="dark", split=s) for s in ("train", "validation")]
    pairs = {"num_pairs": 64, "held_out": 8, "still": 64, "solver": "midpoint", "steps": 4}
    recipe = {"epochs": 40, "batch_size": 64, "round_trip_every": 40, "optimizer": {"learning_rate": 1e-2}}
    config = TrainingConfig.model_validate({**recipe, "reflow": {"teacher": "none", **pairs}})

    def student() -> FlowMatching:
        return FlowMatching.from_config({**teacher.get_config(), "path": "rectified"})

    def moved(model: FlowMatching) -> float:
        x = np.stack([np.full((4, 4, 3), value, "uint8") for value in (0, 60, 128, 200, 255)])
        return float(np.sqrt(np.mean((np.asarray(model.to_latent(x)) - (x + 0.5) / 128 + 1) ** 2)))

    trained = train_recipe(student, config, *data, teacher=teacher, verbose=0).model
    assert moved(trained) < 0.5 * moved(teacher)


# -- training -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stopped_reflow_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, teacher: Any, moons: list[Source]
) -> None:
    before = teacher.get_weights()
    whole = trained(teacher, moons)
    assert len(whole.history["loss"]) == len(whole.history["val_loss"]) == 3
    assert whole.model.lesson is None and not equal(whole.model, teacher)
    assert all(map(np.array_equal, before, teacher.get_weights()))
    for step in (2, 7):
        with pytest.raises(KeyboardInterrupt):
            trained(teacher, moons, tmp_path, resume=True, callbacks=[Stop(step)])
    assert list((tmp_path / "pairs").iterdir())
    again = trained(teacher, moons, tmp_path, resume=True)
    assert equal(whole.model, again.model) and again.history == whole.history
    for change in ({"seed": 1}, {"num_pairs": 64}, {"steps": 3}):  # other pairs are another training
        with pytest.raises(DataError, match="another recipe"):
            trained(teacher, moons, tmp_path, resume=True, recipe={"reflow": {**REFLOW, **change}})
    StateFolder(tmp_path).clear()
    assert not list(tmp_path.iterdir())


def test_reflow_learns_the_pairs(teacher: Any, moons: list[Source]) -> None:
    """What a teacher does with guidance, a student does without."""
    pairs = {**REFLOW, "num_pairs": 2048, "held_out": 256, "guidance": 2.0}
    recipe = {"epochs": 10, "batch_size": 128, "reflow": pairs, "optimizer": {"learning_rate": 3e-3}}
    done = trained(teacher, moons, recipe=recipe)
    assert done.history["val_loss"][-1] < 0.8 * done.history["val_loss"][0]
    options = {"seed": 5, "solver": "midpoint", "steps": 8}
    want = np.asarray(teacher.sample(500, 1, guidance=2.0, **options))

    def error(model: Any) -> float:
        return float(np.mean((np.asarray(model.sample(500, 1, **options)) - want) ** 2))

    assert error(done.model) < 0.3 * error(teacher)


def test_one_step_is_learned_at_the_start_alone(teacher: Any, moons: list[Source]) -> None:
    recipe = {"reflow": {**REFLOW, "one_step": True}}
    done = trained(
        teacher, moons, recipe=recipe, make=lambda: student(solver="euler", steps=1, one_step=True)
    )
    assert "val_round_trip" not in done.history and np.isfinite(done.history["val_loss"]).all()
    with pytest.raises(ValueError, match="solver='euler'"):
        trained(teacher, moons, recipe=recipe)
    pairs, seed = tf.random.normal([8, 2, 2]), tf.constant([1, 2])
    model, condition = done.model, tf.one_hot(tf.range(8) % 2, 2)
    model.condition_dropout = 0.0
    found = PairMatching(one_step=True).loss(model, pairs, condition, seed)
    way = model.velocity.velocity(pairs[:, 0], tf.zeros(8), condition)
    np.testing.assert_allclose(found, np.mean((way - pairs[:, 1] + pairs[:, 0]) ** 2, 1), rtol=1e-4)


REPLICAS = """
import numpy, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests import test_reflow as here
teacher, moons = here.flowzoo.load(here.TEACHER), here.opened()
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
one, two = here.trained(teacher, moons), here.trained(teacher, moons, strategy=two)
for key in ("loss", "val_loss"):
    numpy.testing.assert_allclose(one.history[key], two.history[key], rtol=1e-4)
for a, b in zip(one.model.trainable_weights, two.model.trainable_weights):
    numpy.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-4)
"""


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_replicas_learn_what_one_device_learns() -> None:
    root = str(Path(__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", REPLICAS]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=root, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


def test_an_entry_trains_and_publishes(tmp_path: Path) -> None:
    registry.register_config(parse_config(entry()), overwrite=True)
    result = flowzoo.train("test_rectified", out=tmp_path, epochs=2, limit=64, previews=1, verbose=0)
    card = json.loads((Path(result.path) / "card.json").read_text())
    assert card["config"]["training"]["reflow"]["teacher"] == TEACHER
    assert np.isfinite(result.loss) and card["training"]["epochs"] == 2
    beside = tmp_path / "test_rectified.training"
    assert list((beside / "previews").iterdir()) and not list((beside / "states").iterdir())
    again = flowzoo.load(f"path:{result.path}")
    assert again.arguments["path"] == "rectified"
    assert flowzoo.train("test_rectified", out=tmp_path, epochs=2, limit=64, resume=True, verbose=0) == result


# -- what is refused ------------------------------------------------------------------------------


def test_a_wrong_teacher_is_refused(teacher: Any, moons: list[Source], monkeypatch: Any) -> None:
    for wrong, message in (
        (None, "Received: none"),
        (flowzoo.build("nice", (2,)), "Received: a NICE"),
        (student(hidden_units=(8,)), "not trained"),
    ):
        with pytest.raises(ValueError, match=message):
            trained(wrong, moons)
    with pytest.raises(ValueError, match="no reflow"):
        trained(teacher, moons, recipe={"reflow": None})
    with pytest.raises(ValueError, match=r"are for images .* has continuous data of shape \(2,\)"):
        trained(teacher, moons, recipe={"reflow": {**REFLOW, "still": 8}})
    with pytest.raises(ValueError, match=r"differ in: hidden_units \(\[8\] and \[32, 32\]\)$"):
        trained(teacher, moons, make=lambda: student(hidden_units=(8,)))
    with pytest.raises(ValueError, match=r"condition_dropout \(False and True\)"):
        trained(teacher, moons, make=lambda: student(condition_dropout=0.0))
    with pytest.raises(ValueError, match="path='rectified'"):
        trained(teacher, moons, make=lambda: student(path="ot"))
    monkeypatch.setattr(Workers, "of", classmethod(lambda cls, strategy: cls(strategy, 0, 2)))
    with pytest.raises(ValueError, match="Received: 2 workers"):
        trained(teacher, moons)


def test_what_train_cannot_do_is_said_before_it_begins(tmp_path: Path) -> None:
    content = entry(solver="euler", steps=1, one_step=True)
    content["training"]["reflow"] = {**REFLOW, "one_step": True}
    registry.register_config(parse_config(content), overwrite=True)
    with pytest.raises(ValueError, match="no inverse"):
        flowzoo.train("test_rectified", out=tmp_path)
    content = entry()
    content["training"]["reflow"] = {**REFLOW, "teacher": "flow_matching_tabular"}
    registry.register_config(parse_config(content), overwrite=True)
    with pytest.raises(NoWeightsError):
        flowzoo.train("test_rectified", out=tmp_path)


@pytest.mark.parametrize(
    ("args", "reflow_changes", "message"),
    [
        ({"path": "ot"}, {}, "training: reflow asks for model.args.path to be 'rectified'; received: 'ot'"),
        ({"coupling": "exact"}, {}, "model.args.coupling to be 'independent'; received: 'exact'"),
        ({}, {"one_step": True}, "reflow.one_step asks for model.args.solver to be 'euler'; received: None"),
        (
            {"solver": "euler", "steps": 1},
            {"one_step": True},
            "model.args.one_step to be True; received: None",
        ),
        ({}, {"solver": "rk5"}, "training.reflow.solver: received 'rk5'"),
        ({}, {"still": -1}, "training.reflow.still: received -1; accepted: an integer (at least 0"),
        ({}, {"num_pairs": 0}, "training.reflow.num_pairs: received 0; accepted: an integer (at least 1"),
        ({}, {"teachers": "x"}, "training.reflow.teachers: unknown key. Did you mean 'teacher'?"),
        ({}, {"guidance": -2.0}, "training.reflow.guidance: received -2.0"),
    ],
)
def test_a_config_that_cannot_reflow_is_refused(
    args: dict[str, Any], reflow_changes: dict[str, Any], message: str
) -> None:
    content = entry(**args)
    content["training"]["reflow"] = {**REFLOW, **reflow_changes}
    with pytest.raises(ConfigError) as caught:
        parse_config(content)
    assert message in str(caught.value)


def test_other_families_and_pairs_with_outliers_have_no_reflow() -> None:
    content = entry()
    content["training"]["outliers"] = 0.1
    with pytest.raises(
        ConfigError, match=r"training.reflow: pairs take no outliers .*; received: outliers 0.1"
    ):
        parse_config(content)
    content = registry.get_config("test_maf").model_dump(mode="json")
    content["training"]["reflow"] = REFLOW
    with pytest.raises(ConfigError, match="flow_matching alone; received: 'maf'"):
        parse_config(content)


def test_the_entry_of_faces_is_its_teachers_like() -> None:
    config: EntryConfig = registry.get_config("rectified_flow_celeba")
    assert config.training.reflow is not None
    flow, own = flowzoo.build(config.training.reflow.teacher), flowzoo.build(config.name)
    reflow.check_student(own, flow, config.training.reflow)

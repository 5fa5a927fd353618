"""The short form of each target, and the proof that each can fail."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import random
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.fuzz import dying, harness, runner, targets
from tests.fuzz.harness import Report, Target, input_of, run, try_known

# How many inputs of each target the short form tries: together some ten seconds of one core.
SHORT = {
    "configs": 200,
    "arguments": 50,
    "images": 200,
    "audio": 200,
    "tables": 300,
    "records": 30,
    "requests": 100,
    "flows": 100,
    "weights": 200,
    "models": 20,
    "downloads": 80,
}
# The long form of what takes long: a model is built for many of its inputs.
LONG = dict.fromkeys(SHORT, 100_000) | {"models": 5_000}


@pytest.fixture(scope="module")
def worlds() -> Iterator[Callable[[str], Any]]:
    """Give the world of a target, made once; of exports and flows the first alone."""
    made: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("FLOWZOO_FUZZ_EXPORTS", "1")
        patch.setenv("FLOWZOO_FUZZ_FLOWS", "1")

        def world(name: str) -> Any:
            if name not in made:
                made[name] = stack.enter_context(targets.find(name).world())
            return made[name]

        yield world


def test_every_target_has_a_short_form():
    assert sorted(SHORT) == sorted(targets.names())


@pytest.mark.parametrize("name", SHORT)
def test_short(name, worlds):
    target, world = targets.find(name), worlds(name)
    report = try_known(target, world)
    report.add(run(target, world, range(SHORT[name]), seed=1))
    assert not report.failed, report.details()
    assert report.inputs == SHORT[name] + len(target.known)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", LONG)
def test_long(name):
    report = runner.fuzz(name, LONG[name], seed=0)
    assert not report.failed, report.details()
    assert report.inputs >= LONG[name]


# --- The harness itself -------------------------------------------------------------------------------------


def simple(attempt: Callable[[Any, Any], str], **options: Any) -> Target:
    """Make a target of numbers."""
    return Target("simple", lambda: contextlib.nullcontext(), lambda r, world: r.random(), attempt, **options)


def failing(attempt: Callable[[Any, Any], str], **options: Any) -> Report:
    return run(simple(attempt, **options), None, range(5))


def test_inputs_follow_from_seed_and_number_alone():
    target = simple(lambda world, given: "")
    assert input_of(target, None, 0, 7) == input_of(target, None, 0, 7)
    values = {input_of(target, None, seed, index) for seed in range(3) for index in range(100)}
    assert len(values) == 300


def test_what_is_not_promised_is_a_failure():
    def attempt(world, given):
        raise KeyError("x") if given < 0.7 else ValueError("bad input")

    report = failing(attempt)
    given = [input_of(simple(attempt), None, 0, index) for index in range(5)]
    assert report.failed == sum(value < 0.7 for value in given) > 0
    assert report.outcomes["ValueError"] == 5 - report.failed > 0
    assert "KeyError: 'x'" in report.details()


def test_no_time_and_no_memory_without_end():
    report = failing(lambda world, given: time.sleep(60), limit=0.05)
    assert report.failed == 5
    assert "longer than 0.05 s" in report.details()

    def exhausted(world, given):
        raise MemoryError

    assert failing(exhausted, clean=(Exception,)).failed == 5


def test_nan_is_a_failure():
    def attempt(world, given):
        harness.must_be_finite(np.array([1.0, np.nan]), "x")

    assert "x holds [nan]" in failing(attempt).details()
    with pytest.raises(harness.Defect):
        harness.finite_tree({"a": [1.0, {"b": float("inf")}]}, "x")


def test_reports_add_up():
    report = Report()
    for part in (failing(lambda world, given: "fine"), failing(lambda world, given: 1 / 0)):
        report.add(part)
    assert (report.inputs, report.failed, report.outcomes["fine"]) == (10, 5, 5)


@pytest.fixture
def turns(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[int]]]:
    """Give what fuzzes eight inputs in turns of three, and returns those that each worker tried."""
    monkeypatch.setattr(dying, "TARGET", dataclasses.replace(dying.TARGET, turn=3))
    monkeypatch.setenv("FLOWZOO_FUZZ_TOLD", str(tmp_path / "told"))
    numbers = {str(input_of(dying.TARGET, None, 0, index)): index for index in range(8)}

    def fuzz(way: str = "live", failures: Sequence[str] = ()) -> list[list[int]]:
        monkeypatch.setenv("FLOWZOO_FUZZ_DYING", way)
        report = runner.fuzz("dying", 8, seed=0)
        assert report.details() == "\n".join(failures)
        assert report.inputs == 8
        workers: dict[str, list[int]] = {}
        for line in (tmp_path / "told").read_text().splitlines():
            process, given = line.split()
            workers.setdefault(process, []).append(numbers[given])
        return list(workers.values())

    return fuzz


class TestRunner:
    @pytest.mark.parametrize(("way", "told"), [("die", "ended with -11"), ("grow", "MemoryError")])
    def test_a_process_that_dies_or_grows_is_told_of(self, way, told, monkeypatch):
        monkeypatch.setenv("FLOWZOO_FUZZ_DYING", way)
        report = runner.fuzz("dying", 7, seed=0)
        assert (report.inputs, report.failed) == (7, 1)
        assert report.outcomes["fine"] == 6
        assert told in report.details()
        assert "first input 3" in report.details()

    def test_fresh_workers_take_over_and_try_each_input_once(self, turns):
        assert turns() == [[0, 1, 2], [3, 4, 5], [6, 7]]

    @pytest.mark.parametrize(("way", "code"), [("die", -11), ("leave", 0)])
    def test_one_that_ends_within_its_turn_is_told_of(self, way, code, turns):
        # The next worker goes on after the input that did it.
        assert turns(way, [f"--- 1 times, first input 3\nthe process ended with {code}"]) == [
            [0, 1, 2], [3], [4, 5], [6, 7]
        ]  # fmt: skip

    def test_one_that_hangs_before_its_first_input_is_killed(self, monkeypatch):
        monkeypatch.setattr(runner, "PREPARATION", 0.5)
        monkeypatch.setattr(runner, "work", dying.work_never)
        with pytest.raises(SystemExit, match="two workers ended before their first input"):
            runner.fuzz("dying", 7, seed=0)

    @pytest.mark.parametrize("broken", [dying.work_early, dying.work_late])
    def test_an_input_tried_twice_or_never_would_be_noticed(self, broken, turns, monkeypatch):
        monkeypatch.setattr(runner, "work", broken)
        with pytest.raises(AssertionError):
            assert turns() == [[0, 1, 2], [3, 4, 5], [6, 7]]


# --- Each target can fail: the library is broken on purpose, and it must be noticed -------------------------


def _trusting_npy(raw: bytes) -> np.ndarray:
    return np.load(io.BytesIO(raw), allow_pickle=True)


def _bare_pillow(raw: bytes, mode: str | None, where: str, upright: bool = True) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(raw)).convert(mode or "RGB")


def _bare_soundfile(raw: bytes, where: str) -> np.ndarray:
    import soundfile

    return soundfile.read(io.BytesIO(raw), dtype="float32")[0]


def _saved_unseen(self: Any, path: str, sha256: str) -> None:
    (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
    (self.folder / path).write_bytes(b"".join(self._chunks(path, self.left)))


BROKEN: dict[str, list[tuple[str, Any]]] = {
    "configs": [("flowzoo.config_errors._bounds", lambda metadata: iter([None[0]]))],
    "arguments": [("flowzoo.cli.app.code_of", lambda error: 7)],
    "images": [("flowzoo.data.images.decoded", _bare_pillow)],
    "audio": [("flowzoo.data.audio.decoded", _bare_soundfile)],
    "tables": [("flowzoo.arrays._parsed", _trusting_npy)],
    "records": [("flowzoo.data.record_reader._unless_corrupt", lambda whole, value, path: value)],
    "weights": [("flowzoo.manifest._differences", lambda folder, manifest: iter(()))],
    "downloads": [
        ("flowzoo.download._Transfer._save", _saved_unseen),
        ("flowzoo.download.check", lambda folder, digest, name: None),
    ],
    "flows": [
        ("flowzoo.models.checks.finite", lambda x, name: None),
        ("flowzoo.models.graphs._is_result", lambda key, result: True),
    ],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_library_is_noticed(name, worlds, monkeypatch):
    target, world = targets.find(name), worlds(name)
    for place, broken in BROKEN[name]:
        monkeypatch.setattr(place, broken)
    assert any(run(target, world, range(i, i + 10), seed=2).failed for i in range(0, 2 * SHORT[name], 10))


def test_unsafe_deserialisation_is_noticed(worlds, monkeypatch):
    import keras

    from tests.fuzz import models

    world, r = worlds("models"), random.Random(0)
    given = [models._keras_file(r, world) for _ in range(30)]
    assert not _failures(models.TARGET, world, given)
    unsafe = functools.partial(keras.models.load_model, safe_mode=False)
    monkeypatch.setattr(keras.models, "load_model", unsafe)
    assert _failures(models.TARGET, world, given)


def _failures(target: Target, world: Any, given: list[Any]) -> int:
    report = Report()
    for index, one in enumerate(given):
        harness.try_one(target, world, index, lambda one=one: one, report)
    return report.failed


def test_a_server_that_gives_nan_is_noticed(worlds):
    import tensorflow as tf

    from tests.fuzz import requests

    world = worlds("requests")
    export = world.exports[0]

    def broken(**inputs: Any) -> dict[str, tf.Tensor]:
        return {"log_prob": tf.fill([len(inputs["x"])], np.nan)}

    loaded = SimpleNamespace(signatures=dict.fromkeys(export.signatures, broken))
    spoilt = requests.World([dataclasses.replace(export, loaded=loaded)])
    x = np.zeros((2, *export.flow.event_shape), export.flow.data_dtype)
    given = requests.Given(0, "log_prob", {"x": x}, "python")
    assert _failures(requests.TARGET, spoilt, [given]) == 1


def test_unchanged_folders_are_accepted(worlds):
    from tests.fuzz import models, weights

    assert weights.sound(worlds("weights"))
    world = worlds("models")
    assert models.attempt(world, models.Given("state", world.state)) == "state: restored"
    assert models.attempt(world, models.Given("folder")) == "folder: loaded"
    assert models.attempt(world, models.Given("keras", world.keras_file)) == "keras: loaded"
    assert models.attempt(world, models.Given("weights.h5", world.weights_file)) == "weights.h5: loaded"

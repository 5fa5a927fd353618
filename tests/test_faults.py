"""What a training survives: kills, full disks, read-only folders, lost workers, wrong clusters."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowzoo
from flowzoo import files, manifest, training_job
from flowzoo.cli import codes, main
from flowzoo.errors import DataError
from flowzoo.training.cluster import check_tf_config, waiting_for_workers
from flowzoo.training.states import StateFolder
from flowzoo.training.strategies import STRATEGIES, check_strategy
from tests import drill
from tests.artifacts import make_artifact, tree

ROOT = Path(__file__).resolve().parent.parent


# -- kills -----------------------------------------------------------------------------------------------


def drilled(folder: Path, *options: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.drill", str(folder), *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


def check_drill(found: dict[str, Any], kills: int, bound: float) -> None:
    assert found["kills"] >= kills and found["starts"] >= kills + found["trainings"]
    assert found["starts_from_a_state"] >= 1  # or nothing was shown
    assert found["trainings"] >= 1 and found["largest_difference"] <= bound
    steps = drill.EPOCHS * (320 // drill.BATCH)
    assert found["examples"] == found["trainings"] * steps * drill.BATCH


def test_a_training_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    check_drill(drilled(tmp_path, "--kills", 3, "--seed", 0), 3, 0.0)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_two_hundred_kills(tmp_path: Path) -> None:
    found = drilled(tmp_path, "--kills", 200)
    check_drill(found, 200, 0.0)
    assert min(found["kills_by_phase"][phase] for phase in ("training", "writing", "publishing")) >= 20


@pytest.mark.slow
@pytest.mark.timeout(2 * 3600)
@pytest.mark.parametrize(("workers", "kills"), [(2, 20), (4, 6)])
def test_workers_are_killed(tmp_path: Path, workers: int, kills: int) -> None:
    found = drilled(tmp_path, "--kills", kills, "--workers", workers, "--like-one")
    check_drill(found, kills, 1e-5)
    assert found["same_examples_as_one"] and found["difference_from_one"] < 1e-4
    # The others end by themselves, with the exit code of a failure.
    assert set(found["survivor_codes"]) == {str(int(codes.Code.FAILURE))}
    assert max(found["survivor_seconds"]) < 60


# -- disks -----------------------------------------------------------------------------------------------


class Disk:
    """A small file system of its own, that can be filled and made read-only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        with contextlib.suppress(OSError), open(self.folder / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)

    def free(self) -> None:
        (self.folder / "filler").unlink()

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.folder)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a file system of its own cannot be mounted here")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def short_files(limit: int = 1000) -> Iterator[None]:
    """Let every file end at `limit` bytes, for root as for anyone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class At(keras.callbacks.Callback):
    """Do something after a step."""

    def __init__(self, step: int, do: Any) -> None:
        super().__init__()
        self._step, self._do = step, do

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if int(self.model.optimizer.iterations.numpy()) == self._step:
            self._do()


@pytest.fixture(scope="module", autouse=True)
def entry(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("data") / "data.npz"
    drill.write_data(data)
    drill.register(data)


def train(out: Path, **options: Any) -> Any:
    return flowzoo.train(drill.NAME, out=out, state_steps=4, state_seconds=1e9, verbose=0, **options)


@pytest.mark.parametrize("trouble", ["full", pytest.param("read-only", marks=pytest.mark.slow)])
def test_a_disk_that_fails_in_the_middle(disk: Disk, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails while the state is written, then while the result is; each time what was there stays whole."""
    out, number = disk.folder / "runs", errno.ENOSPC if trouble == "full" else errno.EROFS
    break_it = disk.fill if trouble == "full" else lambda: disk.remount("ro")
    mend_it = disk.free if trouble == "full" else lambda: disk.remount("rw")
    artifact, digest = make_artifact(out, drill.NAME)
    earlier = tree(artifact)
    with pytest.raises(OSError, match="state of the training .* resume=True") as caught:
        train(out, callbacks=[At(11, break_it)])
    assert caught.value.errno == number
    states = StateFolder(out / f"{drill.NAME}.training" / "states")
    assert states.newest().path.name.startswith("step_000000008.")
    mend_it()

    plain = training_job.publish

    def publish(*arguments: Any, **options: Any) -> Any:
        break_it()
        return plain(*arguments, **options)

    monkeypatch.setattr(training_job, "publish", publish)
    with pytest.raises(OSError, match="result could not be written.*resume=True"):
        train(out, resume=True)
    assert tree(artifact) == earlier and manifest.verify(artifact, digest)
    assert states.newest().path.name.startswith("step_000000024.")
    mend_it()
    monkeypatch.undo()

    result = train(out, resume=True, callbacks=[At(1, lambda: pytest.fail("trained again"))])
    assert manifest.verify(artifact, result.sha256) and len(result.history["loss"]) == drill.EPOCHS
    assert states.newest() is None
    # Once more, it is done already; another seed is another training.
    assert train(out, resume=True) == result


def test_files_that_cannot_grow(tmp_path: Path) -> None:
    """As on a full disk, where none can be mounted."""

    def train_into_short_files() -> None:
        with contextlib.ExitStack() as stack:
            train(tmp_path, callbacks=[At(7, lambda: stack.enter_context(short_files()))])

    with pytest.raises(OSError, match="state of the training .* resume=True") as caught:
        train_into_short_files()
    assert caught.value.errno == errno.EFBIG
    states = StateFolder(tmp_path / f"{drill.NAME}.training" / "states")
    assert states.newest().path.name.startswith("step_000000004.")


def test_a_folder_that_cannot_be_written_is_refused_before_the_training(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.remount("ro")
    with pytest.raises(OSError, match="choose another folder") as caught:
        train(disk.folder / "runs")
    assert caught.value.errno == errno.EROFS
    assert main(["train", drill.NAME, "--out", str(disk.folder / "runs")]) == codes.Code.FAILURE
    assert "--out" in capsys.readouterr().err


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    with files.sole_writer(tmp_path / f"{drill.NAME}.training"):
        with pytest.raises(BlockingIOError, match="another process"):
            train(tmp_path)
    with files.sole_writer(tmp_path / f"{drill.NAME}.training"):
        pass


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_that_is_replaced_is_never_away_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    """Killed between any two steps, the earlier folder or the new one is there, or comes back."""
    target, plain, left = tmp_path / "target", os.replace, [0]

    def replace(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        plain(*arguments)

    if not exchange:
        monkeypatch.setattr(files, "_renameat2", lambda: None)
    elif files._renameat2() is None:
        pytest.skip("this system cannot exchange folders")
    target.mkdir()
    (target / "file").write_text("earlier")
    for steps in range(3):
        left[0] = steps
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", replace)
            with contextlib.suppress(KeyboardInterrupt), files.staged_folder(target, overwrite=True) as new:
                (new / "file").write_text(f"new {steps}")
        if exchange:
            assert (target / "file").read_text() == f"new {steps}"
        with contextlib.suppress(RuntimeError), files.staged_folder(target, overwrite=True):
            raise RuntimeError
        assert (target / "file").read_text() == (f"new {steps}" if exchange or steps == 2 else "earlier")
        assert [path.name for path in tmp_path.iterdir()] == ["target"]


# -- states ----------------------------------------------------------------------------------------------


def test_the_last_two_states_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    states = StateFolder(tmp_path / "states")
    assert states.newest() is None
    for step in (5, 10, 100):
        states.write(step, b"%d" % step)
    (tmp_path / "states" / ".step_7.0.npz.1234.part").write_text("half")
    assert states.newest().content == b"100" and len(list((tmp_path / "states").glob("step_*"))) == 2
    next((tmp_path / "states").glob("step_000000100.*")).write_bytes(b"1")
    again = StateFolder(tmp_path / "states")
    with caplog.at_level(logging.WARNING, logger="flowzoo.training"):
        assert again.newest().content == b"10"
    assert "step_000000100" in caplog.text and "step_000000010" in caplog.text
    again.write(20, b"20")  # the one that is not whole goes, the one that was taken stays
    assert sorted(path.name[:14] for path in (tmp_path / "states").iterdir()) == [
        "step_000000010",
        "step_000000020",
    ]
    for path in (tmp_path / "states").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="No state"):
        again.newest()
    again.clear()
    assert again.newest() is None


# -- clusters --------------------------------------------------------------------------------------------

TWO = {"worker": ["a:1", "b:1"]}


def tf_config(cluster: Any = TWO, kind: Any = "worker", index: Any = 0) -> str:
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    "text",
    [
        tf_config(),
        tf_config(index="1"),
        tf_config({"chief": ["a:1"], "worker": ["b:1"]}, "chief"),
        tf_config({"worker": ["[::1]:2222", "10.0.0.1:65535"]}, index=1),
        tf_config({**TWO, "evaluator": ["c:1"]}),
    ],
)
def test_a_tf_config_that_names_workers(text: str) -> None:
    check_tf_config(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not set"),
        ("{", "not JSON"),
        ("[1]", "not a mapping"),
        ("{}", "no cluster"),
        (json.dumps({"cluster": TWO}), "no task"),
        (json.dumps({"cluster": TWO, "task": {"type": "worker"}}), "no task"),
        (tf_config(index=2), "go from 0 to 1"),
        (tf_config(index=-1), "go from 0 to 1"),
        (tf_config(index=True), "go from 0 to 1"),
        (tf_config(index="x"), "go from 0 to 1"),
        (tf_config(index=1.0), "go from 0 to 1"),
        (tf_config(kind="chief"), "the cluster has worker"),
        (tf_config(kind=["worker"]), "the cluster has worker"),
        (tf_config({**TWO, "evaluator": ["c:1"]}, "evaluator"), "evaluator"),
        (tf_config({"worker": []}), "not a list"),
        (tf_config({"worker": "a:1"}), "not a list"),
        (tf_config({"worker": ["a:1", "a:1"]}), "a:1 is there more than once"),
        (tf_config({"worker": ["a:1"], "chief": ["a:1"]}), "more than once"),
        (tf_config({"worker": ["a:1"], "chief": ["b:1", "c:1"]}), "more than one chief"),
        (tf_config({"worker": ["a"]}), "host:port"),
        (tf_config({"worker": ["a:0"]}), "host:port"),
        (tf_config({"worker": ["a:65536"]}), "host:port"),
        (tf_config({"worker": [7]}), "host:port"),
        (tf_config({"evaluator": ["a:1"]}), "no worker"),
        (tf_config({"workers": ["a:1"]}), "'workers'"),
        (tf_config({**TWO, "ps": ["c:1"]}), "ParameterServerStrategy"),
    ],
)
def test_a_tf_config_that_cannot_work(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message):
        flowzoo.train(drill.NAME, strategy="multiworker")
    assert main(["train", drill.NAME, "--strategy", "multiworker"]) == codes.Code.USAGE
    assert "TF_CONFIG" in capsys.readouterr().err


def test_workers_that_do_not_answer_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = drill.free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as there:
        addresses = [f"127.0.0.1:{there.getsockname()[1]}", f"127.0.0.1:{port}"]
        monkeypatch.setenv("TF_CONFIG", tf_config({"worker": addresses}))
        with caplog.at_level(logging.WARNING, logger="flowzoo.training"):
            with waiting_for_workers(every=0.05):
                deadline = time.monotonic() + 60
                while not caplog.text and time.monotonic() < deadline:
                    time.sleep(0.05)
    assert f"workers at {addresses[1]}: they do not answer" in caplog.text


def test_strategies_that_cannot_work() -> None:
    for name in STRATEGIES[:-1]:
        check_strategy(name)
    check_strategy(tf.distribute.get_strategy())
    with pytest.raises(ValueError, match="Received: 'miror'. Did you mean 'mirrored'"):
        check_strategy("miror")
    with pytest.raises(ValueError, match="ParameterServerStrategy does not work"):
        check_strategy("parameter_server")
    servers = tf.distribute.ParameterServerStrategy
    with pytest.raises(ValueError, match="ParameterServerStrategy does not work"):
        flowzoo.train(drill.NAME, strategy=servers.__new__(servers))  # a real one waits for its servers
    with pytest.raises(TypeError, match="Received: 3"):
        flowzoo.train(drill.NAME, strategy=3)


REPLICAS = """
import sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from pathlib import Path
from tests import drill, test_faults
drill.register(Path(sys.argv[1]))
sys.exit(getattr(test_faults, sys.argv[2])(*sys.argv[3:]))
"""


def on_two_replicas(tmp_path: Path, function: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    data = tmp_path / "data.npz"
    drill.write_data(data)
    command = [sys.executable, "-c", REPLICAS, str(data), function, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def train_odd_batches(out: str) -> int:
    return int(main(["train", drill.NAME, "--out", out, "--strategy", "mirrored", "--limit", "33"]))


def test_a_batch_that_does_not_divide_among_the_replicas(tmp_path: Path) -> None:
    run = on_two_replicas(tmp_path, "train_odd_batches", tmp_path)
    assert run.returncode == codes.Code.USAGE, run.stderr
    assert "A batch of 33 examples does not divide among 2 replicas" in run.stderr


def stop_and_go_on(out: str) -> int:
    def stop() -> None:
        raise KeyboardInterrupt

    # One strategy for all: the collectives of a second one clash with those of the first.
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    whole = train(Path(out) / "whole", strategy=strategy)
    with pytest.raises(KeyboardInterrupt):
        train(Path(out) / "again", strategy=strategy, callbacks=[At(10, stop)])
    again = train(Path(out) / "again", strategy=strategy, resume=True)
    for key in ("loss", "val_loss"):
        np.testing.assert_allclose(whole.history[key], again.history[key], rtol=1e-6)
    return 0


@pytest.mark.slow
def test_two_replicas_go_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    run = on_two_replicas(tmp_path, "stop_and_go_on", tmp_path)
    assert run.returncode == 0, run.stderr

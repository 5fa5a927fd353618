"""Two worker processes under MultiWorkerMirroredStrategy compute what one device does, through plain fit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowzoo.manifest import MANIFEST
from flowzoo.models import families
from tests import drill

FAMILIES = sorted(families())
pytestmark = pytest.mark.timeout(900)  # two processes import TensorFlow and wait for each other
# What the default run trains, on vectors: tracing it takes seconds. All families train on images.
SHORT = ["nice"]

_WORKER = textwrap.dedent(
    """
    import json, sys
    import tensorflow as tf
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # first of all: its collectives start here
    import keras, numpy as np
    from flowzoo.models import families, feeding
    from tests.models.flows import KINDS

    what = KINDS[sys.argv[1]]
    x, c = what.data(40), what.condition(40)
    weight = np.random.default_rng(2).choice([0.0, 0.5, 1.0, 3.0], 40).astype("float32")
    index = strategy.cluster_resolver.task_id

    class Logs(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.batches, self.shapes = [], set()
        def on_train_batch_end(self, batch, logs):
            self.batches.append(float(logs["loss"]))
            self.shapes |= {np.shape(value) for value in logs.values()}
        def on_epoch_end(self, epoch, logs):
            self.shapes |= {np.shape(value) for value in logs.values()}

    def made(name):
        keras.utils.set_random_seed(3 + index)  # as in any real job the processes have seeds of their own
        flow = families()[name](event_shape=what.event_shape, **{**families()[name].small, **what.arguments})
        flow.compile(keras.optimizers.SGD(1e-3, global_clipnorm=10.0))
        return flow

    def trained(flow):
        logs = Logs()
        options = {"validation_data": (x[:24], c[:24]), "callbacks": [logs], "verbose": 0}
        history = flow.fit(x, c, 16, 3, shuffle=False, sample_weight=weight, **options).history
        return {
            "history": history,
            "batches": logs.batches,
            "shapes": sorted(logs.shapes),
            "evaluate": flow.evaluate(x, c, 16, 0, sample_weight=weight, return_dict=True),
            "weights": [value for weight in flow.get_weights() for value in np.ravel(weight).tolist()],
        }

    for name in sys.argv[2:]:
        with strategy.scope():
            flow = made(name)
        flow.adapt(what.data(40, index), c)  # data of its own: all get what the first worker found
        start = flow.get_weights()
        several = trained(flow)
        flow.fit(x, c, epochs=2, batch_size=16, verbose=0)  # shuffled, by each process
        shuffled = [value for weight in flow.get_weights() for value in np.ravel(weight).tolist()]
        one = None
        if index == 0:
            alone = made(name)
            alone.set_weights(start)
            one = trained(alone)
        print("RESULT" + json.dumps([name, one, several, shuffled]), flush=True)

    numbers = np.arange(40)
    batches, *_ = feeding.one_order(numbers, None, {"batch_size": 16}, seed=5)
    order = strategy.experimental_distribute_dataset(batches.take(6))
    order = [strategy.experimental_local_results(batch[0])[0].numpy().tolist() for batch in order]
    print("RESULT" + json.dumps(["order", order]), flush=True)
    """
)
# After the above: a training of an entry, with a folder of its own for each worker.
_FOLDERS = textwrap.dedent(
    """
    from pathlib import Path
    import flowzoo
    from tests import drill

    place = Path(__file__).parent
    drill.register(place / "data.npz")
    out = place / f"out_{index}"
    out.mkdir()
    seen = set()

    def files():
        return {str(path.relative_to(out)) for path in out.rglob("*")}

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs):
            seen.update(files())

    options = {"strategy": strategy, "callbacks": [Look()], "previews": drill.EPOCHS, "verbose": 0}
    result = flowzoo.train(drill.NAME, out=out, state_steps=4, state_seconds=1e9, **options)
    print("RESULT" + json.dumps(["files", sorted(seen), sorted(files()), result.sha256]), flush=True)
    """
)


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run_workers(
    folder: Path, script: str, arguments: Sequence[str], timeout: float, count: int = 2
) -> list[dict[str, Any]]:
    """Run a script in processes that find each other by TF_CONFIG; return what each printed."""
    (folder / "worker.py").write_text(script)
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    root = str(Path(__file__).parents[2])
    running = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        env = {**os.environ, "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        env["TF_CONFIG"] = json.dumps(config)
        with open(folder / f"{index}.log", "w") as log:
            command = [sys.executable, str(folder / "worker.py"), *arguments]
            running.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env))
    try:
        for process in running:
            process.wait(timeout)
    finally:
        for process in running:
            process.kill()
            process.wait()
    texts = [(folder / f"{index}.log").read_text() for index in range(count)]
    codes = [process.returncode for process in running]
    assert codes == [0] * count, "\n".join(text[-3000:] for text in texts)
    results = []
    for text in texts:
        lines = [line.removeprefix("RESULT") for line in text.splitlines() if line.startswith("RESULT")]
        results.append({name: rest for name, *rest in map(json.loads, lines)})
    return results


def check(family: str, workers: list[dict[str, Any]]) -> None:
    """Compare workers with one device and with each other."""
    one, several, _ = workers[0][family]
    for worker in workers:
        _, got, _ = worker[family]
        assert got["shapes"] == [[]]  # what reaches callbacks are scalars
        assert got["history"].keys() == one["history"].keys()
        for name, values in one["history"].items():
            np.testing.assert_allclose(got["history"][name], values, rtol=1e-4)
        np.testing.assert_allclose(got["batches"], one["batches"], rtol=1e-4)
        for name, value in one["evaluate"].items():
            np.testing.assert_allclose(got["evaluate"][name], value, rtol=1e-4)
        np.testing.assert_allclose(got["weights"], one["weights"], rtol=1e-3, atol=1e-6)
    for worker in workers[1:]:
        assert worker[family][1]["weights"] == several["weights"]
        assert worker[family][2] == workers[0][family][2]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("workers")
    drill.write_data(folder / "data.npz")
    return run_workers(folder, _WORKER + _FOLDERS, ["conditional", *SHORT], 850)


@pytest.mark.parametrize("family", SHORT)
def test_two_workers_equal_one_device(family: str, workers: list[dict[str, Any]]) -> None:
    """Losses of every batch, weights and what is read from data, the last batch being uneven."""
    check(family, workers)


def test_workers_share_one_order(workers: list[dict[str, Any]]) -> None:
    """Shuffled arrays: in each epoch every example comes once, on one worker, in another order."""
    parts = [worker["order"][0] for worker in workers]
    batches = [first + second for first, second in zip(*parts, strict=True)]
    assert [len(batch) for batch in batches] == [16, 16, 8, 16, 16, 8]
    epochs = [sum(batches[:3], []), sum(batches[3:], [])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(40))] * 2
    assert epochs[0] != epochs[1] and epochs[0] != list(range(40))


def test_only_the_chief_writes(workers: list[dict[str, Any]]) -> None:
    """States and previews while they train, then the published folder: the other's stays empty."""
    seen, left, digest = workers[0]["files"]
    states = [name for name in seen if name.startswith(f"{drill.NAME}.training/states/step_")]
    assert len(states) >= 3
    assert f"{drill.NAME}.training/published.json" in left and f"{drill.NAME}/{MANIFEST}" in left
    assert f"{drill.NAME}.training/previews/epoch_{drill.EPOCHS:04d}.png" in left
    assert workers[1]["files"] == [[], [], digest]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_workers_equal_one_device_for_every_family(tmp_path: Path) -> None:
    found = run_workers(tmp_path, _WORKER, ["labelled_image", *FAMILIES], 2800)
    for family in FAMILIES:
        check(family, found)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_four_workers_equal_one_device_for_every_family(tmp_path: Path) -> None:
    found = run_workers(tmp_path, _WORKER, ["conditional", *FAMILIES], 2800, count=4)
    for family in FAMILIES:
        check(family, found)

"""Trainings that are killed again and again: `python -m tests.drill FOLDER --kills 200` says what was found.

One process has imported TensorFlow and used nothing of it, which makes it safe to fork: each attempt at the
training is a child that runs the command line, tells through a pipe what it does, and is killed (SIGKILL) at
a moment drawn from the seed. After each kill every state and the published folder must be whole; at the end
of each training its weights, logs and examples must be those of one that was never stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

NAME = "test_drill"
STEP, WRITING, PUBLISHING, FITTING, FILE = b"s", b"w", b"p", b"f", b"."
EPOCHS, BATCH, EXAMPLES = 4, 48, 400  # 320 to train on: 6 steps an epoch, and some left out of each
STATE_STEPS = 4
PATIENCE_SECONDS = 240.0


# -- in the child ----------------------------------------------------------------------------------------


class Watch:
    """Tell the parent what the training does, and note the examples of each step."""

    def __init__(self, pipe: int, log: int) -> None:
        self._pipe, self._log, self._files = pipe, log, False

    def tell(self, what: bytes) -> None:
        os.write(self._pipe, what)

    def note(self, step: Any, rows: Any) -> None:
        numbers = np.rint(np.asarray(rows) * 64).astype(np.int64)
        os.write(self._log, struct.pack(f"<2q{len(numbers)}q", int(step), len(numbers), *numbers))
        self.tell(STEP)

    def audit(self, event: str, arguments: Any) -> None:
        if self._files and (event in {"os.rename", "os.remove", "os.mkdir", "os.rmdir"} or event == "open"):
            self.tell(FILE)

    def around(self, function: Any, what: bytes) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.tell(what)
            self._files = True
            try:
                return function(*args, **kwargs)
            finally:
                self._files = False

        return watched

    def start(self) -> None:
        import tensorflow as tf

        from flowzoo import training_job
        from flowzoo.models import Flow
        from flowzoo.training.states import StateFolder

        plain = Flow.train_step

        def train_step(flow: Any, data: Any) -> Any:
            tf.py_function(self.note, [flow.optimizer.iterations, data[:, 0]], [])
            return plain(flow, data)

        plain_fit = Flow.fit

        def fit(flow: Any, *args: Any, **kwargs: Any) -> Any:
            self.tell(FITTING)
            return plain_fit(flow, *args, **kwargs)

        Flow.train_step, Flow.fit = train_step, fit
        StateFolder.write = self.around(StateFolder.write, WRITING)
        training_job.publish = self.around(training_job.publish, PUBLISHING)
        sys.addaudithook(self.audit)


def register(data: Path) -> None:
    """Register an entry that trains in a second, with all that a state has to hold."""
    from flowzoo import registry
    from flowzoo.config import parse_config

    content = registry.get_config("test_maf").model_dump(mode="json")
    content |= {"name": NAME, "weights": {}}
    content["model"] = {
        "family": "realnvp",
        "event_shape": [3],
        "args": {"num_couplings": 1, "hidden_units": [8]},
    }
    content["data"] = {"source": "npz", "options": {"path": str(data)}, "conditional": False}
    content["training"] = {
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "ema": 0.9,
        "patience": 4,
        "jit_compile": False,
        "optimizer": {"name": "adamw", "weight_decay": 0.01, "warmup_steps": 3, "schedule": "cosine"},
    }
    registry.register_config(parse_config(content))


def write_data(path: Path) -> None:
    """Write examples that bear their number, in 64ths, in the first column."""
    x = np.random.default_rng(0).normal(size=(EXAMPLES, 3)).astype("float32")
    x[:, 0] = np.arange(EXAMPLES) / 64
    np.savez(path, x=x)


# -- processes -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Child:
    """A process of an attempt."""

    pid: int
    pipe: int
    said: Counter = dataclasses.field(default_factory=Counter)
    files: Counter = dataclasses.field(default_factory=Counter)  # touched, by what was said last
    code: int | None = None
    last: bytes = b""

    def read(self) -> bytes:
        content = os.read(self.pipe, 4096)
        for place in range(len(content)):
            one = content[place : place + 1]
            if one == FILE:
                self.files[self.last] += 1
            else:
                self.said[one] += 1
                self.last = one
        return content

    def end(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def start(arguments: list[str], data: Path, log: Path, output: Path, tf_config: str | None = None) -> Child:
    """Fork a process that runs `flowzoo train`."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return Child(pid, ours)
    code = 99
    try:
        os.close(ours)
        target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, 1)
        os.dup2(target, 2)
        if tf_config is not None:
            os.environ["TF_CONFIG"] = tf_config
        Watch(theirs, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)).start()
        register(data)
        from flowzoo.cli import main

        code = int(main(["train", NAME, "--state-seconds", "1e9", "-q", *arguments]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def call(function: Any, *arguments: Any) -> bool:
    """Run a function in a child; say whether it ended well."""
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


# -- what must hold --------------------------------------------------------------------------------------


def check_whole(out: Path, newest_before: int) -> int:
    """Check every artifact on disk; return the step of the newest state, 0 without."""
    import hashlib

    from flowzoo import manifest

    if (out / NAME).exists():
        manifest.verify(out / NAME, name=NAME)
    steps = [0]
    for path in (out / f"{NAME}.training" / "states").glob("step_*.npz"):
        step, digest = path.name[len("step_") : -len(".npz")].split(".")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise RuntimeError(f"{path} is not whole")
        with np.load(path, allow_pickle=False) as arrays:
            if not all(np.isfinite(arrays[key]).all() for key in arrays if key != "about"):
                raise RuntimeError(f"{path} holds what is not finite")
        steps.append(int(step))
    if max(steps) < newest_before:
        raise RuntimeError(f"the state of step {newest_before} is gone")
    return max(steps)


def save_weights(folder: Path, path: Path) -> None:
    """Load what was published, with all its verification, and save its weights."""
    import flowzoo

    weights = flowzoo.load(f"path:{folder}").get_weights()
    np.savez(path, *weights)


def weights_of(folder: Path, scratch: Path) -> list[np.ndarray]:
    if not call(save_weights, folder, scratch):
        raise RuntimeError(f"{folder} cannot be loaded")
    with np.load(scratch, allow_pickle=False) as arrays:
        return [arrays[f"arr_{i}"] for i in range(len(arrays))]


def largest(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference of two arrays."""
    return float(np.max(np.abs(one.astype(float) - other.astype(float)), initial=0.0))


def rows_by_step(logs: list[Path]) -> tuple[dict[int, list[int]], int]:
    """Return the rows of each step, of all workers in their order, and how many steps were taken again."""
    found: dict[int, list[int]] = {}
    again = 0
    for log in logs:
        words = np.frombuffer(log.read_bytes(), "<i8")
        place, mine = 0, {}
        while place < len(words):
            step, count = int(words[place]), int(words[place + 1])
            rows = words[place + 2 : place + 2 + count].tolist()
            if mine.setdefault(step, rows) != rows:
                raise RuntimeError(f"step {step} saw other examples when it was taken again")
            again += step in mine and mine[step] is not rows
            place += 2 + count
        for step, rows in mine.items():
            found.setdefault(step, []).extend(rows)
    return found, again


# -- the drill -------------------------------------------------------------------------------------------


class Drill:
    """Trainings of `workers` processes in `folder`, killed at moments drawn from `seed`."""

    def __init__(self, folder: Path, workers: int, seed: int) -> None:
        self.folder, self.workers, self.random = folder, workers, random.Random(seed)
        self.data = folder / "data.npz"
        self.found: dict[str, Any] = {
            "workers": workers,
            "seed": seed,
            "kills": 0,
            "kills_by_phase": Counter(),
            "victims": Counter(),
            "trainings": 0,
            "starts": 0,
            "starts_from_a_state": 0,
            "not_met": 0,
            "steps_again": 0,
            "largest_difference": 0.0,
            "examples": 0,
            "survivor_seconds": [],
            "survivor_codes": Counter(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_data(self.data)
        begun = time.monotonic()
        self.whole = self.uninterrupted("whole", workers)
        self.found["seconds_uninterrupted"] = round(time.monotonic() - begun, 1)

    def uninterrupted(self, name: str, workers: int) -> dict[str, Any]:
        out = self.folder / name
        children = self._start(out, name, workers, resume=False)
        self._wait(children, _never)
        self._must_end_well(children, name)
        self.files = children[0].files[PUBLISHING]
        return self._result(out, name, workers)

    def run(self, kills: int) -> None:
        """Train until so many kills were survived."""
        out = self.folder / "out"
        while self.found["kills"] < kills:
            self._training(out, f"{self.found['trainings']}", kills)
            self.found["trainings"] += 1
            print(json.dumps(self.found), file=sys.stderr, flush=True)

    def _training(self, out: Path, name: str, kills: int) -> None:
        newest, resume, published = 0, False, self.random.randint(2, 6)
        while True:
            children = self._start(out, name, self.workers, resume=resume)
            victim = self.random.choice(children)
            plan = _Plan(self.random, published, self.files) if self.found["kills"] < kills else None
            killed = self._wait(children, plan.now if plan is not None else _never, victim)
            if killed is None and self.workers > 1 and all(child.code == 1 for child in children):
                # On a busy machine workers may not find each other in time: they are started again.
                self.found["not_met"] += 1
                continue
            if killed is None:
                break
            self._note_kill(victim, killed)
            published -= killed == "publishing"
            newest, resume = check_whole(out, newest if killed != "publishing" else 0), True
            self.found["starts_from_a_state"] += newest > 0
        self._must_end_well(children, name)
        self._compare(self._result(out, name, self.workers))

    def _note_kill(self, victim: Child, phase: str) -> None:
        self.found["kills"] += 1
        self.found["kills_by_phase"][phase] += 1
        if self.workers > 1:
            self.found["victims"][f"worker {self._places[victim.pid]}"] += 1

    def _start(self, out: Path, name: str, workers: int, *, resume: bool) -> list[Child]:
        arguments = ["--out", str(out), "--state-steps", str(STATE_STEPS), *(["--resume"] if resume else [])]
        self.found["starts"] += 1
        if workers == 1:
            log, output = self.folder / f"{name}.0.log", self.folder / f"{name}.0.txt"
            children = [start(arguments, self.data, log, output)]
        else:
            addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
            children = [
                start(
                    [*arguments, "--strategy", "multiworker"],
                    self.data,
                    self.folder / f"{name}.{index}.log",
                    self.folder / f"{name}.{index}.txt",
                    json.dumps(
                        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
                    ),
                )
                for index in range(workers)
            ]
        self._places = {child.pid: index for index, child in enumerate(children)}
        return children

    def _wait(self, children: list[Child], now: Any, victim: Child | None = None) -> str | None:
        """Wait for all to end; kill the victim when it is time, and return the phase in which it was."""
        deadline, phase, at, open_pipes = time.monotonic() + PATIENCE_SECONDS, None, 0.0, list(children)
        while not all(child.end() for child in children):
            ready, _, _ = select.select([child.pipe for child in open_pipes], [], [], 0.05)
            for child in [child for child in open_pipes if child.pipe in ready]:
                if not child.read():
                    open_pipes.remove(child)
                elif child is victim and phase is None and now(child):
                    phase, at = _PHASES[child.last], time.monotonic()
                    child.kill()
            if time.monotonic() > deadline:
                for child in children:
                    if not child.end():
                        child.kill()
                raise RuntimeError(f"hangs: {children}")
        for child in children:
            os.close(child.pipe)
        if phase is not None and len(children) > 1:
            self.found["survivor_seconds"].append(round(time.monotonic() - at, 1))
            self.found["survivor_codes"].update(str(c.code) for c in children if c is not victim)
        killed = victim is not None and victim.code == -signal.SIGKILL
        return phase if killed else None

    def _must_end_well(self, children: list[Child], name: str) -> None:
        if any(child.code for child in children):
            texts = [path.read_text()[-3000:] for path in sorted(self.folder.glob(f"{name}.*.txt"))]
            raise RuntimeError(f"{name} ended with {[child.code for child in children]}: {texts}")

    def _result(self, out: Path, name: str, workers: int) -> dict[str, Any]:
        left = [path.name for path in (out / f"{NAME}.training" / "states").iterdir()]
        if left:
            raise RuntimeError(f"states are left: {left}")
        note = json.loads((out / f"{NAME}.training" / "published.json").read_text())
        rows, again = rows_by_step([self.folder / f"{name}.{index}.log" for index in range(workers)])
        self.found["steps_again"] += again
        return {
            "weights": weights_of(out / NAME, self.folder / "weights.npz"),
            "history": note["result"]["history"],
            "rows": rows,
        }

    def _compare(self, again: dict[str, Any]) -> None:
        if again["rows"] != self.whole["rows"]:
            raise RuntimeError("the examples of a step differ from those of the uninterrupted training")
        self.found["examples"] += sum(map(len, again["rows"].values()))
        for key in self.whole["history"]:
            # What each epoch logged; the error of the round trip is itself a rounding error.
            if key != "val_round_trip":
                np.testing.assert_allclose(again["history"][key], self.whole["history"][key], rtol=1e-5)
        for one, other in zip(self.whole["weights"], again["weights"], strict=True):
            difference = largest(one, other)
            self.found["largest_difference"] = max(self.found["largest_difference"], difference)


_PHASES = {
    b"": "start-up",
    FITTING: "start-up",
    STEP: "training",
    WRITING: "writing",
    PUBLISHING: "publishing",
}


def _never(child: Child) -> bool:
    return False


class _Plan:
    """When an attempt is killed: at an event of a phase, and a little later."""

    def __init__(self, source: random.Random, published: int, files: int) -> None:
        self._random, self._published, self._files_of_publishing = source, published, files
        kind = source.choices(["start-up", "training", "writing"], [1, 5, 4])[0]
        self._what = {"start-up": FITTING, "training": STEP, "writing": WRITING}[kind]
        # How often it must have been said, and how many files were touched after it.
        self._count = (
            source.randint(2, 9) if kind == "training" else source.randint(1, 2) if kind == "writing" else 1
        )
        self._files = source.randint(0, 6) if kind == "writing" else 0
        self._late = source.choice([0.0, 0.0, source.uniform(0, 0.02)])
        if kind == "start-up":
            self._late = source.uniform(0, 0.5)
        self._reached: int | None = None

    def now(self, child: Child) -> bool:
        """Say whether to kill; waits the rest of the time."""
        if child.said[PUBLISHING] and self._what != PUBLISHING:
            # The training came to its end before the moment that was drawn: now or never.
            if self._published <= 0:
                return False
            self._what, self._count, self._reached = PUBLISHING, 1, None
            self._files = self._random.randint(0, self._files_of_publishing - 1)
            self._late = self._random.choice([0.0, self._random.uniform(0, 0.1)])
        if child.said[self._what] < self._count:
            return False
        if self._reached is None:
            self._reached = child.files[child.last]
        if child.files[self._what] - self._reached < self._files:
            return False
        time.sleep(self._late)
        return True


def import_all() -> None:
    """Import once what each attempt needs, and use nothing of it.

    Raises:
        RuntimeError: TensorFlow was used after all: a child would lack its threads, and hang.
    """
    import matplotlib.figure  # noqa: F401
    import tensorboard  # noqa: F401
    from tensorflow.python.eager import context

    import flowzoo.cli.making
    import flowzoo.trainer  # noqa: F401
    from flowzoo.models import families

    families()
    if context.context()._context_handle is not None:
        raise RuntimeError("TensorFlow was used before the first fork")


def main() -> None:
    """Run a drill and print what was found as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--like-one", action="store_true", help="compare with a single process as well")
    options = parser.parse_args()
    import_all()
    drill = Drill(options.folder, options.workers, options.seed)
    if options.like_one:
        one = drill.uninterrupted("one", 1)
        drill.found["same_examples_as_one"] = one["rows"] == drill.whole["rows"]
        pairs = zip(one["weights"], drill.whole["weights"], strict=True)
        drill.found["difference_from_one"] = max(largest(a, b) for a, b in pairs)
    drill.run(options.kills)
    print(json.dumps(drill.found))


if __name__ == "__main__":
    main()

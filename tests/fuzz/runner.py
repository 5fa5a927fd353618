"""The runner: a target in a process of its own, whose death is told of, with the input that did it."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.fuzz.harness import Report, Target, input_of, run, try_known
from tests.fuzz.targets import find, names

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# How many inputs a worker tries before it hands in what it has: what dies with it is tried again.
PART = 500
# A worker that does not move for so many limits hangs where no alarm reaches it, and is killed.
PATIENCE = 4
# Before the first input a worker makes its world and tries the known inputs; seconds that this may take.
PREPARATION = 900.0


def main(arguments: list[str] | None = None) -> int:
    """Fuzz one target; returns 1 if anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=names())
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, metavar="INPUT", help="try one input alone, and show it")
    given = parser.parse_args(arguments)
    target = find(given.target)
    if given.show is not None:
        return _show(target, given.seed, given.show)
    start = time.perf_counter()
    report = fuzz(given.target, given.inputs, given.seed)
    if report.failed:
        print(report.details())
    print(f"{target.name}, seed {given.seed}: {report}; {time.perf_counter() - start:.0f} s")
    return 1 if report.failed else 0


def fuzz(name: str, inputs: int, seed: int) -> Report:
    """Try the known inputs and so many new ones, each worker its turn, and go on after one that dies."""
    target = find(name)
    context = multiprocessing.get_context("spawn")
    total, done, skipped = Report(), 0, set()
    with tempfile.TemporaryDirectory() as folder, _bar() as bar:
        log = Path(folder) / "log"
        task = bar.add_task(name, total=inputs)
        while done < inputs:
            here = context.Value("q", -1, lock=False)
            ours, theirs = context.Pipe(duplex=False)
            end = min(done + target.turn, inputs)
            arguments = (name, done, end, seed, skipped, here, theirs, log)
            worker = context.Process(target=work, args=arguments)
            worker.start()
            theirs.close()
            moved, at = time.monotonic(), here.value
            while True:
                with contextlib.suppress(EOFError, ConnectionError):
                    if ours.poll(0.2):
                        done, part = ours.recv()
                        total.add(part)
                if here.value != at:
                    moved, at = time.monotonic(), here.value
                    bar.update(task, completed=at)
                if not worker.is_alive() and not _waiting(ours):
                    break
                if time.monotonic() - moved > (PATIENCE * target.limit if at >= 0 else PREPARATION):
                    worker.kill()
            worker.join()
            at = here.value  # it may have gone on between the last look at it and its end
            if worker.exitcode and worker.exitcode > 0:
                raise SystemExit(f"{_said(log)}{name}: the harness itself failed, at input {here.value}")
            if done < end:
                if at < 0 and at in skipped:
                    raise SystemExit(f"{_said(log)}{name}: two workers ended before their first input")
                skipped.add(at)
                total.fail(at, f"the process ended with {worker.exitcode}")
                sys.stderr.write(f"{name}: the process ended with {worker.exitcode} at input {at}\n")
    return total


def _said(log: Path) -> str:
    """Return what a worker wrote to standard error: one that is killed early has not come to it."""
    return f"{log.read_text()}\n" if log.exists() else ""


def _waiting(connection: Any) -> bool:
    """Say whether a part is still to be read."""
    try:
        return connection.poll() and not connection.closed and _peek(connection)
    except (EOFError, ConnectionError, OSError):
        return False


def _peek(connection: Any) -> bool:
    """Say whether the pipe holds bytes and not only its end."""
    import fcntl
    import termios

    held = bytearray(4)
    fcntl.ioctl(connection.fileno(), termios.FIONREAD, held)
    return int.from_bytes(held, sys.byteorder) > 0


def work(
    name: str, start: int, end: int, seed: int, skipped: set[int], here: Any, pipe: Any, log: Path
) -> None:
    """Try the inputs from start to before end, and hand in a report of each part."""
    # C libraries write to standard error what they think of bad input.
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    target = find(name)
    with target.world() as world:
        _limit_memory(target.memory)
        if start == 0 and not skipped:
            pipe.send((0, try_known(target, world)))
        for first in range(start, end, PART):
            last = min(first + PART, end)
            indices = [index for index in range(first, last) if index not in skipped]
            report = run(target, world, indices, seed, lambda index: setattr(here, "value", index))
            pipe.send((last, report))


def _limit_memory(more: int) -> None:
    """Let the process grow by so many bytes and no further: a bomb then raises MemoryError, or ends it."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + more, hard))


def _show(target: Target, seed: int, index: int) -> int:
    with target.world() as world:
        print(repr(input_of(target, world, seed, index))[:5000])
        report = run(target, world, [index], seed)
    print(report.details(), report, sep="\n")
    return 1 if report.failed else 0


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())

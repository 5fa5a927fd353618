"""What the checks inside exported graphs cost: each entry exported with them and without, called in turns.

    python -m benchmarks.checks

One thread calls one graph for half a second, then the other, for several rounds; the figure is the processor
time of a call. Nothing but this script exports a graph without checks.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import typer
from rich.progress import track

from benchmarks.serving import HERE, _figures, _request, _served, in_turns

ENTRIES = ("nsf_moons", "maf_annthyroid", "realnvp_mnist")
ROWS = (1, 32, 512)


def compare(
    rounds: Annotated[int, typer.Option(help="Turns of each side.")] = 6,
    seconds: Annotated[float, typer.Option(help="Of one turn.")] = 0.5,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = HERE / "checks.json",
) -> None:
    """Time log_prob of each entry with and without the checks, and write the figures."""
    runs = []
    for name in track(ENTRIES, "Calling both"):
        runs += measure(name, rounds, seconds)
    out.write_text(json.dumps({"rounds": rounds, "seconds": seconds, "runs": runs}, indent=1) + "\n")


def measure(name: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return the figures of an entry."""
    import flowzoo

    model, runs = flowzoo.load(name), []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        model.export(Path(folder) / "checked")
        with _without_checks():
            model.export(Path(folder) / "unchecked")
        sessions = {
            side: stack.enter_context(_open(Path(folder) / side)) for side in ("checked", "unchecked")
        }
        for rows in ROWS:
            inputs, _ = _request(model, "log_prob", rows)
            sides = {side: _served(*opened, inputs) for side, opened in sessions.items()}
            figures = {side: _figures(taken) for side, taken in in_turns(sides, 1, rounds, seconds).items()}
            ratio = figures["checked"]["processor_ms"] / figures["unchecked"]["processor_ms"]
            runs.append({"entry": name, "rows": rows, "ratio": round(ratio, 3), **figures})
    return runs


@contextlib.contextmanager
def _open(saved_model: Path) -> Iterator[tuple[Any, Any]]:
    import tensorflow as tf

    with contextlib.closing(tf.compat.v1.Session(graph=tf.Graph())) as session:
        with session.graph.as_default():
            found = tf.compat.v1.saved_model.load(session, ["serve"], str(saved_model)).signature_def
        yield session, found["log_prob"]


@contextlib.contextmanager
def _without_checks() -> Iterator[None]:
    import tensorflow as tf

    from flowzoo.models import requests

    def passed(flow: Any, given: dict[str, Any]) -> dict[str, Any]:
        return {
            key: tf.cast(value, flow.compute_dtype) if key == "x" else value for key, value in given.items()
        }

    with mock.patch.multiple(requests, checked=passed, log_density=lambda value: value):
        yield


if __name__ == "__main__":
    typer.run(compare)

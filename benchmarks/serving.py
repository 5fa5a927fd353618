"""Call exported graphs as a server does and the Keras models that they came from, in turns.

    python -m benchmarks.serving

Both sides are in one process: the exported graph in a session of TensorFlow's C++ runtime, which is what
TensorFlow Serving calls, and the loaded model through its own methods. For each entry, signature and number
of rows a request, 1, 8 and 32 threads call one side for half a second, then the other, for several rounds:
whatever else the machine does falls on both alike. A ratio is the geometric mean of those of the pairs of
turns, and its error the standard error of that mean; p99 is that of all calls. It waits for other processes
more than for the call; the processor time of a call does not. Without network, protos and batching: those of
a server come on top.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

HERE = Path(__file__).parent
# Entry, signatures, rows: one a family. A TarFlow takes a second for 32 faces, and seconds for a sample: both
# are left out.
BOTH = ("log_prob", "sample")
CASES = [
    ("nice_mnist", BOTH, (1, 32)),
    ("glow_mnist", BOTH, (1, 32)),
    ("iaf_annthyroid", BOTH, (1, 32)),
    ("ffjord_moons", BOTH, (1, 32)),
    ("nsf_moons", BOTH, (1, 32)),
    ("maf_annthyroid", BOTH, (1, 32)),
    ("realnvp_mnist", BOTH, (1, 32)),
    ("flow_matching_moons", BOTH, (1, 32)),
    ("tarflow_celeba", ("log_prob",), (1,)),
]
CLIENTS = (1, 8, 32)

Call = Callable[[], Any]


def compare(
    entries: Annotated[list[str] | None, typer.Option("--entry", help="Only these.")] = None,
    rounds: Annotated[int, typer.Option(help="Turns of each side.")] = 8,
    seconds: Annotated[float, typer.Option(help="Of one turn.")] = 0.5,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = HERE / "serving.json",
) -> None:
    """Time every case that is not in the file yet, and write the figures and the table."""
    machine = f"{len(os.sched_getaffinity(0))} cores ({platform.machine()})"
    found = json.loads(out.read_text()) if out.is_file() else {"machine": machine, "runs": []}
    done = {run["entry"] for run in found["runs"]}
    wanted = [case for case in CASES if case[0] not in done and (not entries or case[0] in entries)]
    for name, signatures, rows in track(wanted, "Calling both"):
        runs = measure(name, signatures, rows, rounds, seconds)
        load = round(os.getloadavg()[0], 1)
        found["runs"] += [{**run, "rounds": rounds, "seconds": seconds, "load_average": load} for run in runs]
        out.write_text(json.dumps(found, indent=1) + "\n")
        out.with_suffix(".md").write_text(as_table(found))


def measure(
    name: str, signatures: Sequence[str], sizes: Sequence[int], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Return the figures of an entry."""
    import tensorflow as tf

    import flowzoo

    model, runs, graph = flowzoo.load(name), [], tf.Graph()
    opened = contextlib.closing(tf.compat.v1.Session(graph=graph))
    with tempfile.TemporaryDirectory() as folder, opened as session:
        path = flowzoo.export(model, folder, name=name, warmup_batch_sizes=())
        with graph.as_default():
            found = tf.compat.v1.saved_model.load(session, ["serve"], str(path)).signature_def
        for signature in signatures:
            for rows in sizes:
                inputs, keras_call = _request(model, signature, rows)
                served_call = _served(session, found[signature], inputs)
                _agree(served_call(), keras_call())
                sides = {"exported": served_call, "keras": keras_call}
                for clients in CLIENTS:
                    times = in_turns(sides, clients, rounds, seconds)
                    case = {"entry": name, "signature": signature, "rows": rows, "clients": clients}
                    sides_of = {side: _figures(taken) for side, taken in times.items()}
                    runs.append({**case, **sides_of, "ratios": _ratios(times["exported"], times["keras"])})
    return runs


def _request(model: Any, signature: str, rows: int) -> tuple[dict[str, Any], Call]:
    """Return the inputs of a request, and the call of the Keras model that gives the same."""
    if signature == "sample":
        seed = np.array([1, 2], "int32")
        inputs = {"num_samples": np.int32(rows), "seed": seed, "temperature": np.float32(1)}
        return inputs, lambda: np.asarray(model.sample(rows, seed=seed))
    x = np.asarray(model.sample(rows, seed=0))
    return {"x": x}, lambda: np.asarray(model.log_prob(x))


def _served(session: Any, signature: Any, inputs: dict[str, Any]) -> Call:
    (output,) = signature.outputs.values()
    graph = session.graph
    feeds = [graph.get_tensor_by_name(signature.inputs[key].name) for key in inputs]
    function = session.make_callable(graph.get_tensor_by_name(output.name), feed_list=feeds)
    return lambda: function(*inputs.values())


def _agree(exported: np.ndarray, keras: np.ndarray) -> None:
    np.testing.assert_allclose(exported.astype("float64"), keras.astype("float64"), rtol=1e-3, atol=2e-2)


def in_turns(sides: dict[str, Call], clients: int, rounds: int, seconds: float) -> dict[str, list[dict]]:
    """Return for each side and round the latencies of all calls and the time that they took together."""
    for call in sides.values():
        _turn(call, clients, 0.0)  # each thread's first call makes its buffers
    times: dict[str, list[dict]] = {side: [] for side in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 else list(sides)[::-1]
        for side in order:
            times[side].append(_turn(sides[side], clients, seconds))
    return times


def _turn(call: Call, clients: int, seconds: float) -> dict[str, Any]:
    """Call from several threads at once for some seconds, each at least once."""
    taken: list[float] = []
    stop = time.perf_counter() + seconds

    def client() -> None:
        mine = []
        while True:
            start = time.perf_counter()
            call()
            mine.append(time.perf_counter() - start)
            if time.perf_counter() > stop:
                break
        taken.extend(mine)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start, used = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = time.process_time() - used
    return {"latencies": taken, "wall": time.perf_counter() - start, "processor": used}


def _figures(turns: list[dict[str, Any]]) -> dict[str, float]:
    """Return p50 and p99 of all calls, calls a second and the processor time of a call."""
    latencies = np.concatenate([turn["latencies"] for turn in turns])
    return {
        "p50_ms": round(1e3 * float(np.percentile(latencies, 50)), 4),
        "p99_ms": round(1e3 * float(np.percentile(latencies, 99)), 4),
        "calls_a_second": round(len(latencies) / sum(turn["wall"] for turn in turns), 2),
        "processor_ms": round(1e3 * sum(turn["processor"] for turn in turns) / len(latencies), 4),
        "calls": len(latencies),
    }


def _ratios(exported: list[dict[str, Any]], keras: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return for each figure the geometric mean of the ratios of paired turns, and its standard error."""
    found = {}
    for key in RATIOS:
        each = [
            _figures([one])[key] / _figures([other])[key] for one, other in zip(exported, keras, strict=True)
        ]
        logs = np.log(each)
        mean = float(np.exp(logs.mean()))
        error = mean * float(logs.std(ddof=1)) / np.sqrt(len(logs)) if len(logs) > 1 else float("nan")
        found[key] = [round(mean, 4), round(float(error), 4)]
    return found


RATIOS = ("p50_ms", "processor_ms", "calls_a_second")


def as_table(found: dict[str, Any]) -> str:
    """Return the figures as a Markdown table; ratios are those of the exported graph to the Keras model."""
    head = [
        "The exported graph against the Keras model, in turns, in one process. Ratios below 1 of p50, p99 "
        "and processor time (of a call), and above 1 of calls a second, are in favour of the export; with "
        "their standard errors over the turns. "
        f"{found['machine']}; load average {_span(found['runs'], 'load_average')}, callers included. "
        f"{_span(found['runs'], 'rounds')} turns of each side, of {_span(found['runs'], 'seconds')} s; "
        "`calls` are those of the side with fewer: the p99 of some hundreds is that of a few.",
        "",
        "| entry | signature | rows | clients | calls | exported p50 / p99 (ms) | p50 | p99 | processor "
        "| calls a second |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *map(_row, found["runs"])]) + "\n"


def _span(runs: list[dict[str, Any]], key: str) -> str:
    least, most = min(run[key] for run in runs), max(run[key] for run in runs)
    return f"{least:g}" if least == most else f"{least:g} to {most:g}"


def _row(run: dict[str, Any]) -> str:
    ours, keras = run["exported"], run["keras"]
    times = f"{ours['p50_ms']:.2f} / {ours['p99_ms']:.2f}"
    calls = min(ours["calls"], keras["calls"])
    cells = [run["entry"], run["signature"], run["rows"], run["clients"], calls, times]
    p50, processor, calls_a_second = (_with_error(*run["ratios"][key]) for key in RATIOS)
    cells += [p50, f"x {ours['p99_ms'] / keras['p99_ms']:.2f}", processor, calls_a_second]
    return "| " + " | ".join(map(str, cells)) + " |"


def _with_error(mean: float, error: float) -> str:
    return f"x {mean:.3f} ± {error:.3f}"


if __name__ == "__main__":
    typer.run(compare)

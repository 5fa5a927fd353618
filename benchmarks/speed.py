"""Images a second on this machine's first GPU: training, log_prob and sampling of image entries.

    python -m benchmarks.speed glow_celeba realnvp_celeba

measures each entry in float32 and with hidden layers in bfloat16, compiled by XLA and not, each combination
in a process of its own, and writes speed.json and speed.md beside this file; `--parts` measures less, and
adds it to what is there. Training is that of the entry's recipe (averages, outliers and pairs included),
three short epochs of which the first compiles, and the share of it that waits for data is what
`flowzoo train` logs. log_prob and samples are those of the zoo's weights in a tf.function of the caller's,
the median of several calls after the first. float32 is full in these two; training has TensorFloat-32
products, as TensorFlow sets it. Bits/dim are those of the images that were scored, so that what a precision
costs is seen beside what it gains.

A continuous flow computes in bfloat16 in training, where no solver runs, and in samples by fixed steps, as
its card recommends them. It scores in float32, with its own solver, which chooses its steps by errors below
the rounding of bfloat16; what bfloat16 would gain there and cost is measured with fixed steps in both
precisions.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.replicas import EPOCHS, time_training

HERE = Path(__file__).parent
# What the cards recommend.
SAMPLING: dict[str, dict[str, Any]] = {
    "glow_celeba": {"temperature": 0.7},
    "realnvp_celeba": {"temperature": 0.8},
    "tarflow_celeba": {"temperature": 0.9},
    "flow_matching_celeba": {"solver": "midpoint", "steps": 10},
    "rectified_flow_celeba": {"solver": "euler", "steps": 4},
}
FIXED = {"solver": "midpoint", "steps": 20}


def train(entry: str, precision: str, xla: bool, batch: int, steps: int) -> dict[str, Any]:
    """Train by an entry's recipe in this process, and return the speed."""
    import tensorflow as tf

    from flowzoo import registry

    training = registry.get_config(entry).training
    changes: dict[str, Any] = {"batch_size": batch, "precision": precision, "jit_compile": xla}
    if training.reflow is None:
        changes["steps_per_epoch"] = steps
    else:  # an epoch is one pass over so many pairs, without the single colours that a recipe adds to them
        pairs = steps * batch
        reflow = {**training.reflow.model_dump(), "num_pairs": pairs, "still": 0}
        changes |= {"limit": pairs, "reflow": reflow}
    found = time_training(entry, tf.distribute.get_strategy(), **changes)
    return {
        "training": found["examples_a_second"],
        "waiting": found["waiting"],
        "first_epoch_seconds": found["seconds"][0],
    }


def measured_on(entry: str) -> Any:
    """Return the split that an entry is measured on."""
    from flowzoo import registry
    from flowzoo.data import open_source

    data = registry.get_config(entry).data
    return open_source(data.source, data.measured_on, **data.options)


def score(flow: Any, x: np.ndarray, xla: bool) -> dict[str, Any]:
    """Return the images a second that are scored, with their bits/dim."""
    import tensorflow as tf

    given = tf.constant(x)
    scored = tf.function(lambda x: flow.log_prob(x), jit_compile=xla, autograph=False)
    bits = -float(np.mean(scored(given))) / (np.log(2) * flow.event_size)
    return {"log_prob": len(x) / _seconds(lambda: scored(given)), "bits_per_dim": bits, "scored": len(x)}


def draw(flow: Any, num: int, xla: bool, options: dict[str, Any]) -> dict[str, Any]:
    """Return the samples a second."""
    import tensorflow as tf

    seed = tf.constant([0, 1])
    drawn = tf.function(lambda seed: flow.sample(num, seed=seed, **options), jit_compile=xla, autograph=False)
    if not np.ptp(np.asarray(drawn(seed), float)):
        raise ValueError(f"{flow.name}: the samples are of one colour")
    return {"sampling": num / _seconds(lambda: drawn(seed)), "drawn": num, "sampling_options": options}


def measure(
    entry: str, precision: str, xla: bool, batch: int | None, steps: int, num: int, parts: list[str]
) -> dict[str, Any]:
    """Measure parts of one combination in this process."""
    import flowzoo
    from flowzoo import measure as measuring
    from flowzoo import registry
    from flowzoo.full_float32 import full_float32
    from flowzoo.models import families
    from flowzoo.models.continuous import ContinuousModel

    batch = batch or registry.get_config(entry).training.batch_size
    found: dict[str, Any] = {"batch": batch, "hardware": measuring.hardware()}
    if "training" in parts:
        found |= train(entry, precision, xla, batch, steps)
    continuous = issubclass(families()[registry.get_config(entry).model.family], ContinuousModel)
    with full_float32():
        flow, x = flowzoo.load(entry, dtype=precision), np.asarray(measured_on(entry).x[:num])
        if "sampling" in parts:
            found |= draw(flow, num, xla, SAMPLING.get(entry, {}))
        if "log_prob" in parts and (not continuous or precision == "float32"):
            found |= score(flow, x, xla)
        if "log_prob_fixed" in parts and continuous:
            flow = flow.with_solver(**FIXED)
            with flow.velocity.mixed():
                found |= {f"{key}_fixed": value for key, value in score(flow, x, xla).items()}
    return found


def _seconds(call: Callable[[], Any], least: float = 3.0) -> float:
    """Return the median of three calls or more, `least` seconds of them; the first was made before."""
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < least:
        start = time.perf_counter()
        np.asarray(call())
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "Images a second on one GPU, by `python -m benchmarks.speed`: training by the entry's recipe, and",
        f"the share that waits for data (the better of {EPOCHS - 1} short epochs after one that compiles);",
        "log_prob and sampling at the weights of the zoo, in full float32 or with hidden layers in",
        "bfloat16, and the bits/dim of the images scored.",
        "",
        "| entry | precision | XLA | batch | training | waiting | log_prob (images) | bits/dim "
        f"| with {FIXED['steps']} steps of {FIXED['solver']} | bits/dim "
        "| sampling (images; how) | hardware |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["entry"], row["batch"], row["precision"], not row["xla"])):
        training = f"{row['training']:,.0f}" if "training" in row else "-"
        waiting = f"{100 * row['waiting']:.1f}%" if row.get("waiting") is not None else "-"
        drawn = "-"
        scores = " | ".join(" | ".join(_scores(row, how)) for how in ("", "_fixed"))
        if "sampling" in row:
            how = "".join(f", {key} {value}" for key, value in row["sampling_options"].items())
            drawn = f"{row['sampling']:,.0f} ({row['drawn']}{how})"
        lines.append(
            f"| {row['entry']} | {row['precision']} | {'on' if row['xla'] else 'off'} | {row['batch']} "
            f"| {training} | {waiting} | {scores} | {drawn} | {row['hardware']} |"
        )
    return "\n".join(lines) + "\n"


def _scores(row: dict[str, Any], how: str) -> tuple[str, str]:
    """Return the images that are scored a second, and their bits/dim."""
    if f"log_prob{how}" not in row:
        return "-", "-"
    return f"{row[f'log_prob{how}']:,.1f} ({row[f'scored{how}']})", f"{row[f'bits_per_dim{how}']:.3f}"


def compare(
    entries: Annotated[list[str], typer.Argument(help="Image entries with weights and with data here.")],
    precisions: Annotated[str, typer.Option(help="With commas.")] = "mixed_bfloat16,float32",
    xla: Annotated[str, typer.Option(help="With commas.")] = "on,off",
    parts: Annotated[str, typer.Option(help="With commas.")] = "training,sampling,log_prob,log_prob_fixed",
    batch: Annotated[int | None, typer.Option(help="Examples a step; by default the recipe's.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of an epoch.")] = 100,
    num: Annotated[int, typer.Option(help="Images scored and drawn at once.")] = 256,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = HERE / "speed.json",
    one: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Measure each combination in a process of its own, and write the figures and a table after each."""
    combinations = [(e, p, x) for e in entries for p in precisions.split(",") for x in xla.split(",")]
    if one:
        [(entry, precision, compiled)] = combinations
        found = measure(entry, precision, compiled == "on", batch, steps, num, parts.split(","))
        print(json.dumps(found))
        return
    for entry, precision, compiled in combinations:
        command = [sys.executable, "-m", "benchmarks.speed", entry]
        command += ["--precisions", precision, "--xla", compiled]
        command += ["--parts", parts, "--steps", str(steps), "--num", str(num), "--one"]
        command += ["--batch", str(batch)] if batch else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
        row = {"entry": entry, "precision": precision, "xla": compiled == "on"}
        rows = _joined(out, {**row, **json.loads(done.stdout.splitlines()[-1])})
        out.write_text(json.dumps(rows, indent=1) + "\n")
        out.with_suffix(".md").write_text(as_table(rows))


def _joined(out: Path, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a file with what a row adds to them."""
    rows = json.loads(out.read_text()) if out.is_file() else []
    same = ("entry", "precision", "xla", "batch", "hardware")
    for old in rows:
        if all(old[key] == row[key] for key in same):
            old |= row
            return rows
    return [*rows, row]


if __name__ == "__main__":
    typer.run(compare)

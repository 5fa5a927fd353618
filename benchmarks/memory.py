"""Peak memory and time of a training step against depth, with activations stored and computed again.

    python -m benchmarks.memory

writes memory.json and memory.md beside this file. Each measurement is a process of its own. On a GPU the peak
is TensorFlow's own count; on a CPU the growth of the process's resident memory from the end of tracing.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DEPTHS = (8, 16, 32, 64)


def measure(family: str, depth: int, reversible: bool, side: int, filters: int, batch: int) -> dict[str, Any]:
    """Train a few steps in this process."""
    import keras
    import numpy as np
    import tensorflow as tf

    from flowzoo.models import families

    sizes = {
        "glow": {"num_steps": depth, "num_levels": 1, "filters": filters},
        "realnvp": {"num_couplings": depth, "num_levels": 1, "filters": filters, "blocks": 1},
    }
    keras.utils.set_random_seed(0)
    flow = families()[family]((side, side, 3), reversible=reversible, **sizes[family])
    x = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3)).astype("uint8")
    flow.adapt(x)
    flow.compile(keras.optimizers.SGD(1e-6), jit_compile=False)
    gpu = bool(tf.config.list_logical_devices("GPU"))
    step = tf.function(flow.train_step).get_concrete_function(tf.TensorSpec([batch, side, side, 3], tf.uint8))
    data = tf.constant(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if gpu:
        tf.config.experimental.reset_memory_stats("GPU:0")
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        step(data)["loss"].numpy()
        seconds.append(time.perf_counter() - start)
    if gpu:
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    else:
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    return {"peak_mib": round(peak, 1), "seconds": min(seconds[1:]), "device": "GPU" if gpu else "CPU"}


def _in_a_process(arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--one", *arguments],
        capture_output=True,
        text=True,
        cwd=HERE.parent,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict[str, Any]]) -> str:
    """Return the measurements as a table."""
    lines = ["| family | depth | stored, MiB | again, MiB | time, again / stored |", "|---|---|---|---|---|"]
    for row in rows:
        stored, again = row["stored"], row["again"]
        lines.append(
            f"| {row['family']} | {row['depth']} | {stored['peak_mib']:.0f} | {again['peak_mib']:.0f} | "
            f"{again['seconds'] / stored['seconds']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure all, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=6, metavar=("FAMILY", "DEPTH", "AGAIN", "SIDE", "FILTERS", "BATCH"))
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    if given.one:
        family, *numbers = given.one
        depth, again, side, filters, batch = map(int, numbers)
        print(json.dumps(measure(family, depth, bool(again), side, filters, batch)))
        return
    rows = []
    for family in ("glow", "realnvp"):
        for depth in given.depths:
            sizes = [str(value) for value in (given.side, given.filters, given.batch)]
            found = [_in_a_process([family, str(depth), again, *sizes]) for again in ("0", "1")]
            rows.append({"family": family, "depth": depth, "stored": found[0], "again": found[1]})
            print(json.dumps(rows[-1]), flush=True)
    about = {"side": given.side, "filters": given.filters, "batch": given.batch, "rows": rows}
    (HERE / "memory.json").write_text(json.dumps(about, indent=2) + "\n")
    (HERE / "memory.md").write_text(
        "# Memory of a training step against depth\n\n"
        f"Images {given.side}x{given.side}x3, one level, {given.filters} filters, batches of {given.batch}, "
        f"float32, {rows[0]['stored']['device']}: the growth of the peak from the end of tracing, with "
        "activations stored, and computed again from outputs (`reversible=True`). "
        "`python -m benchmarks.memory`.\n\n" + table(rows) + "\n"
    )


if __name__ == "__main__":
    main()

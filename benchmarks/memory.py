"""Peak memory and time of a training step against depth, with activations stored and computed again.

    python -m benchmarks.memory

writes memory.json and memory.md beside this file, where the figures of another kind of device stay. Each
measurement is a process of its own. On a GPU the peak is TensorFlow's own count over what is held before
the first step (weights, data). On a CPU it is the growth of the process's resident memory from the end of
tracing: more than activations, since making the graph ready to run counts as well and grows with depth in
any case.
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
    before = _peak_kib()
    if gpu:
        tf.config.experimental.reset_memory_stats("GPU:0")
        held = tf.config.experimental.get_memory_info("GPU:0")["current"]
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        step(data)["loss"].numpy()
        seconds.append(time.perf_counter() - start)
    if gpu:
        peak = (tf.config.experimental.get_memory_info("GPU:0")["peak"] - held) / 2**20
    else:
        peak = (_peak_kib() - before) / 2**10
    return {"peak_mib": round(peak, 1), "seconds": min(seconds[1:]), "device": "GPU" if gpu else "CPU"}


def _peak_kib() -> int:
    """Return the most memory that this program has had; `ru_maxrss` counts its parent's too."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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


def write(out: Path, device: str, about: dict[str, Any]) -> None:
    """Write what was found on a kind of device, beside what was found on the other."""
    found = json.loads(out.read_text()) if out.is_file() else {}
    found[device] = about
    out.write_text(json.dumps(found, indent=2) + "\n")
    parts = [
        "# Memory of a training step against depth\n\nThe growth of the peak by training steps, with "
        "activations stored, and computed again from outputs (`reversible=True`). "
        "`python -m benchmarks.memory`.\n"
    ]
    for kind, of in sorted(found.items(), reverse=True):
        parts.append(
            f"## {kind}\n\nImages {of['side']}x{of['side']}x3, one level, {of['filters']} filters, "
            f"batches of {of['batch']}, float32.\n\n{table(of['rows'])}\n"
        )
    out.with_suffix(".md").write_text("\n".join(parts))


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
    write(HERE / "memory.json", rows[0]["stored"]["device"], about)


if __name__ == "__main__":
    main()

"""Train the same flows with flowzoo and with zuko on the same real tables, and write what came out.

    pip install -e '.[benchmarks]'
    python -m benchmarks.side_by_side

Both see the same rows in the same order, for the same number of steps, with Adam, the same cosine and the
same clipping. Both keep the best weights of eight looks at the validation rows, except the continuous
flows, whose last weights count. What differs is what the libraries are: initial weights, bounds of scales,
act-norm and permutations, solvers. Held-out figures are nats a row of the standardised table, with the exact
trace for continuous flows; seconds are ratios within the run, one thread each.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from benchmarks.families import FAMILIES
from benchmarks.tables import STEPS

HERE = Path(__file__).parent


def compare(
    families: Annotated[list[str] | None, typer.Option("--family", help="Only these.")] = None,
    tables: Annotated[list[str] | None, typer.Option("--table", help="Only these.")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
    share: Annotated[float, typer.Option(help="The share of the steps, for a quick look.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = HERE / "side_by_side.json",
) -> None:
    """Train every family on every table with both libraries, and write the figures and the table."""
    for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(variable, "1")
    import torch

    from benchmarks import ours, peer_zuko
    from benchmarks.tables import open_table

    torch.set_num_threads(1)
    found = json.loads(out.read_text()) if out.is_file() else {"runs": []}
    done = {(run["family"], run["table"], run["seed"]) for run in found["runs"]}
    wanted = [
        (family, table, seed)
        for table in tables or list(STEPS)
        for family in families or list(FAMILIES)
        for seed in range(seeds)
        if (family, table, seed) not in done
    ]
    for name, table_name, seed in track(wanted, "Training both"):
        family, table = FAMILIES[name], open_table(table_name)
        steps = int(table.steps * family.speed * share)
        sides = {
            "flowzoo": ours.run(family, table, steps, seed),
            "zuko": peer_zuko.run(family, table, steps, seed),
        }
        found["runs"].append({"family": name, "table": table_name, "seed": seed, "steps": steps, **sides})
        found["versions"] = peer_zuko.VERSION
        found["machine"] = f"{platform.machine()}, one thread"
        out.write_text(json.dumps(found, indent=1) + "\n")
    (out.with_suffix(".md")).write_text(as_table(found))


def as_table(found: dict) -> str:
    """Return the figures as a Markdown table: mean and standard deviation over the seeds."""
    head = [
        "Held-out nats a row (lower is better): mean ± standard deviation over the seeds. "
        f"{found['versions']}; {found['machine']}.",
        "",
        "| table | family | steps | flowzoo | zuko | difference | parameters | time a step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys((run["table"], run["family"]) for run in found["runs"])
    return "\n".join([*head, *(_row(found["runs"], *key) for key in keys)]) + "\n"


def _row(runs: list[dict], table: str, family: str) -> str:
    runs = [run for run in runs if (run["table"], run["family"]) == (table, family)]
    nats = {side: np.array([run[side]["nats"] for run in runs]) for side in ("flowzoo", "zuko")}
    spread = {side: values.std(ddof=1) if len(values) > 1 else 0.0 for side, values in nats.items()}
    cells = [f"{nats[side].mean():.3f} ± {spread[side]:.3f}" for side in ("flowzoo", "zuko")]
    difference = nats["flowzoo"].mean() - nats["zuko"].mean()
    parameters = [f"{runs[0][side]['parameters']:,}" for side in ("flowzoo", "zuko")]
    ratio = np.median([run["flowzoo"]["seconds"] / run["zuko"]["seconds"] for run in runs])
    return (
        f"| {table} | {family} | {runs[0]['steps']} | {cells[0]} | {cells[1]} | {difference:+.3f} | "
        f"{' / '.join(parameters)} | x {ratio:.2f} |"
    )


if __name__ == "__main__":
    typer.run(compare)

"""Exact probabilities of whole values beside the bound by dequantisation, on the split that a card names.

    python -m benchmarks.exact tarflow_mnist

writes exact.json beside this file: bits/dim by `exact_log_prob` and by `log_prob` (one draw, seed 0), each
with its standard error, of an entry that has both.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

HERE = Path(__file__).parent


def measure(
    entry: Annotated[str, typer.Argument(help="An entry of one block that sees whole values.")],
    limit: Annotated[int | None, typer.Option(help="Examples; all of the split by default.")] = None,
    batch: Annotated[int, typer.Option(help="Examples scored at once.")] = 200,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data lie.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = HERE / "exact.json",
) -> None:
    """Score the split both ways, and write and print the figures."""
    import flowzoo
    from flowzoo import registry
    from flowzoo.data import open_source

    flow, data = flowzoo.load(entry), registry.get_config(entry).data
    options = data.options | ({} if data_dir is None else {"data_dir": data_dir})
    source = open_source(data.source, data.measured_on, **options)
    rows = np.arange(source.size if limit is None else min(limit, source.size))
    found: dict[str, list[np.ndarray]] = {"exact": [], "bound": []}
    for start in track(range(0, len(rows), batch), entry):
        x = np.asarray(source.x[rows[start : start + batch]])
        labels = () if flow.condition_shape is None else (source.condition[rows[start : start + batch]],)
        found["exact"].append(np.asarray(flow.exact_log_prob(x, *labels)))
        found["bound"].append(np.asarray(flow.log_prob(x, *labels)))
    figures = {kind: _bits(np.concatenate(parts), flow) for kind, parts in found.items()}
    result = {"entry": entry, "split": data.measured_on, "num_examples": len(rows), **figures}
    out.write_text(json.dumps(result, indent=1) + "\n")
    Console().print_json(data=result)


def _bits(log_probs: np.ndarray, flow: Any) -> dict[str, float]:
    bits = -log_probs.astype("float64") / (flow.event_size * math.log(2))
    return {
        "bits_per_dim": float(bits.mean()),
        "standard_error": float(bits.std(ddof=1) / math.sqrt(len(bits))),
    }


if __name__ == "__main__":
    typer.run(measure)

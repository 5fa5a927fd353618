"""Exact probabilities of whole values beside the bound by dequantisation, on the split that a card names.

    python -m benchmarks.exact tarflow_mnist

writes exact.json beside this file: bits/dim by `exact_log_prob` and by `log_prob` (one draw, seed 0), each
with its standard error, of an entry that has both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

HERE = Path(__file__).parent


def compare(
    entry: Annotated[str, typer.Argument(help="An entry of one block that sees whole values.")],
    limit: Annotated[int | None, typer.Option(help="Examples; all of the split by default.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data lie.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = HERE / "exact.json",
) -> None:
    """Score the split both ways, and write and print the figures."""
    import flowzoo
    from flowzoo import measure, registry
    from flowzoo.data import open_source
    from flowzoo.publish import metric_of

    flow, config = flowzoo.load(entry), registry.get_config(entry)
    options = config.data.options | ({} if data_dir is None else {"data_dir": data_dir})
    source = open_source(config.data.source, config.data.measured_on, **options)
    found: dict[str, Any] = {"entry": entry, "split": source.split}
    kinds = {"exact": flow.exact_log_prob, "bound": flow.log_prob}
    for kind, log_prob in track(kinds.items(), entry):
        score = measure.score(flow, source, config, limit, log_prob)
        metric = metric_of(flow, source, config, score)
        found["num_examples"] = metric["num_examples"]
        found[kind] = {"bits_per_dim": metric["value"], "standard_error": metric["standard_error"]}
    out.write_text(json.dumps(found, indent=1) + "\n")
    Console().print_json(data=found)


if __name__ == "__main__":
    typer.run(compare)

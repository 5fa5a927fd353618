"""Why a figure differs from zuko's: what differs between the two is taken away, one thing after another.

    pip install -e '.[benchmarks]'
    python -m benchmarks.variants maf annthyroid --seeds 10 --jobs 2

Trains the flow of `benchmarks.side_by_side` as it is, with each difference taken away by itself and with all
of them, and zuko's: the same rows, steps and looks at the validation rows. Writes variants.json, run by run,
and variants.md beside this file. A run that is in the file is not repeated.
"""

from __future__ import annotations

import concurrent.futures
import json
import math
import multiprocessing
import os
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import typer
from rich.progress import track

HERE = Path(__file__).parent
ZUKO = "zuko"
# What is told to the builders below, and how the weights start (STARTS) where not as they do.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "maf": {
        "as it is": {},
        "zuko's start": {"start": "torch"},
        "without act-norm": {"act_norm": False},
        "zuko's affine": {"affine": "zuko"},
        "zuko's affine and start": {"affine": "zuko", "start": "torch"},
        "zuko's start, no act-norm": {"act_norm": False, "start": "torch"},
        "zuko's affine, no act-norm": {"affine": "zuko", "act_norm": False},
        "all of zuko's": {"affine": "zuko", "act_norm": False, "start": "torch"},
        ZUKO: {},
    },
    "nsf_coupling": {
        "as it is": {},
        "He's start, biases at zero": {"start": "he"},
        "zuko's start": {"start": "torch"},
        "dropout 0.2": {"dropout": 0.2},
        ZUKO: {},
    },
    "ffjord": {"as it is": {}, "Glorot's start": {"start": "glorot"}, ZUKO: {}},
    "flow_matching": {
        "as it is": {},
        "zuko's start": {"start": "torch"},
        "zuko's activation": {"activation": "elu"},
        "zuko's waves": {"waves": 3},
        "no noise left": {"path": "rectified"},
        "adaptive solver": {"solver": "dopri5", "rtol": 1e-6, "atol": 1e-6},
        "zuko's start and activation": {"start": "torch", "activation": "elu"},
        "zuko's start and waves": {"start": "torch", "waves": 3},
        "all of zuko's": {
            "start": "torch",
            "activation": "elu",
            "waves": 3,
            "path": "rectified",
            "solver": "dopri5",
            "rtol": 1e-6,
            "atol": 1e-6,
        },
        ZUKO: {},
    },
}


def build_maf(family: Any, size: int, affine: str = "flowzoo", act_norm: bool = True) -> Any:
    """Build the MAF of the comparison, from its layers."""
    from flowzoo import Flow
    from flowzoo.layers import ActNorm, MaskedAffineAutoregressive, Reverse, Standardize
    from flowzoo.networks import MADE

    layers: list[Any] = []
    for i in range(family.layers):
        made = MADE(family.hidden)
        layers.append(_of_zuko()(made) if affine == "zuko" else MaskedAffineAutoregressive(made))
        layers += [ActNorm()] if act_norm else []
        layers += [Reverse()] if i < family.layers - 1 else []
    return Flow([*layers, Standardize()], event_shape=(size,))


def _of_zuko() -> Any:
    """Return a layer with zuko's transform: z = x exp(s) + m with s = r / (1 + |r / log 1000|)."""
    import tensorflow as tf

    from flowzoo.layers import MaskedAffineAutoregressive

    class OfZuko(MaskedAffineAutoregressive):
        def _transform(self, value: Any, params: Any, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
            shift, raw = tf.unstack(params, 2, axis=-1)
            log_scale = raw / (1 + tf.abs(raw / np.log(1e3)))
            if inverse:
                return value * tf.exp(log_scale) + shift, log_scale
            return (value - shift) * tf.exp(-log_scale), -log_scale

    return OfZuko


def build_nsf(family: Any, size: int, dropout: float = 0.0) -> Any:
    """Build the spline couplings of the comparison, with dropout."""
    import flowzoo

    given = {"num_layers": family.layers, "hidden_units": family.hidden[0], "blocks": 1, "tail_bound": 5.0}
    return flowzoo.build("nsf", (size,), **given, dropout=dropout)


def build_ffjord(family: Any, size: int, exact: bool = True) -> Any:
    """Build the continuous flow of the comparison: it trains with the trace that is asked for."""
    import flowzoo

    given = {"hidden_units": list(family.hidden), "network": "mlp", "steps": 8}
    return flowzoo.build("ffjord", (size,), **given, trace="exact" if exact else "hutchinson")


def build_flow_matching(family: Any, size: int, waves: int | None = None, **arguments: Any) -> Any:
    """Build the flow of the comparison; `waves` of the time in place of two."""
    import flowzoo
    from flowzoo.models import flow_matching
    from flowzoo.networks.velocity import TimeMLP

    def make(*_: Any, **__: Any) -> Any:
        return TimeMLP(family.hidden, arguments.get("activation", "silu"), waves=waves)

    given = {"hidden_units": list(family.hidden), "network": "mlp", "trace": "exact", "steps": 32}
    if waves is None:
        return flowzoo.build("flow_matching", (size,), **given, **arguments)
    with mock.patch.object(flow_matching, "make_velocity", make):
        return flowzoo.build("flow_matching", (size,), **given, **arguments)


BUILDERS = {
    "maf": build_maf,
    "nsf_coupling": build_nsf,
    "ffjord": build_ffjord,
    "flow_matching": build_flow_matching,
}


def start_as_torch(flow: Any, seed: int) -> None:
    """Draw kernels and biases of dense layers as PyTorch does: uniform, up to 1 / sqrt(inputs)."""
    rng, inputs = np.random.default_rng(seed), 1
    for weight in flow.trainable_weights:
        kind = weight.path.rsplit("/", 1)[-1]
        if kind.endswith("kernel"):
            inputs = weight.shape[0]
        if kind.endswith(("kernel", "bias")):
            weight.assign(rng.uniform(-1, 1, weight.shape) / np.sqrt(inputs))


def start_as_he(flow: Any, seed: int) -> None:
    """Draw hidden kernels as He et al. (2015) do, with biases at zero; last layers stay at zero."""
    rng = np.random.default_rng(seed)
    for weight in flow.trainable_weights:
        kind = weight.path.rsplit("/", 1)[-1]
        if "/last/" not in weight.path and kind in ("kernel", "bias"):
            sd = np.sqrt(2 / weight.shape[0]) if kind == "kernel" else 0.0
            weight.assign(sd * rng.normal(size=weight.shape))


def start_as_glorot(flow: Any, seed: int) -> None:
    """Draw the kernels that start at zero as Glorot & Bengio (2010) do, as Keras draws the others."""
    rng = np.random.default_rng(seed)
    for weight in flow.trainable_weights:
        if weight.path.endswith("kernel") and not np.any(weight):
            weight.assign(rng.uniform(-1, 1, weight.shape) * np.sqrt(6 / sum(weight.shape)))


STARTS = {"torch": start_as_torch, "he": start_as_he, "glorot": start_as_glorot}


def run(family_name: str, table_name: str, variant: str, seed: int, share: float) -> float:
    """Train one variant with one seed in this process, and return the held-out nats a row."""
    for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[variable] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from benchmarks.families import FAMILIES
    from benchmarks.tables import open_table

    family, table = FAMILIES[family_name], open_table(table_name)
    steps = int(table.steps * family.speed * share)
    if variant == ZUKO:
        import torch

        from benchmarks import peer_zuko

        torch.set_num_threads(1)
        return peer_zuko.run(family, table, steps, seed)["nats"]
    from benchmarks import ours

    arguments = dict(VARIANTS[family_name][variant])
    start = STARTS.get(arguments.pop("start", None))
    built: list[Any] = []

    def build(family: Any, size: int, exact: bool = True) -> Any:
        if family_name == "ffjord":
            arguments["exact"] = exact
        built.append(BUILDERS[family_name](family, size, **arguments))
        if start and len(built) == 1:  # the other one only scores
            start(built[0], seed)
        return built[-1]

    with mock.patch.object(ours, "build", build):
        try:
            return ours.run(family, table, steps, seed)["nats"]
        except FloatingPointError:  # the training ended in NaN: a result as well
            return math.nan


def as_table(found: dict[str, list[float]]) -> str:
    """Return the figures as a Markdown table, each beside zuko's."""
    lines = [
        "Held-out nats a row (lower is better): mean ± standard deviation over the seeds; the difference",
        "from zuko's mean with its standard error. `python -m benchmarks.variants FAMILY TABLE --seeds 10`.",
        "",
        "| table | family | variant | seeds | nats | less zuko's |",
        "|---|---|---|---|---|---|",
    ]
    for key, runs in found.items():
        family, table, variant = key.split("/")
        nats, peer = _ended(runs), _ended(found.get(f"{family}/{table}/{ZUKO}", []))
        difference = "-"
        if variant != ZUKO and min(len(nats), len(peer)) > 1:
            error = np.hypot(*(np.std(side, ddof=1) / np.sqrt(len(side)) for side in (nats, peer)))
            difference = f"{np.mean(nats) - np.mean(peer):+.3f} ± {error:.3f}"
        spread = np.std(nats, ddof=1) if len(nats) > 1 else 0.0
        figure = f"{np.mean(nats):.3f} ± {spread:.3f}" if nats else "-"
        seeds = f"{len(runs)}, {len(runs) - len(nats)} ended in NaN" if len(nats) < len(runs) else len(runs)
        lines.append(f"| {table} | {family} | {variant} | {seeds} | {figure} | {difference} |")
    return "\n".join(lines) + "\n"


def _ended(runs: list[float]) -> list[float]:
    """Return the figures of the trainings that did not end in NaN."""
    return [value for value in runs if math.isfinite(value)]


def compare(
    family: Annotated[str, typer.Argument(help=f"One of {', '.join(VARIANTS)}.")],
    table: Annotated[str, typer.Argument(help="annthyroid, satellite or shuttle.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 10,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 2,
    variants: Annotated[list[str] | None, typer.Option("--variant", help="Only these.")] = None,
    share: Annotated[float, typer.Option(help="The share of the steps, for a quick look.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = HERE / "variants.json",
) -> None:
    """Train all variants with all seeds, and write the figures and the table."""
    if family not in VARIANTS:
        raise typer.BadParameter(f"family takes one of {', '.join(VARIANTS)}. Received: {family!r}")
    found = json.loads(out.read_text()) if out.is_file() else {}
    wanted = [
        (variant, seed)
        for seed in range(seeds)
        for variant in variants or VARIANTS[family]
        if seed >= len(found.get(f"{family}/{table}/{variant}", []))
    ]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(run, family, table, variant, seed, share) for variant, seed in wanted]
        for (variant, _), future in track(zip(wanted, futures, strict=True), "Training", total=len(wanted)):
            found.setdefault(f"{family}/{table}/{variant}", []).append(future.result())
            out.write_text(json.dumps(found, indent=1) + "\n")
            out.with_suffix(".md").write_text(as_table(found))


if __name__ == "__main__":
    typer.run(compare)

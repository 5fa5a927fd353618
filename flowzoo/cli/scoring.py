"""`flowzoo score` and `flowzoo evaluate`: the log-likelihood of the user's data, and of an entry's own."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from flowzoo import cards, data
from flowzoo.cli.console import Talk
from flowzoo.cli.files import SCORE_SUFFIXES, check_target, csv_text, read_examples, write_arrays
from flowzoo.cli.loading import config_of, load_model
from flowzoo.cli.options import (
    DataDir,
    Json,
    Limit,
    Name,
    SourceOption,
    Split,
    WeightsSource,
    chunks,
    placed,
    source_options,
)
from flowzoo.errors import DataError

if TYPE_CHECKING:
    from flowzoo.models import Flow

NoiseSeed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of the dequantisation noise.")]


def score(
    name: Name,
    examples: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="FILE|SOURCE",
            help="A .npy, .npz, .csv or .parquet file, an image, a folder of images, or a data source. "
            "A table takes -o columns, label, separator, decimal and header.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Where to write; .csv, .npz or .npy. Else CSV to standard output."
        ),
    ] = None,
    split: Split = "test",
    option: SourceOption = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: NoiseSeed = 0,
    source: WeightsSource = None,
    as_json: Json = False,
) -> None:
    """Score examples: log_prob in nats for each, and bits/dim where the data is discrete."""
    if out is not None:
        check_target(out, SCORE_SUFFIXES)
    talk = Talk(as_json or out is None)
    x, condition = _examples(examples, split, option, data_dir, limit)
    model = load_model(name, source, talk)
    columns, _ = _scores(model, x, condition, seed, talk)
    if out is not None:
        write_arrays(out, columns)
    elif not as_json:
        sys.stdout.write(csv_text(columns))
    summary = _summary(columns)
    talk.say(f"{_in_words(summary)}{f'; wrote {out}' if out else ''}")
    if as_json:
        talk.result({"name": name, "data": examples, **summary, "seed": seed, "path": out})


def evaluate(
    name: Name,
    split: Annotated[
        str | None, typer.Option(help="train, validation or test; else that of the entry's card.")
    ] = None,
    limit: Limit = None,
    data_dir: DataDir = None,
    seed: NoiseSeed = 0,
    source: WeightsSource = None,
    as_json: Json = False,
) -> None:
    """Measure a trained entry on the data set that it was made for, as its card does."""
    talk = Talk(as_json)
    config = config_of(name)
    if config.data is None:
        raise DataError(
            f"{name} names no data set. What was trained on your own scores your own: "
            f"flowzoo score path:DIR --data FILE --out FILE"
        )
    split = split or config.data.measured_on
    options = {**config.data.options, **placed(config.data.source, data_dir)}
    opened = data.open_source(config.data.source, split, **options)
    x, condition = opened.head(limit)
    model = load_model(name, source, talk)
    columns, seconds = _scores(model, x, condition if config.data.conditional else None, seed, talk)
    summary = _summary(columns)
    talk.say(f"{split} split of {config.data.source}: {_in_words(summary)} ({seconds:.1f} s, --seed {seed})")
    nats = {"value": -summary["log_prob"], "unit": "nats"}
    bits = {"value": summary["bits_per_dim"], "unit": "bits_per_dim"}
    metric = bits if config.card.metric == "bits_per_dim" else nats
    published = cards.compared(metric, [figure.model_dump() for figure in config.card.published])
    for figure in published:
        talk.say(f"  published: {cards.published_text(figure, metric, 'here')}")
    content = {
        "name": config.name,
        "data": config.data.source,
        "split": split,
        **summary,
        "published": published,
    }
    talk.result({**content, "loss": -summary["log_prob"], "unit": "nats", "seed": seed, "seconds": seconds})


def _examples(
    given: str, split: str, option: list[str] | None, data_dir: Path | None, limit: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads a file or opens a source; what exists as a file is a file."""
    path = Path(given)
    if path.exists() or path.suffix or len(path.parts) > 1:
        x, condition = read_examples(path, source_options(option))
        return x[:limit], None if condition is None else condition[:limit]
    options = {**source_options(option), **placed(given, data_dir)}
    return data.open_source(given, split, **options).head(limit)


def _scores(
    model: Flow, x: np.ndarray, condition: np.ndarray | None, seed: int, talk: Talk
) -> tuple[dict[str, np.ndarray], float]:
    """Scores in chunks; returns the columns of the result and the seconds."""
    from flowzoo.full_float32 import full_float32

    start = time.perf_counter()
    if condition is not None and model.condition_shape is None:
        condition = None  # The labels of a data set mean nothing to a model without a condition.
    size = int(np.prod(model.event_shape))
    shaped = _fitted(x, model)
    parts = []
    with full_float32():  # as the card's metric was measured
        for part in talk.progress(chunks(len(x), size), "scoring"):
            given = None if condition is None else condition[part]
            parts.append(np.asarray(model.log_prob(shaped[part], condition=given, seed=seed), np.float64))
    log_prob = np.concatenate(parts)
    columns = {"index": np.arange(len(x)), "log_prob": log_prob}
    if model.discrete:
        columns["bits_per_dim"] = -log_prob / (size * math.log(2))
    return columns, time.perf_counter() - start


def _fitted(x: np.ndarray, model: Flow) -> np.ndarray:
    """Gives the examples the model's shape and type where that loses nothing."""
    shape = tuple(model.event_shape)
    if x.shape[1:] != shape:
        # Flat rows, or axes of length 1 more or less; other axes in another order are another example.
        flat = x.ndim == 2 or _without_ones(x.shape[1:]) == _without_ones(shape)
        if not flat or x[:1].size != math.prod(shape) * len(x[:1]):
            way = ""
            if len(shape) == 3 and x.ndim == 4 and shape[0] == shape[1]:
                way = f" Pictures are made so by: --data image_folder -o path=DIR -o size={shape[0]}"
            raise DataError(f"{model.name} takes examples of shape {shape}. Received: {x.shape[1:]}.{way}")
        x = x.reshape(len(x), *shape)
    if model.num_values is None:
        return x.astype(model.data_dtype)
    most = model.num_values - 1
    whole = x.astype(model.data_dtype) if x.size == 0 or (x.min() >= 0 and x.max() <= most) else None
    if whole is None or (whole != x).any():
        raise DataError(f"{model.name} takes whole values from 0 to {most}, not fractions or others.")
    return whole


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [length for length in shape if length != 1]


def _summary(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    log_prob = columns["log_prob"]
    bits = columns.get("bits_per_dim")
    # Examples so far out that their density is 0 in float32: -inf, of which no spread can be had.
    beyond = int((~np.isfinite(log_prob)).sum())
    known = len(log_prob) > 1 and not beyond
    spread = float(log_prob.std(ddof=1) / math.sqrt(len(log_prob))) if known else None
    return {
        "num": len(log_prob),
        "num_not_finite": beyond,
        "log_prob": float(log_prob.mean()),
        "standard_error": spread,
        "bits_per_dim": None if bits is None else float(bits.mean()),
    }


def _in_words(summary: dict[str, Any]) -> str:
    error = f" ± {summary['standard_error']:.2g}" if summary["standard_error"] is not None else ""
    bits = f", {summary['bits_per_dim']:.4f} bits/dim" if summary["bits_per_dim"] is not None else ""
    beyond = summary["num_not_finite"]
    told = f", {beyond} of them without a finite log_prob" if beyond else ""
    return f"mean log_prob {summary['log_prob']:.4f}{error} nats{bits}, {summary['num']} examples{told}"

"""`flowzoo sample`: draws from a trained flow into a picture or a file of arrays."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from flowzoo import plots
from flowzoo.cli.console import Talk
from flowzoo.cli.files import SAMPLE_SUFFIXES, check_target, write_arrays
from flowzoo.cli.loading import load_model
from flowzoo.cli.options import Json, Name, Seed, WeightsSource, chunks, condition_for, fresh_seed

if TYPE_CHECKING:
    from flowzoo.models import Flow


def sample(
    name: Name,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="A .png picture, or data as .npz, .npy or .csv.")
    ],
    num: Annotated[int, typer.Option("--num", min=1, metavar="N", help="How many samples.")] = 64,
    temperature: Annotated[
        float, typer.Option(help="Scales the latent noise; below 1 is safer, less varied.")
    ] = 1.0,
    seed: Seed = None,
    label: Annotated[
        str | None, typer.Option(metavar="K[,K…]", help="Class labels of a conditional model, taken in turn.")
    ] = None,
    condition: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS|FILE", help="The condition: 0.5,1.2 or a .npy or .csv file."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(metavar="W", help="Weight of classifier-free guidance, of models that have it."),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of flow matching: euler, midpoint, heun, rk4 or dopri5."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of flow matching: steps of a solver but dopri5.")
    ] = None,
    source: WeightsSource = None,
    as_json: Json = False,
) -> None:
    """Draw samples from a trained entry and write them to a file."""
    talk = Talk(as_json)
    check_target(out, SAMPLE_SUFFIXES)
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"--temperature takes a number above 0. Received: {temperature}.")
    model = load_model(name, source, talk)
    seed = fresh_seed(seed)
    conditions = condition_for(model, num, label, condition)
    options = {"temperature": temperature} | _taken(model, guidance=guidance, solver=solver, steps=steps)
    start = time.perf_counter()
    samples = _draw(model, num, conditions, options, seed, talk)
    seconds = time.perf_counter() - start
    if out.suffix.lower() == ".png":
        plots.preview(samples, out, maximum=plots.white(model.num_values))
    else:
        arrays = {"x": samples} if conditions is None else {"x": samples, "condition": conditions}
        write_arrays(out, arrays)
    talk.say(f"Wrote {out}: {num} samples at temperature {temperature:g} in {seconds:.1f} s (--seed {seed}).")
    talk.result({"name": name, "path": out, "shape": list(samples.shape), "seed": seed, **options})


def _taken(model: Flow, **given: Any) -> dict[str, Any]:
    """Return what was given of the arguments that only some models' `sample` takes.

    Raises:
        ValueError: the model takes no such argument.
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    for name, value in wanted.items():
        if name not in inspect.signature(model.sample).parameters:
            kind = type(model).__name__
            raise ValueError(f"{model.name} is a {kind}, whose samples take no --{name}. Received: {value}")
    return wanted


def _draw(
    model: Flow, num: int, conditions: np.ndarray | None, options: dict[str, Any], seed: int, talk: Talk
) -> np.ndarray:
    """Samples in chunks; the first chunk has the seed itself, so that it equals `model.sample`."""
    parts = chunks(num, int(np.prod(model.event_shape)))
    drawn = []
    for index, part in enumerate(talk.progress(parts, "sampling")):
        given = None if conditions is None else conditions[part]
        noise = seed if index == 0 else _child(seed, index)
        count = part.stop - part.start
        drawn.append(np.asarray(model.sample(count, condition=given, seed=noise, **options)))
    return np.concatenate(drawn)


def _child(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0] >> 1)

"""What an image flow has learned, as pictures: paths, reconstructions, attributes, temperatures, levels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from flowzoo import plots
from flowzoo.cli.console import Talk
from flowzoo.cli.files import check_target
from flowzoo.cli.loading import config_of, load_model
from flowzoo.cli.options import Json, Name, Seed, WeightsSource, condition_for, fresh_seed
from flowzoo.errors import DataError

if TYPE_CHECKING:
    from flowzoo.config import EntryConfig
    from flowzoo.data.images import Crop
    from flowzoo.models import Flow

# The error that is drawn white, of values up to 255.
_WHITE_ERROR = 0.05

Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="The .png picture to write.")]
Pictures = Annotated[
    list[Path],
    typer.Argument(metavar="PICTURE…", help="Image files, cut and resized as the entry's card says."),
]
Label = Annotated[str | None, typer.Option(metavar="K", help="The class label of a conditional model.")]
Solver = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of a continuous flow: euler, midpoint, heun, rk4 or dopri5."),
]
SolverSteps = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Of a continuous flow: steps of a solver but dopri5.")
]


def interpolate(
    name: Name,
    first: Annotated[Path, typer.Argument(metavar="A", help="An image file.")],
    last: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    out: Out,
    steps: Annotated[int, typer.Option(min=2, max=100, help="Pictures, both ends included.")] = 9,
    method: Annotated[str, typer.Option(help="spherical or linear.")] = "spherical",
    solver: Solver = None,
    solver_steps: SolverSteps = None,
    label: Label = None,
    source: WeightsSource = None,
    as_json: Json = False,
) -> None:
    """Go from one picture to another through the latent space of a flow."""
    talk = Talk(as_json)
    found = _read(name, out, [first], [last])
    for path, part in zip((first, last), found, strict=True):
        if len(part) != 1:
            raise ValueError(
                f"interpolate goes from one picture to another. Received: {path} with {len(part)}."
            )
    model = _opened(name, source, talk, solver, solver_steps)
    from flowzoo import latents

    start, end = (_as_data(model, part)[0] for part in found)
    strip = latents.interpolate(model, start, end, steps, condition_for(model, 1, label, None), method)
    _draw(strip, model, out, steps)
    talk.say(f"Wrote {out}: {steps} pictures from {first} to {last}.")
    talk.result({"name": name, "path": out, "steps": steps, "method": method})


def reconstruct(
    name: Name,
    pictures: Pictures,
    out: Out,
    solver: Solver = None,
    solver_steps: SolverSteps = None,
    label: Label = None,
    source: WeightsSource = None,
    as_json: Json = False,
) -> None:
    """Take pictures to their latents and back: the pictures, below them what comes back, and the error."""
    talk = Talk(as_json)
    [found] = _read(name, out, pictures)
    model = _opened(name, source, talk, solver, solver_steps)
    from flowzoo import latents

    x = _as_data(model, found)
    back, error = latents.reconstruct(model, x, condition_for(model, 1, label, None))
    largest = np.abs(error).reshape(len(x), -1).max(axis=1)
    white = plots.white(model.num_values)
    shown = np.abs(error) * (255 / _WHITE_ERROR)
    rows = np.concatenate([x, np.clip(back, 0, white), shown])
    plots.image_grid(rows, out, columns=len(x), maximum=white, clip=True)
    talk.say(
        f"Wrote {out}. Largest error of a value, before rounding: {largest.max():.3g} of {white:g} "
        f"(an error of {_WHITE_ERROR * white / 255:.3g} is drawn white)."
    )
    talk.result({"name": name, "path": out, "largest_error": [float(value) for value in largest]})


def attribute(
    name: Name,
    pictures: Pictures,
    out: Out,
    without: Annotated[Path, typer.Option("--from", metavar="DIR", help="Pictures without the attribute.")],
    with_: Annotated[Path, typer.Option("--to", metavar="DIR", help="Pictures with it.")],
    strengths: Annotated[
        str, typer.Option(metavar="NUMBERS", help="How far to go, in differences of the means.")
    ] = "-1,-0.5,0,0.5,1",
    solver: Solver = None,
    solver_steps: SolverSteps = None,
    label: Label = None,
    source: WeightsSource = None,
    as_json: Json = False,
) -> None:
    """Move pictures along the direction from one folder of pictures to another."""
    talk = Talk(as_json)
    numbers = _numbers("--strengths", strengths)
    found = _read(name, out, pictures, [without], [with_])
    model = _opened(name, source, talk, solver, solver_steps)
    from flowzoo import latents

    x, *ends = (_as_data(model, part) for part in found)
    condition = condition_for(model, 1, label, None)
    along = latents.direction(model, ends[0], ends[1], condition)
    moved = latents.move(model, x, along, numbers, condition)
    _draw(moved.reshape(-1, *model.event_shape), model, out, len(numbers))
    talk.say(
        f"Wrote {out}: the direction of {len(ends[0])} pictures to {len(ends[1])}, strengths {strengths}."
    )
    talk.result({"name": name, "path": out, "strengths": numbers, "pictures": [len(end) for end in ends]})


def temperatures(
    name: Name,
    out: Out,
    num: Annotated[int, typer.Option("--num", min=1, max=100, metavar="N", help="Samples a row.")] = 8,
    values: Annotated[str, typer.Option(metavar="NUMBERS", help="One row each.")] = "0.5,0.6,0.7,0.8,0.9,1",
    seed: Seed = None,
    solver: Solver = None,
    solver_steps: SolverSteps = None,
    label: Annotated[
        str | None, typer.Option(metavar="K[,K…]", help="Class labels of a conditional model, in turn.")
    ] = None,
    source: WeightsSource = None,
    as_json: Json = False,
) -> None:
    """Draw the same noise at several temperatures, one row each."""
    talk = Talk(as_json)
    numbers = _numbers("--values", values)
    if min(numbers) <= 0:
        raise ValueError(f"--values takes temperatures above 0. Received: {values!r}.")
    _read(name, out)
    model = _opened(name, source, talk, solver, solver_steps)
    from flowzoo import latents

    seed = fresh_seed(seed)
    rows = latents.temperatures(model, num, numbers, condition_for(model, num, label, None), seed)
    _draw(rows.reshape(-1, *model.event_shape), model, out, num)
    talk.say(f"Wrote {out}: {num} samples at temperatures {values} (--seed {seed}).")
    talk.result({"name": name, "path": out, "temperatures": numbers, "seed": seed})


def levels(
    name: Name,
    pictures: Pictures,
    out: Out,
    seed: Seed = None,
    label: Label = None,
    source: WeightsSource = None,
    as_json: Json = False,
) -> None:
    """Draw the latents of a multi-scale flow anew, level by level from the finest: what each scale holds."""
    talk = Talk(as_json)
    [found] = _read(name, out, pictures)
    model = _opened(name, source, talk)
    from flowzoo import latents

    x = _as_data(model, found)
    seed = fresh_seed(seed)
    rows = latents.resample_levels(model, x, condition_for(model, 1, label, None), seed)
    _draw(rows.reshape(-1, *model.event_shape), model, out, rows.shape[1])
    talk.say(f"Wrote {out}: a row a picture, one level more drawn anew in each column (--seed {seed}).")
    talk.result({"name": name, "path": out, "levels": rows.shape[1] - 1, "seed": seed})


def _read(name: str, out: Path, *groups: list[Path]) -> list[np.ndarray]:
    """Check where to write, and read groups of pictures, cut and resized, before a model is loaded."""
    from flowzoo.data.images import read_pictures

    check_target(out, (".png",))
    config = config_of(name)
    shape = tuple(config.model.event_shape or ())
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(f"{config.name} is no flow of images: its events have shape {shape}.")
    for path in (path for group in groups for path in group):
        if not path.exists():
            raise DataError(f"There is no picture, folder or archive {path}.")
    return [read_pictures(group, shape, _crop(config)) for group in groups]


def _opened(
    name: str, source: str | None, talk: Talk, solver: str | None = None, steps: int | None = None
) -> Flow:
    """Load a flow, with the solver that was asked for."""
    model = load_model(name, source, talk)
    if solver is None and steps is None:
        return model
    from flowzoo.models.continuous import ContinuousModel

    if not isinstance(model, ContinuousModel):
        raise ValueError(
            f"{model.name} solves no equation: --solver and --solver-steps are for flows that do."
        )
    return model.with_solver(solver, steps)


def _as_data(model: Flow, x: np.ndarray) -> np.ndarray:
    """Return bytes as the model's own data are, with as many values."""
    if model.num_values is None:
        return (x / 255.0).astype("float32")
    return (x.astype("int32") * model.num_values // 256).astype(model.data_dtype)


def _crop(config: EntryConfig) -> Crop:
    """Return how the entry's own pictures are cut."""
    from flowzoo.data import source_info

    if config.data is None:
        return "center"
    info = source_info(config.data.source)
    return config.data.options.get("crop", info.options.get("crop", info.crop))


def _draw(images: np.ndarray, model: Flow, out: Path, columns: int) -> None:
    plots.image_grid(images, out, columns=columns, maximum=plots.white(model.num_values), clip=True)


def _numbers(option: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} takes numbers such as 0.5,1. Received: {text!r}.") from None
    if not np.isfinite(numbers).all():
        raise ValueError(f"{option} takes finite numbers. Received: {text!r}.")
    return numbers

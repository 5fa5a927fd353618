"""Whether face entries repeat their training faces: how far the nearest is, for samples and for new faces.

    python -m benchmarks.memorisation glow_celeba:0.7 realnvp_celeba:0.8 tarflow_celeba:0.9 --sheets /tmp/out

For 64 samples of each entry, at the temperature behind its name, and for the first 64 validation faces, which
no entry has seen: the root mean square difference to the nearest of the 8,500 training faces and their mirror
images, pixel by pixel, in grey levels. A flow that repeats faces has samples much nearer to the training set
than new faces are. With `--sheets DIR` 16 samples are drawn there, each above its nearest training face; the
sheet shows photographs, whose licence does not let them travel, and stays on this machine.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

import flowzoo
from benchmarks.faces import HERE, draw
from flowzoo import plots
from flowzoo.data import open_source
from flowzoo.models.continuous import ContinuousModel

NUM, SHEET = 64, 16
_BLOCK = 1024


def nearest(x: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each picture to its nearest training picture, in grey levels, and its row."""
    rows = x.reshape(len(x), -1).astype("float32")
    squares = np.full(len(x), np.inf, "float32")
    which = np.zeros(len(x), int)
    for start in range(0, len(train), _BLOCK):
        part = train[start : start + _BLOCK].reshape(-1, rows.shape[1]).astype("float32")
        apart = np.square(rows).sum(1)[:, None] - 2 * rows @ part.T + np.square(part).sum(1)
        best = apart.argmin(1)
        closer = apart.min(1) < squares
        which = np.where(closer, start + best, which)
        squares = np.minimum(squares, apart.min(1))
    return np.sqrt(np.maximum(squares, 0) / rows.shape[1]), which


@functools.cache
def _faces(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the training pictures of a size, and how far new faces are from them."""
    train = np.asarray(open_source("celeba", "train", size=size, mirror=True).x)
    new = np.asarray(open_source("celeba", "validation", size=size).x[:NUM])
    return train, nearest(new, train)[0]


def as_table(found: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        f"Root mean square difference of {NUM} samples, and of {NUM} faces that no entry has seen, to the",
        "nearest of 17,000 training pictures (mirror images included), in grey levels, by",
        "`python -m benchmarks.memorisation`.",
        "",
        "| entry | temperature | samples: median | samples: least | new faces: median | new faces: least |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        cells = [row[side][figure] for side in ("samples", "real") for figure in ("median", "least")]
        lines.append(
            f"| {name} | {row['temperature']:g} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |"
        )
    return "\n".join(lines) + "\n"


def measure(
    entries: Annotated[list[str], typer.Argument(help="Face entries and temperatures, NAME:T.")],
    steps: Annotated[int, typer.Option(help="Of midpoint, for flow matching.")] = 10,
    sheets: Annotated[Path | None, typer.Option(help="A folder for sheets of neighbours.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = HERE / "memorisation.json",
) -> None:
    """Measure entries, and write the figures and a table."""
    found = json.loads(out.read_text()) if out.is_file() else {}
    for entry in track(entries, "Nearest faces"):
        name, _, temperature = entry.partition(":")
        model, warmth = flowzoo.load(name), float(temperature or 1)
        train, real = _faces(model.event_shape[0])
        options = {"solver": "midpoint", "steps": steps} if isinstance(model, ContinuousModel) else {}
        samples = draw(model, NUM, temperature=warmth, **options)
        apart, which = nearest(samples, train)
        sides = {"samples": apart, "real": real}
        found[name] = {"temperature": warmth, "num": NUM} | {
            side: {"median": float(np.median(far)), "least": float(far.min())} for side, far in sides.items()
        }
        out.write_text(json.dumps(found, indent=1) + "\n")
        out.with_suffix(".md").write_text(as_table(found))
        if sheets is not None:
            sheets.mkdir(parents=True, exist_ok=True)
            pairs = np.concatenate([samples[:SHEET], train[which[:SHEET]]])
            plots.image_grid(pairs, sheets / f"{name}.png", columns=SHEET)


if __name__ == "__main__":
    typer.run(measure)

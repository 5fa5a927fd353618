"""How few steps a flow-matching entry of faces needs: samples, a face detector and a kernel distance by step.

    python -m benchmarks.few_steps rectified_flow_celeba flow_matching_celeba

Draws the same noises with 1, 2, 4 and 8 steps of Euler, each of which evaluates the network once, and writes
few_steps.json, few_steps.md and a sheet of each entry, ENTRY_steps.png, beside this file: a row of samples
for each number of steps, each column from one noise. Faces found and the kernel distance to the validation
faces are those of `benchmarks.faces`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

import flowzoo
from benchmarks.faces import draw, face_share
from benchmarks.kernel_distance import KernelDistance
from flowzoo import plots
from flowzoo.data import open_source

HERE = Path(__file__).parent
STEPS = (1, 2, 4, 8)


def change(samples: dict[int, np.ndarray]) -> dict[int, float]:
    """Return the mean absolute difference of a value to that with the most steps, in grey levels."""
    most = samples[max(samples)].astype("float64")
    return {steps: float(np.abs(x - most).mean()) for steps, x in samples.items()}


def table(found: dict[str, Any]) -> str:
    """Return the figures as a table."""
    lines = [
        "| entry | steps | faces found | kernel distance | apart from 8 steps, grey levels | s a sample |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        for one in row["steps"]:
            distance = "{:.2f} ± {:.2f}".format(*one["kernel_distance"])
            lines.append(
                f"| {name} | {one['steps']} | {one['face_share']:.1%} | {distance} | {one['change']:.1f} "
                f"| {one['seconds']:.3f} |"
            )
    return "\n".join(lines)


def measure(
    entries: Annotated[list[str], typer.Argument(help="Flow-matching entries of faces, with weights.")],
    num: Annotated[int, typer.Option(help="Samples at each number of steps.")] = 200,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = HERE / "few_steps.json",
) -> None:
    """Measure entries, and write the figures, a table and the sheets."""
    found = json.loads(out.read_text()) if out.is_file() else {}
    for entry in entries:
        model, name = flowzoo.load(entry), entry.rsplit("/", 1)[-1]
        size = model.event_shape[0]
        real, train = (
            np.asarray(open_source("celeba", split, size=size).x[:2000]) for split in ("validation", "train")
        )
        distance = KernelDistance(train, real)
        samples, seconds = {}, {}
        for steps in track(STEPS, name):
            draw(model, 64, solver="euler", steps=steps)  # traces
            start = time.perf_counter()
            samples[steps] = draw(model, num, solver="euler", steps=steps)
            seconds[steps] = (time.perf_counter() - start) / num
        apart = change(samples)
        found[name] = {
            "num": num,
            "steps": [
                {
                    "steps": steps,
                    "face_share": face_share(x),
                    "kernel_distance": distance(x),
                    "change": apart[steps],
                    "seconds": seconds[steps],
                }
                for steps, x in samples.items()
            ],
        }
        sheet = np.concatenate([x[:12] for x in samples.values()])
        plots.image_grid(sheet, out.with_name(f"{name}_steps.png"), columns=12)
        out.write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text(
        "# Few steps\n\nThe same noises with 1, 2, 4 and 8 steps of Euler (`python -m benchmarks.few_steps`):"
        " the share of samples in which OpenCV's frontal-face cascade finds a face, and the kernel distance "
        "to the validation faces with its error, both as in faces.md; how far a sample is from its own with "
        "8 steps; time on the CPU.\n\n" + table(found) + "\n"
    )


if __name__ == "__main__":
    typer.run(measure)

"""How good the face entries are: what a face detector sees, a kernel distance, round trips.

    pip install -e '.[benchmarks]'
    python -m benchmarks.faces tarflow_celeba
    python -m benchmarks.faces flow_matching_celeba --num 100 --temperatures 1 --steps 10 --images 2

For each entry, on this machine: the share of samples in which OpenCV's frontal-face cascade finds a face, at
several temperatures, beside that of real faces and of noise; the kernel distance of the samples to the
validation faces (`benchmarks.kernel_distance`), beside that of training faces; the largest round-trip error
before rounding on real faces, on noise and on constant pictures; bits per dimension. Whether entries repeat
their training faces: `benchmarks.memorisation`.
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
from benchmarks.kernel_distance import KernelDistance
from flowzoo import latents
from flowzoo.data import open_source

HERE = Path(__file__).parent
SEED = 1
# The cascade sees pictures of 64 pixels, padded by 12 and enlarged threefold.
_SIZE, _PAD, _ENLARGED, _LEAST = 64, 12, 264, 90


def face_share(x: np.ndarray) -> float:
    """Return the share of pictures, [n, height, width, 3] of uint8, in which the cascade finds a face."""
    import cv2

    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    found = 0
    for picture in x:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, (_SIZE, _SIZE), interpolation=cv2.INTER_CUBIC)
        grey = cv2.resize(
            np.pad(grey, _PAD, mode="edge"), (_ENLARGED, _ENLARGED), interpolation=cv2.INTER_CUBIC
        )
        found += len(cascade.detectMultiScale(grey, 1.05, 4, minSize=(_LEAST, _LEAST))) > 0
    return found / len(x)


def measure(
    entries: Annotated[list[str], typer.Argument(help="Face entries.")],
    num: Annotated[int, typer.Option(help="Samples at each temperature.")] = 500,
    temperatures: Annotated[str, typer.Option(help="Numbers.")] = "0.7,0.8,0.9,1",
    steps: Annotated[
        int | None, typer.Option(help="Draw with so many steps of midpoint (flow matching).")
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="So many real faces and noises for round trips and finiteness.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = HERE / "faces.json",
) -> None:
    """Measure entries, and write the figures and a table."""
    found = json.loads(out.read_text()) if out.is_file() else {}
    options = {} if steps is None else {"solver": "midpoint", "steps": steps}
    for name in entries:
        model = flowzoo.load(name)
        real = np.asarray(open_source("celeba", "validation", size=model.event_shape[0]).x)
        noise = np.random.default_rng(SEED).integers(0, 256, real[:64].shape).astype("uint8")
        shares = {"real": face_share(real), "noise": face_share(noise)}
        train = np.asarray(open_source("celeba", "train", size=model.event_shape[0]).x[: 2000 + num])
        distance = KernelDistance(train[:2000], real)
        distances = {"real": distance(train[2000:])}
        seconds = 0.0
        for temperature in track([float(t) for t in temperatures.split(",")], name):
            seconds -= time.perf_counter()
            samples = draw(model, num, temperature=temperature, **options)
            seconds += time.perf_counter()
            shares[f"{temperature:g}"] = face_share(samples)
            distances[f"{temperature:g}"] = distance(samples)
        found[name] = {
            "face_share": shares,
            "kernel_distance": distances,
            "num": num,
            "steps": steps,
            "seconds_a_sample": seconds / (num * (len(shares) - 2)),
            "round_trip": _round_trips(model, real[:128][:images], noise[:images]),
            "finite": _all_finite(model, real[:images], noise[:images]),
            "images": [len(real[:128][:images]), len(noise[:images]), len(_constants(()))],
            "bits_per_dim": flowzoo.info(name).to_dict()["measured"]["metric"]["value"],
        }
        out.write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text(as_table(found))


def draw(model: Any, num: int, **options: Any) -> np.ndarray:
    """Return samples, the same noises whatever the options of `sample`."""
    parts = [model.sample(min(64, num - i), seed=SEED + i, **options) for i in range(0, num, 64)]
    return np.concatenate([np.asarray(part) for part in parts])


def _constants(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([np.full(shape, value, "uint8") for value in (0, 1, 128, 254, 255)])


def _round_trips(model: Any, real: np.ndarray, noise: np.ndarray) -> dict[str, float]:
    """Return the largest error of a value, in grey levels, before rounding."""
    sets = {"real": real, "noise": noise, "constant": _constants(model.event_shape)}
    return {name: float(np.abs(latents.reconstruct(model, x)[1]).max()) for name, x in sets.items()}


def _all_finite(model: Any, *sets: np.ndarray) -> bool:
    both = [*sets, _constants(model.event_shape)]
    return all(np.isfinite(model.log_prob(x[i : i + 64])).all() for x in both for i in range(0, len(x), 64))


def as_table(found: dict) -> str:
    """Return the figures as a Markdown table."""
    temperatures = [key for key in next(iter(found.values()))["face_share"] if key not in ("real", "noise")]
    lines = [
        "Share of pictures in which OpenCV's frontal-face cascade finds a face, and kernel distance to the",
        "500 validation faces on MTCNN's features (benchmarks/kernel_distance.py), with its standard error,",
        "at each temperature; largest round-trip error of a value in grey levels, before rounding; bits/dim",
        "of 8 bits on the validation faces.",
        "",
        f"| entry | bits/dim | real | noise | {' | '.join(f'T = {t}' for t in temperatures)} "
        "| samples | trip: real faces | trip: noise | trip: constant | images of each | log_prob finite |",
        "|---|---|---|---|" + "---|" * (len(temperatures) + 6),
    ]
    for name, row in found.items():
        keys = ("real", "noise", *temperatures)
        distances = {key: "{:.2f} ± {:.2f}".format(*pair) for key, pair in row["kernel_distance"].items()}
        cells = {key: f"{share:.1%}" for key, share in row["face_share"].items()}
        cells |= {key: f"{cells[key]}; {distance}" for key, distance in distances.items()}
        shares = " | ".join(cells.get(key, "-") for key in keys)
        counts = "/".join(map(str, row["images"]))
        trips = " | ".join(f"{row['round_trip'][key]:.2g}" for key in ("real", "noise", "constant"))
        lines.append(
            f"| {name} | {row['bits_per_dim']:.3f} | {shares} | {row['num']} | {trips} | {counts} "
            f"| {row['finite']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(measure)

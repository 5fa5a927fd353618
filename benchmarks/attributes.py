"""Does an attribute direction do what it is named for? Smiles, as OpenCV's smile cascade sees them.

    pip install -e '.[benchmarks]'
    python -m benchmarks.attributes glow_celeba

CelebA's labels are not among the data here, so a detector sorts the training faces into two folders: faces
in which the cascade finds no smile however few votes it asks for, and faces where it finds one with many.
From these folders `flowzoo.latents.direction` makes the direction, as `flowzoo attribute --from --to` does,
and validation faces are moved along it. Measured is the share of them in which the same cascade, with a
threshold between, sees a smile, and in which the frontal-face cascade still sees a face. A sheet of samples
of the model, moved likewise, is drawn beside the figures. `--folders DIR` keeps the folders.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.progress import track

import flowzoo
from benchmarks.faces import draw, face_share
from flowzoo import latents, plots
from flowzoo.data import open_source
from flowzoo.data.images import read_pictures

HERE = Path(__file__).parent
# Votes that the cascade asks for: where faces must not smile, in measuring, where they must.
FEW, SEEN, MANY = 15, 60, 250
STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
_ENLARGED = 256


def smiles(x: np.ndarray, votes: int) -> np.ndarray:
    """Return for each picture, [n, height, width, 3] of uint8, whether the cascade sees a smile."""
    import cv2

    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_smile.xml")
    found = []
    for picture in x:
        grey = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (_ENLARGED, _ENLARGED))
        mouth = grey[_ENLARGED // 2 :, _ENLARGED // 5 : -_ENLARGED // 5]
        found.append(len(cascade.detectMultiScale(mouth, 1.1, votes, minSize=(40, 20))) > 0)
    return np.array(found)


def sort(x: np.ndarray, num: int, into: Path) -> dict[str, Path]:
    """Write the first `num` faces that do not smile, and that do, as pictures into a folder each."""
    found = {"plain": ~smiles(x, FEW), "smiling": smiles(x, MANY)}
    for kind, chosen in found.items():
        (into / kind).mkdir(parents=True)
        for i in np.flatnonzero(chosen)[:num]:
            Image.fromarray(x[i]).save(into / kind / f"{i + 1:06d}.png")
    return {kind: into / kind for kind in found}


def measure(
    entry: Annotated[str, typer.Argument(help="A likelihood model of faces.")],
    num: Annotated[int, typer.Option(help="Faces a folder, at most.")] = 500,
    moved: Annotated[int, typer.Option(help="Validation faces of each kind.")] = 50,
    folders: Annotated[Path | None, typer.Option(help="Where to keep the two folders.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = HERE / "attributes.json",
) -> None:
    """Move faces along the direction of a smile, and write the figures, a table and a sheet."""
    model = flowzoo.load(entry)
    train, real = (
        np.asarray(open_source("celeba", split, size=model.event_shape[0]).x)
        for split in ("train", "validation")
    )
    with tempfile.TemporaryDirectory() as spare:
        ends = sort(train, num, folders or Path(spare))
        plain, smiling = (read_pictures([ends[kind]], model.event_shape) for kind in ("plain", "smiling"))
    along = latents.direction(model, plain, smiling)
    seen = smiles(real, SEEN)
    figures: dict[str, Any] = {"pictures": {"plain": len(plain), "smiling": len(smiling)}}
    for kind, chosen in (("plain", ~seen), ("smiling", seen)):
        shifted = latents.move(model, real[chosen][:moved], along, STRENGTHS)
        figures[kind] = {"faces": len(shifted)} | {
            f"{strength:g}": {"smile": float(smiles(x, SEEN).mean()), "face": face_share(x)}
            for strength, x in track(list(zip(STRENGTHS, np.swapaxes(shifted, 0, 1), strict=True)), kind)
        }
    found = json.loads(out.read_text()) if out.is_file() else {}
    found[entry] = figures
    out.write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text(as_table(found))
    shown = latents.move(model, draw(model, 6, temperature=0.7), along, STRENGTHS)
    sheet = out.with_name(f"{entry}_smile.png")
    plots.image_grid(shown.reshape(-1, *model.event_shape), sheet, columns=len(STRENGTHS))


def as_table(found: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "# Faces moved along the direction of a smile",
        "",
        "Share of validation faces in which OpenCV's smile cascade sees a smile; in brackets, in which its",
        "frontal-face cascade sees a face (`python -m benchmarks.attributes`). Strength 1 is the difference",
        "of the mean latents of two folders of training faces that the smile cascade sorted; 0 is the face.",
        "",
        f"| entry | folders | validation faces | {' | '.join(f'{s:g}' for s in STRENGTHS)} |",
        "|---|---|---|" + "---|" * len(STRENGTHS),
    ]
    for entry, figures in found.items():
        pictures = figures["pictures"]
        folders = f"{pictures['plain']} plain, {pictures['smiling']} smiling"
        for kind in ("plain", "smiling"):
            cells = [
                f"{figures[kind][f'{s:g}']['smile']:.0%} ({figures[kind][f'{s:g}']['face']:.0%})"
                for s in STRENGTHS
            ]
            lines.append(f"| {entry} | {folders} | {figures[kind]['faces']} {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(measure)

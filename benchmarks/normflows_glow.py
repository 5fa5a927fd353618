"""Train the same Glow or RealNVP with flowzoo and normflows (PyTorch) on the same faces, in two processes.

    python -m benchmarks.normflows_glow data faces.npz                  # where flowzoo and CelebA are
    python -m benchmarks.normflows_glow flowzoo --data faces.npz --out flowzoo.json
    python -m benchmarks.normflows_glow normflows --data faces.npz --out normflows.json
    python -m benchmarks.normflows_glow report flowzoo.json normflows.json

Both sides take `--family realnvp`, by default with the sizes of zoo_configs/realnvp_celeba.yaml: then `data`
takes `--size 32`, and `report` takes `--out benchmarks/normflows_realnvp.md`.

`normflows` imports neither TensorFlow nor flowzoo, `flowzoo` no PyTorch; the file of faces goes from one
machine to the other. normflows 1.7.3 imports torch and numpy alone: its source, unpacked, will do on
PYTHONPATH (`pip download --no-deps --no-binary :all: normflows==1.7.3`).

The same: images, their order and their mirror images, levels, steps of a level, batch, Adam (and its
epsilon) with the same rise and fall of the rate, the clipping of the gradient in nats, float32 without TF32
unless `--tf32`, act-norms set from the same 2,048 images, sigmoid scales, LU matrices from a random rotation,
values in [-0.5, 0.5), uniform noise that is drawn anew at each step, no average of the weights, the last
weights, the validation images and the estimate. normflows' hidden channels are those that give it as many
parameters.

What differs is what the libraries are. flowzoo's early halves have a prior that a network makes of the kept
half, as in Glow's code (`--split-prior none`: a standard normal instead). normflows' cannot: MultiscaleFlow
hands its bases no context. They are `DiagGaussian`s with a mean and a scale for each pixel and channel,
learned but the same for all images; so is its innermost base, where flowzoo has a standard normal. A scale of
flowzoo's couplings is e^-2 + (1 - e^-2) sigmoid, normflows' the sigmoid alone. Hidden layers start from a
normal distribution, of a variance of 1/n (flowzoo's Glow) or 2/n (its RealNVP), or PyTorch's uniform
one. flowzoo runs the steps of a level as one loop in a graph, normflows layer by layer (`--compile`:
torch.compile, whose first step takes long).

RealNVP: normflows has the pieces, not the model. `benchmarks/realnvp_normflows.py` puts them together in
flowzoo's order, with flowzoo's networks and their first weights. Priors and scales differ as above. A squeeze
numbers the channels by pixel and then by colour in flowzoo, by colour and then by pixel in normflows, so that
the halves of its channel couplings and splits are others. flowzoo's graph has no loop here.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from benchmarks.glow_common import BLOCKS, Faces, Setting, matched_hidden, parameters, run

HERE = Path(__file__).parent
_SIDES = ("flowzoo", "normflows")
_SIZES = {
    "glow": {"size": 64, "levels": 4, "num_steps": 16, "filters": 240},
    "realnvp": {"size": 32, "levels": 3, "num_steps": 4, "filters": 64},
}


def write_data(path: Path, size: int) -> None:
    """Write the faces of both splits, without mirror images."""
    import numpy as np

    from flowzoo.data import open_source

    splits = [open_source("celeba", split, size=size, mirror=False).x for split in ("train", "validation")]
    Faces(*(np.asarray(x[:]) for x in splits)).save(path)


def train(arguments: argparse.Namespace) -> None:
    """Train one side from each seed, and write what came out after each."""
    setting = _setting(arguments)
    faces = Faces.load(arguments.data)
    if faces.train.shape[1] != setting.size:
        raise SystemExit(
            f"--size takes that of the images. Received: {setting.size}, {faces.train.shape[1:]}"
        )
    build, about = _side(arguments)
    found = {"side": arguments.command, "setting": dataclasses.asdict(setting), **about, "runs": []}
    for seed in (int(text) for text in arguments.seeds.split(",")):
        found["runs"].append(run(build, setting, faces, seed, arguments.deadline))
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


def _setting(arguments: argparse.Namespace) -> Setting:
    """Return the setting that the arguments say, and print the parameters of both sides."""
    names = [field.name for field in dataclasses.fields(Setting)]
    said = {name: getattr(arguments, name) for name in names}
    setting = Setting(**{**said, **{k: v for k, v in _SIZES[arguments.family].items() if said[k] is None}})
    if arguments.warmup is None:
        setting = dataclasses.replace(setting, warmup=min(1000, setting.steps // 5))
    hidden = {"flowzoo": setting.filters, "normflows": matched_hidden(setting)}
    counts = {side: parameters(setting, hidden[side], side) for side in _SIDES}
    print(f"hidden channels: {hidden}; parameters: {counts}", flush=True)
    if abs(counts["normflows"] / counts["flowzoo"] - 1) > 0.03:
        raise SystemExit("The parameters of the two sides differ by more than 3%.")
    return setting


def _side(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Return what builds a side, and what to note of it."""
    if arguments.command == "flowzoo":
        from benchmarks import glow_flowzoo as ours

        return ours.Ours, {"versions": ours.VERSION, "device": ours.device(), "compiled": "auto"}
    from benchmarks import glow_normflows as peer

    compiled = arguments.compile
    about = {"versions": peer.VERSION, "device": peer.device(), "compiled": compiled}
    return lambda setting, seed: peer.Peer(setting, seed, compiled), about


# -- the report ---------------------------------------------------------------------------------------


def as_table(files: list[dict[str, Any]]) -> str:
    """Return a Markdown table with a row for each file, and the bits per dimension on the way."""
    head = [
        "Bits/dim of the validation faces (lower is better), uniformly dequantised, last weights, no",
        "average: mean ± standard deviation over the seeds. Seconds leave out the first step.",
        "",
        "| side | images | bits/dim | at the start | parameters | steps | seconds | s/step | first step, s "
        "| hardware |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    notes = [
        "",
        "flowzoo: the prior of the early halves is a network of the kept half, or a standard normal where",
        "the table says so. normflows: a learned mean and scale for each pixel and channel.",
        "`benchmarks/normflows_glow.py` says what else differs.",
        "",
        *(_about(found) for found in files),
        "",
        *(f"- {_name(found)}, seed {one['seed']}: {_curve(one)}" for found in files for one in found["runs"]),
    ]
    return "\n".join([*head, *(_row(found) for found in files), *notes]) + "\n"


def _name(found: dict[str, Any]) -> str:
    kind = " RealNVP" if _read(found).family == "realnvp" else ""
    plain = found["side"] == "flowzoo" and found["setting"]["split_prior"] == "none"
    compiled = found["side"] == "normflows" and found["compiled"]
    rest = (" (no learned prior)" if plain else "") + (" (torch.compile)" if compiled else "")
    return found["side"] + kind + rest


def _read(found: dict[str, Any]) -> Setting:
    """Return the setting of a file, which is Glow's where it says no family."""
    return Setting(**found["setting"])


def _row(found: dict[str, Any]) -> str:
    setting, runs = found["setting"], found["runs"]
    steps = "/".join(dict.fromkeys(str(one["steps"]) for one in runs))
    stopped = any(one["steps"] < setting["steps"] for one in runs)
    cells = [
        _name(found),
        f"{setting['size']}×{setting['size']}, {setting['bits']} bits",
        _spread([one["bits_per_dim"] for one in runs], 4),
        _spread([one["start"] for one in runs], 3),
        f"{runs[0]['parameters']:,}",
        steps + (f" of {setting['steps']}: stopped by its deadline" if stopped else ""),
        _spread([one["seconds"] for one in runs], 1),
        _spread([one["seconds_a_step"] for one in runs], 4),
        _spread([one["first_step_seconds"] for one in runs], 1),
        found["device"],
    ]
    return f"| {' | '.join(cells)} |"


def _spread(values: list[float], digits: int) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def _about(found: dict[str, Any]) -> str:
    setting = found["setting"]
    said = {
        key: setting[key] for key in ("levels", "num_steps", "batch", "learning_rate", "warmup", "clip_norm")
    }
    said["hidden"] = setting["filters"] if found["side"] == "flowzoo" else matched_hidden(_read(found))
    if _read(found).family == "realnvp":
        said = {{"num_steps": "couplings of each kind"}.get(key, key): value for key, value in said.items()}
        said["residual blocks"] = BLOCKS
    listed = ", ".join(f"{key} {value:g}" for key, value in said.items())
    tf32 = "TF32 allowed" if setting["tf32"] else "float32 without TF32"
    return f"- {_name(found)}: {found['versions']}; {listed}; {tf32}."


def _curve(one: dict[str, Any]) -> str:
    looks = (f"{look['bits_per_dim']:.4f} at {look['step']}" for look in one["curve"])
    return f"{one['total_seconds']:.0f} seconds in all; bits/dim " + ", ".join(looks)


# -- the command line -----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="write the faces")
    data.add_argument("path", type=Path)
    data.add_argument("--size", type=int, default=64)
    for side in _SIDES:
        _add_training(commands.add_parser(side, help=f"train {side}'s Glow or RealNVP"), side)
    report = commands.add_parser("report", help="write the table")
    report.add_argument("files", type=Path, nargs="+")
    report.add_argument("--out", type=Path, default=HERE / "normflows_glow.md")
    return parser


def _add_training(parser: argparse.ArgumentParser, side: str) -> None:
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--out", type=Path, required=True)
    add("--seeds", default="0", help="with commas between them")
    add(
        "--deadline",
        type=float,
        default=math.inf,
        help="seconds of each seed; the rate does not depend on it",
    )
    add("--family", choices=tuple(_SIZES), default="glow")
    for name, value in {"steps": 1500, "batch": 64, "checks": 5}.items():
        add(f"--{name}", type=int, default=value)
    for name in _SIZES["glow"]:
        by_default = ", ".join(f"{family} {sizes[name]}" for family, sizes in _SIZES.items())
        add(f"--{name.replace('_', '-')}", type=int, help=f"by default {by_default}")
    add("--bits", type=int, default=8, choices=range(1, 9))
    add("--learning-rate", type=float, default=1e-3)
    add("--warmup", type=int, help="steps; by default a fifth of all, 1,000 at most")
    add("--clip-norm", type=float, default=50.0)
    add("--split-prior", choices=("learned", "none"), default="learned", help="flowzoo's (give it to both)")
    add("--tf32", action="store_true")
    if side == "normflows":
        add("--compile", action="store_true", help="torch.compile")


def main() -> None:
    """Do what the command line says."""
    arguments = _parser().parse_args()
    if arguments.command == "data":
        write_data(arguments.path, arguments.size)
    elif arguments.command == "report":
        arguments.out.write_text(as_table([json.loads(path.read_text()) for path in arguments.files]))
    else:
        train(arguments)


if __name__ == "__main__":
    main()

"""Images a second of training on one GPU and on several of the same host, with the same work for each.

    python -m benchmarks.replicas glow_celeba --gpus 1,2 --batch 64

trains an entry by its recipe (averages, outliers and all) for three short epochs under MirroredStrategy, each
number of GPUs in a process of its own, and writes replicas.json and replicas.md beside this file. What is
counted are whole epochs after the first, which compiles: steps, data and callbacks, without the validation.
It needs as many GPUs and the entry's data.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

HERE = Path(__file__).parent
STEPS, EPOCHS = 100, 3


def time_training(entry: str, strategy: Any, **changes: Any) -> dict[str, Any]:
    """Train an entry by its recipe with changes, and return its examples a second after the first epoch.

    What is counted are steps, data and callbacks, without the validation. With a `limit` among the changes,
    so many examples or pairs are used.
    """
    import keras

    import flowzoo
    from flowzoo import measure as measuring
    from flowzoo import registry, zoo
    from flowzoo.config import TrainingConfig
    from flowzoo.data import open_source
    from flowzoo.training.recipe import train_recipe

    config = registry.get_config(entry)
    limit = changes.pop("limit", None)
    changes = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "round_trip_every": EPOCHS + 1, **changes}
    recipe = TrainingConfig.model_validate({**config.training.model_dump(), **changes})
    steps = recipe.steps_per_epoch or limit // recipe.batch_size

    class Timer(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == steps - 1:
                seconds.append(time.perf_counter() - self.start)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            waits.append((logs or {}).get("data_wait_share"))

    seconds: list[float] = []
    waits: list[float | None] = []
    train, held_out = (
        open_source(config.data.source, split, **config.data.options) for split in ("train", "validation")
    )
    train_recipe(
        lambda: zoo.build_config(config.model, config.name, config.model.event_shape),
        recipe,
        train,
        held_out,
        conditional=measuring.conditional(config),
        teacher=flowzoo.load(recipe.reflow.teacher) if recipe.reflow else None,
        strategy=strategy,
        limit=limit,
        callbacks=[Timer()],
        verbose=0,
    )
    best = min(range(1, len(seconds)), key=seconds.__getitem__)
    rate = steps * recipe.batch_size / seconds[best]
    return {"examples_a_second": rate, "seconds": seconds, "waiting": waits[best]}


def measure(entry: str, gpus: int, batch: int, precision: str) -> dict[str, Any]:
    """Train on so many GPUs in this process, `batch` examples on each."""
    import tensorflow as tf

    from flowzoo import measure as measuring

    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    strategy = tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(gpus)])
    found = time_training(entry, strategy, batch_size=batch * gpus, precision=precision)
    del found["waiting"]  # of several replicas it is not known
    return {**found, "hardware": measuring.hardware()}


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return the figures as a Markdown table; rates are compared with those of one GPU for the same work."""
    lines = [
        "Examples a second of training, whole epochs after the first, by `python -m benchmarks.replicas`.",
        "",
        "| entry | GPUs | examples on each | precision | examples/s | of one GPU | hardware |",
        "|---|---|---|---|---|---|---|",
    ]
    one = {_key(row): row["examples_a_second"] for row in rows if row["gpus"] == 1}
    for row in rows:
        ratio = f"x {row['examples_a_second'] / one[_key(row)]:.2f}" if _key(row) in one else "-"
        lines.append(
            f"| {row['entry']} | {row['gpus']} | {row['batch']} | {row['precision']} "
            f"| {row['examples_a_second']:,.0f} | {ratio} | {row['hardware']} |"
        )
    return "\n".join(lines) + "\n"


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["entry"], row["batch"], row["precision"]


def compare(
    entry: Annotated[str, typer.Argument(help="With its data on this machine.")],
    gpus: Annotated[str, typer.Option(help="Numbers of GPUs.")] = "1,2",
    batch: Annotated[int, typer.Option(help="Examples on each GPU.")] = 64,
    precision: Annotated[str, typer.Option(help="float32 or mixed_bfloat16.")] = "mixed_bfloat16",
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = HERE / "replicas.json",
    one: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Measure each number of GPUs in a process of its own, and write the figures and a table."""
    numbers = [int(number) for number in gpus.split(",")]
    if one:
        print(json.dumps(measure(entry, numbers[0], batch, precision)))
        return
    rows = json.loads(out.read_text()) if out.is_file() else []
    for number in numbers:
        about = {"entry": entry, "gpus": number, "batch": batch, "precision": precision}
        command = [sys.executable, "-m", "benchmarks.replicas", entry, "--gpus", str(number), "--one"]
        command += ["--batch", str(batch), "--precision", precision]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
        rows = [row for row in rows if any(row[key] != value for key, value in about.items())]
        rows.append({**about, **json.loads(done.stdout.splitlines()[-1])})
        out.write_text(json.dumps(rows, indent=1) + "\n")
        out.with_suffix(".md").write_text(as_table(rows))


if __name__ == "__main__":
    typer.run(compare)

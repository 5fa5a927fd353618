"""Bits per dimension of 5-bit faces: entries of 8 bits, trained further on the same faces at 5 bits.

    python -m benchmarks.five_bits glow_celeba realnvp_celeba --epochs 12

An entry's weights start a flow of the same architecture for 32 values; it goes on by the entry's own recipe
on 5-bit training faces for a few epochs, and is scored in float32 on the 500 validation faces, as the card's
8-bit figure is. 5 bits are the highest of 8 (x // 8), as Kingma & Dhariwal (2018) make them. Writes
five_bits.json beside this file after each entry, and five_bits.md.

An entry that learns from a teacher's samples (a rectified flow) does so here too: its teacher goes on with
5-bit faces first, as above, and the entry learns from pairs of that for as many epochs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

HERE = Path(__file__).parent


def recipe(entry: str, epochs: int, rate: float, options: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """Return the entry's config for 5-bit data, with another length and learning rate of the training."""
    from flowzoo import registry
    from flowzoo.config import parse_config

    content = registry.get_config(entry).model_dump(mode="json")
    content["weights"].pop("sha256", None)
    content["data"]["options"] |= {"bits": 5} | options
    content["model"]["args"] |= {"num_values": 32} | arguments
    content["training"] |= {"epochs": epochs, "round_trip_every": epochs, "keep": "last", "outliers": 0.0}
    content["training"]["optimizer"] |= {"learning_rate": rate, "warmup_steps": 200, "decay_epochs": None}
    return parse_config(content, entry)


def train(config: Any, teacher: Any, limit: int | None, gpu: bool) -> tuple[Any, Any]:
    """Train the flow of the config, from its entry's weights or a teacher's; return it, and its training."""
    import tensorflow as tf

    import flowzoo
    from flowzoo import zoo
    from flowzoo.training.recipe import train_recipe

    tf.config.experimental.enable_tensor_float_32_execution(False)
    weights = flowzoo.load(config.name).get_weights()
    shape = tuple(config.model.event_shape)

    def make() -> Any:
        flow = zoo.build_config(config.model, config.name, shape)
        flow.set_weights(weights)
        return flow

    tf.config.experimental.enable_tensor_float_32_execution(gpu)
    options = {"teacher": teacher, "limit": limit, "verbose": 2}
    trained = train_recipe(
        make, config.training, split(config, "train"), split(config, "validation"), **options
    )
    tf.config.experimental.enable_tensor_float_32_execution(False)
    flow = zoo.build_config(config.model, config.name, shape)
    flow.set_weights(trained.model.get_weights())
    return flow, trained


def split(config: Any, name: str) -> Any:
    """Return a split of the entry's faces."""
    from flowzoo.data import open_source

    return open_source(config.data.source, name, **config.data.options)


def measure_entry(config: Any, teacher: Any, limit: int | None, gpu: bool) -> dict[str, Any]:
    """Train the flow of the config, and score it."""
    from flowzoo import measure
    from flowzoo.publish import metric_of

    flow, trained = train(config, teacher, limit, gpu)
    validation = split(config, "validation")
    metric = metric_of(flow, validation, config, measure.score(flow, validation, config, limit))
    return {
        "bits_per_dim": metric["value"],
        "standard_error": metric["standard_error"],
        "num_examples": metric["num_examples"],
        "epochs": config.training.epochs,
        "seed": config.training.seed,
        "seconds": trained.seconds,
        "hardware": measure.hardware(),
        "val_loss": [float(value) for value in trained.history["val_loss"]],
    }


def table(found: dict[str, dict[str, Any]], eight: dict[str, float]) -> str:
    """Return the figures as a table."""
    lines = [
        "| entry | 8 bits, from its card | 5 bits | epochs of 5 bits | trained on |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {eight[name]:.3f} | {row['bits_per_dim']:.3f} ± {row['standard_error']:.3f} "
        f"| {row['epochs']} | {row['hardware']} |"
        for name, row in found.items()
    ]
    return "\n".join(lines)


def write(found: dict[str, dict[str, Any]], out: Path) -> None:
    """Write the figures, and the table beside them."""
    import flowzoo

    out.write_text(json.dumps(found, indent=2) + "\n")
    eight = {name: flowzoo.info(name).card["metric"]["value"] for name in found}
    out.with_suffix(".md").write_text(
        "# Faces of 5 bits\n\nBits/dim on the 500 validation faces, each entry trained further from its "
        "8-bit weights on the training faces at 5 bits (`python -m benchmarks.five_bits`).\n\n"
        + table(found, eight)
        + "\n"
    )


def main(
    entries: Annotated[list[str], typer.Argument(help="Entries of faces with weights.")],
    epochs: Annotated[int, typer.Option(help="Passes over the training faces.")] = 12,
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 3e-4,
    model_args: Annotated[str, typer.Option(help="JSON: other arguments of the model.")] = "{}",
    limit: Annotated[int | None, typer.Option(help="Examples of each split, for a quick look.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the faces lie.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = HERE / "five_bits.json",
) -> None:
    """Train and score each entry; what was found of others before stays in the file."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for device in gpus:
        tf.config.experimental.set_memory_growth(device, True)
    found = json.loads(out.read_text()) if out.exists() else {}
    options = {} if data_dir is None else {"data_dir": str(data_dir)}
    for entry in entries:
        config = recipe(entry, epochs, rate, options, json.loads(model_args))
        teacher = None
        if config.training.reflow is not None:
            of_teacher = recipe(config.training.reflow.teacher, epochs, rate, options, json.loads(model_args))
            teacher, _ = train(of_teacher, None, limit, bool(gpus))
        found[entry] = measure_entry(config, teacher, limit, bool(gpus))
        write(found, out)
        Console().print(entry, {key: value for key, value in found[entry].items() if key != "val_loss"})


if __name__ == "__main__":
    typer.run(main)

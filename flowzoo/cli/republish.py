"""`python -m flowzoo.cli.republish`: for those who keep the zoo, beside the commands of those who use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowzoo.cli.console import Talk
from flowzoo.cli.options import Json, Name, WeightsSource
from flowzoo.cli.quiet import import_tensorflow


def republish(
    name: Name,
    weights_dtype: Annotated[str, typer.Option(help="float32, float16, bfloat16 or int8.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="It is written to DIR/NAME.")] = Path("runs"),
    source: WeightsSource = None,
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the data lie.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
    as_json: Json = False,
) -> None:
    """Store the weights of a trained entry anew in another type, measured as stored; write its folder."""
    talk = Talk(as_json)
    import_tensorflow()
    from flowzoo import manifest, weights
    from flowzoo.republish import republish as store_anew

    with talk.output_for_people():
        folder = store_anew(
            name, weights_dtype=weights_dtype, out=out, source=source, data_dir=data_dir, overwrite=overwrite
        )
    metric: dict = weights.read_card(folder)["metric"]  # type: ignore[assignment]
    digest = manifest.sha256_of(folder / manifest.MANIFEST)
    talk.say(f"Wrote {folder}: {metric['value']:.4f}, {metric['value_in_float32']:.4f} in float32.")
    talk.say(f"SHA-256 of {manifest.MANIFEST}: {digest}")
    talk.result({"name": name, "path": folder, "metric": metric, "sha256": digest})


if __name__ == "__main__":
    typer.run(republish)

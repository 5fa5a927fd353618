"""Options that several commands share, and how the texts that users give them are read."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from flowzoo.data import source_info
from flowzoo.data.own_files import source_of
from flowzoo.errors import DataError

if TYPE_CHECKING:
    from flowzoo.models import Flow

Name = Annotated[str, typer.Argument(metavar="NAME", help="An entry; `flowzoo list` shows them.")]
NameOrConfig = Annotated[
    str,
    typer.Argument(metavar="NAME", help="An entry; `flowzoo list` shows them. Or a YAML file of your own."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON, and messages to standard error.")]
WeightsSource = Annotated[
    str | None,
    typer.Option("--source", metavar="path:DIR", help="Weights of your own, as `flowzoo train` writes them."),
]
Split = Annotated[str, typer.Option(help="train, validation or test.")]
DataDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where the data set lies, if not in a folder that doctor lists."),
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Use the first N examples only.")]
Seed = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Repeat the same noise.")]
SourceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-o", metavar="KEY=VALUE", help="An option of the data source; may be repeated."
    ),
]

# Examples that go through a model at once: enough to be fast, few enough for a laptop's memory.
_CHUNK_VALUES = 2**20
# Options of data sources that are text, whatever they look like.
_TEXTS = ("path", "data_dir")
# Options that are punctuation, most of which means something else in YAML; quoted it is read as YAML.
_MARKS = ("separator", "decimal")


def chunk_size(event_size: int) -> int:
    """Returns how many examples go through a model at once."""
    return int(np.clip(_CHUNK_VALUES // max(1, event_size), 64, 8192))


def chunks(total: int, event_size: int) -> list[slice]:
    """Divides `total` examples into slices for one call each."""
    size = chunk_size(event_size)
    return [slice(start, min(start + size, total)) for start in range(0, total, size)] or [slice(0, 0)]


def fresh_seed(seed: int | None) -> int:
    """Returns `seed`, or a fresh one that can be told and given again."""
    return secrets.randbelow(2**31) if seed is None else seed


def source_options(given: list[str] | None) -> dict[str, Any]:
    """Reads KEY=VALUE texts; each value as YAML, so that 3, 0.5, true and [a, b] are what they look like.

    A path is text, also that of a folder named 2020, and so are separators: ',', '|' and tabs mean other
    things in YAML.

    Raises:
        ValueError: A text is not KEY=VALUE, or a key is given twice.
    """
    import yaml

    options: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key or key in options:
            raise ValueError(f"--option takes KEY=VALUE, each key once. Received: {text!r}.")
        try:
            mark = key in _MARKS and value[:1] not in ("'", '"')
            options[key] = value if mark or key in _TEXTS else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--option {key}: the value is not YAML. Received: {value!r}.") from error
    return options


def own_source(given: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the data source that `--data` names, and its options; a file has the source for its kind.

    Raises:
        ValueError: `given` is a path, and no source reads such files, or another path is given as well.
    """
    path = Path(given)
    if not (path.suffix or len(path.parts) > 1 or path.exists()):
        return given, options
    source = source_of(path)
    if source is None:
        raise ValueError(
            f"--data takes a data source or a .csv, .csv.gz, .parquet or .npz file (of pictures: --data "
            f"image_folder -o path=DIR). Received: {given!r}."
        )
    if "path" in options:
        raise ValueError(f"--data {given} is a file, and -o path={options['path']} another: give one.")
    # As `--pictures`: the card names a file that can be found from elsewhere.
    return source, {"path": str(path.absolute()) if path.exists() else given, **options}


def placed(source: str, data_dir: Path | None) -> dict[str, Any]:
    """Returns --data-dir as an option of a data source.

    Raises:
        UnknownNameError: No source has the name.
        ValueError: The source reads no data folder.
    """
    if data_dir is None:
        return {}
    if "data_dir" not in source_info(source).options:
        raise ValueError(f"--data-dir does not apply to the source {source!r}, which reads no data folder.")
    return {"data_dir": data_dir}


def condition_for(model: Flow, total: int, labels: str | None, condition: str | None) -> np.ndarray | None:
    """Makes the condition of `total` samples.

    Args:
        model: The flow, which says what condition it takes.
        total: The number of samples.
        labels: Class labels "3" or "0,1,2", given to the samples in turn.
        condition: Numbers "0.5,1.2" for all samples, or a .npy or .csv file with one row or one a sample.

    Raises:
        ValueError: Both are given, or one that does not fit the model.
    """
    if labels is not None and condition is not None:
        raise ValueError("Give --label or --condition, not both.")
    takes = getattr(model, "condition_shape", None)
    if labels is None and condition is None:
        if takes is None:
            return None
        way = f"--label 0…{model.num_classes - 1}" if model.num_classes else f"--condition of shape {takes}"
        raise ValueError(f"{model.name} needs a condition: {way}.")
    if takes is None:
        raise ValueError(f"{model.name} takes no condition; leave --label and --condition out.")
    if model.num_classes and labels is None:
        raise ValueError(f"{model.name} takes class labels 0…{model.num_classes - 1}; use --label.")
    if labels is not None:
        return _labels(labels, total, model.num_classes)
    return _rows(str(condition), total, tuple(takes))


def _labels(text: str, total: int, num_classes: int | None) -> np.ndarray:
    try:
        labels = np.array([int(part) for part in text.split(",")], np.int32)
    except (ValueError, OverflowError):
        raise ValueError(f"--label takes whole numbers such as 3 or 0,1,2. Received: {text!r}.") from None
    if num_classes is None:
        raise ValueError("This model has no class labels; use --condition.")
    if np.min(labels) < 0 or np.max(labels) >= num_classes:
        raise ValueError(f"Labels lie in 0…{num_classes - 1}. Received: {text!r}.")
    if len(labels) > max(total, 1):
        raise ValueError(f"--label gives {len(labels)} labels, and {total} can be used. Received: {text!r}.")
    return np.resize(labels, total)


def _rows(text: str, total: int, shape: tuple[int, ...]) -> np.ndarray:
    from flowzoo.cli.files import read_examples

    path = Path(text)
    if path.suffix.lower() in (".npy", ".npz", ".csv", ".parquet"):
        rows = read_examples(path)[0].astype(np.float32)
    else:
        try:
            rows = np.array([[float(part) for part in text.split(",")]], np.float32)
        except ValueError:
            raise ValueError(
                f"--condition takes numbers or a .npy or .csv file. Received: {text!r}."
            ) from None
    size = int(np.prod(shape))
    if rows[0].size != size or len(rows) not in (1, total):
        raise DataError(f"The condition is 1 or {total} rows of shape {shape}. Received: {rows.shape}.")
    return np.broadcast_to(rows.reshape(-1, *shape), (total, *shape))

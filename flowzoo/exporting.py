"""A folder of models as TensorFlow Serving watches it: BASE/NAME/VERSION/."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowzoo.files import staged_folder
from flowzoo.models import Flow
from flowzoo.models.saved_model import check_weights_dtype, fill_saved_model
from flowzoo.serving import ops, repository, warmup

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_MOST = 2**63 - 1  # versions are int64


def export(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    version: int | None = None,
    weights_dtype: str = "float32",
    warmup_batch_sizes: Sequence[int] | None = None,
    batching: bool = False,
) -> Path:
    """Write a model as one more version of its name; a server that watches the folder takes it.

    The version appears whole or not at all, and a version that is there is never replaced: a server may have
    loaded it. Beside the SavedModel of `Flow.export` it has warm-up requests, which have been run, and the
    graph has been checked for operations that a stock server lacks.

    Args:
        model: a `flowzoo.Flow`.
        folder: the base folder.
        name: under which the model is served; None for the model's own.
        version: a whole number from 1; None for the one after the highest that is there.
        weights_dtype: as in `Flow.export`.
        warmup_batch_sizes: numbers of examples with which a server calls each signature when it loads the
            version; () for no warm-up. None: 1 and 32, and 0 where the equation of an image is solved, which
            prepares the graph without solving it.
        batching: let a server that was started with --enable_batching and
            --enable_per_model_batching_parameters merge requests to this version. `sample` and
            `sample_and_log_prob` then cannot be called on it.

    Returns:
        The folder that was written, FOLDER/NAME/VERSION.

    Raises:
        FileExistsError: the version is there.
        TypeError: the model is no Flow.
        ValueError: an argument that is not accepted; an operation that a server lacks; a model that refuses
            its own samples.
        OSError: it cannot be written.
    """
    if not isinstance(model, Flow):
        raise TypeError(f"model takes a flowzoo.Flow. Received: {type(model).__name__}")
    name = model.name if name is None else name
    target = version_folder(Path(folder) / checked_name(name), version)
    check_target(target, weights_dtype, warmup_batch_sizes)
    with staged_folder(target) as staged:
        fill_saved_model(model, staged, weights_dtype, str(target))
        ops.check_servable(staged)
        warmup.write_warmup(model, staged, name, warmup_batch_sizes, batched=batching)
        if batching:
            text = repository.batching_parameters()
            (staged / repository.MODEL_BATCHING).write_text(text, encoding="utf-8")
    return target


def checked_name(name: str) -> str:
    """Return a name of a model that URLs and folders can have, else raise ValueError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"name takes letters, digits and '_', '.', '-', and begins with a letter or digit. "
            f"Received: {name!r}"
        )
    return name


def version_folder(folder: Path, version: int | None) -> Path:
    """Return the folder of a version; None stands for the one after the highest."""
    if version is None:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        version = max((int(name) for name in names if name.isdecimal()), default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= _MOST:
        raise ValueError(f"version takes a whole number from 1 to 2^63 - 1. Received: {version!r}")
    return folder / str(version)


def check_target(target: Path, weights_dtype: str, warmup_batch_sizes: Sequence[int] | None = None) -> None:
    """Refuse what could not be written, before a model is loaded for it."""
    check_weights_dtype(weights_dtype)
    warmup.check_batch_sizes(warmup_batch_sizes)
    if target.exists():
        raise FileExistsError(f"{target} exists, and a server may have loaded it: choose another version.")

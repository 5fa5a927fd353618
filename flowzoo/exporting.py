"""A folder of models as TensorFlow Serving watches it: BASE/NAME/VERSION/."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flowzoo.models.saved_model import WEIGHTS_DTYPES


def export(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    version: int | None = None,
    weights_dtype: str = "float32",
    overwrite: bool = False,
) -> Path:
    """Write a model as one more version of its name; a server that watches the folder takes it.

    Args:
        model: a `flowzoo.Flow`.
        folder: the base folder.
        name: under which the model is served; None for the model's own.
        version: a whole number from 1; None for the one after the highest that is there.
        weights_dtype: as in `Flow.export`.
        overwrite: replace a version that is there.

    Returns:
        The folder that was written, FOLDER/NAME/VERSION.

    Raises:
        FileExistsError: the version is there and `overwrite` is False.
        ValueError: `version` is not a whole number from 1, or an unknown `weights_dtype`.
        OSError: it cannot be written.
    """
    target = version_folder(Path(folder) / (name or model.name), version)
    check_target(target, weights_dtype, overwrite)
    model.export(target, weights_dtype=weights_dtype, overwrite=overwrite)
    return target


def version_folder(folder: Path, version: int | None) -> Path:
    """Return the folder of a version; None stands for the one after the highest."""
    if version is None:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        version = max((int(name) for name in names if name.isdecimal()), default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"version takes a whole number from 1. Received: {version!r}")
    return folder / str(version)


def check_target(target: Path, weights_dtype: str, overwrite: bool) -> None:
    """Refuse what could not be written, before a model is loaded for it."""
    if weights_dtype not in WEIGHTS_DTYPES:
        raise ValueError(
            f"weights_dtype takes one of {', '.join(WEIGHTS_DTYPES)}. Received: {weights_dtype!r}"
        )
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} exists: choose another version, or replace it (overwrite=True, or --overwrite)."
        )

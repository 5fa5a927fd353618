"""The catalogue of sources: names to functions.

The modules of `flowzoo.data.sources` are imported on the first look into the catalogue, each for its
decorators. They import nothing heavy at their top, so this costs next to nothing.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from flowzoo.data.images import Crop
from flowzoo.data.options import checked_options, option_parameters
from flowzoo.data.source import SPLITS, Source
from flowzoo.data.values import check_values
from flowzoo.errors import DataError, UnknownNameError, near_matches

SourceFunction = TypeVar("SourceFunction", bound=Callable[..., Source])
Example = Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source before it is opened.

    Attributes:
        name: The name that `open_source` takes.
        kind: What sort of source it is: `"toy"`, `"sklearn"`, `"idx"`, `"images"`, `"table"`, `"tfds"` …
        summary: The first line of the function's docstring.
        options: The options and their defaults; `inspect.Parameter.empty` where one must be given.
        licence: The licence of the data.
        origin: Who made the data.
        function: The function that opens it.
        example: Writes small files of the true format into a folder and returns the options that open them,
            so that the tests can run a source whose data set is not there. None where the source needs no
            files.
        crop: Of pictures, what is cut from their middle; see `flowzoo.data.images.decode_image`.
    """

    name: str
    kind: str
    summary: str
    options: Mapping[str, Any]
    licence: str
    origin: str
    function: Callable[..., Source]
    example: Example | None = None
    crop: Crop = "center"


_sources: dict[str, SourceInfo] = {}


def register_source(
    name: str,
    *,
    kind: str,
    licence: str = "",
    origin: str = "",
    example: Example | None = None,
    crop: Crop = "center",
) -> Callable[[SourceFunction], SourceFunction]:
    """Makes a function a source.

    The function takes `split` and any options by keyword, each with a type annotation, and returns a
    `Source`. It may leave `name`, `split`, `licence` and `origin` of the source to this decorator.

    Args:
        name: The name that `open_source` takes, lower case.
        kind: What sort of source it is; new kinds are welcome.
        licence: The licence of the data; a `Source` that names its own wins.
        origin: Who made the data; a `Source` that names its own wins.
        example: For sources that read files: takes a folder, writes a small data set of the true format into
            it, and returns the options that open it. The tests use it.
        crop: Of pictures, what is cut from their middle, so that a user's own can be cut likewise.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: The name is taken by another function.
    """

    def decorate(function: SourceFunction) -> SourceFunction:
        _refuse_taken(name, function)
        defaults = {key: parameter.default for key, parameter in option_parameters(function).items()}
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        _sources[name] = SourceInfo(name, kind, summary, defaults, licence, origin, function, example, crop)
        return function

    return decorate


def _refuse_taken(name: str, function: Callable) -> None:
    known = _sources.get(name)
    if known is None:
        return
    # The same function defined again, as by a notebook cell that is run twice, replaces itself.
    old = (known.function.__module__, known.function.__qualname__)
    if old != (function.__module__, function.__qualname__):
        raise ValueError(f"Source {name!r} is already registered, by {'.'.join(old)}. Take another name.")


def open_source(source: str, /, split: str = "train", **options: Any) -> Source:  # noqa: ANN401
    """Opens one split of a data set.

    Args:
        source: A name of `list_sources()`.
        split: `"train"`, `"validation"` or `"test"`. They share no example, and are the same every time.
        **options: The source's own options; `source_info(name).options` lists them.

    Returns:
        The split, its values checked: finite, in range, labels within the classes.

    Raises:
        UnknownNameError: No source of that name.
        DataError: A wrong split or option, or files that are missing, corrupt or hold what cannot be used.
    """
    info = source_info(source)
    if split not in SPLITS:
        raise DataError(f"Split must be one of {SPLITS}.{near_matches(split, SPLITS)} Received: {split!r}")
    opened = info.function(split, **checked_options(source, info.function, options))
    if not isinstance(opened, Source):
        raise TypeError(f"Source {source!r} must return a Source. Received: {type(opened).__name__}")
    licence, origin = opened.licence or info.licence, opened.origin or info.origin
    opened = replace(opened, name=source, split=split, licence=licence, origin=origin)
    check_values(opened)
    return opened


def list_sources(kind: str | None = None) -> list[str]:
    """Lists the names of all sources, or of those of one kind, sorted."""
    _discover()
    return sorted(name for name, info in _sources.items() if kind in (None, info.kind))


def source_info(name: str) -> SourceInfo:
    """Tells what is known of a source before it is opened.

    Args:
        name: A name of `list_sources()`.

    Returns:
        Its kind, options, licence and origin.

    Raises:
        UnknownNameError: No source of that name.
    """
    _discover()
    if name not in _sources:
        raise UnknownNameError(
            f"Unknown source.{near_matches(name, _sources)} flowzoo.data.list_sources() lists them all. "
            f"Received: {name!r}"
        )
    return _sources[name]


@functools.cache
def _discover() -> None:
    package = importlib.import_module("flowzoo.data.sources")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")

"""From names to entries: which entries there are, and what each of them is.

The zoo's own entries are the files in zoo_configs/. `register_config` adds more of them to this process.
"""

from __future__ import annotations

import fnmatch
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowzoo.config import EntryConfig, load_config, parse_config
from flowzoo.errors import UnknownNameError, near_matches
from flowzoo.paths import packaged
from flowzoo.weights import find_local

_TESTS = "test"

_registered: dict[str, EntryConfig | Path] = {}
_parsed: dict[Path, tuple[tuple[int, int], EntryConfig]] = {}
_lock = threading.Lock()


def config_paths() -> dict[str, Path]:
    """Returns the file of every entry that has one, by name: the zoo's own and those that were registered."""
    root = packaged("zoo_configs")
    paths = {path.stem: path for path in sorted(root.glob("*.yaml"))} if root else {}
    with _lock:
        for name, entry in _registered.items():
            if isinstance(entry, Path):
                paths[name] = entry
            else:
                paths.pop(name, None)
    return paths


def get_config(name: str) -> EntryConfig:
    """Returns the configuration of an entry.

    Args:
        name: The name of the entry; also those that `list_models` hides are found.

    Returns:
        A copy that is the caller's own.

    Raises:
        UnknownNameError: There is no such entry; the message has near matches and says how to list them.
        ConfigError: Its file cannot be used.
        TypeError: The name is not text.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: received {type(name).__name__}; accepted: the name of an entry as text.")
    with _lock:
        entry = _registered.get(name)
    if isinstance(entry, EntryConfig):
        return entry.model_copy(deep=True)
    path = config_paths().get(name)
    if path is None:
        raise _unknown(name)
    return _load(path).model_copy(deep=True)


def list_models(pattern: str | None = None, *, pretrained: bool | None = None) -> list[str]:
    """Lists the names of the entries.

    The tiny entries that the tests train (`test_...`) are listed only for a pattern that begins with "test".

    Args:
        pattern: A pattern with wildcards (`"maf_*"`, `"*_mnist"`) that the whole name must match, or text
            that it must contain; None for all.
        pretrained: True for the entries with weights: those whose configuration names a published SHA-256,
            and those whose weights lie on this machine (trained here, or come with the package). False for
            all others, None for both.

    Returns:
        The names in alphabetical order.

    Raises:
        TypeError: The pattern is not text.
        ConfigError: A file had to be read for `pretrained` and cannot be used.
    """
    if pattern is not None and not isinstance(pattern, str):
        raise TypeError(f"pattern: received {type(pattern).__name__}; accepted: text or None.")
    names = [name for name in _names() if _listed(name, pattern)]
    if pretrained is None:
        return names
    return [name for name in names if _is_pretrained(name) == pretrained]


def register_config(
    config: EntryConfig | Mapping[str, Any] | str | os.PathLike[str], *, overwrite: bool = False
) -> EntryConfig:
    """Adds an entry of the user's own, for as long as the process lives.

    Args:
        config: An entry, plain data with the keys of an entry, or the path of a YAML file.
        overwrite: Whether an entry of the same name is replaced.

    Returns:
        The entry.

    Raises:
        ConfigError: The configuration cannot be used.
        ValueError: There is an entry of that name already, and `overwrite` is false.
        TypeError: `config` is none of these.
    """
    entry: EntryConfig | Path
    if isinstance(config, EntryConfig):
        entry = parsed = config.model_copy(deep=True)
    elif isinstance(config, Mapping):
        entry = parsed = parse_config(config)
    elif isinstance(config, str | os.PathLike):
        entry = Path(config).expanduser().absolute()
        parsed = _load(entry)
    else:
        raise TypeError(
            f"config: received {type(config).__name__}; accepted: an EntryConfig, a mapping or the path of a "
            "YAML file."
        )
    if not overwrite and parsed.name in _names():
        raise ValueError(
            f"There is an entry {parsed.name!r} already. Choose another name, or replace it with "
            "register_config(..., overwrite=True)."
        )
    with _lock:
        _registered[parsed.name] = entry
    return parsed.model_copy(deep=True)


def find_config(name: str) -> tuple[EntryConfig, bool]:
    """Returns the configuration of an entry, or of the user's own file, which is registered.

    Args:
        name: The name of an entry, or the path of a YAML file as `register_config` takes it (one that ends
            in .yaml or .yml).

    Returns:
        The configuration, and whether its entry is known to this process alone.

    Raises:
        UnknownNameError: It is no path of a YAML file, and there is no entry of that name.
        ConfigError: The file cannot be used.
        ValueError: The file's name for the entry is that of another one.
    """
    if not name.endswith((".yaml", ".yml")):
        return get_config(name), False
    path = Path(name).expanduser().absolute()
    known = config_paths().get(path.stem)
    if known is not None and path.exists() and known.samefile(path):
        return get_config(path.stem), False
    return register_config(path), True


def _names() -> list[str]:
    return sorted({*config_paths(), *_registered})


def _listed(name: str, pattern: str | None) -> bool:
    if name.startswith(f"{_TESTS}_") and not (pattern or "").startswith(_TESTS):
        return False
    if pattern is None:
        return True
    if any(character in pattern for character in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return pattern in name


def _is_pretrained(name: str) -> bool:
    return find_local(name) is not None or get_config(name).weights.sha256 is not None


def _load(path: Path) -> EntryConfig:
    """Reads a configuration, or takes what was read before if the file is still the same."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # a name that no file can have
        return load_config(path)  # which says what is wrong
    stamp = (status.st_mtime_ns, status.st_size)
    with _lock:
        known = _parsed.get(path)
    if known is not None and known[0] == stamp:
        return known[1]
    config = load_config(path)
    with _lock:
        _parsed[path] = (stamp, config)
    return config


def _unknown(name: str) -> UnknownNameError:
    names = _names()
    advice = f"flowzoo.list_models() or `flowzoo list` shows the {len(names)} names that there are."
    if not names:
        advice = "There are no entries at all: this installation of flowzoo has no zoo_configs/."
    elif name.endswith((".keras", ".h5")):
        advice = (
            f"It looks like a file of Keras's. `import flowzoo.models`, which makes the classes known to "
            f"Keras, then keras.models.load_model({name!r}) for what model.save wrote, or "
            f"model.load_weights({name!r}) for what model.save_weights wrote."
        )
    elif os.sep in name or "/" in name or name.endswith((".yaml", ".yml")) or Path(name).exists():
        advice = (
            f"It looks like a path. To add an entry of your own: flowzoo.register_config({name!r}). To use "
            f"weights of your own for an entry: flowzoo.load(NAME, source={f'path:{name}'!r}). {advice}"
        )
    near = near_matches(name, names)
    return UnknownNameError(f"There is no entry of that name.{near} {advice} Received: {name!r}.")

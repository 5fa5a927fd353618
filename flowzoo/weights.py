"""Finds and reads the weights of an entry.

The folder of a trained entry is its one artifact: `1/` (a SavedModel), card.json, golden.npz, samples.png and
SHA256SUMS. Nothing is returned from here before every byte of the folder has been verified.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flowzoo.config import EntryConfig, check_name, parse_config
from flowzoo.download import download
from flowzoo.errors import CorruptWeightsError, NoWeightsError, near_matches
from flowzoo.manifest import MANIFEST, Manifest, read_card, verify, write_manifest
from flowzoo.paths import home, packaged

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Located",
    "Manifest",
    "config_in",
    "find_local",
    "folder_of",
    "locate",
    "read_card",
    "read_golden",
    "read_variables",
    "verify",
    "write_manifest",
]

GOLDEN = "golden.npz"

Origin = Literal["path", "home", "packaged", "download"]


@dataclass(frozen=True)
class Located:
    """Weights that were found and verified.

    Attributes:
        folder: The folder of the trained entry.
        origin: Where it was found: an explicit path, flowzoo's home, what comes with the package or the
            checkout, or a download that now lies in flowzoo's home.
        manifest: The verified SHA-256 sums.
    """

    folder: Path
    origin: Origin
    manifest: Manifest


def locate(
    name: str,
    *,
    expected_digest: str | None,
    source: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    has_data: bool = True,
) -> Located:
    """Finds the weights of an entry and verifies them.

    They are looked for at `source` if that is given, and nowhere else. Otherwise in `home()/models/<name>`,
    then in saved_models/ of the package or the checkout, and last at `$FLOWZOO_BASE_URL`, from where they are
    downloaded into `home()/models/<name>`. The first place that has them counts: a corrupt copy is an error
    and is never skipped.

    Args:
        name: The name of the entry, which the card of the weights must bear.
        expected_digest: The entry's `weights.sha256`, or None where no weights are published. It does not
            apply to `source`: weights of the user's own are verified against their own SHA256SUMS.
        source: `"path:DIR"` or a PathLike.
        progress: Whether a download shows a progress bar; None shows it on a terminal.
        has_data: Whether the entry names data that it is trained on; for the message.

    Returns:
        Where the weights are.

    Raises:
        NoWeightsError: There are none; the message says how to train them.
        CorruptWeightsError: They are there, but changed, incomplete or those of another entry.
        DownloadError: They cannot be downloaded.
        TypeError: `source` is neither text nor a PathLike.
        ValueError: `source` is text without `path:`.
    """
    if source is not None:
        folder = _explicit(source)
        return Located(folder, "path", verify(folder, None, name, given=True))
    found = find_local(name)
    if found is not None:
        folder, origin = found
        return Located(folder, origin, verify(folder, expected_digest, name))
    if expected_digest is None:
        raise NoWeightsError(
            f"No weights are published for {name!r}, and none lie in {_places(name)}. "
            f"{_train(name, has_data)}"
        )
    base_url = os.environ.get("FLOWZOO_BASE_URL")
    if not base_url:
        raise NoWeightsError(
            f"The weights of {name!r} are published, but they do not lie in {_places(name)}, and "
            f"FLOWZOO_BASE_URL is not set. Set it to the address that has them. {_train(name)}"
        )
    folder = _home_folder(name)
    manifest = download(name, base_url, expected_digest, folder, progress=progress)
    return Located(folder, "download", manifest)


def find_local(name: str) -> tuple[Path, Literal["home", "packaged"]] | None:
    """Finds the weights of an entry on this machine, without verifying them.

    Args:
        name: The name of the entry.

    Returns:
        The folder and whose it is, or None where there is none.
    """
    if _home_folder(name).exists():
        return _home_folder(name), "home"
    root = packaged("saved_models")
    if root is not None and (root / name).exists():
        return root / name, "packaged"
    return None


def folder_of(name: str) -> Path:
    """Returns the folder that `path:DIR` names in place of an entry; `~` stands for the user's home.

    Raises:
        NoWeightsError: There is no such folder, or it is but a part of an entry.
        ValueError: No folder is named.
    """
    return _explicit(name)


def config_in(folder: str | os.PathLike[str]) -> EntryConfig:
    """Reads the config that the card of a trained entry holds.

    Raises:
        CorruptWeightsError: The card is missing or is not a JSON object.
        ValueError: It holds no config.
    """
    card: Any = read_card(folder)
    return parse_config(card.get("config"), str(Path(folder) / "card.json"))


def read_golden(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the golden inputs of a trained entry and what it gave for them.

    Args:
        folder: The folder of the entry.

    Returns:
        The arrays by name.

    Raises:
        CorruptWeightsError: The file is missing or cannot be read.
    """
    from flowzoo.arrays import read_npz

    path = Path(folder) / GOLDEN
    try:
        return read_npz(path)
    except (OSError, ValueError) as error:
        raise CorruptWeightsError(f"{path}: the golden values cannot be read: {error}.") from error


def read_variables(saved_model_dir: str | os.PathLike[str]) -> list[np.ndarray]:
    """Reads the weights out of a SavedModel as a checkpoint, which takes a fraction of loading its graphs.

    Args:
        saved_model_dir: The folder that holds saved_model.pb; `<entry>/1`.

    Returns:
        The model's weights in the order of `model.weights`; those stored as int8 as the float32 numbers that
        they stand for.

    Raises:
        CorruptWeightsError: The variables are missing, cannot be read, or are not those of a flow.
    """
    import tensorflow as tf

    prefix = Path(saved_model_dir) / "variables" / "variables"
    try:
        checkpoint = tf.train.load_checkpoint(str(prefix))
        names = set(checkpoint.get_variable_to_shape_map())
        indices = sorted(int(name.split("/")[1]) for name in names if _is_weight(name))
        if not indices or indices != list(range(len(indices))):
            raise CorruptWeightsError(f"{prefix}: the weights 0 to n-1 are expected, but it has {indices}.")
        return [_read(checkpoint, index, _key(index, "scales") in names) for index in indices]
    except CorruptWeightsError:
        raise
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
        raise CorruptWeightsError(f"{prefix}: the variables cannot be read: {error}.") from error


def _read(checkpoint: Any, index: int, scaled: bool) -> np.ndarray:
    from flowzoo import quantization

    value = checkpoint.get_tensor(_key(index))
    return quantization.dequantize(value, checkpoint.get_tensor(_key(index, "scales"))) if scaled else value


def _key(index: int, kind: str = "weights") -> str:
    return f"{kind}/{index}/.ATTRIBUTES/VARIABLE_VALUE"


def _is_weight(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 4 and parts[1].isdecimal() and name == _key(int(parts[1]))


def _home_folder(name: str) -> Path:
    check_name(name)
    return home() / "models" / name


def _explicit(source: str | os.PathLike[str]) -> Path:
    """Returns the folder that `source` names; text must say that it is a path."""
    if isinstance(source, str):
        prefix, separator, rest = source.partition(":")
        if prefix != "path" or not separator or not rest:
            raise ValueError(
                f"source: received {source!r}; accepted: 'path:DIR' or a PathLike. To read the weights in a "
                f"folder, give source='path:{source}'; to use published weights, give the name of an entry "
                "and no source."
            )
        source = rest
    elif not isinstance(source, os.PathLike):
        raise TypeError(f"source: received {type(source).__name__}; accepted: 'path:DIR' or a PathLike.")
    folder = Path(source).expanduser()
    if not folder.is_dir():
        parent = folder.parent
        known = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        raise NoWeightsError(f"There is no folder {folder}.{near_matches(folder.name, known)}")
    if not (folder / MANIFEST).exists() and (folder.parent / MANIFEST).exists():
        raise NoWeightsError(f"{folder} is but a part of an entry; give the folder above: {folder.parent}.")
    return folder


def _places(name: str) -> str:
    root = packaged("saved_models")
    return " or ".join(str(place) for place in [_home_folder(name), *([root / name] if root else [])])


def _train(name: str, has_data: bool = True) -> str:
    if not has_data:
        return (
            f"It is an architecture for data of your own: `flowzoo train {name} --data FILE --as NEW_NAME`, "
            f'or flowzoo.build("{name}", event_shape=...) and fit.'
        )
    return f'Train them with `flowzoo train {name}` or flowzoo.train("{name}").'

"""The list of SHA-256 sums that ties every file of a trained entry to one published digest.

The chain of trust: the entry's configuration names the SHA-256 of the file SHA256SUMS, and SHA256SUMS names
that of every other file in the folder. Its format is that of `sha256sum`, so `sha256sum -c SHA256SUMS` checks
a folder without flowzoo.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flowzoo.errors import CorruptWeightsError
from flowzoo.files import write_atomic

MANIFEST = "SHA256SUMS"
CARD = "card.json"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
# Narrow on purpose: such a path means the same on every system and in every URL.
_PATH = re.compile(r"[A-Za-z0-9_\-.]+(?:/[A-Za-z0-9_\-.]+)*")
_SHOWN = 5


@dataclass(frozen=True)
class Manifest:
    """What SHA256SUMS says.

    Attributes:
        digest: The SHA-256 of the file SHA256SUMS itself.
        files: The SHA-256 of every other file, by its POSIX path relative to the folder.
    """

    digest: str
    files: dict[str, str]


def is_digest(text: object) -> bool:
    """Says whether `text` is a full SHA-256 in lower-case hexadecimal digits."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def parse_manifest(content: bytes, origin: str = MANIFEST) -> Manifest:
    """Reads the content of a SHA256SUMS file.

    Args:
        content: The bytes of the file.
        origin: Where they come from, for the error.

    Returns:
        The manifest.

    Raises:
        CorruptWeightsError: A line is not ``"<SHA-256>  <path>"``, the paths are not sorted and unique, or
            one of them leaves the folder.
    """
    files: dict[str, str] = {}
    text = content.decode("utf-8", errors="replace")
    lines = text.split("\n")
    if len(lines) < 2 or lines.pop():
        raise CorruptWeightsError(f"{origin}: it is empty, or its last line is cut off.")
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            received = line if len(line) < 120 else line[:120] + "..."
            raise CorruptWeightsError(
                f"{origin}, line {number}: received {received!r}; accepted: a SHA-256, two blanks and a path."
            )
        sha256, path = match.groups()
        if not _is_safe(path):
            raise CorruptWeightsError(
                f"{origin}, line {number}: the path {path!r} is refused; accepted: relative paths below the "
                "folder, of letters, digits and '-_.'."
            )
        files[path] = sha256
    if list(files) != sorted(files) or len(files) != len(lines):
        raise CorruptWeightsError(f"{origin}: its paths are not sorted, or one stands there twice.")
    folders = {parent.as_posix() for path in files for parent in PurePosixPath(path).parents}
    both = sorted(folders & set(files))
    if both:
        raise CorruptWeightsError(f"{origin}: {both[0]!r} is listed as a file and as a folder.")
    return Manifest(hashlib.sha256(content).hexdigest(), files)


def write_manifest(folder: str | os.PathLike[str]) -> str:
    """Writes SHA256SUMS over every other file in a folder, in one step.

    Args:
        folder: The folder of a trained entry.

    Returns:
        The SHA-256 of SHA256SUMS: what the entry's configuration keeps as `weights.sha256`.

    Raises:
        ValueError: The folder is empty, or a file has a name that a manifest does not accept.
        OSError: The file cannot be written; an earlier one is unchanged.
    """
    folder = Path(folder)
    present = _present(folder)
    if not present:
        raise ValueError(f"There are no files in {folder}; a manifest lists the files of a trained entry.")
    for path in present:
        if not _is_safe(path) or not (folder / path).is_file():
            raise ValueError(
                f"{folder}: received the file {path!r}; accepted: plain files whose names have only letters, "
                "digits and '-_.'."
            )
    content = "".join(f"{sha256_of(folder / path)}  {path}\n" for path in present).encode()
    write_atomic(folder / MANIFEST, content)
    return hashlib.sha256(content).hexdigest()


def verify(
    folder: str | os.PathLike[str],
    expected_digest: str | None = None,
    name: str | None = None,
    given: bool = False,
) -> Manifest:
    """Checks every byte of a trained entry.

    Args:
        folder: The folder of the entry.
        expected_digest: The SHA-256 that SHA256SUMS must have, or None to check the folder against itself
            alone (weights that the user trained, which no one has published).
        name: The entry whose weights these must be, by their card; None for any.
        given: Whether the user named the folder, which may hold his only copy.

    Returns:
        The manifest.

    Raises:
        CorruptWeightsError: A file is changed, truncated, missing or too many, or the weights are those of
            another entry. The message says which file, what was expected, and what to do.
    """
    folder = Path(folder)
    try:
        return check(folder, expected_digest, name)
    except CorruptWeightsError as error:
        train = f"train them with `flowzoo train {name or 'NAME'}`"
        if given and _owner(folder, name):
            advice = f"name the folder of these weights, or give path:{folder} as the name for what it holds"
        elif given:
            advice = f"copy the folder anew from where it came from, or {train}"
        else:
            advice = (
                f"delete {folder} and load again to fetch them anew, reinstall flowzoo if they came with "
                f"the package, or {train}"
            )
        raise CorruptWeightsError(
            f"The weights{f' of {name!r}' if name else ''} are refused. {error} What to do: {advice}."
        ) from error


def check(folder: Path, expected_digest: str | None, name: str | None) -> Manifest:
    """Does what `verify` does; its error says what is wrong, but not what to do about it."""
    try:
        manifest = parse_manifest((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
        if expected_digest is not None and manifest.digest != expected_digest:
            raise CorruptWeightsError(
                f"{folder / MANIFEST}: expected SHA-256 {expected_digest}, got {manifest.digest}."
                f"{_owner(folder, name)}"
            )
        differences = list(_differences(folder, manifest))
    except OSError as error:
        raise CorruptWeightsError(
            f"{error.filename or folder} cannot be read: {error.strerror or error}."
        ) from error
    if differences:
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise CorruptWeightsError(f"In {folder}: {'; '.join(differences[:_SHOWN])}{more}.")
    if name is not None and read_card(folder).get("name") != name:
        raise CorruptWeightsError(f"{folder} does not hold the weights of {name!r}.{_owner(folder, name)}")
    return manifest


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_card(folder: str | os.PathLike[str]) -> dict[str, object]:
    """Reads the card of a trained entry.

    Args:
        folder: The folder of the entry.

    Returns:
        The content of card.json.

    Raises:
        CorruptWeightsError: The card is missing or is not a JSON object.
    """
    path = Path(folder) / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptWeightsError(f"{path}: the card cannot be read: {error}.") from error
    if not isinstance(card, dict):
        raise CorruptWeightsError(f"{path}: received {type(card).__name__}; accepted: a JSON object.")
    return card


def _differences(folder: Path, manifest: Manifest) -> Iterator[str]:
    present = set(_present(folder))
    for path in sorted(present - set(manifest.files)):
        yield f"{path} is not listed in {MANIFEST}"
    for path, expected in manifest.files.items():
        if path not in present or not (folder / path).is_file():
            yield f"{path} is missing"
        elif (received := sha256_of(folder / path)) != expected:
            yield f"{path}: expected SHA-256 {expected}, got {received}"


def _present(folder: Path) -> list[str]:
    """Lists every file below a folder but the manifest; a link to a folder is listed, and thus refused."""
    found = []
    for root, folders, files in os.walk(folder):
        links = [entry for entry in folders if os.path.islink(os.path.join(root, entry))]
        found += [Path(root, entry).relative_to(folder).as_posix() for entry in files + links]
    return sorted(path for path in found if path != MANIFEST)


def _is_safe(path: str) -> bool:
    parts = path.split("/")
    return _PATH.fullmatch(path) is not None and not {".", ".."} & set(parts) and path != MANIFEST


def _owner(folder: Path, name: str | None) -> str:
    """Says whose weights these claim to be, for the message alone, where it is another entry."""
    try:
        owner = read_card(folder).get("name")
    except CorruptWeightsError:
        return ""
    return f" Its card says that it belongs to {owner!r}." if name is not None and owner != name else ""

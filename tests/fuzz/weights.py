"""Folders of trained entries with a flipped bit or worse: all are refused before anything of them is used."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flowzoo import registry, weights, zoo
from flowzoo.errors import WeightsError
from flowzoo.manifest import MANIFEST
from flowzoo.paths import packaged
from tests.fuzz.harness import Defect, Target
from tests.fuzz.mutate import mutate

# How often a folder goes through all of `flowzoo.load`.
_ONE_IN = 500
# Two small entries: the cost is that of hashing them.
_ENTRIES = ("test_nice", "test_flow_matching")


@dataclass
class World:
    """Copies of entries in memory, by name; and what every file of each holds."""

    folders: dict[str, Path]
    digests: dict[str, str]
    files: dict[str, dict[str, bytes]]
    outside: Path


@dataclass(frozen=True)
class Given:
    """What is done to which entry, and whether the published digest is known."""

    entry: str
    change: Callable[[World, Path], None]
    digest_known: bool
    load: bool


@contextmanager
def world() -> Iterator[World]:
    """Copy the entries to where files are memory."""
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    root = packaged("saved_models")
    if root is None:
        raise FileNotFoundError("saved_models/ is part of the checkout")
    with tempfile.TemporaryDirectory(dir=base) as name:
        made = World({}, {}, {}, Path(name) / "outside")
        made.outside.write_bytes(b"outside")
        for entry in _ENTRIES:
            folder = Path(name) / entry
            shutil.copytree(root / entry, folder)
            made.folders[entry] = folder
            made.digests[entry] = weights.verify(folder, None, entry).digest
            paths = [path for path in folder.rglob("*") if path.is_file()]
            made.files[entry] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        yield made


# --- Inputs -------------------------------------------------------------------------------------------------


def make(r: random.Random, world: World) -> Given:
    """Flip bits, cut, lengthen, swap, add, remove or link; in every file and every part of it."""
    entry = _ENTRIES[0] if r.random() < 0.8 else _ENTRIES[1]
    change = _flipped(r, world, entry) if r.random() < 0.6 else r.choice(_CHANGES)(r, world, entry)
    return Given(entry, change, digest_known=r.random() < 0.5, load=r.random() < 1 / _ONE_IN)


def _written(file: str, content: bytes) -> Callable[[World, Path], None]:
    return lambda world, folder: (folder / file).write_bytes(content) and None


def _flipped(r: random.Random, world: World, entry: str) -> Callable[[World, Path], None]:
    """Flip one bit: in any file alike, and there at its start, at its end or anywhere."""
    file, content = r.choice(list(world.files[entry].items()))
    size = len(content)
    at = r.choice((r.randrange(size), r.randrange(min(64, size)), size - 1 - r.randrange(min(64, size))))
    return _written(file, content[:at] + bytes([content[at] ^ (1 << r.randrange(8))]) + content[at + 1 :])


def _mutated(r: random.Random, world: World, entry: str) -> Callable[[World, Path], None]:
    file, content = r.choice(list(world.files[entry].items()))
    changed = mutate(r, content, list(world.files[entry].values()))
    return _written(file, changed if changed != content else content + b"\0")


def _swapped(r: random.Random, world: World, entry: str) -> Callable[[World, Path], None]:
    """Give a file the contents of another file, or of the same file of another entry."""
    files = world.files[entry]
    file = r.choice(list(files))
    other = world.files[r.choice(_ENTRIES)]
    choices = [content for content in (*files.values(), other.get(file, b"")) if content != files[file]]
    return _written(file, r.choice(choices))


def _extra(r: random.Random, world: World, entry: str) -> Callable[[World, Path], None]:
    name = r.choice(
        ("extra", "1/extra", "1/variables/variables.data-00001-of-00002", ".hidden", "1/assets/x", "a b", "é")
    )

    def change(world: World, folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x" * r.randrange(3))

    return change


def _removed(r: random.Random, world: World, entry: str) -> Callable[[World, Path], None]:
    file = r.choice(list(world.files[entry]))
    return lambda world, folder: (folder / file).unlink()


def _linked(r: random.Random, world: World, entry: str) -> Callable[[World, Path], None]:
    """Put a link in the place of a file or a folder, or beside them."""
    file = r.choice((*world.files[entry], "1", "1/variables", "extra", "1/extra"))
    target = r.choice(
        (world.outside, Path("/etc"), Path("nowhere"), Path(".."), world.folders[_ENTRIES[1]] / "1")
    )

    def change(world: World, folder: Path) -> None:
        path = folder / file
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return change


def _odd_kind(r: random.Random, world: World, entry: str) -> Callable[[World, Path], None]:
    """Put a folder in the place of a file."""
    file = r.choice(list(world.files[entry]))

    def change(world: World, folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    return change


def _listed(r: random.Random, world: World, entry: str) -> Callable[[World, Path], None]:
    """Change the list: its lines go, come twice, change places, or lead elsewhere."""
    lines = world.files[entry][MANIFEST].decode().splitlines(keepends=True)
    at = r.randrange(len(lines))
    sha, path = lines[at][:64], lines[at][66:].strip()
    way = r.randrange(5)
    if way == 0:
        del lines[at]
    elif way == 1:
        lines.insert(at, lines[at])
    elif way == 2:
        lines.append(lines.pop(0))
    elif way == 3:
        other = r.choice(("../outside", "/etc/passwd", f"./{path}", f"{path}/", f"{path}\r", "~"))
        lines[at] = f"{sha}  {other}\n"
    else:
        lines[at] = f"{r.choice((sha.upper(), sha[:-1], sha[::-1], 'g' * 64))}  {path}\n"
    content = "".join(lines).encode()
    return _written(MANIFEST, content if content != world.files[entry][MANIFEST] else b"")


_CHANGES = (_mutated, _mutated, _swapped, _extra, _removed, _linked, _odd_kind, _listed)


# --- What comes of them -------------------------------------------------------------------------------------


def attempt(world: World, given: Given) -> str:
    """Change the folder, and demand that it is refused; then put it back."""
    folder = world.folders[given.entry]
    given.change(world, folder)
    try:
        if given.load:
            zoo.load(given.entry, source=folder)
        else:
            weights.verify(folder, world.digests[given.entry] if given.digest_known else None, given.entry)
    except WeightsError as error:
        return f"{'load' if given.load else 'verify'}: {type(error).__name__}"
    finally:
        _restore(world, given.entry)
    raise Defect("a changed folder was accepted")


def _restore(world: World, entry: str) -> None:
    """Write the whole folder again."""
    folder = world.folders[entry]
    shutil.rmtree(folder)
    for file, content in world.files[entry].items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def sound(world: World) -> bool:
    """Say whether the unchanged folders are accepted: without that, all refusals would mean nothing."""
    configs = [registry.get_config(entry) for entry in _ENTRIES]
    return all(weights.verify(world.folders[c.name], world.digests[c.name], c.name) for c in configs)


TARGET = Target("weights", world, make, attempt, clean=(WeightsError,))

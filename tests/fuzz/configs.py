"""Entries of the zoo, as files, as plain data, and as what a user registers."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flowzoo import registry
from flowzoo.config import EntryConfig, load_config, parse_config
from flowzoo.errors import ConfigError
from flowzoo.paths import packaged
from tests.fuzz.harness import Defect, Target, finite_tree
from tests.fuzz.mutate import WORDS, mutate, mutate_tree, mutate_words, odd_value

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class World:
    """A folder, and the zoo's own entries as text and as data."""

    folder: Path
    texts: dict[str, str]
    trees: dict[str, Any]


@dataclass(frozen=True)
class Given:
    """A file's stem and bytes, or plain data."""

    name: str
    content: Any
    register: bool = False


@contextmanager
def world() -> Iterator[World]:
    """Read the zoo's entries."""
    root = packaged("zoo_configs")
    texts = {path.stem: path.read_text() for path in sorted(root.glob("*.yaml"))} if root else {}
    trees = {name: yaml.safe_load(text) for name, text in texts.items()}
    with tempfile.TemporaryDirectory() as folder:
        yield World(Path(folder), texts, trees)


def make(r: random.Random, world: World) -> Given:
    """Take a real entry and change its bytes, words or data; or make what no person would write."""
    name = r.choice(list(world.texts))
    register = r.random() < 0.05
    way = r.random()
    if way < 0.3:
        raw = world.texts[name].encode()
        return Given(name, mutate(r, raw, [raw]), register)
    if way < 0.55:
        return Given(name, mutate_words(r, world.texts[name]).encode(errors="surrogatepass"), register)
    if way < 0.7:
        tree = mutate_tree(r, world.trees[name])
        try:
            text = yaml.dump(tree, Dumper=_Dumper, allow_unicode=r.random() < 0.5)
        except UnicodeEncodeError:  # half a surrogate pair; JSON can write it, and is YAML
            text = json.dumps(tree)
        return Given(name, text.encode(), register)
    if way < 0.9:
        tree = world.trees[name]
        for _ in range(r.randint(1, 3)):
            tree = mutate_tree(r, tree)
        return Given(name, tree, register)
    return Given(name, r.choice(_MADE)(r, world, name), register)


def attempt(world: World, given: Given) -> str:
    """Read it; what is accepted must be the same when it is read again, and hold no NaN."""
    config = _read(world, given)
    content = config.model_dump(mode="json")
    finite_tree(content, given.name)
    if parse_config(content) != config:
        raise Defect(f"{given.name} is another entry when it is read again")
    return "accepted"


def _read(world: World, given: Given) -> EntryConfig:
    if isinstance(given.content, bytes):
        path = world.folder / f"{given.name}.yaml"
        path.write_bytes(given.content)
        if not given.register:
            return load_config(path)
        return _registered(path)
    return _registered(given.content) if given.register else parse_config(given.content)


def _registered(content: Any) -> EntryConfig:
    try:
        config = registry.register_config(content, overwrite=True)
        registry.get_config(config.name)
    except TypeError as error:
        if isinstance(content, Mapping | Path):
            raise Defect("an entry is no wrong type") from error
        raise ConfigError("neither a mapping nor a path") from error  # as documented
    finally:
        registry._registered.clear()
        registry._parsed.clear()
    return config


# --- What no person would write -----------------------------------------------------------------------------


def _aliases(r: random.Random, world: World, name: str) -> bytes:
    """Nine lists of nine of the one before: a billion items, if aliases were followed."""
    lines = [
        "a: &a [x, x]",
        *(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ]
    return "\n".join(lines).encode() + world.texts[name].encode()


def _deep(r: random.Random, world: World, name: str) -> bytes:
    depth = r.choice((10, 49, 50, 51, 500, 20000))
    way = r.randrange(4)
    text = world.texts[name]
    nested = (
        "[" * depth + "]" * depth,
        "{a: " * depth + "1" + "}" * depth,
        "- " * depth + "1",
        "? " * depth,
    )[way]
    return f"{text}\nnested: {nested}".encode() if way < 2 else nested.encode()


def _deep_data(r: random.Random, world: World, name: str) -> Any:
    nested: Any = 1
    for _ in range(r.choice((20, 60, 900, 5000, 100_000))):
        nested = [nested] if r.random() < 0.5 else {"a": nested}
    return _with_argument(world, name, nested)


def _circle(r: random.Random, world: World, name: str) -> Any:
    circle: dict[str, Any] = {}
    circle["again"] = circle if r.random() < 0.5 else [circle]
    return _with_argument(world, name, circle)


def _object(r: random.Random, world: World, name: str) -> Any:
    odd = (object(), Path("x"), {1, 2}, b"bytes", 3j, (x for x in ()), float("nan"), range(3), print, type)
    return _with_argument(world, name, r.choice(odd))


def _with_argument(world: World, name: str, value: Any) -> Any:
    tree = world.trees[name]
    return {**tree, "model": {**tree["model"], "args": {"value": value}}}


def _twice(r: random.Random, world: World, name: str) -> bytes:
    lines = world.texts[name].splitlines()
    lines.insert(r.randrange(len(lines)), r.choice(lines))
    return "\n".join(lines).encode()


def _coded(r: random.Random, world: World, name: str) -> bytes:
    codec = r.choice(("utf-16", "utf-32", "utf-7", "latin-1", "cp037", "utf-8-sig"))
    return (world.texts[name] + "# é").encode(codec, errors="replace")


def _tagged(r: random.Random, world: World, name: str) -> bytes:
    call = r.choice(
        (
            "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!binary aGk=",
            "!x {a: 1}",
            "!!set {a, b}", "!!timestamp 2001-01-01",
            "!!python/object/new:type {args: [x, !!python/tuple [], {}]}",
            "<<: {a: 1}", "!!merge x", "!<tag:yaml.org,2002:int> 3",
        )
    )  # fmt: skip
    return f"{world.texts[name]}\nextra: {call}".encode()


def _number_text(r: random.Random, world: World, name: str) -> bytes:
    number = r.choice(WORDS[2:30])
    key = r.choice(("epochs", "batch_size", "learning_rate", "seed", "warmup_steps", "event_shape"))
    lines = [
        f"{line.partition(':')[0]}: {number}" if line.strip().startswith(f"{key}:") else line
        for line in world.texts[name].splitlines()
    ]
    return "\n".join(lines).encode()


def _large(r: random.Random, world: World, name: str) -> bytes:
    return f"{world.texts[name]}\nextra: {'x' * r.choice((10**4, 10**6))}".encode()


def _anything(r: random.Random, world: World, name: str) -> Any:
    return r.choice((odd_value(r), r.randbytes(r.randrange(300)), [], None, "text", 3))


_MADE: tuple[Callable[[random.Random, World, str], Any], ...] = (
    _aliases, _deep, _deep_data, _circle, _object, _twice, _coded, _tagged, _number_text, _number_text,
    _large,
    _anything, _anything,
)  # fmt: skip


def _nested(depth: int) -> Any:
    nested: Any = 1
    for _ in range(depth):
        nested = [nested]
    return nested


KNOWN: dict[str, Callable[[World], Given]] = {
    # RecursionError from copying.
    "data nested too deep": lambda world: Given(
        "maf_moons", _with_argument(world, "maf_moons", _nested(5000))
    ),
    # NaN went into a model's arguments.
    "a NaN argument": lambda world: Given("maf_moons", _with_argument(world, "maf_moons", float("nan"))),
    # IndexError: pydantic names no place for a key that is no Unicode.
    "half a surrogate pair as a key": lambda world: Given(
        "maf_moons", {**world.trees["maf_moons"], "\ud800": 1}
    ),
    "half a surrogate pair as an argument": lambda world: Given(
        "maf_moons", _with_argument(world, "maf_moons", "\ud800")
    ),
    # Accepted, and could not be written to a card.
    "an integer of 1200 bits": lambda world: Given("maf_moons", _with_argument(world, "maf_moons", 2**1200)),
    "1200 bits of epochs": lambda world: Given(
        "maf_moons", world.texts["maf_moons"].replace("epochs:", f"epochs: 0x{'f' * 300} #").encode()
    ),
    # TypeError that spoke of pickling.
    "an object as an argument": lambda world: Given(
        "maf_moons", _with_argument(world, "maf_moons", object())
    ),
}

TARGET = Target("configs", world, make, attempt, clean=(ConfigError,), known=KNOWN)

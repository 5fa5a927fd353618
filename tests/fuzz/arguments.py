"""The command line: lists of arguments, through `flowzoo.cli.main` in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import typer

from flowzoo.cli.app import app, main
from flowzoo.cli.codes import Code
from tests.fuzz.harness import Defect, Target
from tests.fuzz.mutate import WORDS

# Each stops before a model is loaded, whatever is added to it, unless `_LOADS` says that it may.
_TEMPLATES = (
    "list", "list maf_* --json", "list --pretrained", "list test_* --json", "info test_nice",
    "info maf_moons --json",
    "verify test_nice --hashes-only", "verify test_nice test_maf --hashes-only --json", "doctor --json",
    "--version",
    "--help", "sample --help",
    "sample test_nice --num 3 --out x.png",
    "sample nsf_moons --num 3 --seed 1 --temperature 0.5 --out x.csv --json",
    "score test_nice --data small.csv --out scores.csv", "score maf_moons --data small.npy --json --limit 3",
    "score test_nice --data moons -o noise=0.2 --limit 4",
    "score maf_moons --data pictures --split test --out s.npz",
    "evaluate test_nice --split validation --limit 8 --json",
    "evaluate maf_moons --seed 3 --data-dir pictures",
    "interpolate realnvp_mnist a.png b.png --steps 3 --out strip.png",
    "reconstruct test_glow a.png b.png --out x.png",
    "attribute test_glow a.png --from pictures --to pictures --strengths -1,0,1 --out x.png",
    "temperatures test_glow --num 2 --values 0.5,1 --seed 1 --out x.png",
    "levels test_glow a.png --out x.png",
    "train test_nice --epochs 1 --limit 32 --out runs --json",
    "train test_maf --data moons -o noise=0.1 --as maf_mine -q",
    "train test_glow --pictures pictures --size 8 --as glow_mine --previews 1 --resume",
    "export test_nice served",
    "export test_maf served --version 3 --weights-dtype float16 --batching --json",
    "export test_glow served --weights-dtype int8 --warmup 1,4 --source path:runs",
    "shards moons --out made -o num_examples=40 --num-shards 2",
    "shards csv --out made -o path=small.csv -o label=b --num-shards 1 --split train --overwrite --json",
    "pipeline test_maf -o num_examples=60 --limit 40 --batch-size 8 --worker 1 --workers 2 --json",
    "pipeline maf_tabular --data csv -o path=small.csv",
    "serve test_nice --dry-run --folder served --port 8500 --rest-port 8501 --json",
    "serve served/ --dry-run --batching --flag --enable_profiler=false",
    "serve served/test_nice --dry-run --server nowhere/server --image a/b:1",
)  # fmt: skip
# Commands that go on to load or train a model where their arguments are right.
_LOADS = (
    "sample",
    "score",
    "evaluate",
    "interpolate",
    "reconstruct",
    "attribute",
    "temperatures",
    "levels",
    "export",
)
_FILES = ("small.csv", "small.npy", "a.png", "b.png", "pictures", "pictures.zip", "text.txt", "card.json",
"broken.npz", "served", "served/", "served/test_nice", "made",
          "nowhere/x.png", "x.png", "x.csv", "/dev/null", "/", ".", "path:.", "path:runs", "path:",
          "path:/dev/null")  # fmt: skip
_NAMES = ("test_nice", "test_glow", "maf_moons", "maf_tabular", "glow_celeba", "no_such_entry", "maf",
"moons", "mnist", "npz",
          "image_folder", "csv", "tfds", "auto", "mirrored", "multiworker", "float16", "train",
          "validation")  # fmt: skip
_SURROGATE = os.fsdecode(b"\xff\xfe.csv")
_ONE_IN = 400


@dataclass(frozen=True)
class World:
    """Where commands run, and the options that they have."""

    folder: Path
    options: list[str]
    commands: list[str]


@contextmanager
def world() -> Iterator[World]:
    """Make small files in a folder of its own, where no data and no weights but flowzoo's own are found."""
    command: Any = typer.main.get_command(app)
    found = {
        option for sub in command.commands.values() for parameter in sub.params for option in parameter.opts
    }
    options = sorted(option for option in found if option.startswith("-"))
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        _write_files(folder)
        places = {"FLOWZOO_HOME": str(folder / "home"), "FLOWZOO_DATA": "", "COLUMNS": "80"}
        # Typer makes the commands anew for each call, which takes twice as long as all the rest.
        once = mock.patch("typer.main.get_command", lambda _: command)
        with once, mock.patch.dict(os.environ, places):
            for variable in ("FLOWZOO_DEBUG", "FLOWZOO_BASE_URL", "TF_CONFIG"):
                os.environ.pop(variable, None)
            yield World(folder, options, sorted(command.commands))


def _write_files(folder: Path) -> None:
    from PIL import Image

    x = np.random.RandomState(0).normal(size=(6, 2))
    np.savetxt(folder / "small.csv", x, delimiter=",", header="a,b", comments="")
    np.save(folder / "small.npy", x)
    (folder / "pictures").mkdir()
    for path in ("a.png", "b.png", "pictures/a.png", "pictures/b.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / path)
    (folder / "text.txt").write_text("text")
    (folder / "card.json").write_text('{"config": {"name": 3}, "name": "../../x"}')
    (folder / "broken.npz").write_bytes(b"PK\3\4")
    version = folder / "served" / "test_nice" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"")
    config = f'name: "test_nice"\n    base_path: "{version.parent}"'
    text = f"model_config_list {{\n  config {{\n    {config}\n  }}\n}}\n"
    (folder / "served" / "models.config").write_text(text)


# --- Inputs -------------------------------------------------------------------------------------------------


def make(r: random.Random, world: World) -> list[str]:
    """Take a command and change it, or draw words; what would load or train a model mostly gets a flaw."""
    if r.random() < 0.1:
        given = [_word(r, world) for _ in range(r.randrange(8))]
    else:
        given = r.choice(_TEMPLATES).split()
        for _ in range(r.choice((0, 1, 1, 2, 2, 3, 6))):
            given = _changed(r, given, world)
    return _cheap(r, [part.replace("\0", "") if r.random() < 0.9 else part for part in given])


def _word(r: random.Random, world: World) -> str:
    way = r.randrange(6)
    if way < 2:
        return r.choice(world.options)
    if way == 2:
        return r.choice((*_FILES, _SURROGATE, *_NAMES))
    if way == 3:
        return r.choice(world.commands)
    if way == 4:
        return f"{r.choice(world.options)}={r.choice(WORDS)}"
    return r.choice(WORDS)


def _changed(r: random.Random, given: list[str], world: World) -> list[str]:
    at = r.randrange(1, len(given) + 1) if given else 0
    way = r.randrange(7)
    if way == 0:
        return [*given[: at - 1], *given[at:]] if at else given
    if way == 1 and at < len(given):
        return [*given[:at], _word(r, world), *given[at + 1 :]]
    if way == 2 and at < len(given):
        return [*given[:at], r.choice((*WORDS, *_NAMES, *_FILES)), *given[at + 1 :]]
    if way == 3:
        return [*given[:at], r.choice(world.options), r.choice((*WORDS, *_NAMES, *_FILES)), *given[at:]]
    if way == 4:
        other = given[at:]
        r.shuffle(other)
        return [*given[:at], *other]
    if way == 5 and at < len(given):
        return [*given[:at], given[at], *given[at:]]
    return [*given[:at], _word(r, world), *given[at:]]


def _cheap(r: random.Random, given: list[str]) -> list[str]:
    """See to it that little is trained and loaded: one in so many, of the smallest entry.

    A training asks for a strategy that does not exist, which is found out last before it begins. The others
    get the name of an entry without weights, a folder without any, or a target that cannot be written. What
    starts a server or replaces a folder is bounded wherever the words may have led it.
    """
    rest = [part for part in given if part != "--"]
    if "train" in given[:2]:
        return [*rest, "--strategy", "none"]
    if "serve" in given[:2]:
        return _unserved(r, rest)
    if "shards" in given[:2]:
        return _sheltered(r, rest)
    if given[:1] == ["pipeline"]:
        trains = [] if r.random() < 1 / _ONE_IN else ["--no-train"]
        names = [part if part not in _NAMES[:4] else "test_maf" for part in rest]
        return [*(names if not trains else rest), *trains, "--batches", "2", "--seconds", "0.1"]
    if given[:1] and given[0] in _LOADS:
        if r.random() < 1 / _ONE_IN:
            return [part if part not in _NAMES[1:4] else "test_nice" for part in given]
        flaw = r.choice((["--source", "path:nowhere"], ["--source", "path:."], ["--source", "zip:x"]))
        return [*rest, *flaw]
    if given[:1] == ["verify"] and r.random() > 1 / _ONE_IN:
        return [*given, "--hashes-only"] if "--" not in given else [given[0], "--hashes-only", *given[1:]]
    if given[:1] == ["doctor"] and r.random() > 1 / _ONE_IN:
        return [*given, "more"]
    return given


def _unserved(r: random.Random, rest: list[str]) -> list[str]:
    """Have a server's command printed, or a server asked for that is not there: first, so none eats it."""
    at = rest.index("serve") + 1
    if r.random() < 0.8:
        return [*rest[:at], "--dry-run", *rest[at:]]
    others = [part for part in rest[at:] if not part.startswith("--server")]
    return [*rest[:at], "--server", "nowhere", *others]


def _sheltered(r: random.Random, rest: list[str]) -> list[str]:
    """Write shards into one folder of the sandbox, or ask for a split that no source has, wherever to."""
    if r.random() < 0.7:
        return [*rest, "--split", "none"]
    at = rest.index("shards") + 1
    others = [
        part
        for before, part in zip(rest[at - 1 :], rest[at:], strict=False)
        if before != "--out" and not part.startswith(("--out", "--overwrite"))
    ]
    return [*rest[:at], "--overwrite", *others, "--out", "made"]


# --- What comes of them -------------------------------------------------------------------------------------


def attempt(world: World, given: list[str]) -> str:
    """Run it: the exit code is a documented one, nobody sees a traceback, and JSON is JSON."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(given)
    out.flush()
    text = out.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]
    # What doctor finds missing, and a server that is not installed, are failures of the machine.
    told = "doctor" in given or ("serve" in given and "NoServerError" in err.getvalue())
    if code not in set(Code) - {Code.FAILURE, Code.INTERRUPTED} and not (code == Code.FAILURE and told):
        raise Defect(f"exit code {code}: {err.getvalue()[-600:]}")
    if "Traceback" in err.getvalue() or "Traceback" in text:
        raise Defect(f"a traceback: {err.getvalue()[-600:]}")
    if code and not err.getvalue().strip() and not text.strip():
        raise Defect(f"exit code {code} without a word")
    if code == Code.OK and "--json" in given and text.startswith(("[", "{")):
        json.loads(text, parse_constant=_no_constant)
    if not code and "nan" in text.lower().split():
        raise Defect(f"NaN in {text[:200]}")
    return f"exit {int(code)}"


def _no_constant(name: str) -> None:
    raise Defect(f"JSON holds {name}")


KNOWN: dict[str, Callable[[World], list[str]]] = {
    # Exit code 1, as if the work had failed.
    "a name that is too long": lambda world: ["score", "test_nice", "--data", "9" * 5000 + ".csv"],
    "a target that is too long": lambda world: ["sample", "test_nice", "--out", "9" * 5000 + ".csv"],
}

TARGET = Target("arguments", world, make, attempt, clean=(), limit=60.0, memory=8 * 2**30, known=KNOWN)

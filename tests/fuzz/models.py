"""Model files of every kind: Keras's own, training states, and folders whose sums agree with their files."""

from __future__ import annotations

import base64
import io
import json
import marshal
import os
import random
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo import zoo
from flowzoo.errors import DataError, WeightsError
from flowzoo.manifest import write_manifest
from flowzoo.models import Flow
from flowzoo.paths import packaged
from flowzoo.training.callbacks import Clock, KeepWeights
from flowzoo.training.resuming import SaveState, Saving
from flowzoo.training.states import StateFolder
from flowzoo.training.workers import Workers
from tests.fuzz.harness import Defect, Target
from tests.fuzz.mutate import WORDS, mutate, mutate_tree
from tests.models.flows import make as make_flow

ENTRY = "test_nice"


@dataclass(frozen=True)
class World:
    """A flow and its files; and the file that code in any of them would make."""

    folder: Path
    marker: Path
    flow: Flow
    weights: list[np.ndarray]
    keras_file: bytes
    weights_file: bytes
    state: bytes
    lambda_config: Any
    entry: dict[str, bytes]


@dataclass(frozen=True)
class Given:
    """A kind of file, and its contents; of a folder those of each file that differs."""

    kind: str
    raw: bytes = b""
    files: dict[str, bytes | None] | None = None


@contextmanager
def world() -> Iterator[World]:
    """Save a small flow in every way there is."""
    root = packaged("saved_models")
    if root is None:
        raise FileNotFoundError("saved_models/ is part of the checkout")
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        flow = make_flow("nice", "vector")
        flow.compile("sgd")
        flow.optimizer.build(flow.trainable_variables)
        flow.save(base / "x.keras")
        flow.save_weights(base / "x.weights.h5")
        state = _saver(base / "states")
        state.set_model(flow)
        state.on_epoch_end(0, {"loss": 1.0, "val_loss": 1.0})
        saved = next((base / "states").iterdir()).read_bytes()
        entry = {
            p.relative_to(root / ENTRY).as_posix(): p.read_bytes()
            for p in (root / ENTRY).rglob("*")
            if p.is_file()
        }
        contents = [(base / file).read_bytes() for file in ("x.keras", "x.weights.h5")]
        lambda_config = _lambda_config(base / "ran")
        (base / "data").mkdir()
        yield World(
            base / "data", base / "ran", flow, flow.get_weights(), *contents, saved, lambda_config, entry
        )


def _saver(folder: Path, resume: bool = False) -> SaveState:
    clock = Clock()
    clock.epochs = [1.0]
    saving = Saving(StateFolder(folder), seconds=0.0, resume=resume)
    workers = Workers(tf.distribute.get_strategy())
    keep = KeepWeights("val_loss")
    return SaveState(saving, workers, "recipe", 1, 1, keep=keep, clock=clock, average=None, patience=None)


def _lambda_config(marker: Path) -> Any:
    """Return what Keras writes of a model whose Lambda layer makes a file when the model is built."""
    function = eval(f"lambda x: (__import__('pathlib').Path({str(marker)!r}).touch(), x)[1]")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(function)])
    marker.unlink()
    return keras.saving.serialize_keras_object(model)


# --- Inputs -------------------------------------------------------------------------------------------------


def make(r: random.Random, world: World) -> Given:
    """Change a file, or put code where a loader might run it."""
    return r.choice(_MADE)(r, world)


def _state(r: random.Random, world: World) -> Given:
    if r.random() < 0.6:
        return Given("state", mutate(r, world.state, [world.state]))
    with np.load(io.BytesIO(world.state)) as content:
        arrays = dict(content)
    about = json.loads(str(arrays["about"]))
    for _ in range(r.randint(1, 2)):
        about = mutate_tree(r, about)
    arrays["about"] = (
        np.array(json.dumps(about)) if r.random() < 0.9 else np.array(r.choice((1, "x", "[" * 9999, None)))
    )
    for name in [name for name in arrays if name != "about" and r.random() < 0.05]:
        arrays[name] = r.choice(
            (np.zeros(3), np.array("x"), np.array([None]), arrays[name].T, np.array(np.nan))
        )
    if r.random() < 0.1:
        arrays[r.choice(WORDS[1:40]).replace("/", "_").replace("\0", "") or "y"] = np.zeros(2)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return Given("state", buffer.getvalue())


def _weights_file(r: random.Random, world: World) -> Given:
    return Given("weights.h5", mutate(r, world.weights_file, [world.weights_file]))


def _keras_file(r: random.Random, world: World) -> Given:
    """Change a .keras archive: its bytes, its config, or the objects that the config names."""
    if r.random() < 0.3:
        return Given("keras", mutate(r, world.keras_file, [world.keras_file, world.weights_file]))
    with zipfile.ZipFile(io.BytesIO(world.keras_file)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    config = _with_code(r, world, config) if r.random() < 0.7 else mutate_tree(r, config)
    files["config.json"] = json.dumps(config).encode()
    if r.random() < 0.1:
        files[
            r.choice(("../outside", "/tmp/flowzoo-fuzz-outside", "assets/../../x", "model.weights.npz"))
        ] = b"x"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    return Given("keras", buffer.getvalue())


def _with_code(r: random.Random, world: World, config: Any) -> Any:
    """Name what runs code: a Lambda of marshalled bytecode, a function of another module, a call."""
    call = f"__import__('pathlib').Path({str(world.marker)!r}).touch()"
    code = base64.b64encode(marshal.dumps(compile(call, "x", "eval"))).decode()
    function = {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}
    lambda_layer = {
        "module": "keras.layers", "class_name": "Lambda", "registered_name": None,
        "config": {"name": "x", "function": function, "arguments": {}},
    }  # fmt: skip
    named = {"module": r.choice(("os", "builtins", "subprocess", "flowzoo.files")), "registered_name": None,
             "class_name": r.choice(("system", "eval", "exec", "Popen", "function", "write_atomic")),
             "config": r.choice((call, f"touch {world.marker}",
             {"args": [f"touch {world.marker}"]}))}  # fmt: skip
    evil = r.choice((lambda_layer, function, named, {"class_name": "__numpy__", "config": {"value": [1],
    "dtype": "object"}},
                     {"class_name": "__typespec__", "spec_name": "TypeSpec", "module": "os",
                     "config": [call]}))  # fmt: skip
    way = r.randrange(5)
    if way == 0:
        return evil
    if way == 4:
        return world.lambda_config
    if way == 1:
        return {
            **config,
            "module": named["module"],
            "class_name": named["class_name"],
            "registered_name": None,
        }
    if way == 2:
        return {**config, "compile_config": {"optimizer": evil, "loss": evil}}
    arguments = dict(config["config"])
    arguments[r.choice(list(arguments))] = evil
    return {
        **config,
        "config": {**arguments, "layers": [evil], "base": evil} if r.random() < 0.3 else arguments,
    }


def _signed_folder(r: random.Random, world: World) -> Given:
    """Change an entry's files, and list their new sums: what a folder that a user names may be."""
    way = r.randrange(4)
    if way == 0:
        card = json.loads(world.entry["card.json"])
        key = r.choice(("config", "name", "metric", "config", "config"))
        card[key] = r.choice((None, 3, "x", [], {}, _smaller(r, card[key]), _smaller(r, card[key])))
        return Given("folder", files={"card.json": json.dumps(card).encode()})
    if way == 1:
        with np.load(io.BytesIO(world.entry["golden.npz"])) as content:
            arrays = dict(content)
        name = r.choice(list(arrays))
        value = arrays.pop(name)
        if r.random() < 0.8:
            arrays[name] = r.choice(
                (value[:0], value[:1], value * np.nan, value + 1, value.T, np.array("x"), np.array(["x"] * 4))
            )
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return Given("folder", files={"golden.npz": buffer.getvalue()})
    file = r.choice(
        [f"1/variables/{name}" for name in ("variables.index", "variables.data-00000-of-00001")]
        + ["card.json", "golden.npz"]
    )
    raw = (
        mutate(r, world.entry[file], [world.entry[file]])
        if file != "card.json"
        else world.entry[file][: r.randrange(99)]
    )
    return Given("folder", files={file: raw if r.random() < 0.95 else None})


def _smaller(r: random.Random, tree: Any) -> Any:
    """Change plain data without larger numbers: they would be a larger model, which is no fault of a file."""
    if isinstance(tree, dict) and tree:
        key = r.choice(list(tree))
        rest = {name: value for name, value in tree.items() if name != key}
        return r.choice(
            (
                rest,
                {**tree, key: _smaller(r, tree[key])},
                {**tree, key: _smaller(r, tree[key])},
                {**rest, f"{key}x": 1},
            )
        )
    return r.choice((None, "x", [], {}, -1, 0, True, 0.5, [[]], {"name": "x"}))


_MADE: tuple[Callable[[random.Random, World], Given], ...] = (
    _state,
    _state,
    _weights_file,
    _keras_file,
    _signed_folder,
)


# --- What comes of them -------------------------------------------------------------------------------------


class KerasRefused(Exception):
    """Keras's own loaders refuse with errors of every kind; that they run nothing is what counts."""


def attempt(world: World, given: Given) -> str:
    """Load it; no code may have run, and a flow that was loaded must give finite values or an error."""
    try:
        return _LOADERS[given.kind](world, given)
    finally:
        world.flow.set_weights(world.weights)
        shutil.rmtree(world.folder)
        world.folder.mkdir()
        if world.marker.exists():
            world.marker.unlink()
            raise Defect("code from a file was run")
        if os.path.exists("/tmp/flowzoo-fuzz-outside") or len(list(world.folder.parent.iterdir())) > 4:
            raise Defect("a file was written outside")


def _load_state(world: World, given: Given) -> str:
    folder = StateFolder(world.folder / "states")
    folder.write(1, given.raw)  # under a name with its own SHA-256, which an attacker can make as well
    try:
        _saver(folder.folder, resume=True).restore(world.flow)
    except DataError:
        return "state: refused"
    finally:
        folder.clear()
    return "state: restored"


def _load_weights(world: World, given: Given) -> str:
    path = world.folder / "x.weights.h5"
    path.write_bytes(given.raw)
    try:
        world.flow.load_weights(path)
    except Exception as error:
        raise KerasRefused from error
    return f"weights.h5: {_scored(world.flow)}"


def _load_keras(world: World, given: Given) -> str:
    path = world.folder / "x.keras"
    path.write_bytes(given.raw)
    try:
        flow = keras.models.load_model(path)
    except Exception as error:
        raise KerasRefused from error
    return f"keras: {_scored(flow) if isinstance(flow, Flow) else 'another object'}"


def _load_folder(world: World, given: Given) -> str:
    folder = world.folder / ENTRY
    for file, raw in {**world.entry, **(given.files or {})}.items():
        if raw is not None:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(raw)
    (folder / "SHA256SUMS").unlink()
    write_manifest(folder)
    try:
        flow = zoo.load(ENTRY, source=folder)
    except WeightsError:
        return "folder: refused"
    return f"folder: {_scored(flow)}"


def _scored(flow: Flow) -> str:
    try:
        value = flow.log_prob(np.zeros((2, *flow.event_shape), flow.data_dtype)).numpy()
    except FloatingPointError:
        return "loaded, of no finite result"
    if np.isnan(value).any():
        raise Defect("a NaN")
    return "loaded"


_LOADERS = {"state": _load_state, "weights.h5": _load_weights, "keras": _load_keras, "folder": _load_folder}


def _card(world: World, **changes: Any) -> Given:
    return Given(
        "folder",
        files={"card.json": json.dumps({**json.loads(world.entry["card.json"]), **changes}).encode()},
    )


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


KNOWN: dict[str, Callable[[World], Given]] = {
    # KeyError and TypeError.
    "a state that says nothing": lambda world: Given("state", _npz(weight_0=np.zeros(2))),
    "a state of a list": lambda world: Given("state", _npz(about=np.array("[1]"))),
    "a card without a config": lambda world: _card(world, config=None),
    "golden values without any": lambda world: Given("folder", files={"golden.npz": _npz(y=np.zeros(2))}),
    "golden values of none": lambda world: Given(
        "folder", files={"golden.npz": _npz(x=np.zeros((0, 2), np.float32), log_prob=np.zeros(0))}
    ),
}

TARGET = Target(
    "models",
    world,
    make,
    attempt,
    clean=(KerasRefused,),
    limit=120.0,
    memory=6 * 2**30,
    turn=10_000,
    known=KNOWN,
)

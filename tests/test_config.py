"""Entries are read strictly: what is wrong is named with its file, its key and what is accepted."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time

import pytest
import yaml
from pydantic import ValidationError

from flowzoo import paths
from flowzoo.config import EntryConfig, load_config, parse_config
from flowzoo.errors import ConfigError
from flowzoo.strict_yaml import read_yaml

ENTRY = """\
name: maf_moons
description: A masked autoregressive flow on two moons.
model:
  family: maf
  event_shape: [2]
  args: {hidden: [64, 64], layers: 5}
data:
  source: moons
  options: {noise: 0.05}
training:
  epochs: 20
  batch_size: 256
  optimizer:
    learning_rate: 1e-3
    clip_norm: 5
card:
  metric: nats
  published:
    - {value: 2.5, unit: nats, source: a paper}
  data_licence: public domain
  limits: [two dimensions alone]
  citation: ["arXiv:1705.07057"]
weights:
  dtype: float16
"""


def write(folder, text, name="maf_moons"):
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def content():
    return copy.deepcopy(yaml.safe_load(ENTRY.replace("1e-3", "0.001")))


def test_a_whole_entry_is_read_with_its_types_and_defaults(tmp_path):
    config = load_config(write(tmp_path, ENTRY))
    assert config.model.event_shape == (2,)
    assert config.model.args == {"hidden": [64, 64], "layers": 5}
    assert config.training.optimizer.learning_rate == 1e-3
    assert config.training.optimizer.clip_norm == 5.0
    assert config.training.optimizer.schedule == "cosine"
    assert (config.training.seed, config.training.ema, config.training.jit_compile) == (0, None, "auto")
    assert config.card.published[0].value == 2.5
    assert (config.weights.dtype, config.weights.sha256) == ("float16", None)
    assert not config.data.conditional


def test_an_entry_cannot_be_changed(tmp_path):
    config = load_config(write(tmp_path, ENTRY))
    with pytest.raises(ValidationError, match="frozen"):
        config.training.epochs = 1


def test_the_data_and_the_event_shape_may_be_the_users_own(tmp_path):
    text = ENTRY.replace("event_shape: [2]", "event_shape: null")
    text = text.replace("data:\n  source: moons\n  options: {noise: 0.05}\n", "")
    config = load_config(write(tmp_path, text))
    assert config.data is None
    assert config.model.event_shape is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("epochs: 20", "epoch: 20", ["training.epoch: unknown key", "Did you mean 'epochs'?", "batch_size"]),
        ("  epochs: 20\n", "", ["training.epochs: missing", "an integer (at least 1, at most 2147483647)"]),
        ("epochs: 20", "epochs: ten", ["training.epochs: received 'ten'", "an integer (at least 1, at most"]),
        ("epochs: 20", "epochs: 0", ["training.epochs: received 0", "at least 1"]),
        ("epochs: 20", "epochs: 20.0", ["training.epochs: received 20.0", "an integer"]),
        ("epochs: 20", "epochs: true", ["training.epochs: received true", "an integer"]),
        ("epochs: 20", "epochs: null", ["training.epochs: received null", "an integer"]),
        ("epochs: 20", 'epochs: "20"', ["training.epochs: received '20'", "an integer"]),
        ("epochs: 20", "epochs: 20\n  seed: -1", ["training.seed: received -1", "at least 0"]),
        ("epochs: 20", "epochs: 20\n  seed: 4294967296", ["training.seed: received 4294967296", "at most"]),
        ("epochs: 20", "epochs: 20\n  ema: 1", ["training.ema: received 1", "less than 1", "null"]),
        ("epochs: 20", "epochs: 20\n  ema: 0", ["training.ema: received 0", "greater than 0"]),
        ("epochs: 20", "epochs: 20\n  jit_compile: fast", ["jit_compile: received 'fast'", "or 'auto'"]),
        ("epochs: 20", "epochs: 20\n  keep: first", ["training.keep: received 'first'", "'best' or 'last'"]),
        ("1e-3", ".nan", ["training.optimizer.learning_rate: received nan", "a number (greater than 0)"]),
        ("1e-3", ".inf", ["training.optimizer.learning_rate: received inf", "a number"]),
        ("value: 2.5", "value: .nan", ["card.published.0.value: received nan", "a number"]),
        ("1e-3", "0", ["training.optimizer.learning_rate: received 0", "greater than 0"]),
        ("1e-3", "1e-3\n    name: lion", ["training.optimizer.name: received 'lion'", "'adamw'"]),
        ("1e-3", "1e-3\n    final_fraction: 1.5", ["final_fraction: received 1.5", "at most 1"]),
        ("[2]", "[]", ["model.event_shape: received []", "a non-empty list of: an integer"]),
        ("[2]", "[2, 0]", ["model.event_shape.1: received 0", "at least 1"]),
        ("[2]", "[2.0]", ["model.event_shape.0: received 2.0", "an integer"]),
        ("[2]", "2", ["model.event_shape: received 2", "list"]),
        ("  event_shape: [2]\n", "", ["model.event_shape: missing"]),
        ("hidden: [64, 64]", "1: 2", ["model.args: received 1", "text as a key"]),
        ("unit: nats", "unit: bits", ["card.published.0.unit: received 'bits'", "'bits_per_dim' or 'nats'"]),
        ("limits: [two dimensions alone]", "limits: []", ["card.limits: received []", "non-empty list"]),
        ("data_licence: public domain", 'data_licence: ""', ["data_licence: received ''", "non-empty text"]),
        ("dtype: float16", "dtype: int4", ["weights.dtype: received 'int4'", "'int8'"]),
        ("dtype: float16", "sha256: abc", ["weights.sha256: received 'abc'", "[0-9a-f]{64}"]),
        ("dtype: float16", f"sha256: {'A' * 64}", ["weights.sha256: received", "[0-9a-f]{64}"]),
        ("source: moons", "sources: moons", ["data.sources: unknown key", "Did you mean 'source'?"]),
        ("name: maf_moons", "name: maf_rings", ["name: received 'maf_rings'", "'maf_moons'"]),
        ("name: maf_moons", "name: MAF_moons", ["name: received 'MAF_moons'", "matching"]),
        ("name: maf_moons", "name: maf", ["name: received 'maf'", "matching"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, expected):
    if old not in ENTRY:
        pytest.fail(f"the entry of this test has no {old!r}")
    path = write(tmp_path, ENTRY.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    for part in expected:
        assert part in message


def test_all_problems_are_listed_at_once():
    wrong = content()
    wrong["model"]["famly"] = wrong["model"].pop("family")
    wrong["training"]["epochs"] = -1
    with pytest.raises(ConfigError) as caught:
        parse_config(wrong, "here")
    message = str(caught.value)
    assert message.startswith("here: 3 problems:")
    for part in ("model.family: missing", "model.famly: unknown key", "training.epochs: received -1"):
        assert part in message


def test_a_union_is_reported_once():
    wrong = content()
    wrong["training"]["jit_compile"] = 3
    with pytest.raises(ConfigError) as caught:
        parse_config(wrong)
    assert str(caught.value).count("jit_compile") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it is empty"),
        ("- 1\n", "received list"),
        ("just text", "received str"),
        ("name: a\nname: b\n", "line 2, column 1: not valid YAML: the key 'name' stands twice"),
        ("model:\n  family: a\n  family: b\n", "line 3, column 3"),
        ("name: [1, 2\nmodel: 3\n", "line 2, column 6"),
        ("a:\n\t- 1\n", "line 2, column 1"),
        ("a: 1\n--- \nb: 2\n", "line 2, column 1"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1, column 4: not valid YAML: the tag"),
        ("a: &x [1]\nb: *x\n", "anchors and aliases are not accepted"),
        ("[" * 500, "nested more than 50 deep"),
        ("[" * 100_000, "nest"),  # libyaml may be the one to refuse it
        ("a: \x00\n", "not valid YAML"),
        (f"a: {'9' * 5000}\n", "not valid YAML"),
        ("? [a]\n: 1\n", "unhashable key"),
    ],
)
def test_corrupt_yaml_is_named_with_its_place(tmp_path, text, expected):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "maf_moons.yaml"
    path.write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(ConfigError, match="not a text file in UTF-8; byte 6"):
        load_config(path)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"maf_moons\.yaml: there is no such file"):
        load_config(tmp_path / "maf_moons.yaml")
    (tmp_path / "maf_moons.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"maf_moons\.yaml: the file cannot be read"):
        load_config(tmp_path / "maf_moons.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("-3", -3),
        (".inf", float("inf")),
        ("true", True),
        ("yes", "yes"),
        ("no", "no"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2026-11-22", "2026-11-22"),
        ("1e", "1e"),
        ("null", None),
        ("~", None),
        ("", None),
        ('"5"', "5"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path, text, value):
    read = read_yaml(write(tmp_path, f"a: {text}\n"))["a"]
    assert read == value
    assert type(read) is type(value)


def test_every_entry_of_the_zoo_can_be_read():
    folder = paths.packaged("zoo_configs")
    if folder is None:
        pytest.skip("no zoo_configs/ here")
    for path in folder.glob("*.yaml"):
        assert isinstance(load_config(path), EntryConfig)


def test_a_hundred_entries_are_read_in_well_under_a_second(tmp_path):
    names = [f"maf_moons{index}" for index in range(100)]
    files = [write(tmp_path, ENTRY.replace("maf_moons", name), name) for name in names]
    start = time.perf_counter()
    for path in files:
        load_config(path)
    assert time.perf_counter() - start < 1.0


def test_reading_names_and_configs_imports_nothing_heavy():
    heavy = "tensorflow", "keras", "pandas", "sklearn", "matplotlib", "tensorflow_probability"
    code = (
        "import sys, flowzoo.config, flowzoo.registry, flowzoo.weights; flowzoo.registry.list_models();"
        f"sys.exit(','.join(set({heavy!r}) & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class TestPaths:
    def test_home_is_what_the_environment_says_or_a_cache(self, monkeypatch, tmp_path):
        monkeypatch.setenv("FLOWZOO_HOME", str(tmp_path))
        assert paths.home() == tmp_path
        monkeypatch.setenv("FLOWZOO_HOME", "~/zoo")
        assert paths.home().is_absolute()
        monkeypatch.setenv("FLOWZOO_HOME", "")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        if sys.platform == "linux":
            assert paths.home() == tmp_path / "cache" / "flowzoo"

    def test_data_is_looked_for_where_the_environment_says_first(self, monkeypatch, tmp_path):
        monkeypatch.setenv("FLOWZOO_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("FLOWZOO_DATA", os.pathsep.join([str(tmp_path / "a"), "", str(tmp_path / "b")]))
        assert paths.data_dirs()[:3] == [tmp_path / "a", tmp_path / "b", tmp_path / "home" / "data"]

    def test_what_comes_with_a_wheel_is_found_before_the_checkout(self, monkeypatch, tmp_path):
        package = tmp_path / "flowzoo"
        (package / "_zoo" / "zoo_configs").mkdir(parents=True)
        monkeypatch.setattr(paths, "_PACKAGE", package)
        assert paths.checkout() is None
        assert paths.packaged("zoo_configs") == package / "_zoo" / "zoo_configs"
        assert paths.packaged("saved_models") is None
        (tmp_path / "zoo_configs").mkdir()
        (tmp_path / "saved_models").mkdir()
        assert paths.checkout() == tmp_path
        assert paths.packaged("zoo_configs") == package / "_zoo" / "zoo_configs"
        assert paths.packaged("saved_models") == tmp_path / "saved_models"

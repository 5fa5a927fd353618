"""Names lead to entries, and what is no name is told what names there are."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from flowzoo import paths, registry
from flowzoo.config import parse_config
from flowzoo.errors import ConfigError, UnknownNameError
from flowzoo.registry import config_paths, get_config, list_models, register_config
from tests.artifacts import make_artifact

NAMES = ["glow_celeba", "maf_mnist", "maf_moons", "realnvp_mnist", "realnvp_moons"]
TESTS = ["test_maf", "test_nice"]


def content(name, **weights):
    return {
        "name": name,
        "description": "An entry of the tests.",
        "model": {"family": name.split("_")[0], "event_shape": [2], "args": {"layers": [1, 2]}},
        "training": {"epochs": 1, "batch_size": 8},
        "card": {"metric": "nats", "data_licence": "none", "limits": ["all"], "citation": []},
        "weights": weights,
    }


def write(folder, name, *, epochs=1, **weights):
    lines = [f"  {key}: {value!r}" for key, value in weights.items()]
    text = "\n".join(
        [
            f"name: {name}",
            "description: An entry of the tests.",
            "model: {family: maf, event_shape: [2], args: {layers: [1, 2]}}",
            f"training: {{epochs: {epochs}, batch_size: 8}}",
            "card: {metric: nats, data_licence: none, limits: [all], citation: []}",
            *(["weights:", *lines] if lines else []),
        ]
    )
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def zoo(tmp_path, monkeypatch):
    """A checkout with a zoo of its own, an empty home, and nothing registered."""
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "flowzoo")
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setenv("FLOWZOO_HOME", str(tmp_path / "home"))
    folder = tmp_path / "zoo_configs"
    folder.mkdir()
    for name in NAMES + TESTS:
        write(folder, name, **({"sha256": "a" * 64} if name == "glow_celeba" else {}))
    (folder / "README.md").write_text("no entry")
    return folder


class TestNames:
    def test_every_file_is_an_entry(self, zoo):
        assert list(config_paths()) == NAMES + TESTS
        assert config_paths()["maf_mnist"] == zoo / "maf_mnist.yaml"

    def test_entries_are_found_by_name_also_those_of_the_tests(self):
        for name in NAMES + TESTS:
            assert get_config(name).name == name

    def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(self, zoo):
        assert get_config("maf_moons").training.epochs == 1
        path = write(zoo, "maf_moons", epochs=25)
        assert get_config("maf_moons").training.epochs == 25
        stamp = path.stat()
        path.write_text(path.read_text().replace("25", "26"))
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert get_config("maf_moons").training.epochs == 25

    def test_a_caller_cannot_change_what_the_next_one_gets(self):
        get_config("maf_moons").model.args["layers"].append(3)
        assert get_config("maf_moons").model.args == {"layers": [1, 2]}

    def test_a_deleted_entry_is_gone_and_a_broken_one_is_named(self, zoo):
        (zoo / "maf_moons.yaml").unlink()
        with pytest.raises(UnknownNameError):
            get_config("maf_moons")
        (zoo / "maf_mnist.yaml").write_text("name: [")
        with pytest.raises(ConfigError, match=r"maf_mnist\.yaml, line"):
            get_config("maf_mnist")


class TestUnknown:
    def test_near_matches_and_how_to_list_and_what_was_received(self):
        with pytest.raises(UnknownNameError) as caught:
            get_config("maf_mons")
        how_to_list = "flowzoo.list_models()", "`flowzoo list`"
        for part in ("Did you mean 'maf_moons'", *how_to_list, "Received: 'maf_mons'."):
            assert part in str(caught.value)

    def test_nothing_near_is_not_suggested(self):
        with pytest.raises(UnknownNameError) as caught:
            get_config("xyzzy")
        assert "Did you mean" not in str(caught.value)

    @pytest.mark.parametrize("name", ["runs/maf_moons", "maf_moons.yaml", "../zoo_configs/maf_moons", "."])
    def test_a_path_is_told_both_fixes(self, name):
        with pytest.raises(UnknownNameError) as caught:
            get_config(name)
        for part in ("looks like a path", f"register_config({name!r})", f"source='path:{name}'"):
            assert part in str(caught.value)

    def test_a_zoo_that_is_not_there(self, zoo):
        shutil.rmtree(zoo)
        assert list_models() == []
        with pytest.raises(UnknownNameError, match="no zoo_configs"):
            get_config("maf_moons")

    @pytest.mark.parametrize("name", [None, 3, b"maf_moons"])
    def test_a_name_is_text(self, name):
        with pytest.raises(TypeError, match=type(name).__name__):
            get_config(name)


class TestList:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            (None, NAMES),
            ("", NAMES),
            ("moons", ["maf_moons", "realnvp_moons"]),
            ("maf", ["maf_mnist", "maf_moons"]),
            ("maf_*", ["maf_mnist", "maf_moons"]),
            ("*_mnist", ["maf_mnist", "realnvp_mnist"]),
            ("maf_m????", ["maf_mnist", "maf_moons"]),
            ("[gm]*", ["glow_celeba", "maf_mnist", "maf_moons"]),
            ("maf?", []),
            ("nothing", []),
            ("test", TESTS),
            ("test_*", TESTS),
            ("test_maf", ["test_maf"]),
            ("*", NAMES),
        ],
    )
    def test_patterns(self, pattern, expected):
        assert list_models(pattern) == expected

    def test_pretrained_are_those_published_and_those_that_lie_here(self, tmp_path):
        assert list_models(pretrained=True) == ["glow_celeba"]
        make_artifact(tmp_path / "home" / "models", "maf_moons")
        make_artifact(tmp_path / "saved_models", "maf_mnist")
        make_artifact(tmp_path / "saved_models", "test_maf")
        assert list_models(pretrained=True) == ["glow_celeba", "maf_mnist", "maf_moons"]
        assert list_models(pretrained=False) == ["realnvp_mnist", "realnvp_moons"]
        assert list_models("moons", pretrained=True) == ["maf_moons"]
        assert list_models("test", pretrained=True) == ["test_maf"]

    def test_a_broken_file_does_not_hide_the_names_but_is_named_when_it_is_needed(self, zoo):
        (zoo / "maf_moons.yaml").write_text("")
        assert list_models() == NAMES
        with pytest.raises(ConfigError, match=r"maf_moons\.yaml"):
            list_models(pretrained=True)

    def test_a_pattern_is_text(self):
        with pytest.raises(TypeError, match="list"):
            list_models(["maf_moons"])

    def test_two_hundred_entries_are_quick(self, zoo):
        for index in range(200):
            write(zoo, f"maf_many{index}")
        start = time.perf_counter()
        assert len(list_models(pretrained=False)) == 204
        assert time.perf_counter() - start < 2.0


class TestRegister:
    def test_an_entry_a_mapping_and_a_file(self, tmp_path):
        register_config(parse_config(content("nsf_rings")))
        register_config(content("nsf_moons"))
        path = write(tmp_path, "nsf_circles")
        for given in (path, str(path)):
            registry._registered.pop("nsf_circles", None)
            assert register_config(given).name == "nsf_circles"
        assert list_models("nsf") == ["nsf_circles", "nsf_moons", "nsf_rings"]
        assert get_config("nsf_rings").model.family == "nsf"
        assert config_paths()["nsf_circles"] == path
        assert "nsf_rings" not in config_paths()

    def test_a_name_is_taken_only_once_unless_wanted(self, tmp_path):
        for name in ("maf_moons", "nsf_rings", "nsf_rings"):
            if name not in list_models():
                register_config(content(name))
                continue
            with pytest.raises(ValueError, match=f"an entry '{name}' already.*overwrite=True"):
                register_config(content(name))
        changed = content("maf_moons")
        changed["training"]["epochs"] = 9
        register_config(changed, overwrite=True)
        assert get_config("maf_moons").training.epochs == 9
        assert list_models() == sorted([*NAMES, "nsf_rings"])
        path = write(tmp_path, "maf_moons", epochs=11)
        register_config(path, overwrite=True)
        assert get_config("maf_moons").training.epochs == 11

    def test_what_was_registered_is_a_copy(self):
        mine = content("nsf_rings")
        returned = register_config(mine)
        mine["model"]["args"]["layers"].append(3)
        returned.model.args["layers"].append(4)
        entry = parse_config(content("nsf_moons"))
        register_config(entry)
        entry.model.args["layers"].append(5)
        assert get_config("nsf_moons").model.args == {"layers": [1, 2]}
        assert get_config("nsf_rings").model.args == {"layers": [1, 2]}

    def test_a_file_is_found_as_a_name_is(self, zoo, tmp_path):
        path = write(tmp_path, "nsf_circles")
        config, own = registry.find_config(str(path))
        assert own and config.name == "nsf_circles" and get_config("nsf_circles") == config
        name = NAMES[0]
        assert registry.find_config(name) == registry.find_config(str(zoo / f"{name}.yaml"))
        assert registry.find_config(name) == (get_config(name), False)
        with pytest.raises(ValueError, match=f"an entry '{name}' already"):
            registry.find_config(str(write(tmp_path, name)))
        with pytest.raises(ConfigError, match="no such file"):
            registry.find_config(str(tmp_path / "nsf_none.yaml"))
        with pytest.raises(UnknownNameError, match="There is no entry"):
            registry.find_config("nsf_none")

    def test_a_wrong_entry_is_refused_and_not_kept(self, tmp_path):
        wrong = content("nsf_rings") | {"colour": "red"}
        with pytest.raises(ConfigError, match="colour: unknown key"):
            register_config(wrong)
        with pytest.raises(ConfigError, match="no such file"):
            register_config(tmp_path / "nsf_rings.yaml")
        with pytest.raises(TypeError, match="int"):
            register_config(3)
        assert list_models("nsf") == []

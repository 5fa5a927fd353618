"""The command line: its help, its exit codes, its files, and that a program can read what it says."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flowzoo import registry, weights
from flowzoo.cli import app, codes, files, main, options
from flowzoo.cli.console import Talk
from flowzoo.data import open_source
from flowzoo.errors import DataError, MissingDataError
from tests.models.flows import sparing

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("list", "info", "sample", "score", "train", "evaluate", "export", "serve", "verify", "doctor")
COMMANDS += ("shards", "pipeline")
# Where any entry will do: those whose graphs are traced fastest.
PLAIN, LABELLED = "test_nice", "test_maf"


def trained():
    """The smallest entries with weights that take no condition, by name."""
    names = [name for name in registry.list_models("test_*") if weights.find_local(name)]
    models = {name: registry.get_config(name).model for name in names}
    return [name for name, model in models.items() if not (model.num_classes or model.condition_shape)]


def discrete(name):
    return registry.get_config(name).card.metric == "bits_per_dim"


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs the command line in this process; returns its exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(code), captured.out, captured.err

    return run


def in_process(*arguments, **environment):
    """Runs the command line in a process of its own."""
    command = [sys.executable, "-m", "flowzoo.cli", *map(str, arguments)]
    variables = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables)


# --- Help ---------------------------------------------------------------------------------------------------


def test_help_names_every_command_and_every_exit_code(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)
    assert all(meaning in out and str(number.value) in out for number, meaning in codes.MEANINGS.items())
    assert set(codes.MEANINGS) == set(codes.Code)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_by_examples_that_parse(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    examples = next(examples for name, _, examples in app._COMMANDS if name == command)
    for example in examples:
        assert example in out
        words = example.replace("'", "").split()
        assert words[:2] == ["flowzoo", command]
        given = [word for word in words[2:] if word.startswith("--")]
        assert all(option in out for option in given)


def test_help_and_list_need_no_tensorflow():
    code = """
import sys
from flowzoo.cli import main
codes = [main(["--help"]), main(["list"]), main(["list", "--json"])]
sys.exit(any(codes) or "tensorflow" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


# --- Errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing"], codes.Code.USAGE, "nothing"),
        (["sample"], codes.Code.USAGE, "NAME"),
        (["sample", "realnvp_mnist"], codes.Code.USAGE, "--out"),
        (["sample", "realnvp_mnist", "--out", "x.png", "--num", "0"], codes.Code.USAGE, "--num"),
        (["sample", "realnvp_mnist", "--out", "x.gif"], codes.Code.USAGE, ".png, .npy"),
        (["sample", "realnvp_mnist", "--out", "x.png", "--temperature", "0"], codes.Code.USAGE, "above 0"),
        (["sample", "realnvp_mnist", "--out", "x.png", "--temperature", "nan"], codes.Code.USAGE, "above 0"),
        (["sample", "realnvp_mnist", "--out", "no/x.png"], codes.Code.USAGE, "no does not exist"),
        (["sample", "realnvp_minst", "--out", "x.png"], codes.Code.UNKNOWN_NAME, "realnvp_minst"),
        (["info", "realnvp_minst"], codes.Code.UNKNOWN_NAME, "realnvp_minst"),
        (["evaluate", "realnvp_minst"], codes.Code.UNKNOWN_NAME, "realnvp_minst"),
        (["train", "realnvp_minst"], codes.Code.UNKNOWN_NAME, "realnvp_minst"),
        (["export", "realnvp_minst", "out"], codes.Code.UNKNOWN_NAME, "realnvp_minst"),
        (["verify", "realnvp_minst"], codes.Code.UNKNOWN_NAME, "realnvp_minst"),
        (["verify"], codes.Code.USAGE, "--all"),
        (["score", "x_y", "--data", "none.npy"], codes.Code.USAGE, "none.npy"),
        (["score", "x_y", "--data", "mooons"], codes.Code.UNKNOWN_NAME, "moons"),
        (["score", "x_y", "--data", "moons", "-o", "noise"], codes.Code.USAGE, "KEY=VALUE"),
        (["score", "x_y", "--data", "moons", "-o", "noisy=1"], codes.Code.USAGE, "noise"),
        (["score", "x_y", "--data", "moons", "--split", "tests"], codes.Code.USAGE, "test"),
        (["score", "x_y", "--data", "moons"], codes.Code.UNKNOWN_NAME, "x_y"),
    ],
)
def test_mistakes_end_with_a_message_and_their_code(run, monkeypatch, tmp_path, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    got, out, err = run(*arguments)
    assert (got, message in err, "Traceback" in err) == (code, True, False), err
    assert out == ""
    assert not list(tmp_path.iterdir())


def test_debug_shows_where_an_error_happened():
    shown = in_process("info", "realnvp_minst", FLOWZOO_DEBUG="1")
    hidden = in_process("info", "realnvp_minst", FLOWZOO_DEBUG="0")
    assert "Traceback" in shown.stderr
    assert shown.returncode != 0
    assert "Traceback" not in hidden.stderr
    assert hidden.returncode == codes.Code.UNKNOWN_NAME


def test_every_error_of_flowzoo_has_a_code():
    from flowzoo import errors

    expected = {
        errors.ConfigError: codes.Code.USAGE,
        errors.UnknownNameError: codes.Code.UNKNOWN_NAME,
        errors.WeightsError: codes.Code.WEIGHTS,
        errors.NoWeightsError: codes.Code.WEIGHTS,
        errors.CorruptWeightsError: codes.Code.WEIGHTS,
        errors.DownloadError: codes.Code.WEIGHTS,
        errors.DataError: codes.Code.USAGE,
        errors.MissingDataError: codes.Code.MISSING_DATA,
        errors.ServingError: codes.Code.FAILURE,
        errors.ServerUnavailableError: codes.Code.FAILURE,
        errors.NoServerError: codes.Code.FAILURE,
    }
    for kind, code in expected.items():
        assert codes.code_of(kind("why")) == code
    assert codes.code_of(OSError(28, "No space left on device")) == codes.Code.FAILURE
    assert codes.code_of(PermissionError("read-only")) == codes.Code.USAGE
    assert codes.code_of(RuntimeError("oops")) == codes.Code.FAILURE
    assert codes.code_of(KeyboardInterrupt()) == codes.Code.INTERRUPTED


# --- Parts --------------------------------------------------------------------------------------------------


def test_json_has_only_what_json_knows(capsys):
    content = {"a": np.float32(1.5), "b": np.arange(2), "c": float("nan"), "d": Path("x"), "e": (None, True)}
    Talk(True).result(content)
    assert json.loads(capsys.readouterr().out) == {
        "a": 1.5,
        "b": [0, 1],
        "c": None,
        "d": "x",
        "e": [None, True],
    }


def test_messages_go_where_no_program_reads(capsys):
    for for_program in (True, False):
        talk = Talk(for_program)
        talk.say("hello")
        with talk.output_for_people():
            sys.stdout.write("from Keras\n")
        captured = capsys.readouterr()
        assert ("hello\nfrom Keras\n" in captured.err) is for_program
        assert ("hello\nfrom Keras\n" in captured.out) is not for_program


def test_source_options_are_read_as_yaml():
    given = ["noise=0.2", "num_examples=10", "name=a=b", "flag=true", "columns=[a, b]"]
    wanted = {"noise": 0.2, "num_examples": 10, "name": "a=b", "flag": True, "columns": ["a", "b"]}
    assert options.source_options(given) == wanted
    for wrong in (["noise"], ["=1"], ["a=1", "a=2"], ["a=["]):
        with pytest.raises(ValueError, match="--option"):
            options.source_options(wrong)


@pytest.mark.parametrize(("total", "event_size"), [(1, 2), (10_000, 784), (8192, 1), (8193, 1), (200, 10**7)])
def test_chunks_cover_every_example_once(total, event_size):
    covered = np.concatenate([np.arange(total)[part] for part in options.chunks(total, event_size)])
    assert np.array_equal(covered, np.arange(total))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_arrays_come_back_from_their_files(tmp_path, suffix):
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    files.write_arrays(tmp_path / f"x{suffix}", {"x": x})
    read, condition = files.read_examples(tmp_path / f"x{suffix}")
    assert condition is None
    np.testing.assert_allclose(read, x, rtol=1e-6)


def test_examples_are_given_the_shape_and_type_of_the_model():
    from flowzoo.cli.scoring import _fitted
    from flowzoo.models import NICE

    counts = NICE((2, 2, 3), num_values=1000)
    x = np.random.default_rng(0).integers(0, 1000, (4, 2, 2, 3))
    for given in (x, x.reshape(4, 12), x.astype(float), x[:, None]):
        assert np.array_equal(_fitted(given, counts), x) and _fitted(given, counts).dtype == "int32"
    for wrong, message in ((x + 1000, "0 to 999"), (x + 0.5, "0 to 999"), (x.transpose(0, 3, 1, 2), "shape")):
        with pytest.raises(DataError, match=message):
            _fitted(wrong, counts)
    with pytest.raises(DataError, match="image_folder -o path=DIR -o size=2"):
        _fitted(np.zeros((1, 9, 8, 3)), counts)
    double = SimpleNamespace(event_shape=(2,), num_values=None, data_dtype="float64")
    assert _fitted(np.full((1, 2), 1e9 + 0.25), double)[0, 0] == 1e9 + 0.25


def test_options_that_are_text_stay_text():
    given = ["path=2020", "columns=[a, b]", "size=8", "header=false"]
    assert options.source_options(given) == {
        "path": "2020",
        "columns": ["a", "b"],
        "size": 8,
        "header": False,
    }


@pytest.mark.parametrize("mark", [",", ";", "|", "\t", "\\t", "::", "~"])
def test_separators_are_text(mark):
    assert options.source_options([f"separator={mark}"]) == {"separator": mark}
    assert options.source_options(["decimal=','"]) == {"decimal": ","}


def test_no_label_is_left_over():
    model = SimpleNamespace(name="m", condition_shape=(), num_classes=3)
    assert options.condition_for(model, 4, "0,2", None).tolist() == [0, 2, 0, 2]
    with pytest.raises(ValueError, match="2 labels, and 1 can be used"):
        options.condition_for(model, 1, "0,2", None)


def test_pictures_are_read_as_training_reads_them(tmp_path):
    from PIL import Image

    x = np.random.default_rng(0).integers(0, 255, (2, 4, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(x).save(tmp_path / "a.png", exif=turned)
    Image.fromarray(np.rot90(x, -1)).save(tmp_path / "b.tif")
    read, _ = files.read_examples(tmp_path)
    assert read.shape == (2, 4, 2, 3) and np.array_equal(read[0], read[1])


def test_conditions_and_tables_and_images_are_read(tmp_path):
    import pandas as pd
    from PIL import Image

    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    files.write_arrays(tmp_path / "both.npz", {"x": x, "condition": np.array([1, 2])})
    assert files.read_examples(tmp_path / "both.npz")[1].tolist() == [1, 2]
    pd.DataFrame(x, columns=list("abc")).to_parquet(tmp_path / "x.parquet")
    assert np.array_equal(files.read_examples(tmp_path / "x.parquet")[0], x)
    (tmp_path / "images").mkdir()
    for index in range(2):
        Image.fromarray(np.full((4, 5), index, np.uint8)).save(tmp_path / "images" / f"{index}.png")
    images, _ = files.read_examples(tmp_path / "images")
    assert images.shape == (2, 4, 5, 1)
    assert images[1].max() == 1
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "images" / "2.png")
    with pytest.raises(ValueError, match=r"2.png is \(4, 5, 3\)"):
        files.read_examples(tmp_path / "images")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"not numpy", "cannot be read"),
        ("x.npz", b"PK not a zip", "cannot be read"),
        ("x.csv", b"a,b\n1,nan\n", "NaN or inf in 1 of 1"),
        ("x.csv", b"a,b\n1,word\n", "'b'"),
        ("x.csv", b"", "cannot be read"),
        ("x.parquet", b"PAR1", "cannot be read"),
        ("x.png", b"", "cannot be decoded"),
        ("x.txt", b"1 2", ".npy, .npz"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        files.read_examples(tmp_path / name)
    assert name in str(caught.value)


def test_a_table_is_read_whole_as_its_options_say(tmp_path):
    path = tmp_path / "t.csv.gz"
    lines = [f"{i};{i},5;{i % 3};x" for i in range(9)]
    path.write_bytes(gzip.compress("\n".join(["id;half;kind;name", *lines]).encode()))
    marks = {"separator": ";", "decimal": ","}
    x, condition = files.read_examples(path, {**marks, "columns": ["half", "id"], "label": "kind"})
    np.testing.assert_array_equal(x, np.stack([np.arange(9) + 0.5, np.arange(9)], -1))
    assert condition.tolist() == [i % 3 for i in range(9)] and x.dtype == np.float64
    for wrong, message in (
        ({**marks, "label": "name", "columns": ["id"]}, "give their numbers"),
        ({**marks, "test": 0.5}, "leave it out"),
        ({**marks, "colums": ["id"]}, "no option 'colums'. Did you mean 'columns'"),
        (marks, "column 'name': must hold numbers"),
    ):
        with pytest.raises(DataError, match=message):
            files.read_examples(path, wrong)
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match="--option is for tables"):
        files.read_examples(tmp_path / "x.npy", marks)


def test_a_file_names_the_source_that_reads_it(tmp_path):
    assert options.own_source("moons", {"noise": 0.1}) == ("moons", {"noise": 0.1})
    for name, source in (("T.CSV", "csv"), ("t.csv.gz", "csv"), ("t.parquet", "parquet"), ("t.npz", "npz")):
        (tmp_path / name).touch()
        given = options.own_source(str(tmp_path / name), {"split_seed": 1})
        assert given == (source, {"path": str(tmp_path / name), "split_seed": 1})
    with pytest.raises(ValueError, match="data source or a .csv"):
        options.own_source("table.xlsx", {})
    with pytest.raises(ValueError, match="give one"):
        options.own_source("table.csv", {"path": "other.csv"})


def test_train_takes_a_table_as_it_takes_a_source(run, tmp_path, monkeypatch):
    import flowzoo

    given = {}
    monkeypatch.setattr(flowzoo, "train", lambda name, **arguments: given.update(arguments) or 1 / 0)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    run("train", "nsf_tabular", "--data", tmp_path / "t.csv", "--as", "nsf_t", "-o", "label=b")
    assert given["data"] == {"source": "csv", "options": {"path": str(tmp_path / "t.csv"), "label": "b"}}


def test_a_pickle_is_not_read(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read"):
        files.read_examples(tmp_path / "x.npy")


# --- Entries ------------------------------------------------------------------------------------------------


def test_list_tells_people_and_programs_the_same(run):
    names = registry.list_models("test_*")
    assert names
    _, out, _ = run("list", "test_*")
    _, content, _ = run("list", "test_*", "--json")
    entries = json.loads(content)
    assert [entry["name"] for entry in entries] == names
    assert all(entry["name"] in out and entry["description"] in out for entry in entries)
    assert {entry["name"] for entry in entries if entry["weights"] == "here"} >= set(trained())
    _, out, _ = run("list", "no such entry")
    assert "no such entry" in out


def test_info_shows_the_card(run):
    name = PLAIN
    code, out, _ = run("info", name)
    assert code == 0
    assert name in out
    code, content, err = run("info", name, "--json")
    assert (code, err) == (0, "")
    assert json.loads(content)["name"] == name


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz", ".csv"])
def test_sample_writes_what_the_model_draws(run, tmp_path, suffix):
    import flowzoo

    name, target = PLAIN, tmp_path / f"samples{suffix}"
    code, out, _ = run("sample", name, "--num", 5, "--seed", 3, "--temperature", 0.7, "--out", target)
    assert code == 0
    assert name in out
    assert "SHA-256 verified" in out
    assert "--seed 3" in out
    if suffix != ".png":
        wanted = np.asarray(flowzoo.load(name).sample(5, temperature=0.7, seed=3))
        read = files.read_examples(target)[0].reshape(wanted.shape)
        np.testing.assert_allclose(read, wanted, rtol=1e-6)
    else:
        assert target.read_bytes().startswith(b"\x89PNG")


def test_sample_tells_a_program_the_seed_that_repeats_it(run, tmp_path):
    name = PLAIN
    code, out, err = run("sample", name, "--num", 4, "--out", tmp_path / "a.npy", "--json")
    told = json.loads(out)
    assert code == 0
    assert name in err
    assert told["shape"][0] == 4
    run("sample", name, "--num", 4, "--out", tmp_path / "b.npy", "--seed", told["seed"])
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_a_condition_that_the_model_does_not_take_is_refused(run, tmp_path):
    code, _, err = run("sample", PLAIN, "--label", 1, "--out", tmp_path / "x.npy")
    assert code == codes.Code.USAGE
    assert "takes no condition" in err
    assert not list(tmp_path.iterdir())


def test_flow_matching_is_sampled_with_the_solver_that_is_named(run, tmp_path):
    import flowzoo

    target = tmp_path / "x.npy"
    named = ("--solver", "euler", "--steps", 2)
    code, _, err = run(
        "sample", "test_flow_matching", "--num", 3, "--label", 1, "--seed", 1, *named, "--out", target
    )
    assert code == 0, err
    wanted = flowzoo.load("test_flow_matching").sample(3, 1, seed=1, solver="euler", steps=2)
    np.testing.assert_allclose(np.load(target), wanted, rtol=1e-6)
    code, _, err = run("sample", "test_flow_matching", "--label", 1, "--solver", "eulr", "--out", target)
    assert code == codes.Code.USAGE
    assert "'euler'" in err
    code, _, err = run("sample", "test_nice", "--steps", 2, "--out", target)
    assert code == codes.Code.USAGE
    assert "no --steps" in err


def test_labels_are_given_to_the_samples_in_turn(run, tmp_path):
    import flowzoo

    name = LABELLED
    target = tmp_path / "x.npz"
    code, _, err = run("sample", name, "--num", 5, "--seed", 1, "--label", "1,0", "--out", target)
    assert code == 0, err
    x, condition = files.read_examples(target)
    assert condition.tolist() == [1, 0, 1, 0, 1]
    wanted = flowzoo.load(name).sample(5, condition=condition, seed=1)
    np.testing.assert_allclose(x, wanted, rtol=1e-6)
    code, _, err = run("score", name, "--data", target, "--out", tmp_path / "scores.csv")
    assert code == 0, err
    for wrong, message in (((), "--label"), (("--label", 99), "99"), (("--condition", "1,2"), "--label")):
        code, _, err = run("sample", name, *wrong, "--out", tmp_path / "y.npz")
        assert code == codes.Code.USAGE
        assert message in err
    assert not (tmp_path / "y.npz").exists()


@pytest.mark.parametrize("name", sparing(trained(), ("tarflow",)))
def test_score_agrees_with_the_model(run, tmp_path, name):
    import flowzoo

    model = flowzoo.load(name)
    x = np.asarray(model.sample(6, seed=0))
    np.save(tmp_path / "x.npy", x)
    arguments = ("score", name, "--data", tmp_path / "x.npy")
    code, out, _ = run(*arguments, "--out", tmp_path / "scores.npz", "--json")
    assert code == 0
    with np.load(tmp_path / "scores.npz") as scores:
        np.testing.assert_allclose(scores["log_prob"], model.log_prob(x), rtol=1e-5)
        assert ("bits_per_dim" in scores) == model.discrete
        np.testing.assert_allclose(json.loads(out)["log_prob"], scores["log_prob"].mean())
    code, out, err = run(*arguments)
    assert out.startswith("index,log_prob")
    assert len(out.splitlines()) == 7
    assert "mean log_prob" in err


@pytest.mark.filterwarnings("error")
def test_scores_that_are_not_finite_are_counted():
    from flowzoo.cli.scoring import _in_words, _summary

    summary = _summary({"log_prob": np.array([-1.0, -np.inf, -3.0])})
    assert (summary["num"], summary["num_not_finite"], summary["standard_error"]) == (3, 1, None)
    assert _in_words(summary) == "mean log_prob -inf nats, 3 examples, 1 of them without a finite log_prob"
    assert _summary({"log_prob": np.array([-1.0, -3.0])})["standard_error"] == 1.0


def test_score_refuses_examples_of_another_shape(run, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 1234), np.float32))
    code, _, err = run("score", PLAIN, "--data", tmp_path / "x.npy", "--out", tmp_path / "s.csv")
    assert code == codes.Code.USAGE
    assert "1234" in err
    assert not (tmp_path / "s.csv").exists()


def test_evaluate_measures_the_entrys_own_data(run):
    name = PLAIN
    code, out, _ = run("evaluate", name, "--limit", 20, "--json")
    content = json.loads(out)
    assert code == 0
    assert (content["name"], content["split"], content["num"]) == (name, "test", 20)
    assert np.isfinite(content["loss"])
    assert content["loss"] == -content["log_prob"]


def test_evaluate_compares_with_published_figures(run):
    name = "maf_mnist"
    try:
        open_source("mnist", "test")
    except MissingDataError as error:
        pytest.skip(f"no MNIST here: {str(error)[:80]}")
    code, out, _ = run("evaluate", name, "--limit", 20, "--json")
    assert code == 0
    content = json.loads(out)
    [figure] = content["published"]
    assert figure["difference"] == pytest.approx(content["bits_per_dim"] - figure["value"], abs=6e-4)
    code, out, _ = run("evaluate", name, "--limit", 20)
    assert code == 0
    assert "  published: 1.89 bits/dim (" in out and f"({figure['difference']:+.3f}; lower is better)" in out


def test_train_ends_with_one_line_of_json_and_a_result_that_loads(run, tmp_path):
    """From a file of the user's own, which no later process knows by its name."""
    name, config = "my_maf", tmp_path / "my_maf.yaml"
    text = registry.config_paths()["test_maf"].read_text()
    config.write_text(re.sub(r"(?m)^name: .*$", f"name: {name}", text))
    arguments = ("--epochs", 1, "--limit", 64, "--out", tmp_path / "runs", "--json")
    done = in_process("train", config, *arguments, FLOWZOO_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["name"] == name
    assert np.isfinite(content["loss"])
    assert content["unit"] == "nats"
    assert Path(content["path"]) == tmp_path / "runs" / name
    weights.verify(tmp_path / "runs" / name, None, name)
    source = f"path:{tmp_path / 'runs' / name}"
    assert f"flowzoo sample {source} --label 0" in done.stderr
    code, _, err = run("sample", source, "--num", 3, "--label", 0, "--out", tmp_path / "x.npy")
    assert code == 0, err
    assert len(np.load(tmp_path / "x.npy")) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        ("test_nice", "DIR", "--keep", 3),
        ("--all", "DIR", "--files-only", "--version", 9),
        ("--all", "DIR", "--files-only", "--batching"),
        ("--all", "DIR", "--files-only", "--warmup", "3"),
    ],
)
def test_export_refuses_options_that_do_nothing(run, tmp_path, wrong):
    code, _, err = run("export", *(tmp_path if value == "DIR" else value for value in wrong))
    assert code == codes.Code.USAGE
    assert "--files-only exports nothing" in err or "--keep" in err
    assert list(tmp_path.iterdir()) == []


def test_export_counts_versions_up(run, tmp_path):
    name = PLAIN
    code, out, _ = run("export", name, tmp_path, "--json")
    assert code == 0
    assert Path(json.loads(out)["path"]) == tmp_path / name / "1"
    assert (tmp_path / name / "1" / "saved_model.pb").is_file()
    (tmp_path / name / "7").mkdir()
    _, out, _ = run("export", name, tmp_path, "--json")
    assert json.loads(out)["version"] == 8
    code, _, err = run("export", name, tmp_path, "--version", 1)
    assert code == codes.Code.USAGE
    assert "another version" in err


def test_verify_accepts_sound_weights_and_refuses_changed_ones(run, tmp_path, monkeypatch):
    import shutil

    name = PLAIN
    code, out, _ = run("verify", name, "--json")
    assert code == 0
    assert [result["state"] for result in json.loads(out)] == ["ok"]
    copy = tmp_path / "models" / name
    shutil.copytree(weights.find_local(name)[0], copy)
    monkeypatch.setenv("FLOWZOO_HOME", str(tmp_path))
    (copy / "card.json").write_text("{}")
    code, out, _ = run("verify", name, "--hashes-only", "--json")
    assert code == codes.Code.WEIGHTS
    assert [result["state"] for result in json.loads(out)] == ["corrupt"]
    assert "card.json" in json.loads(out)[0]["detail"]
    code, _, err = run("sample", name, "--out", tmp_path / "x.png")
    assert code == codes.Code.WEIGHTS
    assert "card.json" in err


def test_an_entry_without_weights_says_how_to_train_it(run, tmp_path):
    registry.register_config(
        {**registry.get_config(PLAIN).model_dump(), "name": "test_unpublished", "weights": {}},
        overwrite=True,
    )
    code, _, err = run("sample", "test_unpublished", "--out", tmp_path / "x.png")
    assert code == codes.Code.WEIGHTS
    assert "flowzoo train test_unpublished`" in err
    code, _, err = run("sample", "maf_tabular", "--out", tmp_path / "x.csv")
    assert code == codes.Code.WEIGHTS
    assert "flowzoo train maf_tabular --data FILE --as NEW_NAME" in err  # without data it trains nothing


def test_doctor_tells_a_program(run):
    code, out, _ = run("doctor", "--json")
    content = json.loads(out)
    assert code == (codes.Code.OK if content["healthy"] else codes.Code.FAILURE)
    assert {"python", "tensorflow", "xla"} <= {check["name"] for check in content["checks"]}

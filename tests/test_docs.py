"""The documents tell the truth: their examples run, their links lead somewhere, their figures are the cards'.

`python -m tests.test_docs` writes the table of the zoo in README.md anew.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main

from flowzoo import registry, weights
from flowzoo.cards import UNITS, difference
from flowzoo.cli.app import app
from flowzoo.cli.codes import MEANINGS

ROOT = Path(__file__).resolve().parent.parent
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
DOCUMENTS = [README, CONTRIBUTING, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    language: str
    text: str
    line: int

    @property
    def needs(self) -> list[str]:
        """The entries whose weights the block loads."""
        return re.findall(r'flowzoo\.load\("(\w+)"', self.text)

    @property
    def file(self) -> str | None:
        """The file that the block is, if its first line names one."""
        match = re.match(r"# (\S+/\S+\.\w+)\n", self.text)
        return match[1] if match else None


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text[: match.start()].count("\n") + 2) for match in found]


PYTHON = [block for block in blocks(README) if block.language == "python"]


def run(block: Block, names: dict[str, Any]) -> None:
    # Blank lines before it, so that a traceback gives the document's own line.
    exec(compile("\n" * (block.line - 1) + block.text, str(README), "exec"), names)  # noqa: S102


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWZOO_HOME", str(tmp_path / "home"))
    return tmp_path


def test_the_readme_runs_from_top_to_bottom(workplace: Path) -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    first, *others = [block for block in PYTHON if not block.needs]
    run(first, names)
    assert first.line + first.text.count("\n") <= 50, "from data to samples by line 50"
    usual, unusual = np.asarray(names["model"].log_prob([[170.0, 65.0], [150.0, 120.0]]))
    assert usual > unusual + 5
    for block in others:
        run(block, names)
    assert names["same"].name == names["model"].name
    x = names["table"][:5].astype("float32")
    scores = names["served"]["log_prob"](x=x)["log_prob"]
    np.testing.assert_allclose(scores, names["model"].log_prob(x), rtol=1e-4)


@pytest.mark.parametrize("block", [b for b in PYTHON if b.needs], ids=lambda b: "-".join(b.needs))
def test_the_readme_loads_trained_models(block: Block, workplace: Path) -> None:
    """Each of these blocks stands by itself."""
    missing = [name for name in block.needs if not weights.find_local(name)]
    if missing:
        pytest.skip(f"no weights of {', '.join(missing)} here")
    run(block, {"__name__": "readme"})


# -- the table of the zoo -----------------------------------------------------------------------------

START, END = "<!-- zoo:start -->", "<!-- zoo:end -->"


def card_of(name: str) -> dict[str, Any] | None:
    path = ROOT / "saved_models" / name / "card.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def zoo_rows() -> dict[str, str]:
    """The lines of the table by entry."""
    rows = {}
    for name in registry.list_models():
        config, card = registry.get_config(name), card_of(name)
        if config.data is None:
            continue
        parameters = measured = "-"
        differences: list[str] = []
        if card:
            metric = card["metric"]
            parameters = f"{card['parameters']:,}"
            measured = f"{metric['value']:.3f} ± {metric['standard_error']:.1g} {UNITS[metric['unit']]}"
            if "truth" in card:
                measured += f", KL to the truth {card['truth']['kl']:.3f}"
            differences = [difference(metric, figure.model_dump()) or "-" for figure in config.card.published]
        figures = [f"{figure.value:g} {UNITS[figure.unit]}" for figure in config.card.published]
        cells = (parameters, measured, ", ".join(figures) or "-", ", ".join(differences) or "-")
        rows[name] = f"| `{name}` | {' | '.join(cells)} |"
    return rows


def zoo_table() -> str:
    head = ["| entry | parameters | measured | published | difference |", "|---|---|---|---|---|"]
    return "\n".join([*head, *zoo_rows().values()])


def write_zoo_table() -> None:
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    README.write_text(f"{before}{START}\n{zoo_table()}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def test_the_table_of_the_zoo_is_that_of_the_cards() -> None:
    table = README.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    given = {match[1]: line for line in table.splitlines() if (match := re.match(r"\| `(\w+)`", line))}
    wanted = zoo_rows()
    again = "python -m tests.test_docs writes it anew"
    assert list(given) == list(wanted), again
    for name, row in wanted.items():
        if card_of(name):
            assert given[name] == row, again


def test_the_table_says_by_how_much_published_figures_are_missed() -> None:
    cells = {name: [cell.strip() for cell in row.split("|")[1:-1]] for name, row in zoo_rows().items()}
    assert {row[-1][0] for row in cells.values()} == set("+-")
    for name, (_, _, measured, published, differences) in cells.items():
        if "-" in (measured, published):
            assert differences == "-", name
            continue
        value = float(measured.split()[0])
        wanted = [value - float(figure.split()[0]) for figure in published.split(", ")]
        given = differences.split(", ")
        assert all(text[0] in "+-" for text in given), name
        np.testing.assert_allclose([float(text) for text in given], wanted, atol=1.1e-3, err_msg=name)


# -- a stranger's family and data set ------------------------------------------------------------------

STRANGER = {block.file: block for block in blocks(CONTRIBUTING) if block.file}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the files of CONTRIBUTING.md, and no other change."""
    root = tmp_path_factory.mktemp("stranger")
    ignored = shutil.ignore_patterns("__pycache__", "_zoo")
    for folder in ("flowzoo", "zoo_configs", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    for path, block in STRANGER.items():
        assert not (root / str(path)).exists(), f"{path} exists: CONTRIBUTING.md needs another example"
        (root / str(path)).write_text(block.text, encoding="utf-8")
    return root


def python(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root), "FLOWZOO_HOME": str(root / "home")}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_contributing_shows_four_files() -> None:
    kinds = sorted(str(Path(str(path)).parent) for path in STRANGER)
    assert kinds == ["flowzoo/data/sources", "flowzoo/layers", "flowzoo/models", "zoo_configs"]


@pytest.fixture(scope="module")
def strangers(checkout: Path) -> tuple[Any, str]:
    """What is found and how it trains, then what the tests say: one process, as importing takes seconds."""
    shared = ("-q", "-p", "no:cacheprovider", "--numprocesses=0")
    files = ("tests/layers/test_properties.py", "tests/models/test_flow.py", "tests/models/test_fit.py")
    files += ("tests/test_export.py", "tests/data/test_sources.py")
    chosen = "SinhArcsinh-0 and (log_det or inverse or gradients)"
    chosen += " or (sinhflow and conditional and (condition_matters or shapes_and)) or throws"
    few = (*shared, files[0], files[1], files[4], "-k", chosen)
    both = [[*shared, "--collect-only", *files], few]
    program = f"""
import json, sys, flowzoo, keras, pytest
from flowzoo.models import families
keras.utils.set_random_seed(0)
source = flowzoo.data.open_source("throws", num_examples=500)
model = flowzoo.build("sinhflow_throws")
model.compile("adam")
history = model.fit((source.x, source.condition), batch_size=50, epochs=5, verbose=0).history["loss"]
model.sample(2, condition=source.condition[:2])
found = [flowzoo.__file__, sorted(families()), flowzoo.layers.__all__, flowzoo.data.list_sources(),
         flowzoo.list_models(), history]
print("FOUND" + json.dumps(found), flush=True)
sys.exit(any([pytest.main(list(given)) for given in {both!r}]))
"""
    said = python(checkout, "-c", program)
    (found,) = (line for line in said.splitlines() if line.startswith("FOUND"))
    return json.loads(found.removeprefix("FOUND")), said


def test_the_strangers_files_are_found_and_train(checkout: Path, strangers: tuple[Any, str]) -> None:
    where, families, layers, sources, entries, history = strangers[0]
    assert Path(where).is_relative_to(checkout)
    assert "sinhflow" in families and "SinhArcsinh" in layers
    assert "throws" in sources and "sinhflow_throws" in entries
    assert history[-1] < history[0] - 0.1


def test_the_tests_pick_the_strangers_files_up(strangers: tuple[Any, str]) -> None:
    """Collected without an edit; a few are run, the rest being the same tests as for our own layers."""
    _, said = strangers
    assert " passed" in said
    for part in (
        r"test_property\[SinhArcsinh-1-\w+\]",
        r"test_flow.py::.*sinhflow",
        r"test_fit.py::.*sinhflow",
    ):
        assert re.search(part, said), part
    for part in (r"test_export.py::.*sinhflow", r"test_contract\[throws\]"):
        assert re.search(part, said), part


def test_the_strangers_files_keep_the_house_rules(checkout: Path) -> None:
    ruff = shutil.which("ruff") or shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("ruff is not installed")
    files = [str(path) for path in STRANGER if str(path).endswith(".py")]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *command, *files], cwd=checkout, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


# -- links, commands, names ------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    local = [target.partition("#")[0] for target in targets if not target.startswith(("http", "#"))]
    assert [target for target in local if not (document.parent / target).exists()] == []


def spoken(document: Path) -> Iterator[tuple[str, str]]:
    """(command line of flowzoo, the rest of its line of the document) for every one in code."""
    text = document.read_text(encoding="utf-8")
    for line in text.splitlines():
        for span in re.findall(r"`(flowzoo [^`]+)`", line):
            yield span, line if line.startswith("| `flowzoo") else ""
    for block in blocks(document):
        for line in block.text.splitlines() if not block.language else []:
            yield from (
                (part.strip(), "") for part in line.split("&&") if part.strip().startswith("flowzoo ")
            )


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts} | {"--help"}


def problems_with_commands(document: Path) -> list[str]:
    problems = []
    for text, row in spoken(document):
        name = text.split()[1]
        if name not in COMMANDS:
            problems.append(f"{text}: no command {name}")
            continue
        wanted = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", f"{text} {row}"))
        problems += [f"{text}: no option {option}" for option in sorted(wanted - options_of(COMMANDS[name]))]
    return problems


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_named_exists(document: Path) -> None:
    assert problems_with_commands(document) == []


def test_every_option_named_alone_exists() -> None:
    known = set().union(*(options_of(command) for command in COMMANDS.values()))
    named = re.findall(r"`(--[a-z][a-z-]*)", README.read_text(encoding="utf-8"))
    assert named and set(named) <= known


def test_wrong_commands_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "`flowzoo smaple x` and `flowzoo list --wrong`\n```\nflowzoo nothing\n```\n"
    )
    assert len(problems_with_commands(tmp_path / "a.md")) == 3


def test_the_readme_names_every_command_and_exit_code() -> None:
    text = README.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `flowzoo (\w+)", text, re.MULTILINE)) == set(COMMANDS)
    codes = re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
    assert [int(code) for code in codes] == [int(code) for code in MEANINGS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_variables_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "flowzoo").rglob("*.py"))
    assert [name for name in set(re.findall(r"FLOWZOO_[A-Z_]+", text)) if name not in source] == []
    named = set(re.findall(r"`([\w./]+(?:\.py|/))`", text)) - {"data/"}
    here = [ROOT, ROOT / "tests", ROOT / "flowzoo", ROOT / "flowzoo" / "data" / "sources"]
    assert [name for name in named if not any((folder / name).exists() for folder in here)] == []


def test_the_two_commands_are_there() -> None:
    text = README.read_text(encoding="utf-8")
    assert "pip install . && flowzoo sample glow_celeba --num 64 --temperature 0.7 --out faces.png" in text
    assert "pip install -e '.[test]' && pytest" in text


if __name__ == "__main__":
    write_zoo_table()

"""Reads the source of flowzoo: what imports what, and what must never be used.

Every rule is a function from source text to the problems it finds, so that the tests can first show each
rule failing on a broken snippet and then hold it against every file of the package.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "flowzoo"

# Data flows downwards: a line may import itself and the lines above it, never one below.
STAGES = (
    {"_discovery", "bounded", "cards", "errors", "files", "full_float32", "paths", "plain_data"}
    | {"plots", "random", "strict_yaml"},
    {"arrays", "quantization", "rounding"},
    {"config", "config_errors"},
    {"data"},
    {"bijectors", "ode"},
    {"networks"},
    {"layers"},
    {"distributions"},
    {"models"},
    {"latents"},
    {"measure", "quadrature"},
    {"training"},
    {"weights", "download", "manifest", "pacing"},
    {"serving"},
    {"exporting"},
    # These alone join the stages.
    {"registry", "own_data"},
    {"zoo"},
    {"publish"},
    {"republish"},
    {"training_job"},
    {"trainer"},
    # flowzoo/__init__.py, whose public names only the command line uses: stages name the module they mean.
    {""},
    {"doctor"},
    {"cli", "__main__"},
)
LEVEL = {name: level for level, names in enumerate(STAGES) for name in names}

# (check, module) -> why it need not pass. A line that is no longer needed is an error.
EXCEPTIONS = {
    (
        "check_variables",
        "flowzoo.models.saved_model",
    ): "the variables of the SavedModel itself, not of a layer",
}

HEAVY = ("tensorflow", "keras", "tf_keras", "tensorflow_probability", "tensorflow_datasets", "matplotlib")
HEAVY += ("pandas", "pyarrow", "sklearn", "scipy")
# What the command line needs before any model is asked for.
LIGHT = (
    "flowzoo",
    "flowzoo.config",
    "flowzoo.registry",
    "flowzoo.weights",
    "flowzoo.paths",
    "flowzoo.cli",
    "flowzoo.serving",
)
NO_VARIABLES = {"layers", "networks", "models", "bijectors"}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@dataclass(frozen=True)
class Module:
    """One file of the package: its dotted name, and whether it is a package's __init__."""

    name: str
    text: str
    is_package: bool = False

    @property
    def stage(self) -> str:
        """The part of the name below flowzoo; empty for flowzoo/__init__.py."""
        return self.name.partition(".")[2].partition(".")[0]

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)


def modules() -> Iterator[Module]:
    """Every file of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        yield Module(name, path.read_text(encoding="utf-8"), is_package)


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain, or an empty string for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _taken(module: Module, name: str) -> list[str]:
    """`flowzoo.a` for every use of an attribute `a` of the name that flowzoo was imported as."""
    uses = [node for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)]
    return [f"flowzoo.{node.attr}" for node in uses if dotted(node.value) == name]


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of all that a module imports, at its top or inside functions."""
    package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import flowzoo` alone says little: what counts is what is then taken from it.
                taken = _taken(module, alias.asname or alias.name) if alias.name == "flowzoo" else []
                yield from ((node.lineno, name) for name in taken or [alias.name])
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{prefix}.{alias.name}"
        elif isinstance(node, ast.Call) and dotted(node.func).endswith(("import_module", "__import__")):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value)


def check_direction(module: Module) -> list[str]:
    """No stage imports a later one, nor flowzoo's own face; every module belongs to a stage."""
    if module.stage not in LEVEL:
        return [f"{module.name} belongs to no stage: add {module.stage!r} to STAGES"]
    problems = []
    for line, name in imports(module):
        root, _, rest = name.partition(".")
        stage = rest.partition(".")[0]
        if root != "flowzoo" or not module.stage or stage == "__version__":
            continue
        if LEVEL.get(stage, LEVEL[""]) > LEVEL[module.stage]:
            problems.append(f"{module.name}:{line} imports {name}, which comes after flowzoo.{module.stage}")
    return problems


def check_tf_keras(module: Module) -> list[str]:
    """Keras 3 never sees the weights of tf_keras, which is also what tf.keras may turn out to be."""
    problems = [
        f"{module.name}:{line} imports {name}"
        for line, name in imports(module)
        if name.split(".")[0] == "tf_keras"
        or name.startswith(("tensorflow.keras", "tensorflow.python.keras"))
    ]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and dotted(node) in {"tf.keras", "tensorflow.keras"}:
            problems.append(f"{module.name}:{node.lineno} uses {dotted(node)}; import keras")
    return problems


def check_tfp_networks(module: Module) -> list[str]:
    """TFP's own networks are tf_keras: Keras 3 would neither train nor save them."""

    def banned(name: str) -> bool:
        last = name.rpartition(".")[2]
        of_tfp = name.split(".")[0] in {"tfb", "tfp", "tensorflow_probability"}
        network = last in {"AutoregressiveNetwork", "masked_dense", "Glow"} or last.startswith("GlowDefault")
        return (of_tfp and network) or last.endswith("_default_template")

    uses = [(line, name) for line, name in imports(module)]
    uses += [(node.lineno, dotted(node)) for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)]
    return [f"{module.name}:{line} uses {name}, a tf_keras network" for line, name in uses if banned(name)]


def check_variables(module: Module) -> list[str]:
    """Weights belong to Keras (add_weight): a tf.Variable is invisible to fit, save and export."""
    if module.stage not in NO_VARIABLES:
        return []
    uses = [(line, name) for line, name in imports(module)]
    uses += [(node.lineno, dotted(node)) for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)]
    banned = {"tf.Variable", "tensorflow.Variable", "tf.compat.v1.get_variable", "tf.compat.v1.Variable"}
    return [
        f"{module.name}:{line} uses {name}; weights come from add_weight"
        for line, name in uses
        if name in banned or name.endswith((".TransformedVariable", ".trainable_state_util"))
    ]


def check_asserts(module: Module) -> list[str]:
    """python -O removes asserts: a library raises ValueError or TypeError."""
    lines = [node.lineno for node in ast.walk(module.tree) if isinstance(node, ast.Assert)]
    return [f"{module.name}:{line} asserts" for line in lines]


def check_prints(module: Module) -> list[str]:
    """A library logs; the command line writes through its console."""
    calls = [node for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    return [f"{module.name}:{call.lineno} prints" for call in calls if dotted(call.func) == "print"]


def check_pickle(module: Module) -> list[str]:
    """A pickle runs code when it is read: neither weights nor data may be one."""
    problems = [
        f"{module.name}:{line} imports {name}"
        for line, name in imports(module)
        if name.split(".")[0] in PICKLES
    ]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                problems.append(f"{module.name}:{node.value.lineno} allows pickles")
        elif isinstance(node, ast.Attribute) and node.attr in {"read_pickle", "to_pickle"}:
            problems.append(f"{module.name}:{node.lineno} uses {node.attr}")
    return problems


CHECKS: tuple[Callable[[Module], list[str]], ...] = (
    check_direction,
    check_tf_keras,
    check_tfp_networks,
    check_variables,
    check_asserts,
    check_prints,
    check_pickle,
)

BROKEN = [
    (check_direction, "flowzoo.layers.coupling", "from flowzoo.models import base"),
    (check_direction, "flowzoo.layers.coupling", "from flowzoo import models"),
    (check_direction, "flowzoo.layers.coupling", "from .. import models"),
    (check_direction, "flowzoo.layers.coupling", "from ..models.base import Flow"),
    (check_direction, "flowzoo.layers.coupling", "import flowzoo.models.base as base"),
    (check_direction, "flowzoo.layers.coupling", "from flowzoo import load"),
    (check_direction, "flowzoo.registry", "import flowzoo\nflowzoo.load('x')"),
    (check_direction, "flowzoo.registry", "import flowzoo as fz\nfz.load('x')"),
    (check_direction, "flowzoo.config", "def f():\n    from flowzoo.registry import get_config"),
    (check_direction, "flowzoo.models.nice", "importlib.import_module('flowzoo.training')"),
    (check_direction, "flowzoo.somewhere", ""),
    (check_tf_keras, "flowzoo.networks.mlp", "import tf_keras"),
    (check_tf_keras, "flowzoo.networks.mlp", "from tf_keras import layers"),
    (check_tf_keras, "flowzoo.networks.mlp", "from tensorflow import keras"),
    (check_tf_keras, "flowzoo.networks.mlp", "layer = tf.keras.layers.Dense(3)"),
    (check_tfp_networks, "flowzoo.networks.made", "net = tfb.AutoregressiveNetwork(params=2)"),
    (check_tfp_networks, "flowzoo.networks.made", "net = tfp.bijectors.AutoregressiveNetwork(params=2)"),
    (check_tfp_networks, "flowzoo.networks.made", "f = tfb.real_nvp_default_template(hidden_layers=[3])"),
    (check_tfp_networks, "flowzoo.models.glow", "from tensorflow_probability.bijectors import Glow"),
    (check_tfp_networks, "flowzoo.models.glow", "net = tfb.GlowDefaultNetwork"),
    (check_variables, "flowzoo.layers.actnorm", "shift = tf.Variable(0.0)"),
    (check_variables, "flowzoo.bijectors.views", "from tensorflow import Variable"),
    (check_variables, "flowzoo.models.nice", "scale = tfp.util.TransformedVariable(1.0, tfb.Exp())"),
    (check_asserts, "flowzoo.paths", "def f(x):\n    assert x"),
    (check_prints, "flowzoo.cli", "print('hello')"),
    (check_pickle, "flowzoo.weights", "import pickle"),
    (check_pickle, "flowzoo.data.source", "np.load(path, allow_pickle=True)"),
    (check_pickle, "flowzoo.data.source", "np.load(path, allow_pickle=flag)"),
    (check_pickle, "flowzoo.data.source", "pd.read_pickle(path)"),
]

SOUND = [
    (check_direction, "flowzoo.models.nice", "from flowzoo.layers import coupling\nfrom . import base"),
    (check_direction, "flowzoo.cli", "from flowzoo import registry, paths"),
    (check_direction, "flowzoo.registry", "import flowzoo\nflowzoo.__version__"),
    (check_direction, "flowzoo", "from flowzoo import registry"),
    (check_direction, "flowzoo.cli.making", "import flowzoo\nfrom flowzoo import load"),
    (check_tf_keras, "flowzoo.networks.mlp", "import keras\nimport tensorflow as tf"),
    (check_tfp_networks, "flowzoo.models.glow", "from flowzoo.models import glow\nflow = glow.Glow()"),
    (check_variables, "flowzoo.training.steps", "step = tf.Variable(0)"),
    (check_asserts, "flowzoo.paths", "tf.debugging.assert_equal(a, b)"),
    (check_prints, "flowzoo.cli", "console.print('hello')"),
    (check_pickle, "flowzoo.data.source", "np.load(path, allow_pickle=False)"),
]


@pytest.mark.parametrize(("check", "name", "text"), BROKEN)
def test_check_finds_what_is_broken(check, name, text):
    assert check(Module(name, text))


@pytest.mark.parametrize(("check", "name", "text"), SOUND)
def test_check_accepts_what_is_sound(check, name, text):
    assert check(Module(name, text)) == []


def test_relative_imports_of_a_package_count_from_itself():
    assert check_direction(Module("flowzoo.layers", "from ..models import base", is_package=True))
    assert check_direction(Module("flowzoo.layers", "from .coupling import Coupling", is_package=True)) == []


def test_every_check_is_shown_to_fail():
    assert {check for check, _, _ in BROKEN} == {check for check, _, _ in SOUND} == set(CHECKS)


@pytest.mark.parametrize("check", CHECKS)
def test_the_package_obeys(check):
    obliged = [module for module in modules() if (check.__name__, module.name) not in EXCEPTIONS]
    assert [problem for module in obliged for problem in check(module)] == []


@pytest.mark.parametrize(("name", "exempt"), EXCEPTIONS)
def test_every_exception_is_still_needed(name, exempt):
    check = next(check for check in CHECKS if check.__name__ == name)
    module = next(module for module in modules() if module.name == exempt)
    assert check(module)


def imported_by(code: str, folder: Path = ROOT) -> tuple[set[str], float]:
    """Runs an import in a fresh interpreter: which heavy packages came along, and the seconds it took."""
    program = f"""
import json, sys, time
sys.path.insert(0, {str(folder)!r})
start = time.perf_counter()
{code}
seconds = time.perf_counter() - start
json.dump([[name for name in {HEAVY!r} if name in sys.modules], seconds], sys.stdout)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names, seconds = json.loads(run.stdout)
    return set(names), seconds


def test_heavy_imports_are_noticed(tmp_path):
    (tmp_path / "broken_face.py").write_text("import pandas")
    assert imported_by("import broken_face", tmp_path)[0] >= {"pandas"}


@pytest.mark.parametrize(
    "name",
    [
        "flowzoo",
        "flowzoo.config",
        "flowzoo.registry",
        "flowzoo.weights",
        "flowzoo.paths",
        "flowzoo.cli",
        "flowzoo.serving",
    ],
)
def test_light_modules_import_nothing_heavy(name):
    assert imported_by(f"import {name}")[0] == set()


def test_the_bare_package_imports_fast():
    assert min(imported_by("import flowzoo")[1] for _ in range(3)) < 0.2


def test_the_face_is_small_and_complete():
    code = "import flowzoo; [getattr(flowzoo, name) for name in flowzoo.__all__]; print(len(flowzoo.__all__))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert 1 <= int(run.stdout) <= 15

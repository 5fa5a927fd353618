"""The check of docs/export.md that a user can repeat: TensorFlow's own saved_model_cli."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flowzoo.models import Flow


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "1"
    Flow([], (2,)).export(folder)
    return folder


def cli(command: str, saved_model: Path, *arguments: str) -> str:
    """Run the tool in a process that cannot import flowzoo."""
    program = "import sys; sys.modules['flowzoo'] = None\n"
    program += "from tensorflow.python.tools.saved_model_cli import main\nmain()"
    line = [
        sys.executable,
        "-c",
        program,
        command,
        "--dir",
        str(saved_model),
        "--tag_set",
        "serve",
        *arguments,
    ]
    env = {**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(line, capture_output=True, text=True, env=env, cwd=saved_model)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_show(saved_model: Path) -> None:
    text = cli("show", saved_model, "--signature_def", "anomaly_score")
    for part in ("inputs['x']", "shape: (-1, 2)", "outputs['anomaly_score']", "shape: (-1)", "DT_FLOAT"):
        assert part in text, text


def densities(text: str) -> list[float]:
    """Return what the tool printed of log_prob."""
    return [
        float(part) for part in text[text.index("log_prob:") :].partition("[")[2].partition("]")[0].split()
    ]


@pytest.mark.slow
def test_run(saved_model: Path, tmp_path: Path) -> None:
    normal = -np.log(2 * np.pi)
    text = cli(
        "run", saved_model, "--signature_def", "log_prob", "--input_exprs", "x=[[0.0, 0.0], [1.0, 1.0]]"
    )
    np.testing.assert_allclose(densities(text), [normal, normal - 1], rtol=1e-5)
    given = "num_samples=3;seed=[1, 2];temperature=1.0"
    text = cli("run", saved_model, "--signature_def", "sample", "--input_exprs", given)
    got = text[text.index("key x:") + 6 :].replace("[", " ").replace("]", " ").split()
    np.testing.assert_allclose(
        [float(part) for part in got], np.ravel(Flow([], (2,)).sample(3, seed=[1, 2])), rtol=1e-5
    )
    np.save(tmp_path / "x.npy", np.zeros((1, 2), "float32"))
    text = cli("run", saved_model, "--signature_def", "log_prob", "--inputs", f"x={tmp_path / 'x.npy'}")
    np.testing.assert_allclose(densities(text), [normal], rtol=1e-5)

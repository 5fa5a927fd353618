"""The doctor's checks, on this machine and on machines that are made wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from flowzoo import doctor

ROOT = Path(__file__).resolve().parent.parent


def diagnose(**environment):
    """Runs the doctor in a process of its own, where the environment can be wrong from the start."""
    code = "import json; from flowzoo import doctor; print(json.dumps(doctor.diagnose().to_dict()))"
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables, check=True)
    report = json.loads(run.stdout.splitlines()[-1])
    return report["healthy"], {check["name"]: check for check in report["checks"]}


@pytest.fixture(scope="module")
def report():
    return doctor.diagnose()


def test_this_machine_is_healthy(report):
    assert report.healthy, [check for check in report.checks if not check.ok]


def test_every_promised_thing_is_reported(report):
    named = {check.name for check in report.checks}
    assert named >= {
        "python",
        "flowzoo",
        "tensorflow",
        "keras",
        "tensorflow-probability",
        "tensorflow-datasets",
    }
    assert named >= {"numpy", "protobuf", "devices", "xla", "tfds", "serving client", "home", "data folders"}
    assert named >= {"entries"}
    assert all(check.detail for check in report.checks)


def test_the_devices_are_those_of_tensorflow(report):
    devices = next(check for check in report.checks if check.name == "devices")
    assert "CPU:0" in devices.detail


def test_another_backend_and_a_folder_that_cannot_be_written_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    healthy, checks = diagnose(KERAS_BACKEND="numpy", FLOWZOO_HOME=str(tmp_path / "file" / "home"))
    assert not healthy
    assert not checks["keras backend"]["ok"]
    assert "KERAS_BACKEND" in checks["keras backend"]["detail"]
    assert not checks["home"]["ok"]
    assert "FLOWZOO_HOME" in checks["home"]["detail"]


@pytest.mark.parametrize(
    ("version", "line", "ok"),
    [("2.21.0", "2.21", True), ("2.21", "2.21", True), ("2.2.1", "2.21", False), ("2.210.0", "2.21", False)]
    + [(None, "2.21", False), (None, None, False), ("9", None, True)],
)
def test_package_versions(version, line, ok):
    check = doctor.check_package("tensorflow", version, line)
    assert check.ok is ok
    assert ok or "pip install" in check.detail


def test_an_old_python_is_told():
    assert not doctor.check_python((3, 10, 4)).ok
    assert doctor.check_python((3, 13, 0)).ok


def test_only_what_is_required_makes_it_ill():
    optional = doctor.Check("serving client", False, "not installed", required=False)
    required = doctor.Check("tensorflow", False, "not installed")
    assert doctor.Report((optional,)).healthy
    assert not doctor.Report((optional, required)).healthy


def test_the_supported_lines_are_those_that_are_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, line in doctor.SUPPORTED.items():
        pins = [
            pin for pin in project["dependencies"] if pin.split("[")[0].split(">")[0].split("=")[0] == name
        ]
        assert len(pins) == 1
        assert f"=={line}." in pins[0] or f">={line}," in pins[0]

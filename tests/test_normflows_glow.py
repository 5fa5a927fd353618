"""The Glow beside normflows': batches, parameters, the rate, the estimate of both sides, the table."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.glow_checks import ONE_STEP, SMALL, expected_noise_bits, noise
from benchmarks.glow_common import COOLDOWN, Faces, Setting, matched_hidden, parameters, run
from benchmarks.normflows_glow import as_table
from flowzoo.training.optimizers import Trapezoid


@pytest.fixture(scope="module")
def faces() -> Faces:
    return noise()


def test_faces_are_read_as_they_were_written(faces: Faces, tmp_path: Path) -> None:
    faces.save(tmp_path / "faces.npz")
    found = Faces.load(tmp_path / "faces.npz")
    assert np.array_equal(found.train, faces.train) and np.array_equal(found.validation, faces.validation)


def test_batches_are_whole_passes_with_mirror_images(faces: Faces) -> None:
    few = Faces(faces.train[:12], faces.validation)
    seen = np.concatenate(list(few.batches(SMALL, seed=1)))
    wanted = np.concatenate([few.train, few.train[:, :, ::-1]])
    assert np.array_equal(np.unique(seen[:24], axis=0), np.unique(wanted, axis=0))
    assert np.array_equal(seen, np.concatenate(list(few.batches(SMALL, seed=1))))


def test_the_rate_is_that_of_flowzoos_schedule() -> None:
    setting = Setting(steps=50, batch=1, size=8, levels=1, num_steps=1, filters=1, warmup=10)
    ours = Trapezoid(setting.learning_rate, 50, 10, COOLDOWN)
    assert [setting.rate(step) for step in range(50)] == pytest.approx([float(ours(s)) for s in range(50)])


def test_parameters_are_matched() -> None:
    full = Setting(steps=1, batch=1, size=64, levels=4, num_steps=16, filters=240)
    ours, peers = parameters(full, 240, "flowzoo"), parameters(full, matched_hidden(full), "normflows")
    assert abs(peers / ours - 1) < 0.01


@pytest.mark.slow
def test_our_side_trains_and_starts_where_it_should(faces: Faces) -> None:
    from benchmarks.glow_flowzoo import Ours

    found = run(Ours, SMALL, faces, seed=0, deadline=math.inf)
    assert found["steps"] == 6 and [look["step"] for look in found["curve"]] == [3, 6]
    assert run(Ours, SMALL, faces, seed=0, deadline=0.0)["steps"] == 2
    one = Ours(ONE_STEP, seed=0)
    one.adapt(faces.train)
    narrowing = math.exp(-2) + (1 - math.exp(-2)) / (1 + math.exp(-2))
    assert one.bits_per_dim(faces.train) == pytest.approx(expected_noise_bits(narrowing), abs=0.01)


def test_the_peers_estimate_is_right() -> None:
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("normflows")):
        pytest.skip("PyTorch and normflows are not installed: pip install torch normflows==1.7.3")
    subprocess.run([sys.executable, "-m", "benchmarks.glow_checks"], check=True)  # not beside TensorFlow


def test_the_table_says_where_a_deadline_stopped() -> None:
    one = {"seed": 0, "bits_per_dim": 3.5, "start": 7.6, "parameters": 1234, "steps": 4, "seconds": 1.0}
    one |= {"seconds_a_step": 0.25, "first_step_seconds": 2.0, "total_seconds": 4.0, "curve": []}
    side = {"side": "flowzoo", "setting": vars(SMALL), "versions": "v", "device": "d", "compiled": "auto"}
    text = as_table([json.loads(json.dumps({**side, "runs": [one]}))])
    assert "| flowzoo | 8×8, 8 bits | 3.5000 |" in text and "4 of 6: stopped by its deadline" in text

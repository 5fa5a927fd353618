"""The C API host of tests/capi.py against tf.saved_model.load, on a SavedModel made without flowzoo."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests import capi


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    """Two signatures: floats of any batch with two outputs, and int32 scalars with a shape made from one."""
    import tensorflow as tf

    class Plain(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def project(self, x):
            y = x @ self.kernel
            return {"y": y, "total": tf.reduce_sum(y, -1)}

        @tf.function(
            input_signature=[
                tf.TensorSpec([], tf.int32, name="num_samples"),
                tf.TensorSpec([2], tf.int32, name="seed"),
                tf.TensorSpec([], tf.float32, name="temperature"),
            ]
        )
        def sample(self, num_samples, seed, temperature):
            noise = tf.random.stateless_normal([num_samples, 2], seed, alg="philox")
            return {"x": temperature * noise, "count": num_samples}

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.uint8, name="pixels")])
        def invert(self, pixels):
            return {"pixels": 255 - pixels}

    module = Plain()
    folder = tmp_path_factory.mktemp("plain") / "1"
    signatures = {"project": module.project, "sample": module.sample, "invert": module.invert}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


def expected(saved_model, signature, inputs):
    import tensorflow as tf

    function = tf.saved_model.load(str(saved_model)).signatures[signature]
    outputs = function(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def draw(num, seed, temperature=1.0):
    return "sample", {
        "num_samples": np.int32(num),
        "seed": np.array([seed, 7], np.int32),
        "temperature": np.float32(temperature),
    }


def test_the_host_agrees_with_the_python_loader(saved_model, tmp_path):
    generator = np.random.default_rng(0)
    calls = [
        ("project", {"x": generator.normal(size=(5, 2)).astype(np.float32)}),
        ("project", {"x": np.zeros((0, 2), np.float32)}),
        ("invert", {"pixels": generator.integers(0, 256, (3, 4), np.uint8)}),
        draw(4, seed=1, temperature=0.5),
        draw(4, seed=1, temperature=0.5),
        draw(4, seed=2, temperature=0.5),
    ]
    results = capi.run_in_process(saved_model, calls, tmp_path)
    for (signature, inputs), result in zip(calls, results, strict=True):
        wanted = expected(saved_model, signature, inputs)
        assert result.keys() == wanted.keys()
        for name, value in wanted.items():
            assert (result[name].dtype, result[name].shape) == (value.dtype, value.shape)
            np.testing.assert_allclose(result[name], value, rtol=1e-6)
    assert np.array_equal(results[3]["x"], results[4]["x"])
    assert not np.array_equal(results[3]["x"], results[5]["x"])


def test_signatures_are_read_from_the_file_alone(saved_model):
    meta_graphs = [
        value for number, value in capi.fields((saved_model / "saved_model.pb").read_bytes()) if number == 2
    ]
    signatures = capi.read_signatures(meta_graphs[0])
    assert {"project", "sample", "invert"} <= set(signatures)
    assert signatures["project"].inputs["x"].dtype == "float32"
    assert signatures["project"].inputs["x"].shape == (-1, 2)
    assert signatures["sample"].inputs["seed"].shape == (2,)
    assert signatures["sample"].inputs["num_samples"].shape == ()
    assert set(signatures["sample"].outputs) == {"x", "count"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("nothing", {}), "No signature 'nothing'"),
        (("project", {"y": np.zeros((1, 2), np.float32)}), r"takes \['x'\]"),
        (("project", {"x": np.zeros((1, 2))}), "float32. Received: float64"),
        (("project", {"x": np.zeros((1, 3), np.float32)}), "Matrix size-incompatible"),
    ],
)
def test_wrong_calls_are_refused(saved_model, tmp_path, call, message):
    with pytest.raises(RuntimeError, match=message):
        capi.run_in_process(saved_model, [call], tmp_path)


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="saved_model"):
        capi.run_in_process(tmp_path / "none", [draw(1, 0)], tmp_path)


def test_the_host_tells_what_python_it_imported(saved_model, tmp_path):
    arguments = [str(saved_model), "invert", "in.npz", "out.npz"]
    np.savez(tmp_path / "in.npz", pixels=np.zeros((1, 4), np.uint8))
    code = f"import sys, capi; sys.modules['keras'] = capi; capi.main({arguments!r})"
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(capi.__file__)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    assert json.loads(run.stdout)["imported"] == ["keras"]


def test_the_command_explains_itself():
    run = subprocess.run([sys.executable, capi.__file__], capture_output=True, text=True)
    assert run.returncode == 2
    assert "SAVEDMODEL SIGNATURE" in run.stderr

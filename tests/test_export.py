"""A client that knows only the SavedModel: other processes, without flowzoo, Keras or TFP."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import flowzoo
from flowzoo.models import families
from tests import capi
from tests.models.flows import KINDS, make, shared

SIGNATURES = {"serving_default", "log_prob", "sample", "to_latent", "from_latent"}
FAMILIES = sorted(families())

_CLIENT = textwrap.dedent(
    """
    import sys
    for name in ("flowzoo", "keras", "tf_keras", "tensorflow_probability"):
        if name != "keras":  # TensorFlow itself imports Keras when it is there
            sys.modules[name] = None
    import numpy as np, tensorflow as tf

    def use(folder):
        model = tf.saved_model.load(folder + "/1")
        arrays = dict(np.load(folder + "/in.npz"))
        condition = {"condition": tf.constant(arrays["condition"])} if "condition" in arrays else {}
        one = {"condition": condition["condition"][:1]} if condition else {}
        call = model.signatures
        draw = lambda n, seed, t=1.0: call["sample"](num_samples=tf.constant(n), seed=tf.constant(seed),
                                                     temperature=tf.constant(t), **one)["x"].numpy()
        x = tf.constant(arrays["x"])
        out = {
            "names": np.array(sorted(call)),
            "log_prob": call["log_prob"](x=x, **condition)["log_prob"].numpy(),
            "default": call["serving_default"](x=x, **condition)["log_prob"].numpy(),
            "z": call["to_latent"](x=x, **condition)["z"].numpy(),
            "a": draw(5, [1, 2]), "again": draw(5, [1, 2]), "b": draw(5, [1, 3]), "none": draw(0, [1, 2]),
            "cold": draw(5, [1, 2], 0.01),
        }
        out["back"] = call["from_latent"](z=tf.constant(out["z"]), **condition)["x"].numpy()
        np.savez(folder + "/out.npz", **out)

    for folder in sys.argv[1:]:
        try:
            use(folder)
        except Exception as error:
            print(folder, type(error).__name__, error, file=sys.stderr)
    assert "flowzoo" not in [n for n, m in sys.modules.items() if m is not None]
    """
)


def exported(family: str, kind: str, folder: Path, **options: str) -> tuple:
    flow, what = shared(family, kind), KINDS[kind]
    flow.export(folder / "1", **options)
    x, c = what.data(7), what.condition(7)
    arrays = (
        {"x": x}
        if c is None
        else {"x": x, "condition": np.asarray(c, "int32" if flow.num_classes else "float32")}
    )
    return flow, arrays


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Export every family, and use all exports in one other process: its imports take seconds."""
    root = tmp_path_factory.mktemp("served")
    for family in FAMILIES:
        (root / family).mkdir()
        np.savez(root / family / "in.npz", **exported(family, "labelled_image", root / family)[1])
    env = {**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", _CLIENT, *(str(root / family) for family in FAMILIES)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=root, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return root, done.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_in_a_fresh_process(family: str, served: tuple[Path, str]) -> None:
    root, complaints = served
    flow = shared(family, "labelled_image")
    arrays = dict(np.load(root / family / "in.npz"))
    assert (root / family / "out.npz").is_file(), complaints[-3000:]
    out = np.load(root / family / "out.npz")
    assert set(out["names"]) == SIGNATURES
    want = np.asarray(flow.log_prob(arrays["x"], arrays.get("condition")))
    for name in ("log_prob", "default"):
        np.testing.assert_allclose(out[name], want, rtol=1e-5, atol=1e-5)
    assert out["a"].shape == (5, *flow.event_shape) and out["none"].shape == (0, *flow.event_shape)
    assert np.array_equal(out["a"], out["again"]) and not np.array_equal(out["a"], out["b"])
    assert not np.array_equal(out["a"], out["cold"])
    one = None if "condition" not in arrays else arrays["condition"][0]
    assert np.array_equal(out["a"].shape, np.asarray(flow.sample(5, one, seed=[1, 2])).shape)
    np.testing.assert_allclose(out["a"], flow.sample(5, one, seed=[1, 2]), rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(
        out["z"], flow.to_latent(arrays["x"], arrays.get("condition")), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(out["back"], arrays["x"], atol=2e-3)


@pytest.mark.parametrize(
    ("family", "kind"), [*((family, "labelled_image") for family in FAMILIES), ("realnvp", "conditional")]
)
def test_through_the_c_api(family: str, kind: str, served: tuple[Path, str], tmp_path: Path) -> None:
    """The loader that TensorFlow Serving uses, in a process with no Python of TensorFlow at all."""
    folder = served[0] / family
    if kind == "labelled_image":
        flow, arrays = shared(family, kind), dict(np.load(folder / "in.npz"))
    else:
        folder = tmp_path
        flow, arrays = exported(family, kind, folder)
    one = {} if "condition" not in arrays else {"condition": arrays["condition"][:1]}

    def draw(n: int, seed: tuple[int, int]) -> tuple[str, dict]:
        given = {"num_samples": np.int32(n), "seed": np.array(seed, "int32"), "temperature": np.float32(1)}
        return "sample", {**given, **one}

    empty = {name: value[:0] for name, value in arrays.items()}
    calls = [("serving_default", arrays), ("log_prob", empty), ("to_latent", arrays)]
    calls += [draw(3, (1, 2)), draw(3, (1, 2)), draw(3, (5, 6))]
    density, none, latent, first, again, other = capi.run_in_process(folder / "1", calls, tmp_path)
    want = flow.log_prob(arrays["x"], arrays.get("condition"))
    np.testing.assert_allclose(density["log_prob"], want, rtol=1e-5, atol=1e-5)
    assert none["log_prob"].shape == (0,)
    assert latent["z"].shape == (7, *flow.latent_shape)
    assert first["x"].shape == (3, *flow.event_shape)
    assert np.array_equal(first["x"], again["x"]) and not np.array_equal(first["x"], other["x"])


def test_half_precision_stores_half(tmp_path: Path) -> None:
    sizes = {}
    for dtype in ("float32", "float16", "bfloat16"):
        flow, arrays = exported("maf", "vector", tmp_path / dtype, weights_dtype=dtype)
        sizes[dtype] = sum(p.stat().st_size for p in (tmp_path / dtype / "1" / "variables").iterdir())
        loaded = tf.saved_model.load(str(tmp_path / dtype / "1"))
        got = loaded.signatures["log_prob"](x=tf.constant(arrays["x"]))["log_prob"]
        np.testing.assert_allclose(got, flow.log_prob(arrays["x"]), rtol=0.05, atol=0.1)
    assert sizes["float16"] < 0.75 * sizes["float32"] and sizes["bfloat16"] < 0.75 * sizes["float32"]


def test_no_python_op_and_no_compiled_function(tmp_path: Path) -> None:
    """What a stock server cannot run: Python callbacks and functions that must be compiled by XLA."""
    exported("realnvp", "image", tmp_path)
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((tmp_path / "1" / "saved_model.pb").read_bytes())
    graph = proto.meta_graphs[0].graph_def
    ops = {node.op for node in graph.node} | {n.op for f in graph.library.function for n in f.node_def}
    assert not {op for op in ops if "PyFunc" in op or "Xla" in op}
    for function in graph.library.function:
        assert not function.attr["_XlaMustCompile"].b


def test_the_target_is_whole_or_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow, _ = exported("nice", "vector", tmp_path)
    before = {p.name: p.read_bytes() for p in (tmp_path / "1").rglob("*") if p.is_file()}
    with pytest.raises(FileExistsError):
        flow.export(tmp_path / "1")
    with pytest.raises(ValueError, match="weights_dtype takes"):
        flow.export(tmp_path / "2", weights_dtype="int8")
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(OSError):
        flow.export(blocked / "1")

    def fails(*args: object, **kwargs: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fails)
    with pytest.raises(OSError, match="No space left"):
        flow.export(tmp_path / "1", overwrite=True)
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "1").rglob("*") if p.is_file()}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "file"]
    monkeypatch.undo()
    flow.export(tmp_path / "1", overwrite=True)
    assert (tmp_path / "1" / "saved_model.pb").exists()


def test_a_wrong_request_is_an_error_and_no_nan(tmp_path: Path) -> None:
    flow, arrays = exported("maf", "labelled_image", tmp_path)
    call = tf.saved_model.load(str(tmp_path / "1")).signatures
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        call["log_prob"](x=tf.constant(arrays["x"], tf.float32), condition=tf.constant(arrays["condition"]))
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        call["log_prob"](x=tf.constant(arrays["x"]), condition=tf.constant(arrays["condition"][:3]))


def test_versions_count_up(tmp_path: Path) -> None:
    flow = make("nice", "vector")
    assert flowzoo.export(flow, tmp_path) == tmp_path / flow.name / "1"
    assert flowzoo.export(flow, tmp_path) == tmp_path / flow.name / "2"
    assert flowzoo.export(flow, tmp_path, name="other", version=7).name == "7"
    with pytest.raises(FileExistsError):
        flowzoo.export(flow, tmp_path, version=1)
    for version in (0, -1, "1", 1.5, True):
        with pytest.raises(ValueError, match="version takes"):
            flowzoo.export(flow, tmp_path, version=version)

"""A client that knows only the SavedModel: other processes, without flowzoo, Keras or TFP."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import function_pb2, types_pb2
from tensorflow.core.protobuf import saved_model_pb2

import flowzoo
from flowzoo import quantization, registry, weights
from flowzoo.layers import AffineCoupling, Chain, LULinear, Repeat
from flowzoo.models import compact_graph, families, saved_model
from flowzoo.models.compact_graph import compact
from flowzoo.models.continuous import ContinuousModel
from flowzoo.models.glow import Glow
from flowzoo.models.tarflow import TarFlow
from flowzoo.networks import MLP
from flowzoo.paths import packaged
from flowzoo.serving import ops
from flowzoo.training.previews import preview_conditions
from tests import c_host, capi
from tests.models.flows import KINDS, shared, sparing

SIGNATURES = {
    "serving_default",
    "log_prob",
    "anomaly_score",
    "sample",
    "sample_and_log_prob",
    "to_latent",
    "from_latent",
}
FAMILIES = sorted(families())
every = pytest.mark.parametrize("family", sparing(FAMILIES))

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
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Export the families that are asked for, and use them in one other process: its imports take seconds."""
    root = tmp_path_factory.mktemp("served")
    asked = [item for item in request.session.items if item.path == request.path]
    wanted = sorted({item.callspec.params["family"] for item in asked if "served" in item.fixturenames})
    for family in wanted:
        (root / family).mkdir()
        np.savez(root / family / "in.npz", **exported(family, "labelled_image", root / family)[1])
    env = {**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", _CLIENT, *(str(root / family) for family in wanted)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=root, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return root, done.stderr


@every
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


@every
def test_in_a_process_without_python(family: str, served: tuple[Path, str], tmp_path: Path) -> None:
    """TensorFlow's C++ loader, as TensorFlow Serving has it, in a program in C: every signature and size."""
    flow, what = shared(family, "labelled_image"), KINDS["labelled_image"]
    sizes = (0, 1, 7, 512)
    x, label = what.data(512), np.asarray(what.condition(512), "int32")
    data = {n: {"x": x[:n], "condition": label[:n]} for n in sizes}
    drawn = {n: {**_draw(n), "condition": label[:n] if n else label[:1]} for n in sizes}
    names = ("serving_default", "log_prob", "anomaly_score", "to_latent")
    calls = [(name, data[n]) for n in sizes for name in names]
    calls += [(name, drawn[n]) for n in sizes for name in ("sample", "sample_and_log_prob")]
    calls += [("log_prob", {**data[7], "condition": label[:7] + 3}), ("log_prob", data[7])]
    replies, _ = c_host.run(served[0] / family / "1", calls, tmp_path)
    *replies, refused, after = replies
    assert refused.code == 3 and "class labels from 0 to 2" in refused.message
    found = {}
    for (name, inputs), reply in zip(calls, replies, strict=False):
        assert reply.code == 0, (name, reply.message)
        found[name, len(inputs["x"]) if "x" in inputs else int(inputs["num_samples"])] = reply.outputs
    np.testing.assert_array_equal(after.outputs["log_prob"], found["log_prob", 7]["log_prob"])
    for n in sizes:
        _agrees(flow, data[n], {name: found[name, n] for name in names})
        _agrees_in_draws(flow, drawn[n], found["sample", n], found["sample_and_log_prob", n])
    latents = [("from_latent", {"z": found["to_latent", n]["z"], "condition": label[:n]}) for n in sizes]
    back, _ = c_host.run(served[0] / family / "1", latents, tmp_path)
    for n, reply in zip(sizes, back, strict=True):
        np.testing.assert_array_equal(reply.outputs["x"], x[:n])


def _draw(n: int, seed: tuple[int, int] = (1, 2)) -> dict[str, np.ndarray]:
    return {"num_samples": np.int32(n), "seed": np.array(seed, "int32"), "temperature": np.float32(1)}


def _agrees(flow: flowzoo.Flow, data: dict[str, np.ndarray], outputs: dict[str, dict]) -> None:
    """Compare densities and latents with what Python gives."""
    want = np.asarray(flow.log_prob(data["x"], data["condition"]))
    for name in ("serving_default", "log_prob"):
        np.testing.assert_allclose(outputs[name]["log_prob"], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs["anomaly_score"]["anomaly_score"], -want, rtol=1e-5, atol=1e-5)
    latent = np.asarray(flow.to_latent(data["x"], data["condition"]))
    np.testing.assert_allclose(outputs["to_latent"]["z"], latent, rtol=1e-4, atol=1e-4)


def _agrees_in_draws(flow: flowzoo.Flow, drawn: dict, sample: dict, scored: dict) -> None:
    """Compare samples and their densities with what Python gives."""
    n, label = int(drawn["num_samples"]), drawn["condition"]
    want = np.asarray(flow.sample(n, label if n else label[0], seed=drawn["seed"])).astype(int)
    # Whole numbers: one in a thousand may lie so near an edge that it is rounded to its neighbour.
    for x in (sample["x"], scored["x"]):
        assert x.shape == want.shape and x.dtype == flow.data_dtype
        assert np.sum(x != want) <= 1e-3 * want.size and np.abs(x - want).max(initial=0) <= 1
    density = flow.log_prob(scored["x"], label if n else label[:0])
    np.testing.assert_allclose(scored["log_prob"], density, rtol=1e-5, atol=1e-4)


def test_in_a_process_without_tensorflow_s_python(tmp_path: Path) -> None:
    """The same loader through ctypes, where there is no C compiler."""
    flow, arrays = exported("realnvp", "conditional", tmp_path)
    one = {"condition": arrays["condition"][:1]}
    empty = {name: value[:0] for name, value in arrays.items()}
    calls = [("serving_default", arrays), ("log_prob", empty), ("to_latent", arrays)]
    calls += [("sample", {**_draw(3, seed), **one}) for seed in ((1, 2), (1, 2), (5, 6))]
    density, none, latent, first, again, other = capi.run_in_process(tmp_path / "1", calls, tmp_path)
    want = flow.log_prob(arrays["x"], arrays["condition"])
    np.testing.assert_allclose(density["log_prob"], want, rtol=1e-5, atol=1e-5)
    assert none["log_prob"].shape == (0,)
    assert latent["z"].shape == (7, *flow.latent_shape)
    assert first["x"].shape == (3, *flow.event_shape)
    assert np.array_equal(first["x"], again["x"]) and not np.array_equal(first["x"], other["x"])


@pytest.mark.parametrize("family", ["nice"])
def test_from_many_threads(family: str, served: tuple[Path, str], tmp_path: Path) -> None:
    """32 threads, every signature, good requests and bad ones: each reply right, and memory stays."""
    arrays = dict(np.load(served[0] / family / "in.npz"))
    _stays_right(shared(family, "labelled_image"), arrays, served[0] / family, tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "dtype"), [("realnvp", "float32"), ("maf", "bfloat16")])
def test_from_many_threads_for_a_minute(family: str, dtype: str, tmp_path: Path) -> None:
    flow, arrays = exported(family, "labelled_image", tmp_path, weights_dtype=dtype)
    _stays_right(flow, arrays, tmp_path, tmp_path, 60)


def _stays_right(flow: Any, arrays: dict[str, Any], folder: Path, scratch: Path, seconds: int) -> None:
    one = {"condition": arrays["condition"][:1]}
    latent = {**arrays, "z": np.asarray(flow.to_latent(arrays["x"], arrays["condition"]))}
    del latent["x"]
    names = ("serving_default", "log_prob", "anomaly_score", "to_latent")
    calls: list[tuple[str, dict]] = [*((name, arrays) for name in names), ("from_latent", latent)]
    calls += [("sample", {**_draw(5), **one}), ("sample_and_log_prob", {**_draw(1), **one})]
    calls += [("log_prob", {**arrays, "x": arrays["x"] + np.uint8(4)}), ("sample", {**_draw(-1), **one})]
    replies, counted = c_host.run(folder / "1", calls, scratch, threads=32, seconds=seconds)
    assert {name for name, _ in calls} == SIGNATURES
    assert [reply.code for reply in replies] == [0, 0, 0, 0, 0, 0, 0, 3, 3]
    print(counted)
    assert counted["wrong"] == 0
    assert counted["replies"] >= 32 and counted["refusals"] >= counted["replies"] // 9
    # From the middle on, when each thread has had its buffers: not all in two seconds on a slow machine.
    growth = counted["rss_kb_end"] / counted["rss_kb_half"] - 1
    assert growth < (0.02 if seconds >= 60 else 0.2)


def trained() -> list[str]:
    names = sorted({*registry.list_models(), *registry.list_models("test_*")})
    return [name for name in names if weights.find_local(name)]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", trained())
def test_every_trained_entry(name: str, tmp_path: Path) -> None:
    """Exported with its warm-up, of operations that a server has, and its values without any Python."""
    flow = flowzoo.load(name)
    path = flowzoo.export(flow, tmp_path, name=name)
    assert ops.problems(path) == []
    # An image's equation takes minutes of a processor each time, those of 512 days. Of other flows all.
    solved = isinstance(flow, ContinuousModel) and len(flow.event_shape) == 3
    sizes = (0, 1) if solved else (0, 1, 7, 512)
    condition = preview_conditions(flow, sizes[-1])
    x = np.asarray(flow.sample(sizes[-1], condition, seed=3))
    given: dict[str, np.ndarray] = {"x": x}
    if condition is not None:
        kind = "int32" if flow.num_classes else "float32"
        given["condition"] = np.broadcast_to(condition, (sizes[-1], *flow.condition_shape)).astype(kind)
    data = {n: {key: value[:n] for key, value in given.items()} for n in sizes}
    calls = [(signature, data[n]) for n in sizes for signature in ("log_prob", "anomaly_score", "to_latent")]
    drawn = {n: {**_draw(n), **{key: data[n][key] for key in given if key == "condition"}} for n in sizes}
    calls += [(signature, drawn[n]) for n in sizes for signature in ("sample", "sample_and_log_prob")]
    few = dict(data[sizes[-1] if solved else 7])
    latent = np.asarray(flow.to_latent(few.pop("x"), few.get("condition")))
    calls.append(("from_latent", {**few, "z": latent}))
    replies, _ = c_host.run(path, calls, tmp_path, patience=3000)
    assert [reply.message for reply in replies if reply.code] == []
    densities = {n: np.asarray(flow.log_prob(data[n]["x"], data[n].get("condition"))) for n in sizes}
    for (signature, inputs), reply in zip(calls, replies, strict=True):
        if signature in ("log_prob", "anomaly_score"):
            sign = -1 if signature == "anomaly_score" else 1
            want = sign * densities[len(inputs["x"])]
            np.testing.assert_allclose(reply.outputs[signature], want, rtol=1e-4, atol=1e-3)
        elif signature == "from_latent":
            _near(reply.outputs["x"], flow.from_latent(latent, few.get("condition")))
        elif signature == "to_latent" and len(inputs["x"]) <= len(latent):
            _near(reply.outputs["z"], flow.to_latent(inputs["x"], inputs.get("condition")))
        elif signature != "to_latent":
            n = int(inputs["num_samples"])
            assert reply.outputs["x"].shape == (n, *flow.event_shape)
            if n <= len(latent):
                _near(reply.outputs["x"], flow.sample(n, inputs.get("condition"), seed=inputs["seed"]))


def _near(found: np.ndarray, want: Any) -> None:
    """Compare values, a few of which may be rounded the other way, by their mean."""
    want = np.asarray(want)
    assert found.shape == want.shape and found.dtype == want.dtype
    if want.size:
        apart = np.abs(found.astype("float64") - want.astype("float64"))
        assert apart.mean() <= 1e-3 * (want.astype("float64").std() + 1e-3)


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=() if family == "maf" else pytest.mark.slow) for family in FAMILIES]
)
def test_half_precision_stores_half(family: str, tmp_path: Path) -> None:
    sizes = {}
    for dtype in ("float32", "float16", "bfloat16"):
        flow, arrays = exported(family, "vector", tmp_path / dtype, weights_dtype=dtype)
        sizes[dtype] = sum(p.stat().st_size for p in (tmp_path / dtype / "1" / "variables").iterdir())
        loaded = tf.saved_model.load(str(tmp_path / dtype / "1"))
        got = loaded.signatures["log_prob"](x=tf.constant(arrays["x"]))["log_prob"]
        np.testing.assert_allclose(got, flow.log_prob(arrays["x"]), rtol=0.05, atol=0.1)
    if sizes["float32"] > 4096:  # of the smallest flows the list of the weights takes most
        assert sizes["float16"] < 0.75 * sizes["float32"] and sizes["bfloat16"] < 0.75 * sizes["float32"]
    # What is served computes with the weights as they are stored: those of the flow, rounded.
    rounded = [_rounded(weight) for weight in flow.weights]
    entries = sum(int(np.prod(weight.shape)) for weight in flow.weights if _is_matrix(weight))
    for dtype in ("float16", "bfloat16"):
        assert 2 * entries <= sizes["float32"] - sizes[dtype] <= 2 * entries + 256
    assert any(not np.array_equal(a, w) for a, w in zip(rounded, flow.weights, strict=True))
    for stored, want in zip(weights.read_variables(tmp_path / "bfloat16" / "1"), rounded, strict=True):
        np.testing.assert_array_equal(np.asarray(stored, want.dtype), want)
    same = flow.__class__.from_config(flow.get_config())
    same.set_weights(rounded)
    np.testing.assert_allclose(got, same.log_prob(arrays["x"]), rtol=1e-4, atol=1e-3)


def _is_matrix(weight: Any) -> bool:
    """Say whether a weight is learnt, and a matrix or a kernel: these alone are stored in half."""
    return weight.trainable and getattr(weight, "element_rank", len(weight.shape)) >= 2


def _rounded(weight: Any) -> np.ndarray:
    """Return a weight in the precision of bfloat16, if that is how it is stored."""
    value = np.asarray(weight)
    return value.astype(ml_dtypes.bfloat16).astype(value.dtype) if _is_matrix(weight) else value


@every
def test_a_stock_server_has_every_operation(family: str, served: tuple[Path, str]) -> None:
    assert ops.problems(served[0] / family / "1") == []


@pytest.mark.parametrize("family", sparing(FAMILIES, ("flow_matching", "nice", "tarflow")))
def test_eight_bits_are_read_alike_with_and_without_the_graph(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`read_variables` gives the weights that the served graph computes with."""
    monkeypatch.setattr(quantization, "SMALLEST", 32)  # the flows of the tests are small
    what = KINDS["conditional"]
    flow, arrays = exported(family, "conditional", tmp_path, weights_dtype="int8")
    same = shared(family, "conditional").__class__.from_config(flow.get_config())
    read = weights.read_variables(tmp_path / "1")
    same.set_weights(read)
    changed = [not np.array_equal(a, w) for a, w in zip(read, flow.weights, strict=True)]
    stored = [len(w.shape) >= 2 and w.trainable and np.prod(w.shape) >= 32 for w in flow.weights]
    assert any(changed) and not any(c and not s for c, s in zip(changed, stored, strict=True))
    for got, weight, wide in zip(read, flow.weights, stored, strict=True):
        exact = "int8" if len(weight.shape) >= 2 and not weight.trainable else weight.dtype  # permutations
        assert got.dtype == ("float16" if wide and getattr(weight, "needs_half", False) else exact)
        want = np.asarray(weight, "float64")
        assert np.abs(got - want).max() <= np.abs(want).max() / 253
    call = tf.saved_model.load(str(tmp_path / "1")).signatures
    given = {name: tf.constant(value) for name, value in arrays.items()}
    got = call["log_prob"](**given)["log_prob"]
    np.testing.assert_allclose(got, same.log_prob(**arrays), rtol=1e-6, atol=1e-6)
    assert not np.array_equal(got, flow.log_prob(what.data(7), what.condition(7)))
    np.testing.assert_allclose(got, flow.log_prob(**arrays), rtol=0.05, atol=0.1)


def test_eight_bits_take_nine_with_their_scales(tmp_path: Path) -> None:
    """Kernels of a Repeat have scales for each of the repeated layers, and small matrices stay exact."""
    step = [AffineCoupling(MLP((304, 304), "tanh")), LULinear()]
    flow = flowzoo.Flow([Repeat(Chain(step), times=3)], event_shape=(4,))
    rng = np.random.default_rng(0)
    for weight in flow.trainable_weights:
        each = np.arange(1, 4).reshape(-1, *[1] * (len(weight.shape) - 1)) ** 3
        weight.assign(weight + 0.01 * each * rng.normal(size=weight.shape))
    sizes = {}
    for dtype in ("float32", "int8"):
        flow.export(tmp_path / dtype, weights_dtype=dtype)
        sizes[dtype] = sum(p.stat().st_size for p in (tmp_path / dtype / "variables").iterdir())
    large = [w for w in flow.weights if np.prod(w.shape[1:]) >= quantization.SMALLEST]
    entries = sum(int(np.prod(weight.shape)) for weight in large)
    assert entries > 200_000
    # 32 bits become nine; what lists the scales takes some kilobytes.
    assert sizes["int8"] < sizes["float32"] - entries * (32 - 9) / 8 + 8192
    for got, weight in zip(weights.read_variables(tmp_path / "int8"), flow.weights, strict=True):
        coarse = len(weight.shape) == 3 and np.prod(weight.shape[1:]) >= quantization.SMALLEST
        for one, want in zip(got, np.asarray(weight), strict=True):
            error = np.abs(one - want).max()
            assert (0 < error <= np.abs(want).max() / 252) if coarse else error == 0


def test_weights_that_are_no_numbers_have_no_eight_bits(tmp_path: Path) -> None:
    flow = flowzoo.Flow([AffineCoupling(MLP((64, 64)))], event_shape=(2,))
    kernel = next(weight for weight in flow.weights if tuple(weight.shape) == (64, 64))
    kernel.assign(np.full((64, 64), np.nan))
    with pytest.raises(ValueError, match="NaN or infinity in .*kernel"):
        flow.export(tmp_path / "1", weights_dtype="int8")
    assert not (tmp_path / "1").exists()


def operations_run(folder: Path, arrays: dict[str, Any]) -> Counter:
    """Return how many operations of each kind a session runs for a log_prob, after all optimizations."""
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], str(folder)).signature_def["log_prob"]
        ran = tf.compat.v1.RunMetadata()
        session.run(
            [output.name for output in signature.outputs.values()],
            {signature.inputs[name].name: value for name, value in arrays.items()},
            options=tf.compat.v1.RunOptions(output_partition_graphs=True),
            run_metadata=ran,
        )
    nodes = [node for part in ran.partition_graphs for node in part.node if node.op != "Const"]
    return Counter((node.op, *node.attr["fused_ops"].list.s) for node in nodes)


@pytest.mark.slow
def test_the_smaller_graph_is_fused_as_the_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow sorts inputs by their names, and finds a GELU to fuse in one order alone."""
    flow = TarFlow((4, 4, 1), num_blocks=2, layers_per_block=3, hidden_size=16, heads=2, num_values=8)
    flow.export(tmp_path / "small")
    monkeypatch.setattr(saved_model, "compact", lambda folder: None)
    flow.export(tmp_path / "large")
    x = np.random.default_rng(0).integers(0, 8, (3, 4, 4, 1)).astype("uint8")
    large, small = (operations_run(tmp_path / size, {"x": x}) for size in ("large", "small"))
    assert small == large


def test_the_smaller_graph_has_no_function_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling and the way back from latents run one loop; what is written once, each of them still calls."""
    flow = Glow((4, 4, 1), num_levels=1, num_steps=2, filters=4, num_values=8)
    sizes = {}
    for merged in (True, False):
        with monkeypatch.context() as patch:
            if not merged:
                patch.setattr(compact_graph, "_merge_equal_functions", lambda meta: None)
            flow.export(tmp_path / str(merged))
        saved = saved_model_pb2.SavedModel()
        saved.ParseFromString((tmp_path / str(merged) / "saved_model.pb").read_bytes())
        meta = saved.meta_graphs[0]
        signed = {*meta.object_graph_def.concrete_functions}  # those of two signatures may be equal
        functions = [f for f in meta.graph_def.library.function if f.signature.name not in signed]
        sizes[merged] = len(functions), len({compact_graph._without_name(f) for f in functions})
    assert 1 < sizes[True][0] == sizes[True][1] < sizes[False][0]
    z = tf.random.stateless_normal([3, *flow.latent_shape], [1, 2])
    calls = [tf.saved_model.load(str(tmp_path / str(merged))).signatures for merged in (True, False)]
    back, want = (call["from_latent"](z=z)["x"] for call in calls)
    assert np.array_equal(back, want)
    drawn = {"num_samples": tf.constant(5), "seed": tf.constant([1, 2]), "temperature": tf.constant(1.0)}
    for name in ("sample", "sample_and_log_prob"):
        assert np.array_equal(*(call[name](**drawn)["x"] for call in calls))


def test_short_names_sort_as_the_long_ones() -> None:
    function = function_pb2.FunctionDef()
    function.signature.input_arg.add(name="w/kernel", type=types_pb2.DT_RESOURCE)
    function.signature.input_arg.add(name="af", type=types_pb2.DT_FLOAT)
    nodes = [f"block_{i}/{name}" for i in range(40) for name in ("mul", "Neg", "mul_1", "dense/BiasAdd")]
    names = compact_graph._short_names(function, nodes)
    assert sorted([*nodes, "w/kernel"], key=names.__getitem__) == sorted([*nodes, "w/kernel"])
    assert "af" not in names.values() and len(set(names.values())) == len(nodes) + 1


@pytest.mark.parametrize("family", ["maf", pytest.param("tarflow", marks=pytest.mark.slow)])
def test_the_smaller_graph_computes_the_same(
    family: str, served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loops, captured constants, class labels: as without the rewriting, to the last digit."""
    with monkeypatch.context() as patch:
        patch.setattr(saved_model, "compact", lambda folder: None)
        _, arrays = exported(family, "labelled_image", tmp_path)
    folders = [tmp_path / "1", served[0] / family / "1"]
    given = {name: tf.constant(value) for name, value in arrays.items()}
    one = {"condition": given["condition"][:1]} if "condition" in given else {}
    drawn = {"num_samples": tf.constant(3), "seed": tf.constant([1, 2]), "temperature": tf.constant(1.0)}
    results = []
    for folder in folders:
        call = tf.saved_model.load(str(folder)).signatures
        latent = call["to_latent"](**given)["z"]
        back = call["from_latent"](z=latent, **({"condition": given["condition"]} if one else {}))["x"]
        results.append(
            [call["log_prob"](**given)["log_prob"], latent, back, call["sample"](**drawn, **one)["x"]]
        )
        assert call["sample"].structured_outputs["x"].shape.as_list() == [None, 4, 4, 1]
    for large, small in zip(*results, strict=True):
        np.testing.assert_allclose(large, small, rtol=1e-6, atol=1e-6)
    files = [folder / "saved_model.pb" for folder in folders]
    assert files[1].stat().st_size < 0.6 * files[0].stat().st_size
    prints = [tf.saved_model.experimental.read_fingerprint(str(file.parent)) for file in files]
    assert prints[0].saved_model_checksum != prints[1].saved_model_checksum  # written anew
    _names_nothing_twice(files[1])


def _names_nothing_twice(file: Path) -> None:
    """Effects go by their nodes' names, and variables among the inputs by their position alone."""
    from tensorflow.core.protobuf import saved_model_pb2

    meta = saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs[0]
    for function in meta.graph_def.library.function:
        effects = [*function.signature.control_output]
        assert len(effects) == len({*effects}) and {*effects} == {*function.control_ret}
        assert all(key == node for key, node in function.control_ret.items())
        assert {*effects} <= {node.name for node in function.node_def}
        for position, argument in enumerate(function.signature.input_arg):
            if argument.type == tf.resource.as_datatype_enum:
                assert position not in function.arg_attr


def test_captured_tensors_keep_their_nodes(tmp_path: Path) -> None:
    """What the object graph says of a function's node is found under the node's new name.

    TensorFlow writes such entries for tensors that TFP's bijectors keep; exports of today have none.
    """
    original = packaged("saved_models") / "test_realnvp"
    shutil.copytree(original / "1", tmp_path / "1")
    saved = _saved(tmp_path / "1")
    meta = saved.meta_graphs[0]
    concrete = meta.object_graph_def.concrete_functions
    own = [f for f in meta.graph_def.library.function if f.signature.name in concrete]
    function, kept = next((f, node) for f in own for node in f.node_def if node.op == "Identity")
    node = function.node_def.add()
    node.CopyFrom(kept)  # a node of the same value, under a long name
    node.name = f"scope/{kept.name}"
    objects = meta.object_graph_def.nodes
    objects[0].children.add(node_id=len(objects), local_name="kept")
    objects.add().captured_tensor.name = f"{node.name}:0"
    objects[-1].captured_tensor.concrete_function = function.signature.name
    (tmp_path / "1" / "saved_model.pb").write_bytes(saved.SerializeToString())
    compact(tmp_path / "1")
    meta = _saved(tmp_path / "1").meta_graphs[0]
    captured = meta.object_graph_def.nodes[-1].captured_tensor
    functions = {f.signature.name: f for f in meta.graph_def.library.function}
    name, index = captured.name.split(":")
    found = [node for node in functions[captured.concrete_function].node_def if node.name == name]
    assert [node.op for node in found] == ["Identity"] and index == "0" and not name.startswith("scope/")
    golden = weights.read_golden(original)
    log_prob = tf.saved_model.load(str(tmp_path / "1")).signatures["log_prob"]
    got = log_prob(x=tf.constant(golden["x"]))["log_prob"]
    np.testing.assert_allclose(got, golden["log_prob"], rtol=1e-5)


def _saved(folder: Path) -> Any:
    return saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())


def test_the_target_is_whole_or_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow, _ = exported("nice", "vector", tmp_path)
    before = {p.name: p.read_bytes() for p in (tmp_path / "1").rglob("*") if p.is_file()}
    with pytest.raises(FileExistsError):
        flow.export(tmp_path / "1")
    with pytest.raises(ValueError, match="weights_dtype takes"):
        flow.export(tmp_path / "2", weights_dtype="int4")
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


@pytest.mark.parametrize("family", ["maf"])
def test_a_wrong_request_is_an_error_and_no_nan(family: str, served: tuple[Path, str]) -> None:
    arrays = dict(np.load(served[0] / family / "in.npz"))
    call = tf.saved_model.load(str(served[0] / family / "1")).signatures
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        call["log_prob"](x=tf.constant(arrays["x"], tf.float32), condition=tf.constant(arrays["condition"]))
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        call["log_prob"](x=tf.constant(arrays["x"]), condition=tf.constant(arrays["condition"][:3]))


def test_versions_count_up(tmp_path: Path) -> None:
    flow = flowzoo.Flow([], event_shape=(2,))
    assert flowzoo.export(flow, tmp_path) == tmp_path / flow.name / "1"
    assert flowzoo.export(flow, tmp_path) == tmp_path / flow.name / "2"
    assert flowzoo.export(flow, tmp_path, name="other", version=7).name == "7"
    with pytest.raises(FileExistsError):
        flowzoo.export(flow, tmp_path, version=1)
    for version in (0, -1, "1", 1.5, True):
        with pytest.raises(ValueError, match="version takes"):
            flowzoo.export(flow, tmp_path, version=version)

"""What an exported graph refuses: through the C API, whose sessions check neither shapes nor values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from flowzoo.layers.angle import Angle
from flowzoo.layers.base import FlowLayer, constant_log_det
from flowzoo.layers.columns import Columns
from flowzoo.layers.preprocessing import Dequantize, Logit
from flowzoo.layers.simplex import Simplex
from flowzoo.layers.support import Box, Positive
from flowzoo.models import Flow, requests
from flowzoo.models.signatures import SIGNATURES
from tests import capi


class Logarithm(FlowLayer):
    """NaN for some latents, as what overflows in a deep flow."""

    def _forward(self, z, condition):
        return tf.math.log(z), constant_log_det(0.0, z)

    def _inverse(self, x, condition):
        return tf.exp(x), constant_log_det(0.0, x)


F32, I32, NAN, INF = np.float32, np.int32, np.nan, np.inf
FLOWS: dict[str, Any] = {
    "plain": lambda: Flow([], (2,), name="plain"),
    "conditional": lambda: Flow([], (2,), condition_shape=(3,), name="conditional"),
    "labelled": lambda: Flow([Dequantize(5)], (2,), num_classes=3, name="labelled"),
    "levels": lambda: Flow([Dequantize(1000)], (2,), name="levels"),
    "unit": lambda: Flow([Logit()], (2,), name="unit"),
    "positive": lambda: Flow([Positive()], (2,), name="positive"),
    "box": lambda: Flow([Box([0, -3], [10, -1])], (2,), name="box"),
    "simplex": lambda: Flow([Simplex()], (3,), name="simplex"),
    "columns": lambda: Flow([Columns(["real", "positive"])], (2,), name="columns"),
    "angle": lambda: Flow([Angle()], (2,), base="uniform", name="angle"),
    "undefined": lambda: Flow([Logarithm(), Dequantize(5)], (2,), name="undefined"),
}
DRAW = {"num_samples": I32(3), "seed": np.array([1, 2], I32), "temperature": F32(1)}
C3, LABELS = np.ones((2, 3), F32), np.array([0, 2], I32)


def x(*rows: Any, dtype: Any = F32) -> np.ndarray:
    return np.array(rows, dtype)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a loaded export of a flow by its name in FLOWS; each is exported once."""
    root, made = tmp_path_factory.mktemp("requests"), {}

    def host(name: str) -> capi.Host:
        if name not in made:
            FLOWS[name]().export(root / name)
            made[name] = capi.Host(root / name)
        return made[name]

    return host


GOOD = [
    ("plain", "log_prob", {"x": x([1, 2])}),
    ("plain", "anomaly_score", {"x": x([1, 2], [1e30, 0])}),
    ("plain", "to_latent", {"x": np.zeros((0, 2), F32)}),
    ("plain", "sample", {**DRAW, "num_samples": I32(0)}),
    ("plain", "sample", {**DRAW, "seed": np.array([-(2**31), 2**31 - 1], I32)}),
    ("conditional", "log_prob", {"x": x([1, 2], [1, 2]), "condition": C3}),
    ("conditional", "log_prob", {"x": x([1, 2], [1, 2]), "condition": C3[:1]}),
    ("conditional", "log_prob", {"x": np.zeros((0, 2), F32), "condition": C3[:1]}),
    ("conditional", "log_prob", {"x": np.zeros((0, 2), F32), "condition": C3[:0]}),
    ("conditional", "sample", {**DRAW, "condition": C3[:1]}),
    ("labelled", "log_prob", {"x": x([0, 4], [4, 0], dtype="uint8"), "condition": LABELS}),
    ("labelled", "sample_and_log_prob", {**DRAW, "condition": LABELS[1:]}),
    ("levels", "log_prob", {"x": x([0, 999], dtype=I32)}),
    ("levels", "log_prob", {"x": np.zeros((0, 2), I32)}),
    ("unit", "to_latent", {"x": x([0, 1])}),
    ("positive", "log_prob", {"x": x([1e-30, 1e30])}),
    ("box", "log_prob", {"x": x([9.9, -1.1])}),
    ("simplex", "log_prob", {"x": x([0.2, 0.3, 0.5])}),
    ("columns", "log_prob", {"x": x([-5, 5])}),
    ("angle", "log_prob", {"x": x([3.14, -3.14])}),
    ("angle", "sample", DRAW),
    ("undefined", "from_latent", {"z": x([1, 2])}),
]

ONE, PIXELS, EMPTY = x([1, 2]), np.zeros((1, 2), "uint8"), np.zeros((0, 2), F32)
SHAPE, PIXEL = "expected shape", "whole numbers from 0 to 4"
SHAPES = ((), (2,), (3, 1), (3, 3), (1, 2, 2))
TEMPERATURE, CLASS, ROWS = "a finite number above 0", "class labels from 0 to 2", r"rows, examples:\]"


def given(flow: str, message: str, **inputs: Any) -> list[tuple]:
    """Return cases of a flow: of x for both ways to read it, of anything else for a way to draw."""
    if "z" in inputs:
        names = ["from_latent"]
    else:
        reads = "x" in inputs
        names = ["log_prob", "anomaly_score", "to_latent"] if reads else ["sample", "sample_and_log_prob"]
        inputs = inputs if reads else {**DRAW, **inputs}
    return [(flow, name, inputs, message) for name in names]


BAD = [
    *given("plain", "x takes finite", x=x([1, NAN])),
    *given("plain", "x takes finite", x=x([1, 2], [-INF, 0])),
    *given("plain", "z takes finite", z=x([1, NAN])),
    *(case for shape in SHAPES for case in given("plain", SHAPE, x=np.ones(shape, F32))),
    *given("plain", "float", x=np.ones((1, 2))),
    *given("plain", r"from 0 to 65536. Received:\] \[-1\]", num_samples=I32(-1)),
    *given("plain", "from 0 to 65536", num_samples=I32(65537)),
    *given("plain", "from 0 to 65536", num_samples=I32(2**31 - 1)),
    *(case for t in (0, -1, NAN, INF) for case in given("plain", TEMPERATURE, temperature=F32(t))),
    *given("plain", "x has no finite result", temperature=F32(3e38)),
    *given("plain", SHAPE, temperature=np.ones(3, F32)),
    *given("plain", SHAPE, seed=np.ones(3, I32)),
    *given("plain", SHAPE, num_samples=np.ones(1, I32)),
    *given("conditional", "condition takes finite", x=ONE, condition=C3[:1] * NAN),
    *given("conditional", ROWS + r" \[2\] \[1\]", x=ONE, condition=C3),
    *given("conditional", ROWS + r" \[0\] \[1\]", x=ONE, condition=C3[:0]),
    *given("conditional", ROWS + r" \[2\] \[0\]", x=EMPTY, condition=C3),
    *given("conditional", SHAPE, x=ONE, condition=C3[:1, :1]),
    *given("conditional", ROWS + r" \[2\] \[3\]", condition=C3),
    *given("labelled", CLASS, x=PIXELS, condition=np.array([-1], I32)),
    *given("labelled", CLASS, x=PIXELS, condition=np.array([3], I32)),
    *given("labelled", PIXEL, x=PIXELS + np.uint8(5), condition=LABELS[:1]),
    *given("levels", "whole numbers from 0 to 999", x=x([0, 1000], dtype=I32)),
    *given("levels", "whole numbers from 0 to 999", x=x([0, 1], [-1, 3], dtype=I32)),
    *given("unit", "numbers from 0 to 1", x=x([0, -0.1])),
    *given("unit", "numbers from 0 to 1", x=x([0, 1.1])),
    *given("positive", "numbers above 0", x=x([0, 1])),
    *given("box", "numbers between 0 and 10.*between -3 and -1", x=x([10, -2])),
    *given("simplex", "sum to 1", x=x([0.2, 0.3, 0.6])),
    *given("columns", "in column 1 numbers above 0", x=x([-5, -5])),
    *given("angle", "angles in radians", x=x([90, 0])),
    *given("angle", "1 alone", temperature=F32(0.5)),
    # Before it is rounded: a NaN would become some whole number.
    *given("undefined", "x has no finite result", z=x([1, -1])),
]


@pytest.mark.parametrize(("flow", "signature", "inputs"), GOOD)
def test_good_requests_are_answered(flow: str, signature: str, inputs: dict, hosts: Any) -> None:
    outputs = hosts(flow).run(signature, inputs)
    assert set(outputs) == set(SIGNATURES[signature].outputs)
    for name, value in outputs.items():
        assert not np.isnan(value.astype("float64")).any(), name


@pytest.mark.parametrize(("flow", "signature", "inputs", "message"), BAD)
def test_bad_requests_are_errors(flow: str, signature: str, inputs: dict, message: str, hosts: Any) -> None:
    host = hosts(flow)
    dtypes = {name: spec.dtype for name, spec in host.signatures[signature].inputs.items()}
    if all(np.asarray(value).dtype.name == dtypes[name] for name, value in inputs.items()):
        with pytest.raises(RuntimeError, match=message):
            host.run(signature, inputs)
    else:  # this host, like every client, asks the signature first
        with pytest.raises(ValueError, match=message):
            host.run(signature, inputs)
    if flow != "undefined":
        assert host.run("sample", _drawn(flow))["x"].shape[0] == 3  # it lives on


def _drawn(flow: str) -> dict[str, Any]:
    one = {"conditional": C3[:1], "labelled": LABELS[:1]}
    return {**DRAW, **({"condition": one[flow]} if flow in one else {})}


def test_what_is_beyond_float32_is_minus_infinity_and_never_nan(hosts: Any) -> None:
    far = {"x": x([1e30, 0], [0, 0])}
    log_prob, score = hosts("plain").run("log_prob", far), hosts("plain").run("anomaly_score", far)
    np.testing.assert_allclose(log_prob["log_prob"], [-INF, -np.log(2 * np.pi)], rtol=1e-6)
    np.testing.assert_array_equal(score["anomaly_score"], -log_prob["log_prob"])


def test_the_largest_request_is_answered(hosts: Any) -> None:
    assert hosts("plain").run("sample", {**DRAW, "num_samples": I32(65536)})["x"].shape == (65536, 2)


def test_large_events_may_be_asked_for_in_smaller_numbers() -> None:
    sizes = {(2,): 65536, (64, 64, 3): 1365, (2000, 2000, 3): 64}
    for shape, most in sizes.items():
        flow = type("Sized", (), {"event_shape": shape})
        assert requests.most_samples(flow) == most


@pytest.mark.parametrize("name", ["labelled", "conditional", "box"])
def test_the_description_is_that_of_the_graph(name: str, hosts: Any, tmp_path: Path) -> None:
    """assets.extra/signatures.json against what the C++ loader says of the graph."""
    FLOWS[name]().export(tmp_path / "1")
    said = json.loads((tmp_path / "1" / "assets.extra" / "signatures.json").read_text())
    found = hosts(name).signatures
    assert set(said["signatures"]) == set(SIGNATURES)
    assert set(found) - set(SIGNATURES) == {"serving_default", "__saved_model_init_op"}
    for key, signature in said["signatures"].items():
        for side in ("inputs", "outputs"):
            tensors = getattr(found[key], side)
            assert set(signature[side]) == set(tensors)
            for tensor, text in signature[side].items():
                shape = tuple(-1 if size is None else size for size in text["shape"])
                assert (text["dtype"], shape) == (tensors[tensor].dtype, tensors[tensor].shape)
                assert text["description"].endswith(".") and "{" not in text["description"]

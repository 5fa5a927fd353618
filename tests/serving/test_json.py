"""Requests and answers in JSON, held against the server's documented formats and its protos."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api: the extra serving")

import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from flowzoo import errors
from flowzoo.serving import json_tensors
from flowzoo.serving.signatures import Signature, TensorSpec, signatures_of
from tests.serving.served import Served


def signature(**outputs: str) -> Signature:
    """A signature with inputs of every type, and some outputs."""
    inputs = {
        name: TensorSpec(name, name, (None,)) for name in ("float32", "uint8", "int32", "bool", "bytes")
    }
    return Signature("s", inputs, {name: TensorSpec(name, dtype, (None,)) for name, dtype in outputs.items()})


def test_a_request_is_written_as_documented() -> None:
    inputs = {
        "float32": np.array([0.1, 3, np.nan, np.inf, -np.inf], np.float32),
        "uint8": np.array([0, 255], np.uint8),
        "int32": np.array(-5, np.int32),
        "bool": np.array([True]),
        "bytes": np.array([b"\x00\xff", "ä"], object),
    }
    body = json_tensors.encode_request(signature(), inputs).decode()
    assert body == (
        '{"signature_name":"s","inputs":{"float32":[0.10000000149011612,3.0,NaN,Infinity,-Infinity],'
        '"uint8":[0,255],"int32":-5,"bool":[true],"bytes":[{"b64":"AP8="},{"b64":"w6Q="}]}}'
    )


def test_floats_arrive_bit_for_bit() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, np.uint32)
    x = np.concatenate([bits.view(np.float32), np.array([-0.0, 1e-45, 3.4e38], np.float32)])
    x = x[np.isfinite(x)]
    sent = json.loads(json_tensors.encode_request(signature(), {"float32": x}))["inputs"]["float32"]
    np.testing.assert_array_equal(np.array(sent, np.float32).view(np.uint32), x.view(np.uint32))
    body = f'{{"outputs": {json.dumps(x.tolist())}}}'.encode()
    got = json_tensors.decode_answer(body, signature(y="float32"))["y"]
    np.testing.assert_array_equal(got.view(np.uint32), x.view(np.uint32))


def test_answers_of_one_and_of_several_outputs() -> None:
    one = json_tensors.decode_answer(b'{"outputs": [1.5, NaN, -Infinity]}', signature(y="float32"))
    np.testing.assert_array_equal(one["y"], np.array([1.5, np.nan, -np.inf], np.float32))
    body = b'{"outputs": {"a": [1], "b": [{"b64": "AP8="}, "t"]}}'
    two = json_tensors.decode_answer(body, signature(a="uint8", b="bytes"))
    assert two["a"].dtype == np.uint8 and list(two["b"]) == [b"\x00\xff", b"t"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"outputs": [1.0',
        b'{"predictions": [1.0]}',
        b'{"outputs": [[1.0], [1.0, 2.0]]}',
        b'{"outputs": ["a"]}',
        b'{"outputs": [null]}',
        b'{"outputs": {"b": 1}}',
        b"\xff\xfe",
        b"[" * 200_000,
    ],
)
def test_answers_that_are_none(body: bytes) -> None:
    with pytest.raises(errors.ServingError, match="cannot be read"):
        json_tensors.decode_answer(body, signature(y="float32"))
    with pytest.raises(errors.ServingError, match="cannot be read"):
        json_tensors.decode_answer(body, signature(y="float32", z="float32"))


def test_what_json_does_not_carry_is_refused() -> None:
    with pytest.raises(errors.InvalidRequestError, match="use gRPC"):
        json_tensors.encode_request(signature(), {"float32": np.zeros((0, 3), np.float32)})
    half = Signature("s", {"h": TensorSpec("h", "DT_HALF", (None,))}, {})
    with pytest.raises(errors.InvalidRequestError, match="no DT_HALF"):
        json_tensors.encode_request(half, {"h": np.zeros(1, np.float16)})


# -- the double, asked without the client -----------------------------------------------------------------


def ask(served: Served, path: str, content: object = None) -> tuple[int, str]:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(served.address("http") + path, data)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_client_sends_what_the_protos_hold(served: Served, scheme: str) -> None:
    """Over both interfaces the server gets the same PredictRequest."""
    flow, kind = served.flows["nice_labelled_image"], served.kinds["nice_labelled_image"]
    x, condition = kind.data(2), kind.condition(2)
    with served.client(scheme, flow.name, version=1) as client:
        client.log_prob(x, condition)
        client.sample(2, 1, seed=3)
    first, second = served.backend.requests
    for request in (first, second):
        text = json_format.MessageToJson(request)
        assert json_format.Parse(text, predict_pb2.PredictRequest()) == request
    assert first.model_spec.signature_name == "log_prob" and first.model_spec.version.value == 1
    np.testing.assert_array_equal(tf.make_ndarray(first.inputs["x"]), x)
    assert first.inputs["x"].dtype == tf.uint8.as_datatype_enum
    np.testing.assert_array_equal(tf.make_ndarray(second.inputs["condition"]), [1, 1])
    assert not second.inputs["num_samples"].tensor_shape.dim
    assert tf.make_ndarray(second.inputs["temperature"]).dtype == np.float32


def test_rows_and_columns_agree(served: Served) -> None:
    """The row format, which curl users write, gives 'predictions'."""
    x = served.kinds["realnvp_vector"].data(3).tolist()
    path = "/v1/models/realnvp_vector/labels/stable:predict"
    rows = json.loads(ask(served, path, {"instances": x})[1])["predictions"]
    named = json.loads(ask(served, path, {"instances": [{"x": row} for row in x]})[1])["predictions"]
    columns = json.loads(ask(served, path, {"inputs": {"x": x}})[1])["outputs"]
    assert rows == named == columns
    np.testing.assert_allclose(rows, served.flows["realnvp_vector"].log_prob(x), rtol=1e-4)


def test_errors_have_a_body_and_a_status(served: Served) -> None:
    path = "/v1/models/realnvp_vector:predict"
    for target, content, status, match in (
        (path, {"inputs": {"x": [[1, 2, "a"]]}}, 400, "not of expected type: float"),
        (path, {"inputs": {}}, 400, "Missing named input: x"),
        (path, {"signature_name": "no", "inputs": [[1.0]]}, 400, "not found in signature def"),
        ("/v1/models/none:predict", {"inputs": [[1.0]]}, 404, "Servable not found"),
        ("/v1/models/none", None, 404, "Could not find any versions of model none"),
        ("/v2/models", None, 400, "Malformed request"),
    ):
        got, text = ask(served, target, content)
        assert got == status and re.search(match, json.loads(text)["error"])


def test_status_and_metadata_are_the_protos(served: Served) -> None:
    text = ask(served, "/v1/models/realnvp_vector/versions/1")[1]
    status = json_format.Parse(text, get_model_status_pb2.GetModelStatusResponse())
    assert [entry.version for entry in status.model_version_status] == [1]
    assert '"error_code": "OK"' in text and '"state": "AVAILABLE"' in text
    content = json.loads(ask(served, "/v1/models/realnvp_vector/metadata")[1])
    assert content["model_spec"] == {"name": "realnvp_vector", "signature_name": "", "version": "2"}
    with served.client("grpc") as client:
        assert signatures_of(content["metadata"]["signature_def"]) == client.signatures()
